"""What is in a LeRobotDataset, for people: `irevla data PATH`."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from irevla.data.dataset import Dataset, RecordedEpisode


@dataclass(frozen=True)
class TaskSummary:
    """The episodes of one instruction."""

    instruction: str
    episodes: int
    succeeded: int | None  # None: not recorded
    shortest: float  # s
    longest: float  # s


@dataclass(frozen=True)
class NumberSummary:
    """One dimension of the actions, over all frames where it is finite; None: there is none."""

    name: str
    min: float | None
    mean: float | None
    max: float | None
    std: float | None
    not_finite: int  # frames


@dataclass(frozen=True)
class CameraSummary:
    """One camera."""

    name: str
    size: str  # as the dataset states it
    kind: str  # "image" or "video"


@dataclass(frozen=True)
class Summary:
    """What is in a dataset."""

    path: str
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
    dataset = Dataset(root)
    info = dataset.info
    return Summary(
        path=str(root),
        robot=info.robot,
        episodes=len(dataset),
        frames=info.frames,
        fps=info.fps,
        tasks=tuple(
            _task(instruction, episodes, info.fps)
            for instruction, episodes in dataset.by_instruction.items()
        ),
        cameras=tuple(
            CameraSummary(each.name, " x ".join(map(str, each.shape)), each.kind)
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


def _task(instruction: str, episodes: list[RecordedEpisode], fps: int) -> TaskSummary:
    lengths = [episode.length / fps for episode in episodes]
    known = [episode.success for episode in episodes if episode.success is not None]
    return TaskSummary(
        instruction,
        episodes=len(episodes),
        succeeded=sum(known) if known else None,
        shortest=min(lengths),
        longest=max(lengths),
    )


def _number(name: str, values: np.ndarray) -> NumberSummary:
    finite = values[np.isfinite(values)].astype(np.float64)
    measures = (np.min, np.mean, np.max, np.std)
    least, mean, most, std = (float(each(finite)) if len(finite) else None for each in measures)
    return NumberSummary(name, least, mean, most, std, not_finite=len(values) - len(finite))


def tables(summary: Summary) -> Iterator[str | Table]:
    """Yield it as lines and tables for a terminal."""
    seconds = summary.frames / summary.fps
    long = f"{seconds / 60:.0f} minutes" if seconds > 120 else f"{seconds:.1f} s"
    robot = f", recorded with {summary.robot}" if summary.robot else ""
    yield (
        f"{summary.path}: {summary.episodes} episodes, {summary.frames:,} frames at "
        f"{summary.fps} a second ({long}){robot}"
    )
    numbers = _number_table("action", summary.actions), _number_table("state", summary.state)
    for table in (_task_table(summary), _camera_table(summary), *numbers):
        if table.row_count:
            yield ""
            yield table


def _task_table(summary: Summary) -> Table:
    table = _table("task (its instruction)", "episodes", "succeeded", "seconds")
    for task in summary.tasks:
        succeeded = "not recorded" if task.succeeded is None else str(task.succeeded)
        seconds = f"{task.shortest:.1f} to {task.longest:.1f}"
        table.add_row(task.instruction, str(task.episodes), succeeded, seconds)
    return table


def _camera_table(summary: Summary) -> Table:
    table = _table("camera", "size", "stored as")
    for camera in summary.cameras:
        table.add_row(camera.name, camera.size, camera.kind)
    return table


def _number_table(what: str, dimensions: Sequence[NumberSummary]) -> Table:
    table = _table(what, "min", "mean", "max", "std", "not finite")
    for each in dimensions:
        numbers = (each.min, each.mean, each.max, each.std)
        table.add_row(each.name, *map(_short, numbers), str(each.not_finite))
    return table


def _short(number: float | None) -> str:
    return "-" if number is None else f"{number:.4g}"


def _table(first: str, *columns: str) -> Table:
    table = Table(first, box=None, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right")
    return table
