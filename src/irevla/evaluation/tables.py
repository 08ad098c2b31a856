"""Tables for the terminal (rich) and for Markdown: before and after, and what was forgotten. No
drop is hidden."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

from irevla.category import Category
from irevla.evaluation.stats import (
    FIRST,
    Change,
    Count,
    Line,
    Results,
    Row,
    change,
    hundredths,
    pool,
)

TITLES = {Category.EXPERT: "Expert tasks", Category.RL: "RL tasks", Category.UNSEEN: "Unseen tasks"}
NOISE, DROP, NONE = "≈", "▼", "–"
LEGEND = (
    "Each cell: success rate, its 95% interval (Wilson), successes/episodes. "
    f"{NOISE} within noise: the 95% interval of the difference (Newcombe) contains 0."
)
MATRIX_LEGEND = (
    "Success rate of each task (rows) after each stage (columns); [ ] marks the task's own training. "
    f"{DROP} lower, beyond noise, than after its own training (or, if not yet trained by RL, than after SFT)."
)


def interval(ci95: tuple[float, float], *, signed: bool = False) -> str:
    """An interval as text: "[0.71, 0.90]"."""
    return f"[{number(ci95[0], signed=signed)}, {number(ci95[1], signed=signed)}]"


def number(rate: float, *, signed: bool = False) -> str:
    """A rate as text, "0.82", or a difference, "−0.11"."""
    return f"{hundredths(rate) / 100:{'+' if signed else ''}.2f}".replace("-", "−")


def count_text(count: Count | None) -> str:
    """A count as text: "0.82 [0.69, 0.90] 41/50"."""
    return (
        f"{number(count.rate)} {interval(count.ci95)} {count.successes}/{count.episodes}"
        if count
        else NONE
    )


def change_text(what: Change | None) -> str:
    """A difference as text: "+0.46 [+0.28, +0.60]", with a sign behind it where it is within
    noise."""
    if what is None:
        return NONE
    text = f"{number(what.difference, signed=True)} {interval(what.ci95, signed=True)}"
    return f"{text} {NOISE}" if what.noise else text


def stage_title(stage: str) -> str:
    """A stage in words: "rl:door-open-new" is "RL door-open-new"."""
    kind, _, task = stage.partition(":")
    return f"{kind.upper()} {task}".strip()


def line_title(line: Line) -> str:
    """What a line is about: the task, or the category and how many tasks it has."""
    return line.task or f"{TITLES[line.category]} ({line.tasks})"


def headers(results: Results) -> list[str]:
    """The columns of the before-and-after table. The expert's is there only where it was
    measured."""
    expert = ["Scripted expert"] if any(line.expert for line in results.lines()) else []
    after = f"After {stage_title(results.last)}" if results.last else "After"
    return ["Task", "Category", *expert, "Blind replay", "SFT (before)", after, "Difference"]


def cells(line: Line, *, expert: bool) -> list[str]:
    """One line of the before-and-after table as text."""
    counts = [line.expert] if expert else []
    texts = [count_text(count) for count in (*counts, line.blind, line.before, line.after)]
    return [line_title(line), str(line.category), *texts, change_text(line.change)]


@dataclass(frozen=True)
class Summary:
    """The before-and-after table for the terminal: every category, then each of its tasks.

    Where the terminal is narrow, the intervals go under the rates and the category stands in the
    headings alone.
    """

    results: Results

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        yield self._table(narrow=options.max_width < 140)

    def _table(self, *, narrow: bool) -> Table:
        columns = headers(self.results)
        table = Table(
            box=box.SIMPLE_HEAD, caption=f"{means(self.results)}\n{LEGEND}", caption_justify="left"
        )
        for index, column in enumerate(columns):
            if index == 0:
                table.add_column(column, overflow="fold")
            elif column != "Category":
                table.add_column(
                    column.replace(" ", "\n") if narrow else column, justify="right", no_wrap=narrow
                )
            elif not narrow:
                table.add_column(column)
        for line in self.results.lines():
            texts = cells(line, expert="Scripted expert" in columns)
            if narrow:
                texts = [
                    texts[0],
                    *(re.sub(r"^(\S+) (\[.*\]) ?(.*)$", r"\1 \3\n\2", text) for text in texts[2:]),
                ]
            title = texts[0] if not line.task else texts[0] if narrow else f"  {texts[0]}"
            change = Text(texts[-1], style=_style(line.change))
            table.add_row(
                title,
                *(Text(text) for text in texts[1:-1]),
                change,
                style="" if line.task else "bold",
            )
        return table


def summary(results: Results) -> Summary:
    """The before-and-after table, to be printed with rich."""
    return Summary(results)


def means(results: Results) -> str:
    """The means over tasks, stated beside the pooled rates: "Mean over tasks: expert 0.830 →
    0.872"."""
    parts = []
    for line in (each for each in results.lines() if not each.task):
        values = [f"{count.mean:.3f}" if count else NONE for count in (line.before, line.after)]
        parts.append(f"{line.category} {' → '.join(values)}")
    return f"Mean over tasks: {', '.join(parts)}." if parts else "Nothing has been evaluated yet."


def forgetting(results: Results) -> Table:
    """The forgetting matrix for the terminal: task x stage."""
    table = Table(
        box=box.SIMPLE_HEAD, caption=MATRIX_LEGEND, caption_justify="left", caption_style="dim"
    )
    table.add_column("Task", overflow="fold")
    for stage in results.stages:
        table.add_column(stage_title(stage), justify="right", overflow="fold")
    for task in results.tasks():
        texts = [matrix_cell(results, task, stage) for stage in results.stages]
        table.add_row(task, *(Text(text, style="red" if DROP in text else "") for text in texts))
    return table


def rows_table(rows: Sequence[Row]) -> Table:
    """Rows of one evaluation for the terminal: every task, and every category with more than
    one."""
    table = Table(box=box.SIMPLE_HEAD, caption="Intervals: 95%, Wilson.", caption_justify="left")
    for column in ("Task", "Category", "Rate", "95% interval", "Successes"):
        table.add_column(
            column, justify="left" if column in ("Task", "Category") else "right", overflow="fold"
        )
    for category in Category:
        own = [row for row in rows if row.category == category]
        if len(own) > 1 and (count := pool(own)):
            _add_count(table, f"{TITLES[category]} ({count.tasks})", category, count, style="bold")
        for row in own:
            _add_count(table, row.task, category, row)
    return table


def _add_count(
    table: Table, title: str, category: Category, count: Count | Row, *, style: str = ""
) -> None:
    counted = f"{count.successes}/{count.episodes}"
    table.add_row(
        title, str(category), number(count.rate), Text(interval(count.ci95)), counted, style=style
    )


def matrix_cell(results: Results, task: str, stage: str) -> str:
    """One cell of the forgetting matrix: "0.84", "[0.84]" where the stage trained on the task,
    "0.40 ▼" for a drop."""
    count = results.count(stage, task=task)
    if count is None:
        return NONE
    text = f"[{number(count.rate)}]" if stage.partition(":")[2] == task else number(count.rate)
    return f"{text} {DROP}" if dropped(results, task, stage) else text


def dropped(results: Results, task: str, stage: str) -> bool:
    """Whether the task was forgotten by `stage`: lower than its reference, and not within noise."""
    if stage == FIRST:
        return False
    lost = change(
        results.count(results.reference(task, stage), task=task), results.count(stage, task=task)
    )
    return lost is not None and lost.difference < 0 and not lost.noise


def markdown(results: Results) -> str:
    """Both tables in Markdown, for the README and the docs."""
    columns = headers(results)
    body = [cells(line, expert="Scripted expert" in columns) for line in results.lines()]
    bold = [
        [f"**{text}**" if not line.task else text for text in row]
        for line, row in zip(results.lines(), body, strict=True)
    ]
    matrix = [
        [task, *(matrix_cell(results, task, stage) for stage in results.stages)]
        for task in results.tasks()
    ]
    return "\n\n".join(
        [
            _markdown_table(columns, bold),
            f"{means(results)} {LEGEND}",
            _markdown_table(["Task", *(stage_title(stage) for stage in results.stages)], matrix),
            MATRIX_LEGEND,
        ]
    )


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---" if index == 0 else "---:" for index in range(len(columns))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, rule, *rows))


def _style(what: Change | None) -> str:
    if what is None or what.noise:
        return "dim"
    return "green" if what.difference > 0 else "red"
