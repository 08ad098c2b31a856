"""The terminal of the person beside the arm, `irevla arm keys`: sends keys and a gamepad's motion,
shows what is asked and whose turn it is."""

import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from irevla.errors import UserError
from irevla.robot.gamepad import Gamepad
from irevla.robot.teleop import ALIVE, BEAT, LEAVE, MOTION, SCREEN, SIX, STOP, screen_of

PAD_BEAT = 0.03  # s between two looks at a gamepad
NOBODY = "no session is open: SPACE stops the arm all the same"
HELP = (
    "SPACE stop   r things are in place   y done   n failed, or not done after all\n"
    "w s forth, back   a d left, right   e q up, down   u o turn   i k j l tilt   g open or close\n"
    "a tap is a small step, a key that is held goes on   Ctrl-C leave"
)


def send_keys(
    path: Path,
    read: Callable[[float], str],
    *,
    on_stop: Callable[[], None],
    pad: Gamepad | None = None,
    show: Callable[[str], None] = lambda text: None,
    stopped: Callable[[], str] = lambda: "",
) -> None:
    """Send what `read` returns, and what `pad` does, to the environment at `path`, until that is
    `LEAVE`.

    `read` waits for a key for so many s at most; without one it returns "". `on_stop` is called
    once the stop key was sent, whether or not somebody got it. `show` is told what the environment
    says, or why the arm is `stopped`, where it is something else than before.
    """
    with _sender(path) as sender:
        screen = _Screen(sender, show, stopped)
        beat = PAD_BEAT if pad is not None else BEAT
        while (key := read(beat)) != LEAVE:
            _send(sender, path, key, on_stop=on_stop)
            for pressed in () if pad is None else pad.pressed():
                _send(sender, path, pressed, on_stop=on_stop)
            if pad is not None:
                with suppress(OSError):
                    sender.sendto(MOTION + SIX.pack(*pad.motion()), str(path))
            screen.update(open_session=path.exists())


def _send(sender: socket.socket, path: Path, key: str, *, on_stop: Callable[[], None]) -> None:
    with suppress(OSError):  # no environment yet, or no more
        sender.sendto(key.encode() or ALIVE, str(path))
    if key == STOP:
        on_stop()


@contextmanager
def _sender(path: Path) -> Iterator[socket.socket]:
    """Yield a socket that never waits: a session that hangs must not keep a stop waiting.

    Its name is that of the screen, if it can have it: a stop needs none.
    """
    screen = screen_of(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        with suppress(OSError):
            screen.unlink(missing_ok=True)
            sender.bind(str(screen))
        yield sender
    with suppress(OSError):
        screen.unlink(missing_ok=True)


class _Screen:
    """Shows each new line once."""

    def __init__(
        self, listener: socket.socket, show: Callable[[str], None], stopped: Callable[[], str]
    ) -> None:
        self._listener = listener
        self._show = show
        self._stopped = stopped
        self._told = ""  # by the environment
        self._line = ""

    def update(self, *, open_session: bool) -> None:
        with suppress(OSError):
            while True:  # the newest alone
                self._told = self._listener.recv(SCREEN).decode(errors="replace")
        if not open_session:
            self._told = ""
        reason = self._stopped()
        line = self._told if open_session else NOBODY
        if reason:
            line = f"STOPPED: {reason}: look at the arm, then `irevla arm release`"
        if line and line != self._line:
            self._show(line)
            self._line = line


def show(text: str) -> None:
    """Write a line to this terminal. What comes over a socket moves no cursor."""
    print("".join(letter if letter.isprintable() else " " for letter in text), flush=True)


def keyboard() -> tuple[Callable[[float], str], Callable[[], None]]:
    """Return a function that reads single keys of this terminal, and one that gives it back."""
    import select
    import termios
    import tty

    if not sys.stdin.isatty():
        raise UserError("keys are read from a terminal, and this is none")
    before: Any = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)

    def read(seconds: float) -> str:
        typed, _, _ = select.select([sys.stdin], [], [], seconds)
        return os.read(sys.stdin.fileno(), 1).decode(errors="replace") if typed else ""

    return read, lambda: termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
