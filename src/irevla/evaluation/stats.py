"""From counted episodes to rates with 95% intervals, and to the comparisons that tables and plots
show."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from irevla.category import Category
from irevla.errors import UserError
from irevla.turn import Turn

Z95 = 1.959963984540054  # the 97.5% point of the normal distribution
BASELINE = (
    "baseline"  # the stage of rows that no trained policy made: methods "blind-replay" and "expert"
)
FIRST = "sft"  # the stage that every later one is compared with

Interval = tuple[float, float]


def wilson(successes: int, episodes: int) -> Interval:
    """Wilson's 95% score interval of a success rate; (0, 1) where nothing was counted."""
    assert 0 <= successes <= episodes
    if episodes == 0:
        return 0.0, 1.0
    rate, shrink = successes / episodes, 1 + Z95**2 / episodes
    centre = (rate + Z95**2 / (2 * episodes)) / shrink
    half = Z95 / shrink * math.sqrt(rate * (1 - rate) / episodes + Z95**2 / (4 * episodes**2))
    return (0.0 if successes == 0 else centre - half), (
        1.0 if successes == episodes else centre + half
    )


def newcombe(before: tuple[int, int], after: tuple[int, int]) -> Interval:
    """95% interval of the difference of two rates, after - before, each (successes, episodes).

    Newcombe's hybrid score interval (1998, method 10): distances to the Wilson limits, added as
    squares.
    """
    rate_b, (low_b, high_b) = before[0] / before[1], wilson(*before)
    rate_a, (low_a, high_a) = after[0] / after[1], wilson(*after)
    difference = rate_a - rate_b
    return (
        difference - math.hypot(rate_a - low_a, high_b - rate_b),
        difference + math.hypot(high_a - rate_a, rate_b - low_b),
    )


def hundredths(rate: float) -> int:
    """A rate or difference in whole percent, halves rounded away from 0: 0.885 is 89, in tables and
    plots alike."""
    return int(math.copysign(math.floor(abs(rate) * 100 + 0.5 + 1e-9), rate))


@dataclass(frozen=True)
class Row:
    """One line of results.json: one task, played by one policy."""

    method: str  # of METHODS, or "blind-replay" or "expert"
    task: str
    category: Category
    stage: str  # "sft", "rl:TASK" (after stage 1), "sl:TASK" (after stage 2), or "baseline"
    seed: int  # of the run
    successes: int
    episodes: int
    rate: float
    ci95: Interval
    env_steps: int  # decisions played
    seconds: float  # wall time

    @classmethod
    def of(
        cls, *, method: str, task: str, category: Category, stage: str, seed: int,
        successes: int, episodes: int, env_steps: int, seconds: float,
    ) -> "Row":  # fmt: skip
        """A row with its rate and interval worked out from the counts."""
        rate, ci95 = successes / episodes, wilson(successes, episodes)
        return cls(
            method, task, category, stage, seed, successes, episodes, rate, ci95, env_steps, seconds
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Row":
        """The inverse of `to_json`. Raises `KeyError`, `TypeError` or `ValueError` for what is no
        row."""
        values = {field.name: data[field.name] for field in fields(cls)}
        low, high = values["ci95"]
        values |= {
            "rate": float(values["rate"]),
            "seconds": float(values["seconds"]),
        }  # JSON may say 12 for 12.0
        return cls(
            **{
                **values,
                "category": Category(values["category"]),
                "ci95": (float(low), float(high)),
            }
        )

    def to_json(self) -> dict[str, Any]:
        """As results.json has it."""
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


def pool(rows: Sequence[Row]) -> Count | None:
    """Rows of one stage as one count: sums over everything, and the mean over tasks of their rates.
    None of no rows."""
    if not rows:
        return None
    by_task: dict[str, tuple[int, int]] = {}
    for row in rows:
        successes, episodes = by_task.get(row.task, (0, 0))
        by_task[row.task] = successes + row.successes, episodes + row.episodes
    rates = [successes / episodes for successes, episodes in by_task.values()]
    successes, episodes = (sum(column) for column in zip(*by_task.values(), strict=True))
    return Count(successes, episodes, len(rates), sum(rates) / len(rates))


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
    """What became of a rate; None where either is missing, or where one is of fewer tasks (half a
    stage)."""
    if before is None or after is None or before.tasks != after.tasks:
        return None
    interval = newcombe((before.successes, before.episodes), (after.successes, after.episodes))
    return Change(after.rate - before.rate, interval)


@dataclass(frozen=True)
class Line:
    """One line of the before-and-after table: a task, or all tasks of a category (`task` is then
    empty)."""

    task: str
    category: Category
    tasks: int
    expert: Count | None
    blind: Count | None
    before: Count | None
    after: Count | None

    @property
    def change(self) -> Change | None:
        """From before to after."""
        return change(self.before, self.after)


@dataclass(frozen=True)
class Results:
    """Everything that was measured, and how to ask it. Rows that were measured again replace the
    older ones."""

    config: Mapping[str, Any]
    git: str
    machine: Mapping[str, Any]
    command: str
    rows: tuple[Row, ...]

    @property
    def stages(self) -> tuple[str, ...]:
        """In the order in which they were evaluated, baselines apart."""
        return tuple(dict.fromkeys(row.stage for row in self.rows if row.stage != BASELINE))

    @property
    def last(self) -> str | None:
        """The stage after which the policy was evaluated last, if it is not the first."""
        return self.stages[-1] if self.stages and self.stages[-1] != FIRST else None

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the runs."""
        return tuple(sorted({row.seed for row in self.rows}))

    @property
    def categories(self) -> tuple[Category, ...]:
        """Those that have tasks, in the paper's order."""
        return tuple(category for category in Category if self.tasks(category))

    def tasks(self, category: Category | None = None) -> tuple[str, ...]:
        """By category, then in the order in which they were first evaluated."""
        wanted = [category] if category else list(Category)
        return tuple(
            dict.fromkeys(row.task for c in wanted for row in self.rows if row.category == c)
        )

    def count(
        self,
        stage: str,
        *,
        task: str | None = None,
        category: Category | None = None,
        method: str | None = None,
    ) -> Count | None:
        """The pooled rows of a stage that are of that task, category and method."""
        return pool(
            [
                row
                for row in self.rows
                if row.stage == stage
                and task in (None, row.task)
                and category in (None, row.category)
                and method in (None, row.method)
            ]
        )

    def line(self, category: Category, task: str | None = None) -> Line:
        """The line of one task, or of the whole category."""
        return Line(
            task=task or "",
            category=category,
            tasks=1 if task else len(self.tasks(category)),
            expert=self.count(BASELINE, task=task, category=category, method="expert"),
            blind=self.count(BASELINE, task=task, category=category, method="blind-replay"),
            before=self.count(FIRST, task=task, category=category),
            after=self.count(self.last, task=task, category=category) if self.last else None,
        )

    def lines(self) -> list[Line]:
        """The whole before-and-after table: each category, then its tasks."""
        return [
            self.line(category, task)
            for category in self.categories
            for task in (None, *self.tasks(category))
        ]

    def reference(self, task: str, stage: str) -> str:
        """What forgetting of `task` by `stage` is measured from: the end of its own training, or
        stage 0."""
        position = self.stages.index(stage)
        own = [
            name for name in self.stages[:position] if (turn := Turn.of(name)) and turn.task == task
        ]
        return own[-1] if own else FIRST


def read_results(path: Path) -> Results:
    """Read results.json. `UserError` where it is missing, torn or something else."""
    try:
        data = json.loads(path.read_text())
        rows = [Row.from_json(row) for row in data["rows"]]
        return Results(data["config"], data["git"], data["machine"], data["command"], _latest(rows))
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing: {path.parent} is no run, or its first evaluation is not done yet"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is damaged ({error!r}); give the command of the run again to write it anew"
        ) from error


def _latest(rows: Iterable[Row]) -> tuple[Row, ...]:
    """One row per method, task, stage and seed: the last measured, in the place of the first."""
    return tuple({(row.method, row.task, row.stage, row.seed): row for row in rows}.values())
