"""From counted episodes to rates with 95% intervals, and to the comparisons of tables and plots."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from irevla.config import Config
from irevla.config_io import read_config, to_dict
from irevla.errors import UserError
from irevla.storage.journal import read_lines
from irevla.storage.read import Missing, mapping, read_json, shaped
from irevla.tasks import BASELINE, SFT, Category, Stage

PRACTICE = ("zero-shot", "rl", "harvest")  # stages in which the arm, or its simulation, moves
Z95 = 1.959963984540054  # the 97.5% point of the normal distribution
T95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)
"""The 97.5% points of Student's t with 1, 2, ... 20 degrees of freedom."""

Interval = tuple[float, float]
AGAIN = "give the command of the run again to write it anew"


# --- Intervals


def wilson(successes: int, episodes: int) -> Interval:
    """Return Wilson's 95% score interval of a success rate; (0, 1) where nothing was counted."""
    assert 0 <= successes <= episodes
    if episodes == 0:
        return 0.0, 1.0
    rate = successes / episodes
    shrink = 1 + Z95**2 / episodes
    centre = (rate + Z95**2 / (2 * episodes)) / shrink
    half = Z95 / shrink * math.sqrt(rate * (1 - rate) / episodes + Z95**2 / (4 * episodes**2))
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == episodes else centre + half
    return low, high


def newcombe(before: tuple[int, int], after: tuple[int, int]) -> Interval:
    """Return the 95% interval of the difference of two rates, after - before.

    Each is (successes, episodes). Newcombe's hybrid score interval (1998, method 10): the distances
    to the Wilson limits, added as squares.
    """
    low_b, high_b = wilson(*before)
    low_a, high_a = wilson(*after)
    rate_b = before[0] / before[1]
    rate_a = after[0] / after[1]
    difference = rate_a - rate_b
    low = difference - math.hypot(rate_a - low_a, high_b - rate_b)
    high = difference + math.hypot(high_a - rate_a, rate_b - low_b)
    return low, high


def over_seeds(values: Sequence[float]) -> Interval:
    """Return Student's 95% interval of a mean over training seeds: one rate, or difference, a seed.

    It covers the luck of training too, which Wilson's interval of the pooled episodes does not; it
    may reach beyond 0 and 1. At least two seeds; with more than 21 it is a little too wide.
    """
    assert len(values) > 1, "one seed says nothing about another"
    freedom = min(len(values) - 1, len(T95))
    half = T95[freedom - 1] * stdev(values) / math.sqrt(len(values))
    centre = mean(values)
    return centre - half, centre + half


def hundredths(rate: float) -> int:
    """Return a rate or difference in whole percent, halves rounded away from 0: 0.885 is 89."""
    return int(math.copysign(math.floor(abs(rate) * 100 + 0.5 + 1e-9), rate))


# --- Rows, counts and their differences


@dataclass(frozen=True)
class Row:
    """One line of results.json: one task, played by one policy."""

    method: str  # of METHODS, or "blind-replay"
    task: str
    category: Category  # in its suite
    stage: str  # the name of a stage; in `irevla eval` where the policy came from
    seed: int  # of the run
    successes: int
    episodes: int
    rate: float
    ci95: Interval
    env_steps: int  # decisions played
    seconds: float  # wall time
    chunk: int = 1  # k: actions that the policy gave at once
    execute: int = 1  # n: of these executed before it looked again

    @classmethod
    def of(
        cls,
        *,
        method: str,
        task: str,
        category: Category,
        stage: str,
        seed: int,
        successes: int,
        episodes: int,
        env_steps: int,
        seconds: float,
        chunk: int = 1,
        execute: int = 1,
    ) -> "Row":
        """Return a row with its rate and interval worked out from the counts."""
        return cls(
            method=method,
            task=task,
            category=category,
            stage=stage,
            seed=seed,
            successes=successes,
            episodes=episodes,
            rate=successes / episodes,
            ci95=wilson(successes, episodes),
            env_steps=env_steps,
            seconds=seconds,
            chunk=chunk,
            execute=execute,
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Row":
        """Return the inverse of `to_json`; rate and interval are worked out from the counts.

        Raises `KeyError`, `TypeError` or `ValueError` for what is no row.
        """
        texts = {name: data[name] for name in ("method", "task", "stage")}
        numbers = {name: data[name] for name in ("seed", "successes", "episodes", "env_steps")}
        numbers |= {
            name: data.get(name, 1) for name in ("chunk", "execute")
        }  # older rows lack them
        if not all(type(text) is str for text in texts.values()):
            raise TypeError(f"a row's names are no text: {texts}")
        if not all(type(number) is int for number in numbers.values()):
            raise TypeError(f"a row's counts are no integers: {numbers}")
        if not 0 <= numbers["successes"] <= numbers["episodes"] or not numbers["episodes"]:
            raise ValueError(f"{numbers['successes']} successes in {numbers['episodes']} episodes")
        if abs(data["rate"] - numbers["successes"] / numbers["episodes"]) > 1e-6:
            raise ValueError(f"a rate of {data['rate']} does not follow from {numbers}")
        category = Category(data["category"])
        return cls.of(**texts, **numbers, category=category, seconds=float(data["seconds"]))

    def to_json(self) -> dict[str, Any]:
        """Return the row as results.json has it."""
        return {**asdict(self), "category": str(self.category), "ci95": list(self.ci95)}


@dataclass(frozen=True)
class Count:
    """Successes of one task, or of several pooled."""

    successes: int
    episodes: int
    tasks: int
    # over tasks, of the rates; differs from `rate` where tasks were played unequally often
    mean: float

    @property
    def rate(self) -> float:
        """All successes over all episodes."""
        return self.successes / self.episodes

    @property
    def ci95(self) -> Interval:
        """Wilson's interval of `rate`, for these tasks: it says nothing about other tasks."""
        return wilson(self.successes, self.episodes)


def role(row: Row, settings: Mapping[str, Any]) -> Category:
    """Return what a task is in the run with these settings: what RL trains is an RL task, even if
    it is demonstrated.

    A run names its tasks, or leaves them to the suite, whose categories rows have.
    """
    for category in (Category.RL, Category.EXPERT, Category.UNSEEN):
        if row.task in settings[f"{category}_tasks"]:
            return category
    return row.category


def pool(rows: Sequence[Row]) -> Count | None:
    """Return rows of one stage as one count; None of no rows.

    It has the sums over everything, and the mean over tasks of their rates.
    """
    if not rows:
        return None
    by_task: dict[str, tuple[int, int]] = {}
    for row in rows:
        successes, episodes = by_task.get(row.task, (0, 0))
        by_task[row.task] = (successes + row.successes, episodes + row.episodes)
    rates = [successes / episodes for successes, episodes in by_task.values()]
    return Count(
        successes=sum(row.successes for row in rows),
        episodes=sum(row.episodes for row in rows),
        tasks=len(rates),
        mean=sum(rates) / len(rates),
    )


@dataclass(frozen=True)
class Change:
    """The difference of two rates, with its interval."""

    difference: float
    ci95: Interval

    @property
    def noise(self) -> bool:
        """Whether the interval contains 0: these episodes cannot tell the two apart."""
        return self.ci95[0] <= 0 <= self.ci95[1]


def change(before: Count | None, after: Count | None) -> Change | None:
    """Return what became of a rate.

    None where either is missing, or where one is of fewer tasks (half a stage).
    """
    if before is None or after is None or before.tasks != after.tasks:
        return None
    interval = newcombe((before.successes, before.episodes), (after.successes, after.episodes))
    return Change(after.rate - before.rate, interval)


@dataclass(frozen=True)
class Line:
    """One line of the before-and-after table: a task, or a category (`task` is then empty)."""

    task: str
    category: Category
    tasks: int
    blind: Count | None
    before: Count | None
    after: Count | None

    @property
    def change(self) -> Change | None:
        """From before to after."""
        return change(self.before, self.after)


# --- All that a run measured


@dataclass(frozen=True)
class Results:
    """Everything that was measured, and how to ask it.

    Rows that were measured again replace the older ones.
    """

    config: Mapping[str, Any]  # as the run had it; a run of an older version lacks younger settings
    git: str
    machine: Mapping[str, Any]
    command: str
    rows: tuple[Row, ...]
    practice: int | None = None  # decisions that the arm took in training; None: not recorded

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """`config`, with the defaults of today for settings that are younger than the run."""
        return _filled(self.config, to_dict(Config()))

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """In the order in which they were evaluated, baselines apart."""
        names = dict.fromkeys(row.stage for row in self.rows)
        stages = [Stage.parse(name) for name in names]
        return tuple(stage for stage in stages if stage != BASELINE)

    @property
    def last(self) -> Stage | None:
        """The stage after which the policy was evaluated last, if it is not the first."""
        return self.stages[-1] if self.stages and self.stages[-1] != SFT else None

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the runs."""
        return tuple(sorted({row.seed for row in self.rows}))

    @property
    def chunk(self) -> tuple[int, int]:
        """How many actions policies give at once, and how many of these are executed."""
        model = self.settings["model"]
        return model["chunk"], model["execute"]

    @property
    def discrete_gripper(self) -> bool:
        """Whether policies open or close the gripper: see `Config.discrete_gripper`."""
        settings = self.settings
        return bool(settings["rl"] == "sac" and settings["sac"]["gripper"])

    def category(self, row: Row) -> Category:
        """Return where a task counts: see `role`."""
        return role(row, self.settings)

    @property
    def categories(self) -> tuple[Category, ...]:
        """Those that have tasks, in the paper's order."""
        return tuple(category for category in Category if self.tasks(category))

    def tasks(self, category: Category | None = None) -> tuple[str, ...]:
        """Return all tasks, or those of a category.

        By category, then in the order in which they were first evaluated.
        """
        wanted = [category] if category else list(Category)
        found = [row.task for each in wanted for row in self.rows if self.category(row) == each]
        return tuple(dict.fromkeys(found))

    def count(
        self,
        stage: Stage,
        *,
        task: str | None = None,
        category: Category | None = None,
        method: str | None = None,
    ) -> Count | None:
        """Return the pooled rows of a stage that are of that task, category and method."""
        return pool(
            [
                row
                for row in self.rows
                if row.stage == stage.name
                and task in (None, row.task)
                and category in (None, self.category(row))
                and method in (None, row.method)
            ]
        )

    def line(self, category: Category, task: str | None = None) -> Line:
        """Return the line of one task, or of the whole category."""
        return Line(
            task=task or "",
            category=category,
            tasks=1 if task else len(self.tasks(category)),
            blind=self.count(BASELINE, task=task, category=category, method="blind-replay"),
            before=self.count(SFT, task=task, category=category),
            after=self.count(self.last, task=task, category=category) if self.last else None,
        )

    def lines(self) -> list[Line]:
        """Return the whole before-and-after table: each category, then its tasks."""
        return [
            self.line(category, task)
            for category in self.categories
            for task in (None, *self.tasks(category))
        ]

    def reference(self, task: str, stage: Stage) -> Stage:
        """Return what forgetting of `task` by `stage` is measured from.

        The end of the task's own training, or stage 0.
        """
        earlier = self.stages[: self.stages.index(stage)]
        own = [each for each in earlier if each.trains(task)]
        return own[-1] if own else SFT


def read_results(path: Path) -> Results:
    """Read results.json. Raises `UserError` where it is missing, torn or something else."""
    try:
        data = read_json(path, remedy=AGAIN)
    except Missing as error:
        raise UserError(
            f"{path} is missing: {path.parent} is no run, or its first evaluation is not done yet"
        ) from error
    with shaped(path, remedy=AGAIN):
        rows = [Row.from_json(row) for row in data["rows"]]
        for stage in {row.stage for row in rows}:
            Stage.parse(stage)
        config = mapping(data["config"], "config")
        read_config(config)  # for what it raises
        journal = read_lines(path.parent / "journal.jsonl", facts={"event"})
        _check_measured(journal, rows)
        return Results(
            config,
            str(data["git"]),
            mapping(data["machine"], "machine"),
            str(data["command"]),
            _latest(rows),
            practice=_practice(journal),
        )


def _check_measured(journal: Sequence[Mapping[str, Any]], rows: Sequence[Row]) -> None:
    """Raise `ValueError` where the journal beside it, which has checksums, measured other rows."""
    measured = [
        Row.from_json(row)
        for record in journal
        if str(record["event"]).startswith("evaluated ")
        for row in record["rows"]
    ]
    if measured and measured != list(rows):
        raise ValueError("journal.jsonl has measured other rows")


def _practice(journal: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the decisions of all stages in which the arm moves; None where one does not say."""
    stages = [each for each in journal if str(each["event"]).partition(":")[0] in PRACTICE]
    if not journal or not all("decisions" in each for each in stages):
        return None
    return sum(int(each["decisions"]) for each in stages)


def _latest(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Return one row per method, task, stage and seed: the newest, in the place of the oldest."""
    return tuple({(row.method, row.task, row.stage, row.seed): row for row in rows}.values())


def _filled(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nested groups `given`, with `defaults` for what they lack."""
    filled = dict(given)
    for name, default in defaults.items():
        if name not in given:
            filled[name] = default
        elif isinstance(default, Mapping):
            filled[name] = _filled(given[name], default)
    return filled
