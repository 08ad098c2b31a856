"""What practice brought, and what was kept of what had been learnt, as tables in Markdown."""

from collections.abc import Sequence
from statistics import mean

from irevla.config import METHODS
from irevla.evaluation.stats import over_seeds
from irevla.evaluation.transfer import (
    EXPLAINED,
    LEARNT,
    backward_transfer,
    earlier_tasks,
    forgotten,
)
from irevla.reproduce.found import MISSING, NONE, Found, Ran, blind, pairs, rates_after
from irevla.reproduce.grid import ROWS
from irevla.reproduce.grid import SFT as FIRST
from irevla.reproduce.markdown import head, line, signed
from irevla.tasks import Category, Stage

ABOUT_HOURS = (
    "Hours: how long the arm, or its simulation, moved in training (zero-shot successes, RL, "
    "harvests), the mean over seeds. Gained: what the RL tasks, all together, gained in such an "
    "hour."
)


def practice(found: Found, rows: Sequence[str]) -> list[str]:
    """Return a line for each row: hours, what they brought, backward transfer, forgetting."""
    kept = [
        f"{what}, {category}" for what in ("backward transfer", "forgetting") for category in LEARNT
    ]
    lines = [_practice_line(found, row) for row in rows if row != FIRST]
    if not lines:
        return []
    columns = ["", "robot hours", "gained per robot hour, rl", *kept]
    return [*head(columns), *lines, "", f"{ABOUT_HOURS} {EXPLAINED}"]


def _practice_line(found: Found, row: str) -> str:
    runs = list(found.get(row, {}).values())
    if not runs:
        return line([row, *[MISSING] * (2 + 2 * len(LEARNT))])
    hours = [run.hours for run in runs]
    known = [each for each in hours if each is not None]
    spent = f"{mean(known):.2f}" if len(known) == len(runs) else MISSING
    return line([row, spent, _gained(found, row), *_kept(runs, row)])


def _gained(found: Found, row: str) -> str:
    """Return what the RL tasks gained in an hour of practice, where SFT is what it began with."""
    if not METHODS[ROWS[row][0]].sft:
        return NONE
    example = next(iter(found[row].values())).results
    compared = pairs(found, FIRST, row, example.tasks(Category.RL))
    hours = [found[row][seed].hours for seed in compared.seeds]
    known = [each for each in hours if each]
    if hours and all(each == 0 for each in hours):
        return NONE
    if not known or len(known) < len(hours):
        return MISSING
    gains = [gain / each for gain, each in zip(compared.differences, known, strict=True)]
    if len(gains) > 2:
        return signed(mean(gains), over_seeds(gains))
    low, high = compared.ci95
    return signed(mean(gains), (low / mean(known), high / mean(known)))


def _kept(runs: Sequence[Ran], row: str) -> list[str]:
    """Return backward transfer, then forgetting, of expert and RL tasks."""
    if not METHODS[ROWS[row][0]].sft:  # each task has a policy of its own: nothing can be lost
        return [NONE] * 2 * len(LEARNT)
    back = [_backward(runs, category) for category in LEARNT]
    return [*back, *(_forgotten(runs, category) for category in LEARNT)]


def _backward(runs: Sequence[Ran], category: Category) -> str:
    every = [backward_transfer(run.results, category) for run in runs]
    known = [each for each in every if each is not None]
    if len(known) == 1:
        return signed(known[0].difference, known[0].ci95)
    return _over_seeds(runs, category, [each.difference for each in known])


def _forgotten(runs: Sequence[Ran], category: Category) -> str:
    every = [forgotten(run.results, category) for run in runs]
    return _over_seeds(runs, category, [each for each in every if each is not None])


def _over_seeds(runs: Sequence[Ran], category: Category, values: Sequence[float]) -> str:
    if not values:
        due = any(earlier_tasks(run.results, category) for run in runs)
        return MISSING if due else NONE
    return signed(mean(values), over_seeds(values) if len(values) > 2 else None)


# --- The forgetting matrix


def columns_of(runs: Sequence[Ran]) -> list[tuple[Stage, ...]]:
    """Return the columns of a forgetting matrix: a stage each, in order.

    Stages that follow one another and after which nothing was measured are one column.
    """
    measured = {stage for run in runs for stage in run.results.stages}
    columns: list[tuple[Stage, ...]] = []
    for stage in dict.fromkeys(stage for run in runs for stage in run.stages):
        gap = stage not in measured
        if gap and columns and columns[-1][0] not in measured:
            columns[-1] = (*columns[-1], stage)
        else:
            columns.append((stage,))
    return columns


def has_matrix(found: Found, row: str) -> bool:
    """Return whether a row has one policy that goes through stages."""
    return row != FIRST and row in found and METHODS[ROWS[row][0]].sft


def matrices(found: Found, rows: Sequence[str]) -> list[str]:
    """Return a forgetting matrix for each row that was measured between its first and last stage,
    and which were not."""
    lines = []
    ends_alone = []
    for row in rows:
        if has_matrix(found, row):
            runs = list(found[row].values())
            if any(len(run.results.stages) > 2 for run in runs):
                lines += [f"Success after each stage of {row}, bold where it trained the task:", ""]
                lines += [*_matrix(found, runs), ""]
            else:
                ends_alone.append(row)
    if ends_alone:
        which = ", ".join(ends_alone)
        lines += [
            f"Not measured after the stages in between (`--eval.interim 0`): {which}.",
            "",
        ]
    return lines


def _matrix(found: Found, runs: Sequence[Ran]) -> list[str]:
    columns = columns_of(runs)
    titles = [", ".join(stage.title for stage in stages) for stages in columns]
    lines = [
        line(
            [task, blind(found, (task,)).text(), *(_cell(runs, stages, task) for stages in columns)]
        )
        for task in runs[0].results.tasks()
    ]
    return [*head(["", "blind", *titles]), *lines]


def _cell(runs: Sequence[Ran], stages: Sequence[Stage], task: str) -> str:
    measured = rates_after(runs, stages[0], task)
    trained = measured.counts and stages[0].trains(task)
    return f"**{measured.text()}**" if trained else measured.text()
