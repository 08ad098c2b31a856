"""A person at the keys of another terminal, for the tests."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from irevla.robot.commands import latch_stop
from irevla.robot.console import send_keys
from irevla.robot.settings import read_settings
from irevla.robot.teleop import READY


class AtTheKeys:
    """A person, while the `with` lasts."""

    def __init__(self, path: Path, says: Callable[[], str] = lambda: READY) -> None:
        self._says, self._over = says, threading.Event()
        settings = read_settings(path)
        self._thread = threading.Thread(
            target=send_keys,
            args=(settings.keys, self._read),
            kwargs={"on_stop": lambda: latch_stop(settings)},
            daemon=True,
        )

    def _read(self, seconds: float) -> str:
        time.sleep(min(seconds, 0.1))
        return "\x03" if self._over.is_set() else self._says()

    def __enter__(self) -> "AtTheKeys":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
