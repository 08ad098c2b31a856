"""What the runs of a grid measured, from their own files alone: rates, seed by seed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from irevla.config import METHODS
from irevla.errors import UserError
from irevla.evaluation.practice import robot_hours
from irevla.evaluation.stats import (
    Count,
    Interval,
    Results,
    newcombe,
    over_seeds,
    pool,
    read_results,
    wilson,
)
from irevla.evaluation.tables import interval, number
from irevla.reproduce.grid import ROWS
from irevla.reproduce.grid import SFT as FIRST
from irevla.runs.run import is_finished
from irevla.storage.journal import read_lines
from irevla.tasks import BASELINE, SFT, Category, Stage

MISSING = "missing"
NONE = "–"  # tasks that the row has no policy for


@dataclass(frozen=True)
class Ran:
    """One run: what it measured, and what it went through."""

    directory: Path
    results: Results
    stages: tuple[Stage, ...]  # 0, 1 and 2, as they were done, measured afterwards or not
    own: bool = True  # False: stage 0 as a run of another row measured it

    @property
    def hours(self) -> float | None:
        """How long the arm, or its simulation, moved in training; None: not known."""
        return robot_hours(self.results)


Found = Mapping[str, Mapping[int, Ran]]
"""Row -> seed -> the run; those that were not made or not finished are not there."""


def read(root: Path, rows: Iterable[str], seeds: Sequence[int]) -> Found:
    """Return all finished runs, of ROOT/ROW/seed-N or, where all are of one method, ROOT/seed-N.

    Where a seed has no run of stage 0 alone, that is what another row measured before it began.
    Raises `UserError` for a run of another method or seed.
    """
    found: dict[str, dict[int, Ran]] = {}
    for row in rows:
        for seed in seeds:
            ran = _read(root / row / f"seed-{seed}", row, seed) or _plain(root, row, seed)
            if ran is not None:
                found.setdefault(row, {})[seed] = ran
    for row in [each for each in found if METHODS[ROWS[each][0]].sft]:
        for seed, ran in found[row].items():
            found.setdefault(FIRST, {}).setdefault(seed, _before(ran))
    return found


def _read(directory: Path, row: str, seed: int) -> Ran | None:
    if not (directory / "results.json").is_file():
        return None
    results = read_results(directory / "results.json")
    method, _ = ROWS[row]
    settings = results.settings
    if (settings["method"], settings["seed"]) != (method, seed):
        raise UserError(
            f"{directory} is a run of {settings['method']}, seed {settings['seed']}: take it away"
        )
    stages = tuple(_stages(directory))
    whole = is_finished(directory) or (stages and results.last == stages[-1])
    return Ran(directory, results, stages) if whole else None


def _plain(root: Path, row: str, seed: int) -> Ran | None:
    """Return the run ROOT/seed-N where it is of this row's method."""
    directory = root / f"seed-{seed}"
    if not (directory / "results.json").is_file():
        return None
    method = read_results(directory / "results.json").settings["method"]
    return _read(directory, row, seed) if method == row else None


def _stages(directory: Path) -> Iterable[Stage]:
    yield SFT
    for record in read_lines(directory / "journal.jsonl", facts={"event"}):
        if str(record["event"]).startswith(("rl:", "sl:")):
            yield Stage.parse(record["event"])


OWN = ("seed", "from_checkpoint", "expert.dataset", "device", "threads", "compute", "rollouts")
"""Settings that each run of a row may have for itself, or that say where it ran."""
NO_MATTER = ("workers", "envs_per_worker", "timeout", "lost_share", "videos", "interim")
"""Likewise, in any group."""


def different(one: Mapping[str, Any], other: Mapping[str, Any], where: str = "") -> list[str]:
    """Return in what the settings of two runs differ that should be alike but for their seeds, as
    "sft.steps 4, not 8"."""
    told: list[str] = []
    for key in sorted(one.keys() & other.keys()):
        name, mine, theirs = where + key, one[key], other[key]
        if name in OWN or key in NO_MATTER or mine == theirs:
            continue
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            told += different(mine, theirs, f"{name}.")
        else:
            told.append(f"{name} {theirs}, not {mine}")
    return told


def _before(ran: Ran) -> Ran:
    """Return what a run measured before it began: stage 0, and blind replay."""
    rows = [row for row in ran.results.rows if row.stage in (BASELINE.name, SFT.name)]
    results = replace(ran.results, rows=tuple(rows), practice=0)
    return Ran(ran.directory, results, (SFT,), own=False)


# --- Groups of tasks


@dataclass(frozen=True)
class Group:
    """Tasks that one line of a table is about."""

    title: str
    category: Category
    tasks: tuple[str, ...]
    whole: bool  # whether it is all of the category


def groups(example: Results) -> list[Group]:
    """Return the categories; RL tasks that are demonstrated too apart from those that are not."""
    found = []
    for category in example.categories:
        tasks = example.tasks(category)
        shown = tuple(task for task in tasks if _demonstrated(example, task))
        if category == Category.RL and shown:
            new = tuple(task for task in tasks if task not in shown)
            parts = [(f"{category}, not demonstrated", new), (f"{category}, demonstrated", shown)]
        else:
            parts = [(str(category), tasks)]
        found += [
            Group(f"{name} ({len(part)})", category, part, whole=part == tasks)
            for name, part in parts
            if part
        ]
    return found


def _demonstrated(example: Results, task: str) -> bool:
    named = example.settings["expert_tasks"]
    category = next(row.category for row in example.rows if row.task == task)
    return task in named if named else category == Category.EXPERT


# --- Rates


@dataclass(frozen=True)
class Rates:
    """The rates of one row of the grid on some tasks: one a seed."""

    counts: tuple[Count, ...]
    made: bool  # whether there is any run

    @property
    def each(self) -> list[float]:
        """Return the rate of every seed."""
        return [count.rate for count in self.counts]

    @property
    def ci95(self) -> Interval:
        """Return Student's interval over seeds; of one or two Wilson's, over all episodes."""
        if len(self.counts) > 2:
            return over_seeds(self.each)
        successes = sum(count.successes for count in self.counts)
        return wilson(successes, sum(count.episodes for count in self.counts))

    def text(self) -> str:
        """Return "0.82 [0.71, 0.93]": the mean over seeds, and its interval."""
        if not self.counts:
            return NONE if self.made else MISSING
        return f"{number(mean(self.each))} {interval(self.ci95)}"


def rates(found: Found, row: str, tasks: Sequence[str]) -> Rates:
    """Return the rates of a row at its end, on some tasks together."""
    runs = found.get(row, {}).values()
    ends = [end(run.results, row, tasks) for run in runs]
    return Rates(tuple(count for count in ends if count), made=bool(runs))


def rates_after(runs: Iterable[Ran], stage: Stage, task: str) -> Rates:
    """Return the rates of runs on one task after a stage."""
    counts = [run.results.count(stage, task=task) for run in runs]
    return Rates(tuple(count for count in counts if count), made=False)


def blind(found: Found, tasks: Sequence[str]) -> Rates:
    """Return the rates of blind replay."""
    counts = [
        pool(
            [row for row in run.results.rows if row.method == "blind-replay" and row.task in tasks]
        )
        for run in found.get(FIRST, {}).values()
    ]
    return Rates(tuple(count for count in counts if count), made=False)


def end(results: Results, row: str, tasks: Sequence[str]) -> Count | None:
    """Return the count of a run at its end.

    Where each task has a policy of its own, it is that policy's, and there is none of other tasks.
    """
    if METHODS[ROWS[row][0]].sft:
        stage = SFT if row == FIRST else results.last
        rows = [each for each in results.rows if stage and each.stage == stage.name]
    else:
        last = int(results.settings["rounds"])
        rows = [each for each in results.rows if each.stage == Stage("rl", each.task, last).name]
    return pool([each for each in rows if each.task in tasks])


# --- Differences


@dataclass(frozen=True)
class Pairs:
    """The ends of two rows on the same tasks, for every seed that has both."""

    seeds: tuple[int, ...]
    counts: tuple[tuple[Count, Count], ...]  # (before, after)

    @property
    def differences(self) -> list[float]:
        """Return after less before, of every seed."""
        return [after.rate - before.rate for before, after in self.counts]

    @property
    def ci95(self) -> Interval:
        """Return Student's interval over seeds; of one or two Newcombe's, over all episodes."""
        if len(self.counts) > 2:
            return over_seeds(self.differences)
        before, after = (
            (sum(c.successes for c in counts), sum(c.episodes for c in counts))
            for counts in zip(*self.counts, strict=True)
        )
        return newcombe(before, after)


def pairs(found: Found, row: str, other: str, tasks: Sequence[str]) -> Pairs:
    """Return what two rows came to on the same tasks, seed by seed."""
    kept = {}
    for seed in sorted(found.get(row, {}).keys() & found.get(other, {}).keys()):
        before = end(found[row][seed].results, row, tasks)
        after = end(found[other][seed].results, other, tasks)
        if before and after and before.tasks == after.tasks:
            kept[seed] = (before, after)
    return Pairs(tuple(kept), tuple(kept.values()))
