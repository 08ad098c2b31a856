"""Arrays that lie in a file: the operating system may drop any part of them from memory."""

import mmap
import os
import tempfile
from math import prod
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from irevla.errors import UserError
from irevla.storage.disk import remedy


def mapped(shape: tuple[int, ...], *, beside: Path) -> UInt8[np.ndarray, "..."]:
    """Return an array of bytes in a file of its own, which has no name and ends with the array.

    The file is in the folder `beside`, or where temporary files are if that cannot be written to.
    Raises `UserError` where the disk has no room for all of it: to find that out at some later
    write would kill the process.
    """
    size = prod(shape)
    if size == 0:
        return np.empty(shape, np.uint8)
    folder = str(beside) if os.access(beside, os.W_OK) else tempfile.gettempdir()
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, size)
            memory = mmap.mmap(file.fileno(), size)
    except OSError as error:
        raise UserError(
            f"cannot keep {size / 2**20:,.0f} MiB of images in {folder}: {error.strerror}; "
            f"{remedy(error)}"
        ) from error
    memory.madvise(mmap.MADV_RANDOM)  # batches are of single images: nothing is read ahead
    return np.frombuffer(memory, np.uint8).reshape(shape)
