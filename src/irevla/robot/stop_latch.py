"""A stop that outlives its process, and the one process that may move an arm.

Both belong to an arm, not to a file of settings, of which there may be copies: `folder` is the
arm's own.
"""

import fcntl
import os
from pathlib import Path

from irevla.errors import UserError

UNCLEAN = "the last session ended without closing"
LOST = "a stop whose reason was lost"


class StopLatch:
    """Why an arm is stopped: in memory at once, and in a file that every process looks at.

    Without a `folder` it is in memory alone.
    """

    def __init__(self, folder: Path | None) -> None:
        self._stops = _Lines(folder and folder / "stopped")
        self._clears = _Lines(folder and folder / "cleared")
        self._reason = ""

    @property
    def reason(self) -> str:
        """Why the arm is stopped, by this process or another; empty: it is not."""
        return self._reason or _first(self.record)

    @property
    def record(self) -> list[str] | None:
        """Every stop since the last release, oldest first; None: there was none."""
        return self._stops.read()

    @property
    def clears(self) -> int:
        """How many faults were cleared since the last release, by whatever process."""
        return len(self._clears.read() or ())

    def set(self, reason: str) -> bool:
        """Stop this process; return whether it was not stopped before. Nothing here can fail."""
        first = not self._reason
        self._reason = self._reason or reason
        return first

    def keep(self) -> None:
        """Write the stop down, for all others. Raises `OSError`."""
        self._stops.append(self._reason)

    def count_clear(self, fault: str) -> None:
        """A fault is about to be cleared without a person. Raises `OSError`."""
        self._clears.append(fault)

    def release(self) -> None:
        """Go on. Raises `OSError`, and is still stopped then."""
        self._clears.clear()
        self._stops.clear()
        self._reason = ""


class Session:
    """The time in which one process, and no other, may move an arm.

    The kernel knows who holds the lock, and drops it with the process: a process id that is used
    again locks nobody out. While the session is open its file has a mark; one that is found there
    is of a session that never closed, and nobody knows what the arm is doing. Raises `UserError`
    where another process has the arm, or nothing can be written.
    """

    def __init__(self, folder: Path | None) -> None:
        self.stop_latch = StopLatch(folder)
        self._lock: int | None = None
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = _locked(folder / "lock")
            if _marked(self._lock):
                self._stop(UNCLEAN)
        except OSError as error:
            self.close()
            raise UserError(
                f"a stop could not be remembered in {folder} ({error.strerror}), so nothing moves: "
                "make it writable, or make room"
            ) from error

    def close(self) -> None:
        """The session is over; a stop stays. Safe to call again."""
        if self._lock is None:
            return
        stopped = self.stop_latch.reason
        if not stopped or self.stop_latch.record:  # else the mark alone tells of the stop
            os.ftruncate(self._lock, 0)
        os.close(self._lock)
        self._lock = None

    def _stop(self, reason: str) -> None:
        self.stop_latch.set(reason)
        if not self.stop_latch.record:
            self.stop_latch.keep()


class _Lines:
    """A few lines in a file, or, without one, in memory."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._memory: list[str] = []

    def read(self) -> list[str] | None:
        """Return the lines; None where there is no file. What cannot be read counts as a line."""
        if self._path is None:
            return self._memory or None
        try:
            return self._path.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return None
        except OSError as error:
            return [f"{self._path} cannot be read ({error.strerror})"]

    def append(self, line: str) -> None:
        """Add a line; it is on disk when this returns."""
        if self._path is None:
            self._memory.append(line)
            return
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._path.open("a") as file:
            file.write(" ".join(line.split()) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def clear(self) -> None:
        """Forget all lines."""
        self._memory.clear()
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _first(lines: list[str] | None) -> str:
    """Return the first line; a file that was being written when its process died has none."""
    if lines is None:
        return ""
    return lines[0] if lines and lines[0] else LOST


def _locked(path: Path) -> int:
    """Return a descriptor that holds the lock. Raises `UserError` where another process does."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 20).decode(errors="replace").strip()
        os.close(descriptor)
        raise UserError(
            f"another process (perhaps {holder or 'unknown'}) already moves this arm: end it first "
            f"({path})"
        ) from None
    return descriptor


def _marked(descriptor: int) -> bool:
    """Leave our mark, on disk, and return whether there was one before."""
    before = os.fstat(descriptor).st_size > 0
    os.pwrite(descriptor, f"{os.getpid()}\n".encode().ljust(20), 0)
    os.fsync(descriptor)
    return before
