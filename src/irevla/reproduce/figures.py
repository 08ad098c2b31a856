"""All that is drawn of a grid: its table, its bars, its learning curves, its forgetting matrix."""

from collections.abc import Sequence
from pathlib import Path

from irevla.reproduce.bars import bars
from irevla.reproduce.curves import curves
from irevla.reproduce.found import read
from irevla.reproduce.grid import SFT
from irevla.reproduce.matrix import matrix
from irevla.reproduce.tables import table
from irevla.storage.disk import writing

BY_TASK = ("figure6",)  # where the paper shows each RL task


def draw(name: str, root: Path, rows: Sequence[str], seeds: Sequence[int]) -> str:
    """Write what there is data for; return the table.

    ROOT/NAME.md, NAME.png (bars), NAME-curves.png, NAME-forgetting.png.
    """
    found = read(root, dict.fromkeys([SFT, *rows]), seeds)
    text = table(found, rows)
    if any(row in found for row in rows):
        with writing(root / f"{name}.md") as aside:
            aside.write_text(text + "\n")
        bars(found, rows, root / f"{name}.png", by_task=name in BY_TASK)
        curves(found, rows, root / f"{name}-curves.png")
        matrix(found, rows, root / f"{name}-forgetting.png")
    return text
