"""A disk that is full at some byte, and is given room again.

Where this process may mount, the run lies on a small tmpfs of its own (a true ENOSPC, and all files
count); elsewhere no file may grow beyond a limit (RLIMIT_FSIZE).
"""

import ctypes
import json
import os
import resource
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

from injector.lives import (
    LONGEST,
    Life,
    counts,
    differences,
    irevla,
    left,
    leftovers,
)
from injector.settings import Kind, kinds, reference
from injector.tally import Tally
from irevla.config import Config

PAGE = 4096
SMALLEST_FILE = 40_000  # bytes: the memory that a worker shares is a file, too
PLENTY = 1 << 30
NEW_MOUNTS, NEW_USERS = 0x00020000, 0x10000000  # CLONE_NEWNS, CLONE_NEWUSER
PRIVATE, REMOUNT = 0x44000, 0x20  # MS_REC | MS_PRIVATE, MS_REMOUNT


def attack(count: int, *, seed: int, folder: Path, first: int = 0) -> Tally:
    """Fill the disk `count` times, under each kind of work by turns."""
    tally = Tally("disks", seed)
    ppo, sac, _, collect = kinds(folder)
    mounts = can_mount(folder)
    for number in range(first, first + count):
        kind = (ppo, sac, collect)[number % 3]
        one_case(tally, number, kind, folder=folder, mounts=mounts)
    return tally


def one_case(tally: Tally, number: int, kind: Kind, *, folder: Path, mounts: bool) -> None:
    """Work on a disk of some size, then with room, and compare with what had room at once."""
    whole = reference(kind, folder)
    root = folder / f"full-{number}"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    size = _size(tally.luck(number), whole, mounts=mounts)
    said = folder / f"full-{number}.log"
    said.unlink(missing_ok=True)
    life = Life(said, _mounted if mounts else _limited, kind, root, size)
    if not life.ended(LONGEST):
        life.kill(session=True)
    tally.counts["mounted" if mounts else "limited"] += 1
    faults = _faults(tally, life, kind, root, whole)
    if faults:
        tally.fault(number, f"{kind.name} in {root}, {size} bytes: {'; '.join(faults)}")
    else:
        shutil.rmtree(root)
        said.unlink()


def _faults(tally: Tally, life: Life, kind: Kind, root: Path, whole: Path) -> list[str]:
    told = root / "codes.json"
    full, again = json.loads(told.read_text()) if told.exists() else (None, None)
    tally.counts["were full" if full == 2 else f"code {full}"] += 1
    faults = []
    if full not in (0, 2) or again != 0:
        faults.append(f"exit code {full}, and with room again {again}: {life.text()[-500:]}")
    if "Traceback" in life.text():
        faults.append("a traceback")
    if full == 2 and life.text().count("irevla: ") != 1:
        faults.append("not one line")
    if again == 0:
        other = differences(left(root), left(whole))
        faults += [f"other bytes: {other}"] if other else []
        faults += ["other counts"] if counts(root) != counts(whole) else []
        faults += [f"left over: {name}" for name in leftovers(root)]
    return faults


def _size(luck: Random, whole: Path, *, mounts: bool) -> int:
    files = [path.stat().st_size for path in whole.rglob("*") if path.is_file()]
    if mounts:  # half of them so small that the first files do not fit
        pages = sum(-(-size // PAGE) for size in files)
        return PAGE * luck.choice((luck.randint(1, pages), int(pages ** luck.random())))
    return luck.randrange(SMALLEST_FILE, max(SMALLEST_FILE, *files) + 1)


# --- In the life


def _mounted(kind: Kind, root: Path, size: int) -> None:
    """Work on a disk of that size, then on the same with room; then copy what is on it."""
    disk = root.with_name(f"{root.name}.disk")
    disk.mkdir(exist_ok=True)
    enter_mounts()
    mount(disk, size)
    codes = _twice(kind.words(disk), kind.config, lambda: mount(disk, PLENTY, flags=REMOUNT))
    shutil.copytree(disk, root, dirs_exist_ok=True)
    (root / "codes.json").write_text(json.dumps(codes))


def _limited(kind: Kind, root: Path, size: int) -> None:
    """Work while no file may be longer than `size`, then without that limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))  # Python ignores SIGXFSZ
    codes = _twice(
        kind.words(root),
        kind.config,
        lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard)),
    )
    (root / "codes.json").write_text(json.dumps(codes))


def _twice(words: list[str], config: Config, make_room: Callable[[], Any]) -> list[int]:
    full = irevla(words, config)
    make_room()
    return [full, irevla(words, config)]


# --- Mounts


def enter_mounts() -> None:
    """Let this process, and no other, see what it mounts. It must have one thread."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(NEW_MOUNTS) != 0:
        _check(libc.unshare(NEW_MOUNTS | NEW_USERS))
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _check(libc.mount(b"none", b"/", None, PRIVATE, None))


def mount(place: Path, size: int, *, flags: int = 0) -> None:
    """Mount a tmpfs of that size, or change its size."""
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.mount(b"none", str(place).encode(), b"tmpfs", flags, f"size={size}".encode()))


def _check(code: int) -> None:
    if code != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def can_mount(folder: Path) -> bool:
    """Return whether a process of ours may mount a tmpfs."""
    place, answer = folder / "mount", folder / "mounted"
    place.mkdir(exist_ok=True)
    answer.unlink(missing_ok=True)
    Life(folder / "mount.log", _try_mount, place, answer).ended(LONGEST)
    return answer.exists()


def _try_mount(place: Path, answer: Path) -> None:
    with suppress(OSError):
        enter_mounts()
        mount(place, PAGE)
        answer.touch()
