"""What the runs of a grid came to, as tables in Markdown, from their results alone."""

from collections.abc import Mapping, Sequence
from statistics import mean

from irevla.evaluation.stats import Results
from irevla.reproduce.found import Found, Group, Pairs, Ran, blind, different, groups, pairs, rates
from irevla.reproduce.grid import SFT as FIRST
from irevla.reproduce.kept import matrices, practice
from irevla.reproduce.markdown import head, line, signed
from irevla.reproduce.paper import Published, published
from irevla.storage.provenance import is_clean

OURS = "irevla"
INTERVALS = (
    "Each cell: the mean over training seeds and its 95 % interval, Student's over seeds (it may "
    "reach beyond 0 and 1); of one seed or two Wilson's, over the episodes. Blind: demonstrations "
    "replayed by a policy that sees nothing."
)
ABOUT_PAPER = (
    "Paper: what it gives for tasks of the same name, or the mean of these, of its own variants "
    "and with BLIP-2 3B, without intervals: for orientation."
)


def table(found: Found, rows: Sequence[str]) -> str:
    """Return all of it in Markdown: rates, what practice brought, what was kept, differences."""
    example = _example(found, rows)
    if example is None:
        return "No run has been evaluated yet."
    parts = [
        *_success(found, rows, example),
        "",
        *practice(found, rows),
        "",
        *matrices(found, rows),
        *_changes(found, rows, groups(example)),
        *_runs(found, rows),
    ]
    return "\n".join(parts)


def _example(found: Found, rows: Sequence[str]) -> Results | None:
    return next((run.results for row in rows for run in found.get(row, {}).values()), None)


# --- Success


def _success(found: Found, rows: Sequence[str], example: Results) -> list[str]:
    """Return categories, then their tasks; a column for each row, the paper's rate beside it."""
    suite = str(example.settings["suite"])
    lines: list[str] = []
    sources: dict[str, None] = {}
    told = [row for row in rows if any(row in each.rates for each in _papers(suite, example))]
    for group in groups(example):
        whole = published(suite, group.tasks, group.category if group.whole else None)
        lines.append(_success_line(found, rows, group.tasks, f"**{group.title}**", whole, told))
        sources |= dict.fromkeys([whole.place] if whole else [])
        for task in group.tasks:
            paper = published(suite, (task,))
            lines.append(_success_line(found, rows, (task,), task, paper, told))
            sources |= dict.fromkeys([paper.place] if paper else [])
    columns = [text for row in rows for text in ([row, "paper"] if row in told else [row])]
    about = [f"{ABOUT_PAPER} {'; '.join(sources)}."] if sources else []
    return [*head(["", "blind", *columns]), *lines, "", INTERVALS, *about]


def _papers(suite: str, example: Results) -> list[Published]:
    """Return all that the paper says of the tasks and groups of a table."""
    alone = [published(suite, (task,)) for task in example.tasks()]
    grouped = [
        published(suite, each.tasks, each.category if each.whole else None)
        for each in groups(example)
    ]
    return [paper for paper in (*alone, *grouped) if paper]


def _success_line(
    found: Found,
    rows: Sequence[str],
    tasks: Sequence[str],
    title: str,
    paper: Published | None,
    told: Sequence[str],
) -> str:
    cells = [title, blind(found, tasks).text()]
    for row in rows:
        cells.append(rates(found, row, tasks).text())
        if row in told:
            rate = paper.rates.get(row) if paper else None
            cells.append("" if rate is None else f"{rate:.2f}")
    return line(cells)


# --- Differences


def _changes(found: Found, rows: Sequence[str], every: Sequence[Group]) -> list[str]:
    """Return lines that say by how much the rows differ, seed by seed: from SFT, and irevla from
    the others."""
    others = [row for row in rows if row not in (FIRST, OURS) and OURS in rows]
    couples = [(FIRST, row) for row in rows if row != FIRST] + [(row, OURS) for row in others]
    lines = [
        f"- {other} against {row}, {group.title.rpartition(' ')[0]}: {_difference(compared)}"
        for row, other in couples
        for group in every
        if (compared := pairs(found, row, other, group.tasks)).counts
    ]
    return ["Differences, from the same stage 0 of each seed:", "", *lines, ""] if lines else []


def _difference(compared: Pairs) -> str:
    over = {1: "the episodes of one seed", 2: "the episodes of two seeds"}
    what = over.get(len(compared.counts), f"{len(compared.counts)} seeds")
    return f"{signed(mean(compared.differences), compared.ci95)} over {what}"


# --- Where it comes from


def _runs(found: Found, rows: Sequence[str]) -> list[str]:
    """Return what is there: the seeds of every row, and the commits that they are of."""
    lines = ["Runs:", ""]
    for row in rows:
        runs = found.get(row, {})
        commits = sorted({_commit(run.results.git) for run in runs.values()})
        taken = any(not run.own for run in runs.values())
        about = [*commits, *(["as other rows measured it"] if taken else []), *_others(runs)]
        lines.append("; ".join([f"- {row}: seeds {', '.join(map(str, runs)) or 'none'}", *about]))
    return lines


def _others(runs: Mapping[int, Ran]) -> list[str]:
    """Return which seeds of a row were made with other settings than its first, and with which."""
    settings = {seed: run.results.settings for seed, run in runs.items()}
    first = next(iter(settings.values()), {})
    changed = {seed: different(first, each) for seed, each in settings.items()}
    return [
        f"**other settings in seed {seed}** ({', '.join(what)})"
        for seed, what in changed.items()
        if what
    ]


def _commit(git: str) -> str:
    return f"commit {git}" if is_clean(git) else f"not of a clean commit ({git or 'unknown'})"
