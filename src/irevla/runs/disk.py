"""The one thing that every file which must survive a crash needs."""

import os
from pathlib import Path


def sync_directory(directory: Path) -> None:
    """Wait until the names in `directory` are on disk: a rename is there only once its directory
    is."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
