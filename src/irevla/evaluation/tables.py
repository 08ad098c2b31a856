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

from irevla.evaluation.practice import per_hour, robot_hours
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
from irevla.evaluation.transfer import EXPLAINED, LEARNT, backward_transfer, forgotten
from irevla.tasks import SFT, Category, Stage, series

TITLES = {
    Category.EXPERT: "Expert tasks",
    Category.RL: "RL tasks",
    Category.UNSEEN: "Unseen tasks",
    Category.TEST: "Test tasks",
}
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
    """Return the columns of the before-and-after table: the last where the arm has practised."""
    after = f"After {results.last.title}" if results.last else "After"
    columns = ["Task", "Category", "Blind replay", "SFT (before)", after, "Difference"]
    return [*columns, "Per robot hour"] if robot_hours(results) else columns


def cells(line: Line, hours: float | None) -> list[str]:
    """Return one line of the before-and-after table as text; `hours` of practice of all tasks."""
    counts = [count_text(count) for count in (line.blind, line.before, line.after)]
    columns = [line_title(line), str(line.category), *counts, change_text(line.change)]
    if not hours:
        return columns
    gained = per_hour(line.change, hours)
    return [*columns, number(gained.difference, signed=True) if gained else NONE]


def practised(results: Results) -> str:
    """Return what the last column is, with the time of practice; empty where there is none."""
    hours = robot_hours(results)
    if not hours:
        return "" if hours == 0 else "It is not known how long the arm, or its simulation, moved."
    return (
        f"Per robot hour: the difference over the {hours:.2f} hours that the arm, or its "
        "simulation, moved in training."
    )


@dataclass(frozen=True)
class Summary:
    """The before-and-after table for the terminal: every category, then each of its tasks.

    Where the terminal is narrow, the intervals go under the rates and the category stands in the
    headings alone.
    """

    results: Results

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        wide = options.max_width >= WIDE
        caption = f"{means(self.results)}\n{LEGEND} {practised(self.results)}".strip()
        hours = robot_hours(self.results)
        table = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left")
        task, category, *counts = headers(self.results)
        table.add_column(task, overflow="fold")
        if wide:
            table.add_column(category)
        for column in counts:
            title = column if wide else column.replace(" ", "\n")
            table.add_column(title, justify="right", no_wrap=not wide)
        for line in self.results.lines():
            columns = cells(line, hours)
            texts = _wide(line, columns) if wide else _narrow(columns)
            texts[-2 if hours else -1].stylize(_style(line.change))
            table.add_row(*texts, style="" if line.task else "bold")
        yield table


def _wide(line: Line, columns: Sequence[str]) -> list[Text]:
    title, *rest = columns
    indent = "  " if line.task else ""
    return [Text(indent + title), *map(Text, rest)]


def _narrow(columns: Sequence[str]) -> list[Text]:
    title, _, *counts = columns
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
    caption = f"{MATRIX_LEGEND}\n{transfer(results)}"
    table = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left", caption_style="dim")
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


def transfer(results: Results) -> str:
    """Return backward transfer and forgetting of expert and RL tasks, and what they mean."""
    parts = []
    for category in LEARNT:
        back, lost = backward_transfer(results, category), forgotten(results, category)
        if back is not None and lost is not None:
            parts.append(
                f"{TITLES[category]}: backward transfer {change_text(back)}, forgetting "
                f"{number(lost, signed=True)}."
            )
    return " ".join([*parts, EXPLAINED]) if parts else "No task was measured again later on."


def chunks(chunk: int, execute: int) -> str:
    """Return, in a sentence, how many actions a policy gives at once; nothing where it is one."""
    if chunk == 1:
        return ""
    return f"The policy gives {chunk} actions at once (k), of which {execute} are executed (n)."


# --- Rows of one evaluation


def rows_table(rows: Sequence[Row]) -> Table:
    """Return rows of one evaluation for the terminal.

    Every task, every category with more than one, and every series (`tasks.series`) with more than
    one.
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
    for name in dict.fromkeys(series(row.task) for row in rows):
        own = [row for row in rows if series(row.task) == name]
        pooled = pool(own)
        if name and len(own) > 1 and pooled:
            _add_count(table, f"{name} ({pooled.tasks})", "", pooled, style="bold")
    return table


def _add_count(
    table: Table, title: str, category: str, count: Count | Row, *, style: str = ""
) -> None:
    table.add_row(
        title,
        category,
        number(count.rate),
        Text(interval(count.ci95)),
        f"{count.successes}/{count.episodes}",
        style=style,
    )


# --- Markdown


def markdown(results: Results) -> str:
    """Return both tables in Markdown, for model cards and docs."""
    hours = robot_hours(results)
    body = [
        columns if line.task else [f"**{text}**" for text in columns]
        for line in results.lines()
        for columns in [cells(line, hours)]
    ]
    columns = ["Task", *(stage.title for stage in results.stages)]
    matrix = [
        [task, *(matrix_cell(results, task, stage) for stage in results.stages)]
        for task in results.tasks()
    ]
    return "\n\n".join(
        [
            _markdown_table(headers(results), body),
            f"{means(results)} {LEGEND} {practised(results)}".strip(),
            _markdown_table(columns, matrix),
            f"{MATRIX_LEGEND} {transfer(results)}",
        ]
    )


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, rule, *rows))
