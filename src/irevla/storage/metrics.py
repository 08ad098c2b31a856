"""Training curves: one JSON line for each point, whatever else is switched on."""

import json
import math
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from irevla.errors import UserError
from irevla.storage.journal import read_lines, whole_lines


class Metrics:
    """Appends to `path` and, where asked for, to TensorBoard in the folder beside it."""

    def __init__(self, path: Path, *, tensorboard: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = _tensorboard(path.parent / "tensorboard") if tensorboard else None
        self._file = path.open("ab")
        self._file.truncate(whole_lines(path))  # a crash may have torn the last line

    def log(self, stage: str, step: int, **values: float | int) -> None:
        """Write one point of the curves of `stage`; values that are not finite as null."""
        finite = {
            name: float(value) if math.isfinite(value) else None for name, value in values.items()
        }
        record = {"stage": stage, "step": step, "time": round(time.time(), 3), **finite}
        self._file.write((json.dumps(record) + "\n").encode())
        self._file.flush()
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{stage}/{name}", value, step)

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the points in order, each once; none where there is no file.

    A stage's steps only grow. Where one goes back, the run was resumed there: what it had logged
    from there on is void. Two points of one step are merged, the later value of a name winning.
    """
    rows: dict[str, list[dict[str, Any]]] = {}  # by stage
    for record in read_lines(path, facts={"stage", "step"}):
        numbers = [value for name, value in record.items() if name != "stage"]
        sound = all(value is None or type(value) in (int, float) for value in numbers)
        if type(record["stage"]) is not str or type(record["step"]) is not int or not sound:
            raise UserError(f"{path} is damaged: a point of {record['stage']!r}; restore it")
        stage = rows.setdefault(record["stage"], [])
        while stage and stage[-1]["step"] > record["step"]:
            stage.pop()
        if stage and stage[-1]["step"] == record["step"]:
            stage[-1] |= record
        else:
            stage.append(record)
    return [row for stage in rows.values() for row in stage]


def _tensorboard(directory: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            "TensorBoard is not installed: pip install 'irevla[tensorboard]', or leave it off"
        ) from error
    return SummaryWriter(str(directory))  # type: ignore[no-untyped-call]
