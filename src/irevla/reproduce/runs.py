"""The runs of a grid, one after the other."""

from collections.abc import Iterator, Sequence

import irevla
from irevla.progress import console
from irevla.reproduce.grid import Cell
from irevla.runs.run import is_finished, open_run


def make(grid: Sequence[Cell]) -> Iterator[Cell]:
    """Make all runs that are not there yet, one after the other; yield each when it is done.

    The same call again goes on where the last one stopped. Raises `UserError` where one was made
    with other settings.
    """
    for cell in grid:
        if is_finished(cell.directory):
            with open_run(cell.directory, cell.config) as run:  # of these settings, and all written
                run.finish()
    todo = [cell for cell in grid if not is_finished(cell.directory)]
    for number, cell in enumerate(todo, start=1):
        console.rule(f"{number} of {len(todo)}: {cell.row}, seed {cell.seed}")
        irevla.run(cell.config, out=cell.directory)
        yield cell
