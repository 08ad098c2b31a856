"""What is in a LeRobotDataset, for people: `irevla data PATH`."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from irevla.data.dataset import Dataset, RecordedEpisode
from irevla.data.spread import spread
from irevla.errors import printable

BINS = 24  # of a histogram
USUAL = 1.0  # actions of irevla's own suites are in [-1, 1]
ROUNDING = 1e-3


@dataclass(frozen=True)
class TaskSummary:
    """The episodes of one instruction."""

    instruction: str
    episodes: int
    succeeded: int | None  # None: not recorded
    shortest: float  # s
    longest: float  # s
    lengths: tuple[int, ...]  # episodes in `BINS` equal parts from the shortest to the longest
    spread: float | None  # how much they differ, step by step: `spread`


@dataclass(frozen=True)
class NumberSummary:
    """One dimension of the actions, over all frames where it is finite; None: there is none."""

    name: str
    min: float | None
    mean: float | None
    max: float | None
    std: float | None
    not_finite: int  # frames
    outside: int  # frames beyond [-1, 1]
    histogram: tuple[int, ...]  # frames in `BINS` equal parts from the least to the largest


@dataclass(frozen=True)
class CameraSummary:
    """One camera."""

    name: str
    size: str  # as the dataset states it, or "not said"
    kind: str  # "image" or "video"


@dataclass(frozen=True)
class Summary:
    """What is in a dataset."""

    path: str
    version: str  # of the format
    robot: str
    episodes: int
    frames: int
    fps: int
    tasks: tuple[TaskSummary, ...]
    cameras: tuple[CameraSummary, ...]
    actions: tuple[NumberSummary, ...]
    state: tuple[NumberSummary, ...]  # what the robot says of itself; empty: it is not recorded

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


def summarize(root: Path) -> Summary:
    """Return what is in the dataset at `root`, of irevla or of others. No image is decoded.

    Raises `UserError` where it is no whole LeRobotDataset.
    """
    return summary_of(Dataset(root))


def summary_of(dataset: Dataset) -> Summary:
    """Return what is in a dataset that is open."""
    info = dataset.info
    return Summary(
        path=str(dataset.root),
        version=info.version,
        robot=info.robot,
        episodes=len(dataset),
        frames=info.frames,
        fps=info.fps,
        tasks=tuple(
            _task(dataset, instruction, episodes)
            for instruction, episodes in dataset.by_instruction.items()
        ),
        cameras=tuple(
            CameraSummary(each.name, " x ".join(map(str, each.shape)) or "not said", each.kind)
            for each in info.cameras
        ),
        actions=tuple(
            _number(name, values)
            for name, values in zip(info.action_names, dataset.actions.T, strict=True)
        ),
        state=tuple(
            _number(str(number), values)
            for number, values in enumerate([] if dataset.state is None else dataset.state.T)
        ),
    )


def _task(dataset: Dataset, instruction: str, episodes: list[RecordedEpisode]) -> TaskSummary:
    lengths = [episode.length / dataset.info.fps for episode in episodes]
    actions = [dataset.actions[episode.frames] for episode in episodes]
    finite = [each for each in actions if np.isfinite(each).all()]
    known = [episode.success for episode in episodes if episode.success is not None]
    return TaskSummary(
        instruction,
        episodes=len(episodes),
        succeeded=sum(known) if known else None,
        shortest=min(lengths),
        longest=max(lengths),
        lengths=_histogram(np.array(lengths)),
        spread=spread(finite) if finite else None,
    )


def _number(name: str, values: np.ndarray) -> NumberSummary:
    finite = values[np.isfinite(values)].astype(np.float64)
    measures = (np.min, np.mean, np.max, np.std)
    least, mean, most, std = (float(each(finite)) if len(finite) else None for each in measures)
    return NumberSummary(
        name,
        least,
        mean,
        most,
        std,
        not_finite=len(values) - len(finite),
        outside=int((np.abs(finite) > USUAL + ROUNDING).sum()),
        histogram=_histogram(finite),
    )


def _histogram(values: np.ndarray) -> tuple[int, ...]:
    """Return how many values are in each of `BINS` equal parts of their range; none of none."""
    if not len(values):
        return ()
    counts, _ = np.histogram(values, BINS)
    return tuple(counts.tolist())


SPREAD = (
    "Spread: which share of the actions' variance is left once the step is known. Near 0 every "
    "episode does the same, and a replay of one would do for all, with closed eyes."
)


def tables(summary: Summary) -> Iterator[str | Table]:
    """Yield it as lines and tables for a terminal."""
    seconds = summary.frames / summary.fps
    long = f"{seconds / 60:.0f} minutes" if seconds > 120 else f"{seconds:.1f} s"
    robot = f", recorded with {printable(summary.robot)}" if summary.robot else ""
    yield (
        f"{summary.path}: {summary.episodes} episodes, {summary.frames:,} frames at "
        f"{summary.fps} a second ({long}){robot}; format {summary.version}"
    )
    numbers = _number_table("action", summary.actions), _number_table("state", summary.state)
    for table in (_task_table(summary), _camera_table(summary), *numbers):
        if table.row_count:
            yield ""
            yield table
    yield ""
    yield SPREAD


def _task_table(summary: Summary) -> Table:
    table = _table("task (its instruction)", "episodes", "succeeded", "seconds", "spread")
    for task in summary.tasks:
        succeeded = "not recorded" if task.succeeded is None else str(task.succeeded)
        seconds = f"{task.shortest:.1f} to {task.longest:.1f}"
        instruction = printable(task.instruction)
        table.add_row(instruction, str(task.episodes), succeeded, seconds, _short(task.spread))
    return table


def _camera_table(summary: Summary) -> Table:
    table = _table("camera", "size", "stored as")
    for camera in summary.cameras:
        table.add_row(printable(camera.name), camera.size, camera.kind)
    return table


def _number_table(what: str, dimensions: Sequence[NumberSummary]) -> Table:
    table = _table(what, "min", "mean", "max", "std", "not finite", "outside ±1")
    for each in dimensions:
        numbers = (each.min, each.mean, each.max, each.std)
        counts = (each.not_finite, each.outside)
        table.add_row(printable(each.name), *map(_short, numbers), *map(str, counts))
    return table


def _short(number: float | None) -> str:
    return "-" if number is None else f"{number:.4g}"


def _table(first: str, *columns: str) -> Table:
    table = Table(first, box=None, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right")
    return table
