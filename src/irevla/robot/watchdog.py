"""The thread that looks at the arm between commands."""

import threading
from collections.abc import Callable


class Watchdog(threading.Thread):
    """Calls `watch` every `interval` s; where that fails, `stop` with the reason."""

    def __init__(
        self, watch: Callable[[], None], stop: Callable[[str], None], interval: float
    ) -> None:
        super().__init__(name="arm-watchdog", daemon=True)
        self._watch = watch
        self._stop_arm = stop
        self._interval = interval
        self._over = threading.Event()

    def run(self) -> None:
        """Watch, until `end`."""
        while not self._over.wait(self._interval):
            try:
                self._watch()
            except Exception as error:  # noqa: BLE001  # whatever it is: nobody would watch any more
                self._stop_arm(f"the watchdog failed: {error!r}")

    def end(self) -> None:
        """Watch no more."""
        self._over.set()
        if threading.current_thread() is not self:
            self.join(2.0)
