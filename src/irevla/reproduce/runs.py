"""The runs of a grid, one after the other."""

from collections.abc import Iterator, Sequence

import irevla
from irevla.progress import console
from irevla.reproduce.grid import Cell
from irevla.runs.run import is_finished


def make(grid: Sequence[Cell]) -> Iterator[Cell]:
    """Make all runs that are not there yet, one after the other; yield each when it is done.

    The same call again goes on where the last one stopped.
    """
    for number, cell in enumerate(grid, start=1):
        if not is_finished(cell.directory):
            console.rule(f"{number} of {len(grid)}: {cell.row}, seed {cell.seed}")
            irevla.run(cell.config, out=cell.directory)
        yield cell
