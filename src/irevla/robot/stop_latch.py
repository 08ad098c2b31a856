"""A stop that outlives its process: a worker that died must not be replaced by one that knows
nothing of it."""

import json
import os
from pathlib import Path
from typing import Any

from irevla.errors import UserError
from irevla.storage.read import mapping, read_json


class StopLatch:
    """Why the arm is stopped, kept in a file (or, without one, in memory).

    While a session is open the file holds its process id. A session that finds one that never
    closed is stopped from its beginning: nobody knows what the arm is doing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.reason = ""  # empty: not stopped
        left = self._left()
        if left.get("stopped"):
            self.reason = str(left["stopped"])
        elif left.get("pid"):
            if _alive(int(left["pid"])):
                raise UserError(
                    f"the process {left['pid']} already moves this arm: end it first ({path})"
                )
            self.reason = "the last session ended without closing"
        self._write({"pid": os.getpid(), "stopped": self.reason})

    def set(self, reason: str) -> None:
        """Stop."""
        self.reason = reason
        self._write({"pid": os.getpid(), "stopped": reason})

    def release(self) -> None:
        """Go on."""
        self.reason = ""
        self._write({"pid": os.getpid(), "stopped": ""})

    def close(self) -> None:
        """The session is over; a stop stays."""
        if self._path is None:
            return
        if self.reason:
            self._write({"stopped": self.reason})
        else:
            self._path.unlink(missing_ok=True)

    def _left(self) -> dict[str, Any]:
        if self._path is None or not self._path.exists():
            return {}
        try:
            return dict(mapping(read_json(self._path), "the latch"))
        except (UserError, TypeError):  # half a file: somebody was killed while writing
            return {"stopped": "the last session ended without closing"}

    def _write(self, content: dict[str, Any]) -> None:
        if self._path is not None:
            self._path.write_text(json.dumps(content))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
