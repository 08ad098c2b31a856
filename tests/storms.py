"""A share's file system on which something goes wrong at one moment, and what may go wrong."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

NEVER = 1 << 30


class Killed(BaseException):
    """As SIGKILL: nothing that the process would still do is done."""


class Storm:
    """What `fs` does, but that `happen` is called before operation number `at`, the first being 0.

    A file is written in two halves, of which each is an operation. `times`: before so many in
    turn. `writes`: operations that do not write are none.
    """

    def __init__(
        self,
        fs: Any,
        at: int,
        happen: Callable[[], None],
        *,
        times: int = 1,
        writes: bool = False,
    ) -> None:
        self.seen = 0  # operations so far
        self.struck = 0  # times
        self._fs = fs
        self._at = at
        self._happen = happen
        self._times = times
        self._writes = writes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fs, name)

    def moment(self, *, writing: bool) -> None:
        if self._writes and not writing:
            return
        due = self.seen >= self._at
        self.seen += 1
        if due and self.struck < self._times:
            self.struck += 1
            self._happen()

    def makedirs(self, *args: Any, **options: Any) -> Any:
        self.moment(writing=True)
        return self._fs.makedirs(*args, **options)

    def mv(self, *args: Any, **options: Any) -> Any:
        self.moment(writing=True)
        return self._fs.mv(*args, **options)

    def rm(self, *args: Any, **options: Any) -> Any:
        self.moment(writing=False)
        return self._fs.rm(*args, **options)

    def ls(self, *args: Any, **options: Any) -> Any:
        self.moment(writing=False)
        return self._fs.ls(*args, **options)

    def size(self, *args: Any, **options: Any) -> Any:
        self.moment(writing=False)
        return self._fs.size(*args, **options)

    def cat_file(self, *args: Any, **options: Any) -> Any:
        self.moment(writing=False)
        return self._fs.cat_file(*args, **options)

    def open(self, *args: Any, **options: Any) -> Any:
        self.moment(writing=True)
        return _File(self._fs.open(*args, **options), self)


class _File:
    """A file that is written in two halves."""

    def __init__(self, file: Any, storm: Storm) -> None:
        self._file = file
        self._storm = storm

    def write(self, content: bytes) -> None:
        half = len(content) // 2
        for part in (content[:half], content[half:]):
            self._storm.moment(writing=True)
            self._file.write(part)
            self._file.flush()

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.close()


def kill() -> None:
    raise Killed


def drop() -> None:
    raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))


def fill() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def nothing() -> None:
    pass


def damage(root: Path, luck: Random) -> str:
    """Change a file below `root`: a bit, its end, all of it; return which, as a test may say."""
    paths = [path for path in root.rglob("*") if path.is_file() and path.stat().st_size]
    if not paths:
        return ""
    path = luck.choice(sorted(paths))
    content = bytearray(path.read_bytes())
    how = luck.choice(("bit", "cut", "zeros"))
    if how == "bit":
        content[luck.randrange(len(content))] ^= 1 << luck.randrange(8)
    elif how == "cut":
        del content[luck.randrange(len(content)) :]
    else:
        content[:] = bytes(len(content))
    path.write_bytes(content)
    return f"{how} of {path.parent.name}/{path.name}"
