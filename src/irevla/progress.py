"""Live progress in the terminal: one bar per stage. Silent where nobody watches a terminal, but for
one line per stage."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from irevla.ctrl_c import heed_ctrl_c

# No markup: "[/x]" in a path is a path.
console = Console(stderr=True, highlight=False, markup=False)  # for people who wait
screen = Console(highlight=False, markup=False)  # for results

Advance = Callable[[int, str], None]
"""`advance(done, note)`: how much of the total is done by now, and a few words or numbers beside
the bar."""


@contextmanager
def bar(title: str, total: int) -> Iterator[Advance]:
    """A progress bar for work of `total` parts. Yields the function that moves it."""
    start, last = time.monotonic(), [""]
    columns = (
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=total, note="")

        def advance(done: int, note: str = "") -> None:
            heed_ctrl_c()
            last[0] = note
            progress.update(task, completed=done, note=note)

        yield advance
        progress.update(task, total=max(1, int(progress.tasks[0].completed)))
    if not console.is_terminal:
        console.print(f"{title}: {last[0]} ({time.monotonic() - start:.0f} s)", soft_wrap=True)
