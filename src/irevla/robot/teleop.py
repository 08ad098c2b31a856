"""The person beside the arm: stops it, says when things are back in place and whether a task is
done, takes over.

Environments run in worker processes that have no terminal. So the person has one of their own, with
`irevla arm keys` (`console.py`), which sends each key, and a sign of life, to a socket of the arm.
Without that sign the arm does not move. What is asked, and whose turn it is, goes back to it.
"""

import math
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from irevla.robot.say import say
from irevla.robot.sockets import listening

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
MOTION = b"\x02"  # begins a message of a gamepad: six float32, shares of a full action
SIX = struct.Struct("<6f")
SCREEN = 300  # bytes of what a screen shows
LONGEST = 64  # bytes of a message


def screen_of(keys: Path) -> Path:
    """Return the socket on which the person's terminal listens, beside that of the `keys`."""
    return keys.with_name("screen")


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

    def tell(self, text: str) -> None:
        """Show on their screen whose turn it is. Never waits, never fails."""
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
    """A person at the keys, or the gamepad, of another terminal. `on_stop` is called as soon as
    they press stop. A key that is held, and a stick at its end, is `scale` of a full action."""

    def __init__(self, path: Path, on_stop: Callable[[str], None], *, scale: float = 1.0) -> None:
        self._path = path
        self._screen = str(screen_of(path))
        self._on_stop = on_stop
        self._scale = scale
        self._status = ""  # what their screen shows
        self._shown = -float("inf")  # when it was last sent
        self._socket = listening(path, timeout=0.2)
        self._teller = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._teller.setblocking(False)  # a screen that nobody reads keeps no arm waiting
        self._heard = -float("inf")  # when the last sign of life came
        self._lock = threading.Lock()  # of what the keys are
        self._last: dict[str, float] = {}  # key: when it came last ...
        self._held: dict[str, float] = {}  # ... when it came last as one that is held ...
        self._taps: dict[str, float] = {}  # ... and as one that no decision took yet
        self._stick = (np.zeros(6, np.float32), -float("inf"))  # of a gamepad, and when it came
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
            stick, came = self._stick
        pushed = bool(stick.any()) and now - came < HELD
        if not tapped and not held and not pushed:
            return None
        action = np.zeros(7, np.float32)
        for keys, share in ((tapped, TAP), (held, 1.0)):
            for key in keys & MOVES.keys():
                axis, sign = MOVES[key]
                action[axis] = share * sign
        if pushed:
            action[:6] += stick
        action[:6] = self._scale * np.clip(action[:6], -1.0, 1.0)
        action[6] = 1.0 if shut != (SHUT in tapped) else -1.0
        return action

    def verdict(self) -> bool | None:
        """Return what they said since the last call."""
        verdict = self._verdict
        self._verdict = None
        return verdict

    def tell(self, text: str) -> None:
        """Send it to their screen, again now and then: they may have come later."""
        new = text != self._status
        self._status = text
        now = time.monotonic()
        if text and (new or now - self._shown > SILENCE):
            self._shown = now
            with suppress(OSError):  # nobody is there, or does not read
                message = text.encode()[:SCREEN]
                self._teller.sendto(message, self._screen)

    def wait_ready(self, request: str, *, patience: float) -> bool:
        """Ask on standard error, in a worker the terminal of the run, and on their screen."""
        say(f"{request} (then press {READY})")
        self.tell(f"ASKED: {request}: press {READY}")
        self._ready.clear()
        ready = self._ready.wait(patience)
        self._verdict = None
        with self._lock:  # a wish does not outlive its episode
            self._taps.clear()
            self._held.clear()
            self._stick = (np.zeros(6, np.float32), -float("inf"))
        return ready

    def wait_veto(self, request: str, *, patience: float) -> bool:
        """Tell on standard error; who agrees at once need not wait."""
        self._verdict = None
        self._said.clear()
        wait = f"{FAILED} takes it back, {DONE} keeps it, and so do {patience:g} s"
        say(f"{request} ({wait})")
        self.tell(f"ASKED: {request}: {wait}")
        self._said.wait(patience)
        return self.verdict() is False

    def close(self) -> None:
        """Remove the socket."""
        self._over.set()
        self._thread.join(2.0)
        self._socket.close()
        self._teller.close()
        self._path.unlink(missing_ok=True)

    def _run(self) -> None:
        while not self._over.is_set():
            with suppress(TimeoutError):
                self._take(self._socket.recv(LONGEST))

    def _take(self, message: bytes) -> None:
        self._heard = time.monotonic()
        self.tell(self._status)
        if message.startswith(MOTION):
            self._push(message[1:])
            return
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

    def _push(self, message: bytes) -> None:
        """A stick: where it is now, and no queue of where it was."""
        if len(message) != SIX.size:
            return
        motion = SIX.unpack(message)
        if all(map(math.isfinite, motion)):
            with self._lock:
                self._stick = (np.array(motion, np.float32), self._heard)

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
