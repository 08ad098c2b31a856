"""Tables for the terminal (rich) and for Markdown: before and after, and what was forgotten.

No drop is hidden.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

from irevla.evaluation.stats import (
    Change,
    Count,
    Line,
    Results,
    Row,
    change,
    hundredths,
    pool,
)
from irevla.tasks import SFT, Category, Stage

TITLES = {Category.EXPERT: "Expert tasks", Category.RL: "RL tasks", Category.UNSEEN: "Unseen tasks"}
NOISE, DROP, NONE = "≈", "▼", "–"
POOLED = (
    "A category pools the episodes of its tasks. What RL trains counts as an RL task alone: the "
    "expert rate is of expert tasks that RL does not train."
)
LEGEND = (
    "Each cell: success rate, its 95% interval (Wilson), successes/episodes. "
    f"{NOISE} within noise: the 95% interval of the difference (Newcombe) contains 0. {POOLED}"
)
MATRIX_LEGEND = (
    "Success rate of each task (rows) after each stage (columns); [ ] marks the task's own "
    f"training. {DROP} lower, beyond noise, than after its own training (or, if not yet trained by "
    "RL, than after SFT)."
)
WIDE = 140  # columns of a terminal from which on each count stands on one line


# --- Numbers as text


def number(rate: float, *, signed: bool = False) -> str:
    """Return a rate as text, "0.82", or a difference, "−0.11"."""
    sign = "+" if signed else ""
    return f"{hundredths(rate) / 100:{sign}.2f}".replace("-", "−")


def interval(ci95: tuple[float, float], *, signed: bool = False) -> str:
    """Return an interval as text: "[0.71, 0.90]"."""
    low, high = (number(limit, signed=signed) for limit in ci95)
    return f"[{low}, {high}]"


def count_text(count: Count | None) -> str:
    """Return a count as text: "0.82 [0.69, 0.90] 41/50"."""
    if count is None:
        return NONE
    return f"{number(count.rate)} {interval(count.ci95)} {count.successes}/{count.episodes}"


def change_text(what: Change | None) -> str:
    """Return a difference as text: "+0.46 [+0.28, +0.60]", with a sign where it is within noise."""
    if what is None:
        return NONE
    text = f"{number(what.difference, signed=True)} {interval(what.ci95, signed=True)}"
    return f"{text} {NOISE}" if what.noise else text


# --- Before and after


def line_title(line: Line) -> str:
    """Return what a line is about: the task, or the category and how many tasks it has."""
    return line.task or f"{TITLES[line.category]} ({line.tasks})"


def headers(results: Results) -> list[str]:
    """Return the columns of the before-and-after table."""
    after = f"After {results.last.title}" if results.last else "After"
    return ["Task", "Category", "Blind replay", "SFT (before)", after, "Difference"]


def cells(line: Line) -> list[str]:
    """Return one line of the before-and-after table as text."""
    counts = [count_text(count) for count in (line.blind, line.before, line.after)]
    return [line_title(line), str(line.category), *counts, change_text(line.change)]


@dataclass(frozen=True)
class Summary:
    """The before-and-after table for the terminal: every category, then each of its tasks.

    Where the terminal is narrow, the intervals go under the rates and the category stands in the
    headings alone.
    """

    results: Results

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        wide = options.max_width >= WIDE
        caption = f"{means(self.results)}\n{LEGEND}"
        table = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left")
        task, category, *counts = headers(self.results)
        table.add_column(task, overflow="fold")
        if wide:
            table.add_column(category)
        for column in counts:
            title = column if wide else column.replace(" ", "\n")
            table.add_column(title, justify="right", no_wrap=not wide)
        for line in self.results.lines():
            texts = _wide(line) if wide else _narrow(line)
            texts[-1].stylize(_style(line.change))
            table.add_row(*texts, style="" if line.task else "bold")
        yield table


def _wide(line: Line) -> list[Text]:
    title, *rest = cells(line)
    indent = "  " if line.task else ""
    return [Text(indent + title), *map(Text, rest)]


def _narrow(line: Line) -> list[Text]:
    title, _, *counts = cells(line)
    return [Text(title), *(Text(_on_two_lines(text)) for text in counts)]


def _on_two_lines(text: str) -> str:
    """Put the interval of a count or a difference under the rest."""
    return re.sub(r"^(\S+) (\[.*\]) ?(.*)$", r"\1 \3\n\2", text)


def _style(what: Change | None) -> str:
    if what is None or what.noise:
        return "dim"
    return "green" if what.difference > 0 else "red"


def summary(results: Results) -> Summary:
    """Return the before-and-after table, to be printed with rich."""
    return Summary(results)


def means(results: Results) -> str:
    """Return the means over tasks: "Mean over tasks: expert 0.830 → 0.872."."""
    parts = []
    for category in results.categories:
        line = results.line(category)
        before, after = (f"{c.mean:.3f}" if c else NONE for c in (line.before, line.after))
        parts.append(f"{category} {before} → {after}")
    return f"Mean over tasks: {', '.join(parts)}." if parts else "Nothing has been evaluated yet."


# --- What was forgotten


def forgetting(results: Results) -> Table:
    """Return the forgetting matrix for the terminal: task x stage."""
    table = Table(
        box=box.SIMPLE_HEAD, caption=MATRIX_LEGEND, caption_justify="left", caption_style="dim"
    )
    table.add_column("Task", overflow="fold")
    for stage in results.stages:
        table.add_column(stage.title, justify="right", overflow="fold")
    for task in results.tasks():
        texts = [matrix_cell(results, task, stage) for stage in results.stages]
        table.add_row(task, *(Text(text, style="red" if DROP in text else "") for text in texts))
    return table


def matrix_cell(results: Results, task: str, stage: Stage) -> str:
    """Return one cell of the forgetting matrix.

    "0.84", "[0.84]" where the stage trained on the task, "0.40 ▼" for a drop.
    """
    count = results.count(stage, task=task)
    if count is None:
        return NONE
    rate = number(count.rate)
    text = f"[{rate}]" if stage.trains(task) else rate
    return f"{text} {DROP}" if dropped(results, task, stage) else text


def dropped(results: Results, task: str, stage: Stage) -> bool:
    """Whether `stage` made forget the task: lower than its reference, and not within noise."""
    if stage == SFT:
        return False
    before = results.count(results.reference(task, stage), task=task)
    lost = change(before, results.count(stage, task=task))
    return lost is not None and lost.difference < 0 and not lost.noise


def chunks(chunk: int, execute: int) -> str:
    """Return, in a sentence, how many actions a policy gives at once; nothing where it is one."""
    if chunk == 1:
        return ""
    return f"The policy gives {chunk} actions at once (k), of which {execute} are executed (n)."


# --- Rows of one evaluation


def rows_table(rows: Sequence[Row]) -> Table:
    """Return rows of one evaluation for the terminal.

    Every task, and every category with more than one.
    """
    said = {chunks(row.chunk, row.execute) for row in rows}
    caption = " ".join(["Intervals: 95%, Wilson.", *sorted(said - {""})])
    table = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left")
    for column in ("Task", "Category"):
        table.add_column(column, overflow="fold")
    for column in ("Rate", "95% interval", "Successes"):
        table.add_column(column, justify="right", overflow="fold")
    for category in Category:
        own = [row for row in rows if row.category == category]
        pooled = pool(own)
        if len(own) > 1 and pooled:
            title = f"{TITLES[category]} ({pooled.tasks})"
            _add_count(table, title, category, pooled, style="bold")
        for row in own:
            _add_count(table, row.task, category, row)
    return table


def _add_count(
    table: Table, title: str, category: Category, count: Count | Row, *, style: str = ""
) -> None:
    table.add_row(
        title,
        str(category),
        number(count.rate),
        Text(interval(count.ci95)),
        f"{count.successes}/{count.episodes}",
        style=style,
    )


# --- Markdown


def markdown(results: Results) -> str:
    """Return both tables in Markdown, for model cards and docs."""
    body = [
        cells(line) if line.task else [f"**{text}**" for text in cells(line)]
        for line in results.lines()
    ]
    columns = ["Task", *(stage.title for stage in results.stages)]
    matrix = [
        [task, *(matrix_cell(results, task, stage) for stage in results.stages)]
        for task in results.tasks()
    ]
    return "\n\n".join(
        [
            _markdown_table(headers(results), body),
            f"{means(results)} {LEGEND}",
            _markdown_table(columns, matrix),
            MATRIX_LEGEND,
        ]
    )


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, rule, *rows))
