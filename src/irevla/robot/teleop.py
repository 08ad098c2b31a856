"""The person beside the arm: stops it, says when things are back in place and whether a task is
done, takes over.

Environments run in worker processes that have no terminal. So the person has one of their own, with
`irevla arm keys`, which sends each key, and a sign of life, to a socket beside the settings.
Without that sign the arm does not move.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from irevla.errors import UserError

ALIVE = b"\0"  # the sign of life
BEAT = 0.3  # s between two of them
SILENCE = 1.0  # s without one after which nobody is there
REPEATS = 0.12  # s: a key that comes again within them is held; nobody taps so fast
HELD = 0.15  # s without a repetition after which a held key is let go
TAP = 0.25  # share of a full action that a tap is, in one decision
FRESH = 0.5  # s after which a tap that no decision took is forgotten
GRIPS = 0.7  # s until the gripper's key counts again: a keyboard repeats it sooner
PRESSED_STOP = "a person pressed stop"
STOP = " "
READY = "r"
DONE = "y"
FAILED = "n"
SHUT = "g"
LEAVE = "\x03"  # Ctrl-C
MOVES: dict[str, tuple[int, float]] = {  # key: axis of the action, and its sign
    "w": (0, 1.0), "s": (0, -1.0), "a": (1, 1.0), "d": (1, -1.0), "e": (2, 1.0), "q": (2, -1.0),
    "u": (5, 1.0), "o": (5, -1.0), "i": (4, 1.0), "k": (4, -1.0), "j": (3, 1.0), "l": (3, -1.0),
}  # fmt: skip
HELP = (
    "SPACE stop   r things are in place   y done   n failed\n"
    "w s forth, back   a d left, right   e q up, down   u o turn   i k j l tilt   g open or close\n"
    "a tap is a small step, a key that is held goes on   Ctrl-C leave"
)


@runtime_checkable
class Teleop(Protocol):
    """How the person who watches is heard."""

    def present(self) -> bool:
        """Return whether somebody watches the arm now."""
        ...

    def action(self, *, shut: bool) -> Float32[np.ndarray, "7"] | None:
        """Return what they do with the arm now, in [-1, 1]; None where they let the policy act.

        Fingers that are `shut` stay so, and open ones open, unless they ask for the other.
        """
        ...

    def verdict(self) -> bool | None:
        """Return whether they said, since the last call, that the task is done (True) or has failed
        (False); None where they said nothing."""
        ...

    def wait_ready(self, request: str, *, patience: float) -> bool:
        """Ask for something; return whether they said within `patience` s that it is so."""
        ...

    def wait_veto(self, request: str, *, patience: float) -> bool:
        """Tell that an episode counts as a success; return whether they said within `patience` s
        that it does not."""
        ...

    def close(self) -> None:
        """Nobody listens any more."""
        ...


class KeyTeleop:
    """A person at the keys of another terminal. `on_stop` is called as soon as they press the stop
    key."""

    def __init__(self, path: Path, on_stop: Callable[[str], None]) -> None:
        self._path = path
        self._on_stop = on_stop
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(0.2)
        try:
            self._socket.bind(str(path))
        except OSError as error:
            raise UserError(
                f"the socket {path} cannot be made ({error.strerror}): choose a shorter, writable "
                "place"
            ) from error
        self._heard = -float("inf")  # when the last sign of life came
        self._lock = threading.Lock()  # of what the keys are
        self._last: dict[str, float] = {}  # key: when it came last ...
        self._held: dict[str, float] = {}  # ... when it came last as one that is held ...
        self._taps: dict[str, float] = {}  # ... and as one that no decision took yet
        self._verdict: bool | None = None
        self._said = threading.Event()  # a verdict has come
        self._ready = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="teleop", daemon=True)
        self._thread.start()

    def present(self) -> bool:
        """Return whether there was a sign of life within the last `SILENCE` s."""
        return time.monotonic() - self._heard < SILENCE

    def action(self, *, shut: bool) -> Float32[np.ndarray, "7"] | None:
        """Return a small step for each key that was tapped, full speed for those that are held,
        and the gripper as it is or as asked for."""
        now = time.monotonic()
        with self._lock:
            tapped = {key for key, when in self._taps.items() if now - when < FRESH}
            held = {key for key, when in self._held.items() if now - when < HELD}
            self._taps.clear()
        if not tapped and not held:
            return None
        action = np.zeros(7, np.float32)
        for keys, share in ((tapped, TAP), (held, 1.0)):
            for key in keys & MOVES.keys():
                axis, sign = MOVES[key]
                action[axis] = share * sign
        action[6] = 1.0 if shut != (SHUT in tapped) else -1.0
        return action

    def verdict(self) -> bool | None:
        """Return what they said since the last call."""
        verdict = self._verdict
        self._verdict = None
        return verdict

    def wait_ready(self, request: str, *, patience: float) -> bool:
        """Ask on standard error: in a worker that is the terminal of the run."""
        print(f"{request} (then press {READY})", file=sys.stderr, flush=True)
        self._ready.clear()
        ready = self._ready.wait(patience)
        self._verdict = None
        with self._lock:  # a wish does not outlive its episode
            self._taps.clear()
            self._held.clear()
        return ready

    def wait_veto(self, request: str, *, patience: float) -> bool:
        """Tell on standard error; who agrees at once need not wait."""
        self._verdict = None
        self._said.clear()
        wait = f"{FAILED} takes it back, {DONE} keeps it, and so do {patience:g} s"
        print(f"{request} ({wait})", file=sys.stderr, flush=True)
        self._said.wait(patience)
        return self.verdict() is False

    def close(self) -> None:
        """Remove the socket."""
        self._over.set()
        self._thread.join(2.0)
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _run(self) -> None:
        while not self._over.is_set():
            with suppress(TimeoutError):
                self._take(self._socket.recv(16))

    def _take(self, message: bytes) -> None:
        self._heard = time.monotonic()
        key = message.decode(errors="replace")
        if key == STOP:
            self._on_stop(PRESSED_STOP)
        elif key == READY:
            self._ready.set()
        elif key in (DONE, FAILED):
            self._verdict = key == DONE
            self._said.set()
        elif key == SHUT or key in MOVES:
            with self._lock:
                self._press(key, self._heard)

    def _press(self, key: str, now: float) -> None:
        """A terminal tells no key that is let go: one that comes fast is repeated by the keyboard,
        as it is held."""
        since = now - self._last.get(key, -float("inf"))
        self._last[key] = now
        if key == SHUT:
            if since > GRIPS:
                self._taps[key] = now
        elif since < REPEATS:
            self._held[key] = now
        else:
            self._taps[key] = now


def send_keys(path: Path, read: Callable[[float], str], *, on_stop: Callable[[], None]) -> None:
    """Send what `read` returns to the environment at `path`, until that is `LEAVE`.

    `read` waits for a key for so many s at most; without one it returns "". `on_stop` is called
    once the stop key was sent, whether or not somebody got it.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)  # a session that hangs must not keep a stop waiting
        key = read(BEAT)
        while key != LEAVE:
            with suppress(OSError):  # no environment yet, or no more
                sender.sendto(key.encode() or ALIVE, str(path))
            if key == STOP:
                on_stop()
            key = read(BEAT)


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
