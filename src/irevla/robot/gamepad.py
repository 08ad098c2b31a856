"""A gamepad beside the keys, through pygame-ce (SDL), which knows the layout of most of them.

SDL tells where a stick is now, so nothing queues. Never tried with a device: there was none.
"""

import os
from typing import Any

from irevla.errors import UserError
from irevla.robot.teleop import DONE, FAILED, READY, SHUT, STOP

FULL = 32767  # of an axis
DEAD = 0.15  # share of it that a stick at rest may show
HELP = (
    "gamepad: hold L1 to move; left stick forth, back, left, right; right stick up, down, turn\n"
    "cross tilt   A open or close   B STOP   X failed, or not done   Y done   START in place"
)
BUTTONS = {"A": SHUT, "B": STOP, "X": FAILED, "Y": DONE, "START": READY}


class Gamepad:
    """The first one that is connected. Raises `UserError` where there is none.

    It moves the arm only while L1 is held: one that was put down may lie on a stick.
    """

    def __init__(self) -> None:
        self._pygame, controllers = _sdl()
        for number in range(controllers.get_count()):
            if controllers.is_controller(number):
                self._pad: Any = controllers.Controller(number)
                break
        else:
            raise UserError(
                "no gamepad is connected: connect one (`ls /dev/input/js*`), or say teleop: keys"
            )
        self._down = dict.fromkeys(BUTTONS, False)

    def pressed(self) -> list[str]:
        """Return the keys whose buttons were pressed since the last call."""
        self._pygame.event.pump()
        found = []
        for button, key in BUTTONS.items():
            down = self._button(button)
            if down and not self._down[button]:
                found.append(key)
            self._down[button] = down
        return found

    def motion(self) -> tuple[float, float, float, float, float, float]:
        """Return what it does now: shares of a full action, along and around x, y and z."""
        if not self._pad.attached() or not self._button("LEFTSHOULDER"):
            return 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        roll = float(self._button("DPAD_LEFT")) - float(self._button("DPAD_RIGHT"))
        pitch = float(self._button("DPAD_UP")) - float(self._button("DPAD_DOWN"))
        forth, left = -self._axis("LEFTY"), -self._axis("LEFTX")
        up, turn = -self._axis("RIGHTY"), -self._axis("RIGHTX")
        return forth, left, up, roll, pitch, turn

    def _button(self, name: str) -> bool:
        return bool(self._pad.get_button(getattr(self._pygame, f"CONTROLLER_BUTTON_{name}")))

    def _axis(self, name: str) -> float:
        value = self._pad.get_axis(getattr(self._pygame, f"CONTROLLER_AXIS_{name}"))
        share = float(value) / FULL
        if abs(share) < DEAD:
            return 0.0
        beyond = (abs(share) - DEAD) / (1 - DEAD)
        return max(-1.0, min(1.0, beyond if share > 0 else -beyond))


def _sdl() -> tuple[Any, Any]:
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # there is no window ...
    os.environ.setdefault("SDL_JOYSTICK_ALLOW_BACKGROUND_EVENTS", "1")  # ... that has the focus
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        import pygame
        from pygame._sdl2 import controller
    except ImportError as error:
        raise UserError("teleop: gamepad needs pygame: pip install 'irevla[gamepad]'") from error
    pygame.display.init()
    controller.init()
    return pygame, controller
