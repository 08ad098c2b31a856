"""A flight recorder: what the arm was told and what it said of itself, from which an accident can
be read.

One file a session, append-only, of JSON lines: each is written in one piece, so that what is there
after a kill are whole lines. `docs/real-robot.md` says what they hold. A thread writes them: no
disk, however slow or full, keeps a command or a hold waiting. Then lines are missing, and the next
one that is written says how many.
"""

import json
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from irevla.errors import UserError
from irevla.robot.driver import ArmState
from irevla.robot.pose import Pose

PART = 32 * 2**20  # bytes of a file, after which a session goes on in another ...
KEPT = 32 * PART  # ... and bytes that are kept, of all sessions: a GiB, some ten hours of motion
PENDING = 2000  # lines that may wait to be written; more are dropped
PATIENCE = 2.0  # s that closing waits for them
DIGITS = 5


class Flight:
    """The recorder of a session, in `folder`; without one nothing is kept.

    A file begins with what is told of the `session`, once there is a first line. `tell` is called
    once where lines cannot be written.
    """

    def __init__(self, folder: Path | None, tell: Callable[[str], None], **session: Any) -> None:
        self._folder = folder
        self._session = session
        self._tell = tell
        self._name = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) + f"-{os.getpid()}"
        self._part = 0
        self._file: int | None = None
        self._torn = False  # the last line is there in part
        self._dropped = 0
        self._told = False
        self._lines: queue.Queue[bytes | None] = queue.Queue(PENDING)
        self._thread: threading.Thread | None = None
        if folder is not None:
            self._thread = threading.Thread(target=self._run, name="flight", daemon=True)
            self._thread.start()

    def note(self, what: str, **facts: Any) -> None:
        """Keep a line. Never waits, never fails."""
        if self._thread is None:
            return
        if self._session:
            session = self._session
            self._session = {}
            self.note("session", **session)
        line = {"at": round(time.time(), 3), "what": what, **facts}
        try:
            self._lines.put_nowait(json.dumps(_plain(line), separators=(",", ":")).encode() + b"\n")
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Write what waits, for `PATIENCE` s at most. Safe to call again."""
        thread = self._thread
        self._thread = None
        if thread is None:
            return
        with suppress(queue.Full):
            self._lines.put(None, timeout=PATIENCE)
        thread.join(PATIENCE)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            missing = self._dropped
            try:
                self._write(_missing(missing) + line)
                self._dropped -= missing
            except OSError as error:
                self._dropped += 1
                self._complain(error)
        if self._file is not None:
            os.close(self._file)

    def _write(self, line: bytes) -> None:
        if self._file is None or os.fstat(self._file).st_size + len(line) > PART:
            self._open()
        assert self._file is not None
        line = b"\n" * self._torn + line
        self._torn = os.write(self._file, line) < len(line)
        if self._torn:
            self._dropped += 1

    def _open(self) -> None:
        assert self._folder is not None
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._make_room()
        path = self._folder / f"{self._name}-{self._part:03}.jsonl"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._part += 1

    def _make_room(self) -> None:
        """The oldest files go."""
        assert self._folder is not None
        found = [(path, path.stat().st_size) for path in flights(self._folder)]
        left = sum(size for _, size in found)
        for path, size in found:
            if left + PART <= KEPT:
                return
            path.unlink(missing_ok=True)
            left -= size

    def _complain(self, error: OSError) -> None:
        if not self._told:
            self._told = True
            self._tell(f"the flight recorder cannot write to {self._folder} ({error.strerror})")


def flights(folder: Path) -> list[Path]:
    """Return the files of a recorder, oldest first."""
    return sorted(folder.glob("*.jsonl"))


def facts_of(state: ArmState) -> dict[str, Any]:
    """Return what a state is, as a line has it."""
    facts = {"pose": numbers(state.pose), "stamp": state.stamp}
    known = {"width": state.width, "wrench": state.wrench, "fault": state.fault or None}
    return facts | {name: value for name, value in known.items() if value is not None}


def numbers(pose: Pose) -> list[float]:
    """Return position (m) and quaternion (x y z w)."""
    return [*pose.position.tolist(), *pose.quaternion.tolist()]


def read_flight(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a file; torn ones are left out. Raises `UserError` where it cannot be
    read."""
    try:
        with path.open(errors="replace") as file:
            for text in file:
                with suppress(ValueError):
                    line = json.loads(text)
                    if isinstance(line, dict) and "at" in line and "what" in line:
                        yield line
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): name a flight's file"
        ) from error


def told(line: dict[str, Any]) -> str:
    """Return a line for people."""
    seconds = float(line["at"])
    clock = time.strftime("%H:%M:%S", time.localtime(seconds))
    facts = {name: value for name, value in line.items() if name not in ("at", "what")}
    words = " ".join(f"{name} {json.dumps(value)}" for name, value in facts.items())
    return f"{clock}.{math.floor(seconds % 1 * 1000):03} {line['what']:<9} {words}".rstrip()


def _missing(lines: int) -> bytes:
    """Return a line that says how many before it could not be written."""
    if not lines:
        return b""
    line = {"at": round(time.time(), 3), "what": "missing", "lines": lines}
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"


def _plain(value: Any) -> Any:
    """Return what JSON can hold, with few digits; what is not finite as a word."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float | np.floating):
        return round(float(value), DIGITS) if math.isfinite(value) else str(value)
    return value
