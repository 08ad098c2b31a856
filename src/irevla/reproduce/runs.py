"""The runs of a grid, one after the other; what several rows share is measured once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import irevla
from irevla.config import METHODS
from irevla.progress import console
from irevla.reproduce.grid import SFT, Cell
from irevla.runs.run import CONFIG, JOURNAL, Run, is_finished, open_run, read_config
from irevla.storage.journal import CHECKSUM, Journal
from irevla.tasks import BASELINE
from irevla.tasks import SFT as STAGE_0

MEASURES = ("suite", "seed", "expert_tasks", "rl_tasks", "unseen_tasks", "env", "eval", "model")
"""The settings that an evaluation of stage 0 hangs on, beside the policy itself."""

LATER = ("rl", "rounds", "ppo", "sac", "harvest", "sl")
"""The settings that stage 0 does not read: rows that differ in them share one."""


def make(grid: Sequence[Cell]) -> Iterator[Cell]:
    """Make all runs that are not there yet, one after the other; yield each when it is done.

    The same call again goes on where the last one stopped. Raises `UserError` where one was made
    with other settings.
    """
    grid = [_as_begun(cell) for cell in grid]
    for cell in grid:
        if is_finished(cell.directory):
            with open_run(cell.directory, cell.config) as run:  # of these settings, and all written
                run.finish()
    todo = [cell for cell in grid if not is_finished(cell.directory)]
    for number, cell in enumerate(todo, start=1):
        console.rule(f"{number} of {len(todo)}: {cell.row}, seed {cell.seed}")
        first = first_of(cell)
        if first != cell.directory and is_finished(first):  # else nothing is known, nor checked yet
            with open_run(cell.directory, cell.config) as run:
                take_over(run, first)
        irevla.run(cell.config, out=cell.directory)
        yield cell


def _as_begun(cell: Cell) -> Cell:
    """Return a cell, of the row "sft" with those of its settings that do not matter to it as they
    were when it was begun: another table may have begun it."""
    if cell.row != SFT or not (cell.directory / CONFIG).exists():
        return cell
    known = read_config(cell.directory)
    begun = {name: getattr(known, name) for name in LATER}
    return replace(cell, config=replace(cell.config, **begun))


def first_of(cell: Cell) -> Path:
    """Return the run of the row "sft" that belongs to a cell."""
    return cell.directory.parent.parent / SFT / cell.directory.name


def take_over(run: Run, first: Path) -> None:
    """Note in a run that has just begun what `first` has measured of the policy that both start
    from, and of blind replay: the same episodes would come out the same.

    With them comes what `first` itself was started from, which must then be the same here.
    """
    if run.journal.whole:
        return
    known, config = read_config(first), run.config
    if any(getattr(known, name) != getattr(config, name) for name in MEASURES):
        return
    wanted = {f"evaluated {BASELINE.name}", "blind replay"}
    starts = {str(first), known.from_checkpoint} - {""}
    if METHODS[config.method].sft and config.from_checkpoint in starts:
        wanted |= {f"evaluated {STAGE_0.name}"}
        wanted |= {"pinned policy"} if known.from_checkpoint else set()
    for record in Journal(first / JOURNAL):
        if record["event"] in wanted:
            fields = {name: record[name] for name in record.keys() - {"event", "time", CHECKSUM}}
            rows = [_as_of(row, config.method) for row in fields.pop("rows", ())]
            measured = {"rows": rows, "measured_in": str(first)} if "rows" in record else {}
            run.journal.append(record["event"], **fields, **measured)
    run.write_results()


def _as_of(row: Mapping[str, Any], method: str) -> dict[str, Any]:
    """Return a row as a run of `method` would have measured it."""
    return {**row, "method": row["method"] if row["stage"] == BASELINE.name else method}
