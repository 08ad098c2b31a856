"""How files change: never half-written under their own name, on disk before anything goes on, and
one writer at a time."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from irevla.errors import UserError

CACHE = "IREVLA_CACHE"  # environment variable: where what can be made again is kept
STAGING = ".staging"  # files being written; whatever a kill left there means nothing


def cache_dir(kind: str) -> Path:
    """Return where things of a kind are kept that can be made again.

    It is in `$IREVLA_CACHE`, else in `$XDG_CACHE_HOME/irevla`, else in `~/.cache/irevla`.
    """
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get(CACHE) or Path(base) / "irevla") / kind


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; at the end the file is synced and takes the name
    `path`.

    Where the body raises, `path` is as it was. A kill leaves at most a dotfile beside it.
    """
    aside = path.with_name(f".{path.name}.new")
    try:
        yield aside
        sync(aside)
        aside.replace(path)
        sync(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
            write_synced(staging / str(number), content)
        for name, _ in files:
            _make_folder((root / name).parent)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise UserError(
            f"cannot write to dataset {root}: {error.strerror}; {remedy(error)}"
        ) from error
    for number, (name, _) in enumerate(files):
        (staging / str(number)).rename(root / name)
        sync((root / name).parent)
    staging.rmdir()


def extend(path: Path, size: int, content: bytes) -> None:
    """Let `content` follow the first `size` bytes of a file; what followed them is lost. Synced."""
    with path.open("r+b") as file:
        file.truncate(size)
        file.seek(size)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file; it is on disk when this returns."""
    with path.open("wb") as file:
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
        yield _lock(descriptor, wait=wait)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, *, wait: bool) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def remedy(error: OSError) -> str:
    """Say what a person can do about files that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room and give the same command again"
    return "make it writable, or choose another place"


def _make_folder(folder: Path) -> None:
    if not folder.exists():
        folder.mkdir(parents=True)
        sync(folder.parent)
