"""How the files of a dataset change: one writer at a time, and never a half-written file under its
own name."""

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from irevla.errors import UserError
from irevla.runs.checkpoint import remedy
from irevla.runs.disk import sync_directory

STAGING = ".staging"  # files being written; whatever a kill left there means nothing


def replace(root: Path, files: Sequence[tuple[str, bytes]]) -> None:
    """Write `files` (path under `root`, content) aside, then give them their names one by one, in
    order.

    Raises `UserError` where the disk is full or not writable; no name has changed then.
    """
    staging = root / STAGING
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        for number, (_, content) in enumerate(files):
            _write(staging / str(number), content)
        for name, _ in files:
            _make_folder((root / name).parent)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise UserError(
            f"cannot write to dataset {root}: {error.strerror}; {remedy(error)}"
        ) from error
    for number, (name, _) in enumerate(files):
        (staging / str(number)).rename(root / name)
        sync_directory((root / name).parent)
    staging.rmdir()


def extend(path: Path, size: int, content: bytes) -> None:
    """Let `content` follow the first `size` bytes of a file, on disk when this returns; what
    followed them is lost."""
    with path.open("r+b") as file:
        file.truncate(size)
        file.seek(size)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def locked(root: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of the directory `root`, which the kernel drops if we die.

    Yields False where another process has it and `wait` is off.
    """
    descriptor = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            mine = True
        except BlockingIOError:
            mine = False
        yield mine
    finally:
        os.close(descriptor)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _make_folder(folder: Path) -> None:
    if not folder.exists():
        folder.mkdir(parents=True)
        sync_directory(folder.parent)
