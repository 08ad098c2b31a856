"""Ctrl-C, wherever it finds the program.

Python raises it as an exception between two instructions, and drops what is raised while a
finalizer runs: then nobody has heard it. So it is written down, too.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_pressed = threading.Event()


@contextmanager
def ctrl_c_is_kept() -> Iterator[None]:
    """Let a Ctrl-C that got lost be raised by the next `heed_ctrl_c`."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _press)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _pressed.clear()


def heed_ctrl_c() -> None:
    """Raise `KeyboardInterrupt` where Ctrl-C was pressed and the program still runs."""
    if _pressed.is_set():
        raise KeyboardInterrupt


def _press(number: int, frame: Any) -> None:
    _pressed.set()
    raise KeyboardInterrupt
