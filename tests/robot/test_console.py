"""The person's terminal: a gamepad beside the keys, and what its screen shows."""

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_real_env import FORTH, STILL, FakePerson, env_of, send, soon
from test_settings import written

from irevla.envs.suite import PERSON
from irevla.errors import UserError
from irevla.robot import gamepad
from irevla.robot.console import NOBODY, send_keys, show
from irevla.robot.gamepad import FULL, Gamepad
from irevla.robot.settings import read_settings
from irevla.robot.teleop import DONE, LEAVE, MOTION, READY, SHUT, SIX, STOP, TAP, KeyTeleop

BUTTONS = ("A", "B", "X", "Y", "START", "LEFTSHOULDER")
CROSS = ("DPAD_LEFT", "DPAD_RIGHT", "DPAD_UP", "DPAD_DOWN")
AXES = ("LEFTX", "LEFTY", "RIGHTX", "RIGHTY")


class FakePad:
    """A controller as SDL tells it."""

    def __init__(self) -> None:
        self.down: set[str] = set()
        self.axes = dict.fromkeys(AXES, 0)
        self.there = True

    def attached(self) -> bool:
        return self.there

    def get_button(self, number: int) -> bool:
        return (*BUTTONS, *CROSS)[number] in self.down

    def get_axis(self, number: int) -> int:
        return self.axes[AXES[number]]


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> FakePad:
    pad = FakePad()
    names = {f"CONTROLLER_BUTTON_{name}": i for i, name in enumerate((*BUTTONS, *CROSS))}
    names |= {f"CONTROLLER_AXIS_{name}": i for i, name in enumerate(AXES)}
    pygame = SimpleNamespace(event=SimpleNamespace(pump=lambda: None), **names)
    controllers = SimpleNamespace(
        get_count=lambda: 2, is_controller=lambda number: number == 1, Controller=lambda number: pad
    )
    monkeypatch.setattr(gamepad, "_sdl", lambda: (pygame, controllers))
    return pad


def test_a_gamepad_moves_the_arm_only_while_l1_is_held(device: FakePad) -> None:
    pad = Gamepad()
    device.axes["LEFTY"] = -FULL
    assert pad.motion() == (0.0,) * 6, "it may have been put down on a stick"
    device.down.add("LEFTSHOULDER")
    assert pad.motion() == (1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    device.axes["LEFTY"] = -FULL // 10
    assert pad.motion() == (0.0,) * 6, "a stick at rest is never quite at zero"
    device.axes |= {"RIGHTY": FULL, "RIGHTX": -FULL, "LEFTX": FULL // 2}
    device.down.add("DPAD_UP")
    motion = pad.motion()
    assert motion[1] == pytest.approx(-0.41, abs=0.01) and motion[2:] == (-1.0, 0.0, 1.0, 1.0)
    device.there = False
    assert pad.motion() == (0.0,) * 6, "unplugged"


def test_a_button_is_a_key_once(device: FakePad) -> None:
    pad = Gamepad()
    device.down |= {"B", "A"}
    assert sorted(pad.pressed()) == sorted([STOP, SHUT])
    assert pad.pressed() == []
    device.down.clear()
    assert pad.pressed() == []
    device.down |= {"Y", "START"}
    assert sorted(pad.pressed()) == sorted([DONE, READY])


def test_no_gamepad_and_no_package_are_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gamepad, "_sdl", lambda: (None, SimpleNamespace(get_count=lambda: 0)))
    with pytest.raises(UserError, match="no gamepad is connected"):
        Gamepad()
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(UserError, match=r"pip install 'irevla\[gamepad\]'"):
        Gamepad()
    with pytest.raises(UserError, match="did you mean 'gamepad'"):
        read_settings(written(tmp_path, teleop="gamepat"))
    with pytest.raises(UserError, match=r"teleop_scale must be from 0\.05 to 1"):
        read_settings(written(tmp_path, teleop_scale=2.0))


class Typing:
    """Keys that never come, until it is left; so long the gamepad is looked at."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def __call__(self, seconds: float) -> str:
        return LEAVE if self.over.wait(min(seconds, 0.02)) else ""


@pytest.fixture
def typing() -> Iterator[Typing]:
    typing = Typing()
    yield typing
    typing.over.set()


def running(target: Callable[..., Any], *what: Any, **more: Any) -> threading.Thread:
    thread = threading.Thread(target=target, args=what, kwargs=more, daemon=True)
    thread.start()
    return thread


def test_a_stick_that_is_let_go_moves_nothing_any_more(
    device: FakePad, typing: Typing, tmp_path: Path
) -> None:
    """Nothing queues: the fault of a reader of reports, one a decision."""
    teleop = KeyTeleop(tmp_path / "keys", lambda reason: None, scale=0.5)
    device.down.add("LEFTSHOULDER")
    device.axes["LEFTY"] = -FULL
    running(send_keys, tmp_path / "keys", typing, on_stop=lambda: None, pad=Gamepad())
    assert soon(lambda: teleop.action(shut=True) is not None)
    time.sleep(1.0)
    action = teleop.action(shut=True)
    assert action is not None and action[0] == 0.5 and action[6] == 1.0, "the fingers stay"
    device.axes["LEFTY"] = 0
    time.sleep(0.15)
    assert teleop.action(shut=True) is None
    teleop.close()


def test_a_pad_that_falls_silent_moves_nothing_any_more(tmp_path: Path) -> None:
    teleop = KeyTeleop(tmp_path / "keys", lambda reason: None)
    teleop._take(MOTION + SIX.pack(1.0, 0, 0, 0, 0, 0))
    assert teleop.action(shut=False) is not None
    time.sleep(0.2)
    assert teleop.action(shut=False) is None
    for nonsense in (SIX.pack(float("nan"), 1, 0, 0, 0, 0), b"12", SIX.pack(*[1e30] * 6)):
        teleop._take(MOTION + nonsense)
        action = teleop.action(shut=False)
        assert action is None or np.abs(action).max() <= 1.0
    teleop.close()


def test_a_tap_is_scaled_too(tmp_path: Path) -> None:
    teleop = KeyTeleop(tmp_path / "keys", lambda reason: None, scale=0.5)
    teleop._take(b"w")
    action = teleop.action(shut=False)
    assert action is not None and action[0] == pytest.approx(0.5 * TAP)
    teleop.close()


# --- the screen


def test_the_screen_shows_what_is_asked_and_whose_turn_it_is(
    typing: Typing, tmp_path: Path
) -> None:
    shown: list[str] = []
    reason = [""]
    running(
        send_keys,
        tmp_path / "keys",
        typing,
        on_stop=lambda: None,
        show=shown.append,
        stopped=lambda: reason[0],
    )
    assert soon(lambda: shown == [NOBODY])
    teleop = KeyTeleop(tmp_path / "keys", lambda why: None)
    assert soon(teleop.present)
    teleop.wait_ready("hands off", patience=0.2)
    assert soon(lambda: shown[-1] == "ASKED: hands off: press r")
    for _ in range(3):
        teleop.tell("pick-carrot: the policy acts")
    assert soon(lambda: shown[-1] == "pick-carrot: the policy acts")
    reason[0] = "a person pressed stop"
    assert soon(lambda: shown[-1].startswith("STOPPED: a person pressed stop"))
    reason[0] = ""
    assert soon(lambda: shown[-1] == "pick-carrot: the policy acts")
    teleop.close()
    assert soon(lambda: shown[-1] == NOBODY)
    later = KeyTeleop(tmp_path / "keys", lambda why: None)
    assert soon(later.present)
    time.sleep(0.2)
    assert shown[-1] == NOBODY, "not what an earlier session said"
    later.close()
    assert len(shown) == 6, "each once, with the turn once more after the stop"


def test_a_screen_that_comes_later_is_told_as_well(typing: Typing, tmp_path: Path) -> None:
    teleop = KeyTeleop(tmp_path / "keys", lambda why: None)
    teleop.tell("pick-carrot: you drive")
    shown: list[str] = []
    running(send_keys, tmp_path / "keys", typing, on_stop=lambda: None, show=shown.append)
    assert soon(lambda: "pick-carrot: you drive" in shown)
    teleop.close()


def test_a_screen_that_nobody_reads_keeps_nothing_waiting(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as hung:
        hung.bind(str(tmp_path / "screen"))
        teleop = KeyTeleop(tmp_path / "keys", lambda why: None)
        began = time.monotonic()
        for number in range(3000):
            teleop.tell(f"line {number}")
        assert time.monotonic() - began < 2.0
        send(tmp_path / "keys", DONE)
        assert soon(teleop._said.is_set), "and it hears"
        teleop.close()


def test_what_comes_over_a_socket_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    show("pick\x1b[2J\r\nthe carrot")
    assert capsys.readouterr().out == "pick [2J  the carrot\n"


def test_it_is_told_whose_turn_it_is() -> None:
    env, person, _, _ = env_of()
    assert isinstance(person, FakePerson)
    env.reset()
    env.step(STILL)
    assert person.told == "pick-carrot: the policy acts"
    person.hand = FORTH
    env.step(STILL)
    assert person.told == "pick-carrot: you drive"
    person.says = True
    env.step(STILL)
    assert person.told == "pick-carrot: done"
    env.cell.arm.authorize(PERSON)
    env.reset()
    env.step(env.expert_action())
    assert person.told == "pick-carrot: you drive"
