"""What the runs of a grid came to, as a table in Markdown, from their results.json alone."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from irevla.config import METHODS, EnvConfig
from irevla.envs.suite import SUITES, load_suite
from irevla.errors import UserError
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
from irevla.reproduce.grid import ROWS
from irevla.reproduce.grid import SFT as FIRST
from irevla.runs.run import is_finished
from irevla.storage.journal import read_lines
from irevla.storage.provenance import is_clean
from irevla.tasks import BASELINE, SFT, Category, Stage

MISSING = "missing"
NONE = "–"  # tasks that the row has no policy for
OURS = "irevla"
PRACTICE = ("zero-shot", "rl", "harvest")  # stages in which the arm, or its simulation, moves


@dataclass(frozen=True)
class Ran:
    """One run: what it measured, and how long the arm, or its simulation, moved in training."""

    results: Results
    hours: float | None  # None: a suite that a file alone names may be code from elsewhere


Found = Mapping[str, Mapping[int, Ran]]
"""Row -> seed -> the run; those that were not made or not finished are not there."""


@dataclass(frozen=True)
class Rates:
    """The rates of one row of the grid on some tasks: one a seed."""

    counts: tuple[Count, ...]
    made: bool  # whether there is any run

    @property
    def each(self) -> list[float]:
        """Return the rate of every seed."""
        return [count.rate for count in self.counts]

    def text(self) -> str:
        """Return "0.82 [0.71, 0.93]": the mean, and its interval over seeds.

        Of one seed or two it is Wilson's, over all episodes.
        """
        if not self.counts:
            return NONE if self.made else MISSING
        low, high = over_seeds(self.each) if len(self.counts) > 2 else self._over_episodes()
        return f"{mean(self.each):.2f} [{low:.2f}, {high:.2f}]"

    def _over_episodes(self) -> Interval:
        successes = sum(count.successes for count in self.counts)
        return wilson(successes, sum(count.episodes for count in self.counts))


def read(root: Path, rows: Iterable[str], seeds: Sequence[int]) -> Found:
    """Return all finished runs. Raises `UserError` for a run of another method or seed."""
    found: dict[str, dict[int, Ran]] = {}
    for row in rows:
        for seed in seeds:
            directory = root / row / f"seed-{seed}"
            if is_finished(directory):
                results = read_results(directory / "results.json")
                _check_own(results, row, seed, directory)
                found.setdefault(row, {})[seed] = Ran(results, _hours(directory, results))
    return found


def _check_own(results: Results, row: str, seed: int, directory: Path) -> None:
    method, _ = ROWS[row]
    settings = results.settings
    if (settings["method"], settings["seed"]) != (method, seed):
        raise UserError(
            f"{directory} is a run of {settings['method']}, seed {settings['seed']}: take it away"
        )


def _hours(directory: Path, results: Results) -> float | None:
    settings = results.settings
    if settings["suite"] not in SUITES:
        return None
    events = read_lines(directory / "journal.jsonl", facts={"event"})
    decisions = sum(
        int(event.get("decisions", 0))
        for event in events
        if str(event["event"]).partition(":")[0] in PRACTICE
    )
    usual = load_suite(str(settings["suite"])).fps * EnvConfig().action_repeat  # control steps
    return decisions * int(settings["env"]["action_repeat"]) / usual / 3600


def rates(
    found: Found, row: str, *, category: Category | None = None, task: str | None = None
) -> Rates:
    """Return the rates of a row at its end, on the tasks of a category or on one task."""
    ends = [
        _end(run.results, row, category=category, task=task) for run in found.get(row, {}).values()
    ]
    return Rates(tuple(count for count in ends if count), made=bool(ends))


def _end(
    results: Results, row: str, *, category: Category | None = None, task: str | None = None
) -> Count | None:
    """Return the count of a run at its end.

    Where each task has a policy of its own, it is that policy's, and there is none of other tasks.
    """
    if METHODS[ROWS[row][0]].sft:
        stage = SFT if row == FIRST else results.last
        return results.count(stage, category=category, task=task) if stage else None
    rows = [
        each
        for each in results.rows
        if each.stage == Stage("rl", each.task, int(results.settings["rounds"])).name
        and task in (None, each.task)
        and category in (None, results.category(each))
    ]
    return pool(rows)


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
        known = [run.hours for run in found.get(row, {}).values()]
        hours = [each for each in known if each is not None]
        gains = [after.rate - before.rate for before, after in _pairs(found, FIRST, row)]
        whole = len(gains) == len(hours) and any(hours)
        spent.append(f"{mean(hours):.2f}" if hours else MISSING)
        gained.append(f"{mean(gains) / mean(hours):+.2f}" if whole and row != FIRST else "")
    return [
        _line(["hours of practice", "", *spent]),
        _line(["rl: gained in an hour of it", "", *gained]),
    ]


def changes(found: Found, rows: Sequence[str]) -> list[str]:
    """Return lines that say by how much the rows differ, seed by seed: from SFT, and irevla from
    the others."""
    others = [row for row in rows if row not in (FIRST, OURS) and OURS in rows]
    lines = [
        *_against(found, [(FIRST, row) for row in rows if row != FIRST]),
        *_against(found, [(row, OURS) for row in others]),
    ]
    return ["Differences, from the same stage 0 of each seed:", "", *lines] if lines else []


def _against(found: Found, couples: Sequence[tuple[str, str]]) -> list[str]:
    return [
        f"- {other} against {row}, {category}: {_difference(pairs)}"
        for row, other in couples
        for category in Category
        if (pairs := _pairs(found, row, other, category))
    ]


def _pairs(
    found: Found, row: str, other: str, category: Category = Category.RL
) -> list[tuple[Count, Count]]:
    """Return the ends of two rows on the same tasks, for every seed that has both."""
    pairs = []
    for seed in found.get(row, {}).keys() & found.get(other, {}).keys():
        before = _end(found[row][seed].results, row, category=category)
        after = _end(found[other][seed].results, other, category=category)
        if before and after and before.tasks == after.tasks:
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
    return f"{mean(found.each):.2f}" if found.counts else found.text()


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _seeds(found: Found, rows: Sequence[str]) -> list[str]:
    """Return what is there: the seeds of every row, and the commits that they are of."""
    lines = ["Runs:", ""]
    for row in rows:
        runs = found.get(row, {})
        commits = sorted({_commit(run.results.git) for run in runs.values()})
        seeds = ", ".join(map(str, runs)) or "none"
        lines.append(f"- {row}: seeds {seeds}" + (f"; {', '.join(commits)}" if runs else ""))
    return lines


def _commit(git: str) -> str:
    return f"commit {git}" if is_clean(git) else f"not of a clean commit ({git or 'unknown'})"
