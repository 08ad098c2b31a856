"""What a run has done, for good: a JSON object a line, each fsynced; and the run's lock."""

import fcntl
import json
import os
import time
import zlib
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from irevla.errors import UserError
from irevla.storage.disk import sync, writing
from irevla.storage.read import parse_json, read_bytes

CHECKSUM = "line_crc32"  # of the record beside it; `crc32` is a fact of some records


class Journal:
    """An append-only list of events.

    A last line that a crash tore is none: readers skip it, an append cuts it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, event: str, **fields: Any) -> None:
        """Write down that `event` happened, with JSON-able `fields`; it is on disk then."""
        assert not {"event", "time", CHECKSUM} & fields.keys()
        record = {"event": event, "time": round(time.time(), 3), **fields}
        line = json.dumps({**record, CHECKSUM: _checksum(record)}) + "\n"
        new = not self.path.exists()
        with self.path.open("ab") as file:
            file.truncate(whole_lines(self.path))
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        if new:
            sync(self.path.parent)

    @property
    def whole(self) -> int:
        """Bytes of whole lines; 0 where nothing has happened yet."""
        return whole_lines(self.path)

    def rewind(self, lines: int) -> None:
        """Forget all but the first `lines` events."""
        kept = self.path.read_bytes().splitlines(keepends=True)[:lines]
        with writing(self.path) as aside:
            aside.write_bytes(b"".join(kept))

    def done(self, event: str) -> dict[str, Any] | None:
        """Return the last record of `event`, or None where it has not happened."""
        return next((record for record in reversed(list(self)) if record["event"] == event), None)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(read_lines(self.path, facts={"event"}))


def whole_lines(path: Path) -> int:
    """Return how many bytes of a JSONL file are whole lines: what follows was torn by a crash."""
    return read_bytes(path).rfind(b"\n") + 1 if path.exists() else 0


def read_lines(path: Path, *, facts: Set[str] = frozenset()) -> list[dict[str, Any]]:
    """Return the records of a JSONL file, without a torn last line; none if there is no file.

    Raises `UserError` for a line that is no record with those `facts`, or is not what was written.
    """
    if not path.exists():
        return []
    records = []
    content = read_bytes(path)
    whole = content[: content.rfind(b"\n") + 1]
    for number, line in enumerate(whole.splitlines(), start=1):
        where = f"{path}, line {number}"
        record = parse_json(line, where, remedy="restore the file or delete that line")
        if not isinstance(record, dict) or not facts <= record.keys():
            raise UserError(f"{where} is no record; restore the file or delete that line")
        checksum = record.pop(CHECKSUM, None)  # files of version 0.1 have none
        if checksum is not None and checksum != _checksum(record):
            raise UserError(f"{path}, line {number} is not what was written; restore the file")
        records.append(record)
    return records


def _checksum(record: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(record).encode())


@contextmanager
def run_lock(directory: Path) -> Iterator[None]:
    """Hold `directory` for this process alone.

    Raises `UserError` with the pid of the holder where another runs in it. The kernel drops the
    lock with the process, however it dies. A forked child that outlives it would keep it: spawn.
    """
    path = directory / ".lock"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            pid = file.read().strip() or "unknown"
            raise UserError(
                f"process {pid} is running in {directory}; wait for it, stop it, or choose another "
                "--out"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
