"""Processes that end with the one that started them."""

import os
import time


def outlive_nobody(parent: int) -> None:
    """Exit when the parent is gone, even when it was killed while this process is busy or waits."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
