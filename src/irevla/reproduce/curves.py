"""Figure 4: success in stage 1 against decisions, the time of the robot, and that of the clock."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from irevla.evaluation.practice import seconds_of_decision
from irevla.reproduce.found import Found, Ran, blind, rates
from irevla.reproduce.grid import SFT
from irevla.reproduce.style import (
    BLIND,
    BLIND_LINE,
    INK,
    WIDTH,
    colour,
    legend,
    rate_axis,
    row_patches,
    save,
)
from irevla.storage.journal import read_lines
from irevla.storage.metrics import read_metrics
from irevla.tasks import Stage

POINTS = 20  # of a learning curve
PAUSE = 300  # s without a point: the run was stopped, or its machine was
AXES = {
    "decisions": "decisions of RL",
    "robot": "minutes of the robot, zero-shot ones too",
    "clock": "minutes of the clock",
}
SFT_LINE = Line2D([], [], color=INK, linestyle="--", label="sft, evaluated")


@dataclass(frozen=True)
class Curve:
    """Success in `POINTS` parts of one stage 1, each the mean of its episodes."""

    success: Float[np.ndarray, " n"]
    at: Mapping[str, Float[np.ndarray, " n"]]  # an axis of `AXES` -> where each part ends


def curves(found: Found, rows: Sequence[str], path: Path) -> None:
    """Draw success with exploration noise in the first turn of each RL task; a line of panels a
    task.

    The mean over seeds; thin lines are the seeds. Not drawn where nothing has learnt.
    """
    tasks = _rl_tasks(found, rows)
    if not tasks:
        return
    figure = Figure(figsize=(WIDTH, 0.5 + 2.5 * len(tasks)), layout="constrained")
    panels = figure.subplots(len(tasks), len(AXES), squeeze=False, sharey=True, sharex="col")
    learnt: set[str] = set()
    for task, line in zip(tasks, panels, strict=True):
        learnt |= _line(list(line), found, rows, task)
    for axes, label in zip(panels[-1], AXES.values(), strict=True):
        axes.set_xlabel(label)
        axes.set_xlim(left=0)  # once all is drawn: from now on the limits stay
    panels[-1][0].xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k" if x else "0")
    shown = [row for row in rows if row in learnt]
    legend(figure, [*row_patches(shown), SFT_LINE, BLIND_LINE])
    save(figure, path)


def _line(line: Sequence[Axes], found: Found, rows: Sequence[str], task: str) -> set[str]:
    """Draw the panels of one task; return the rows that have learnt it."""
    learnt = {}
    for row in rows:
        every = [curve(run, task) for run in found.get(row, {}).values()]
        learnt[row] = [each for each in every if each is not None]
        for axes, name in zip(line, AXES, strict=True):
            _draw(axes, [each for each in learnt[row] if name in each.at], name, colour(row))
    for axes in line:
        _levels(axes, found, task)
        rate_axis(axes)
        axes.set_ylabel("")
    line[0].set_ylabel(f"{task}\nsuccess")
    return {row for row, every in learnt.items() if every}


def _draw(axes: Axes, every: Sequence[Curve], name: str, ink: str) -> None:
    """Draw the curves of all seeds, and their mean: of success and of `name`, by decisions."""
    for each in every:
        axes.plot(each.at[name], each.success, color=ink, linewidth=0.6, alpha=0.4)
    if every:
        # A stage that has converged is over: its last rate goes on, and it costs nothing more.
        most = max(each.at["decisions"][-1] for each in every)
        grid = np.linspace(0, most, POINTS + 1)[1:]
        x = [np.interp(grid, each.at["decisions"], each.at[name]) for each in every]
        y = [np.interp(grid, each.at["decisions"], each.success) for each in every]
        axes.plot(np.mean(x, axis=0), np.mean(y, axis=0), color=ink, linewidth=2)


def _levels(axes: Axes, found: Found, task: str) -> None:
    """Draw, across, what the policy did before, and what one that sees nothing does."""
    before, unseeing = rates(found, SFT, (task,)).each, blind(found, (task,)).each
    if before:
        axes.axhline(mean(before), color=INK, linestyle="--", linewidth=1)
    if unseeing:
        axes.axhline(mean(unseeing), color=INK, linestyle=BLIND, linewidth=1)


def curve(run: Ran, task: str) -> Curve | None:
    """Return the learning curve of a task in its first turn; None where there is none."""
    stage = Stage("rl", task)
    if stage not in run.stages:
        return None
    points = [
        (each["step"], each["success"], each.get("episodes", 1.0), each.get("time", np.nan))
        for each in read_metrics(run.directory / "metrics.jsonl")
        if each["stage"] == stage.name and isinstance(each.get("success"), float)
    ]
    if len(points) < 2:
        return None
    steps, success, episodes, times = np.array(points, dtype=float).T
    ends = np.linspace(0, steps[-1], POINTS + 1)
    part = np.clip(np.searchsorted(ends, steps, side="left") - 1, 0, POINTS - 1)
    won = np.bincount(part, success * episodes, POINTS)
    played = np.bincount(part, episodes, POINTS)
    known = played > 0
    rate = np.interp(np.arange(POINTS), np.flatnonzero(known), won[known] / played[known])
    started, before = _start(run, stage)
    at = {"decisions": ends[1:]}
    seconds = seconds_of_decision(run.results)
    if seconds is not None:
        at["robot"] = (before + ends[1:]) * seconds / 60
    if started is not None:
        at["clock"] = np.interp(ends[1:], steps, _worked(started, times)) / 60
    return Curve(rate, at)


def _start(run: Ran, stage: Stage) -> tuple[float | None, int]:
    """Return when a turn began, and how many decisions its zero-shot successes took."""
    began: float | None = None
    for record in read_lines(run.directory / "journal.jsonl", facts={"event"}):
        if record["event"] == stage.then("zero-shot").name:
            return began, int(record.get("decisions", 0))
        if record["event"] == stage.name:
            return began, 0
        began = record.get("time")
    return None, 0


def _worked(started: float, times: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Return the seconds of work until each of `times`; a run that was stopped does not work."""
    steps = np.diff(times, prepend=started)
    usual = np.median(steps)
    stopped = steps > max(PAUSE, 20 * usual)
    return np.cumsum(np.where(stopped, usual, steps))


def _rl_tasks(found: Found, rows: Sequence[str]) -> list[str]:
    """Return the tasks with a stage 1 in any run, in the order in which they were learnt."""
    stages = [stage for row in rows for run in found.get(row, {}).values() for stage in run.stages]
    return list(dict.fromkeys(stage.task for stage in stages if stage.kind == "rl"))
