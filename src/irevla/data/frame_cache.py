"""Images that are decoded once, and mapped from a file by every run that needs the same ones."""

import hashlib
import mmap
import os
from collections.abc import Callable
from math import prod
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from irevla.errors import UserError
from irevla.storage import disk

DIGEST = 32  # bytes of the sha256 that follows the images in a file
Fill = Callable[[UInt8[np.ndarray, "..."]], None]


def cached(key: str, shape: tuple[int, ...], fill: Fill) -> UInt8[np.ndarray, "..."]:
    """Return the images called `key` (a sha256 of all that they depend on); `fill` makes them once.

    A file that is not as it was written is made again. Raises `UserError` where there is no room
    for all of it, and whatever `fill` raises: then no file is left. Writing into the array changes
    no file.
    """
    folder = disk.cache_dir("frames")
    path = folder / key
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with disk.locked(folder):  # another run may be making the same
            if not _is_whole(path, prod(shape)):
                _make(path, shape, fill)
    except OSError as error:
        raise UserError(
            f"cannot keep {prod(shape) / 2**20:,.0f} MiB of images in {folder}: {error.strerror}; "
            f"{disk.remedy(error)}, which {disk.CACHE} names"
        ) from error
    with path.open("rb") as file:
        memory = mmap.mmap(file.fileno(), prod(shape), access=mmap.ACCESS_COPY)
    memory.madvise(mmap.MADV_RANDOM)  # batches are of single images: nothing is read ahead
    return np.frombuffer(memory, np.uint8).reshape(shape)


def _is_whole(path: Path, size: int) -> bool:
    """Return whether the images in the file are those that were written."""
    if not path.is_file() or path.stat().st_size != size + DIGEST:
        return False
    content = np.memmap(path, np.uint8, "r")
    return hashlib.sha256(content[:size].data).digest() == content[size:].tobytes()


def _make(path: Path, shape: tuple[int, ...], fill: Fill) -> None:
    """Write the file: its images, then their sha256."""
    size = prod(shape)
    with disk.writing(path) as aside:
        with aside.open("wb") as file:  # all of it: a full disk would kill the process later
            os.posix_fallocate(file.fileno(), 0, size + DIGEST)
        content = np.memmap(aside, np.uint8, "r+")
        fill(content[:size].reshape(shape))
        digest = hashlib.sha256(content[:size].data).digest()
        content[size:] = np.frombuffer(digest, np.uint8)
        content.flush()
