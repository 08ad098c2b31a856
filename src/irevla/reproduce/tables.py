"""What the runs of a grid came to, as a table in Markdown, from their results.json alone."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from irevla.envs.suite import load_suite
from irevla.evaluation.stats import (
    Count,
    Interval,
    Results,
    newcombe,
    over_seeds,
    read_results,
    wilson,
)
from irevla.reproduce.grid import SFT as FIRST
from irevla.storage.journal import read_lines
from irevla.tasks import BASELINE, SFT, Category

MISSING = "missing"
PRACTICE = ("zero-shot", "rl", "harvest")  # stages in which the arm, or its simulation, moves


@dataclass(frozen=True)
class Ran:
    """One run: what it measured, and how long the arm, or its simulation, moved in training."""

    results: Results
    hours: float


Found = Mapping[str, Mapping[int, Ran]]
"""Row -> seed -> the run; those that were not made or not finished are not there."""


@dataclass(frozen=True)
class Rates:
    """The rates of one row of the grid on some tasks: one a seed."""

    counts: tuple[Count, ...]

    @property
    def each(self) -> list[float]:
        """Return the rate of every seed."""
        return [count.rate for count in self.counts]

    def text(self) -> str:
        """Return "0.82 [0.71, 0.93]": the mean, and its interval over seeds.

        Of one seed or two it is Wilson's, over all episodes.
        """
        if not self.counts:
            return MISSING
        low, high = over_seeds(self.each) if len(self.counts) > 2 else self._over_episodes()
        return f"{mean(self.each):.2f} [{low:.2f}, {high:.2f}]"

    def _over_episodes(self) -> Interval:
        successes = sum(count.successes for count in self.counts)
        return wilson(successes, sum(count.episodes for count in self.counts))


def read(root: Path, rows: Iterable[str], seeds: Sequence[int]) -> Found:
    """Return the results of all runs that have been evaluated after their last stage."""
    found: dict[str, dict[int, Ran]] = {}
    for row in rows:
        for seed in seeds:
            path = root / row / f"seed-{seed}" / "results.json"
            if path.exists():
                results = read_results(path)
                if row == FIRST or results.last is not None:
                    found.setdefault(row, {})[seed] = Ran(results, _hours(path.parent, results))
    return found


def _hours(directory: Path, results: Results) -> float:
    events = read_lines(directory / "journal.jsonl", facts={"event"})
    decisions = sum(
        int(event.get("decisions", 0))
        for event in events
        if str(event["event"]).partition(":")[0] in PRACTICE
    )
    return decisions / load_suite(str(results.settings["suite"])).fps / 3600


def rates(
    found: Found, row: str, *, category: Category | None = None, task: str | None = None
) -> Rates:
    """Return the rates of a row at its end, on the tasks of a category or on one task."""
    counts = []
    for run in found.get(row, {}).values():
        stage = SFT if row == FIRST else run.results.last
        count = stage and run.results.count(stage, category=category, task=task)
        if count:
            counts.append(count)
    return Rates(tuple(counts))


def blind(found: Found, *, category: Category | None = None, task: str | None = None) -> str:
    """Return the mean rate of blind replay."""
    counts = [
        run.results.count(BASELINE, category=category, task=task, method="blind-replay")
        for run in found.get(FIRST, {}).values()
    ]
    known = [count.rate for count in counts if count]
    return f"{mean(known):.2f}" if known else MISSING


def table(found: Found, rows: Sequence[str]) -> str:
    """Return the whole table in Markdown: categories, then their tasks, a column for each row of
    the grid."""
    example = next((run.results for row in rows for run in found.get(row, {}).values()), None)
    if example is None:
        return "No run has been evaluated yet."
    lines = ["| | blind | " + " | ".join(rows) + " |", "|---|" + "---:|" * (len(rows) + 1)]
    for category in example.categories:
        tasks = example.tasks(category)
        cells = [rates(found, row, category=category).text() for row in rows]
        name = f"**{category} ({len(tasks)})**"
        lines.append(_line([name, blind(found, category=category), *cells]))
        for task in tasks:
            cells = [_mean(rates(found, row, task=task)) for row in rows]
            lines.append(_line([task, blind(found, task=task), *cells]))
    lines += practice(found, rows)
    return "\n".join([*lines, "", *changes(found, rows), "", *_seeds(found, rows)])


def practice(found: Found, rows: Sequence[str]) -> list[str]:
    """Return two lines of the table: hours of practice, and what RL tasks gained in each hour.

    Practice is zero-shot successes, RL and harvests of all tasks, in the time of the arm.
    """
    spent, gained = [], []
    for row in rows:
        hours = [run.hours for run in found.get(row, {}).values()]
        gains = [after.rate - before.rate for before, after in _pairs(found, row, Category.RL)]
        spent.append(f"{mean(hours):.2f}" if hours else MISSING)
        gained.append(f"{mean(gains) / mean(hours):+.2f}" if gains and any(hours) else "")
    return [
        _line(["hours of practice", "", *spent]),
        _line(["rl: gained in an hour of it", "", *gained]),
    ]


def changes(found: Found, rows: Sequence[str]) -> list[str]:
    """Return lines that say by how much each row differs from SFT, seed by seed."""
    lines = [
        f"- {row}, {category}: {_difference(pairs)}"
        for row in rows
        for category in Category
        if (pairs := _pairs(found, row, category))
    ]
    return ["Change against SFT of the same seed:", "", *lines] if lines else []


def _pairs(found: Found, row: str, category: Category) -> list[tuple[Count, Count]]:
    """Return SFT and the end of `row`, for every seed that has both."""
    pairs = []
    for seed, run in found.get(row, {}).items():
        first = found.get(FIRST, {}).get(seed)
        if row == FIRST or first is None or run.results.last is None:
            continue
        before = first.results.count(SFT, category=category)
        after = run.results.count(run.results.last, category=category)
        if before and after:
            pairs.append((before, after))
    return pairs


def _difference(pairs: Sequence[tuple[Count, Count]]) -> str:
    differences = [after.rate - before.rate for before, after in pairs]
    if len(pairs) > 2:
        low, high = over_seeds(differences)
        what = f"{len(pairs)} seeds"
    else:
        before, after = (
            (sum(c.successes for c in counts), sum(c.episodes for c in counts))
            for counts in zip(*pairs, strict=True)
        )
        low, high = newcombe(before, after)
        what = "the episodes of one seed" if len(pairs) == 1 else "the episodes of two seeds"
    return f"{mean(differences):+.2f} [{low:+.2f}, {high:+.2f}] over {what}"


def _mean(found: Rates) -> str:
    return f"{mean(found.each):.2f}" if found.counts else MISSING


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _seeds(found: Found, rows: Sequence[str]) -> list[str]:
    """Return what is there: the seeds of every row, and the commits that they are of."""
    lines = ["Runs:", ""]
    for row in rows:
        runs = found.get(row, {})
        commits = sorted({run.results.git or "unknown" for run in runs.values()})
        seeds = ", ".join(map(str, runs)) or "none"
        lines.append(f"- {row}: seeds {seeds}" + (f"; commit {', '.join(commits)}" if runs else ""))
    return lines
