"""What all figures of a grid look like."""

from collections.abc import Sequence
from pathlib import Path

from irevla.errors import UserError
from irevla.reproduce.grid import ROWS
from irevla.storage.disk import writing

try:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
except ModuleNotFoundError as missing:
    raise UserError("figures need matplotlib: pip install 'irevla[report]'") from missing

COLOURS = (
    *("#0072b2", "#56b4e9", "#d55e00", "#e69f00", "#882255"),
    *("#8c94a3", "#009e73", "#cc79a7", "#b3a100", "#332288", "#44aa99", "#aa4466"),
)
DPI = 160
WIDTH = 10.4  # inches
INK = "#1f2430"
BLIND = (0, (1, 1.5))  # dots
BLIND_LINE = Line2D([], [], color=INK, linestyle=BLIND, label="blind replay")


def colour(row: str) -> str:
    """Return the colour that a row has in every figure."""
    return COLOURS[list(ROWS).index(row)]


def row_patches(rows: Sequence[str]) -> list[Artist]:
    """Return what a legend shows for rows."""
    return [Patch(color=colour(row), label=row) for row in rows]


def legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """Set one legend above all panels."""
    figure.legend(
        handles=list(handles),
        loc="outside upper center",
        ncols=min(len(handles), 7),
        frameon=False,
        fontsize=9,
    )


def rate_axis(axes: Axes) -> None:
    """Let an axis go from 0 to 1."""
    axes.set_ylim(0, 1.05)
    axes.set_ylabel("success")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: Path) -> None:
    """Write a PNG; readers never see half a file."""
    FigureCanvasAgg(figure)
    with writing(path) as aside:
        figure.savefig(aside, format="png", dpi=DPI, metadata={"Software": None})
