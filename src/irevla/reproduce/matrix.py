"""The forgetting matrix of every row: success on each task after each stage, over seeds."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from irevla.reproduce.found import MISSING, Found, Ran, blind, rates_after
from irevla.reproduce.kept import columns_of, has_matrix
from irevla.reproduce.style import INK, WIDTH, save
from irevla.tasks import Stage

BLUES = LinearSegmentedColormap.from_list("rates", ["#f1f5fa", "#08519c"])
OWN = "#e69f00"
PANELS = 2  # side by side
FLAT = 8  # columns whose titles have room beside each other; of more they stand upright


def matrix(found: Found, rows: Sequence[str], path: Path) -> None:
    """Draw the mean rates over seeds as numbers on colour, a panel a row of the grid.

    A frame marks a task's own training; where nothing was measured after a stage, it says so. Not
    drawn where no row goes through stages.
    """
    shown = [row for row in rows if has_matrix(found, row)]
    if not shown:
        return
    across = min(PANELS, len(shown))
    down = -(-len(shown) // across)
    tasks = next(iter(found[shown[0]].values())).results.tasks()
    height = down * (1.3 + 0.26 * len(tasks))
    width = WIDTH if across > 1 else 0.65 * WIDTH
    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(
        down, across, squeeze=False, sharey=True, gridspec_kw={"wspace": 0.06, "hspace": 0.06}
    )
    for number, axes in enumerate(panels.flat):
        axes.set_visible(number < len(shown))
    for row, axes in zip(shown, panels.flat, strict=False):
        _panel(axes, found, list(found[row].values()), tasks)
        axes.set_title(row, loc="left", fontsize=10, fontweight="bold")
    save(figure, path)


def _panel(axes: Axes, found: Found, runs: Sequence[Ran], tasks: Sequence[str]) -> None:
    columns = columns_of(runs)
    for y, task in enumerate(tasks):
        _cell(axes, (-1, y), blind(found, (task,)).each)
    axes.axvline(-0.5, color=INK, lw=1.2)
    for x, stages in enumerate(columns):
        for y, task in enumerate(tasks):
            _cell(axes, (x, y), rates_after(runs, stages[0], task).each)
            if stages[0].trains(task) and len(stages) == 1:
                axes.add_patch(
                    Rectangle((x - 0.46, y - 0.42), 0.92, 0.84, fill=False, edgecolor=OWN, lw=1.8)
                )
    axes.set(xlim=(-1.5, len(columns) - 0.5), ylim=(len(tasks) - 0.5, -0.5))
    axes.xaxis.tick_top()
    titles = ["blind\nreplay", *(_title(each) for each in columns)]
    turn = 90 if len(columns) > FLAT else 0
    axes.set_xticks(range(-1, len(columns)), titles, fontsize=7, rotation=turn)
    axes.set_yticks(range(len(tasks)), tasks, fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _cell(axes: Axes, at: tuple[int, int], each: Sequence[float]) -> None:
    x, y = at
    fill = BLUES(mean(each)) if each else mpl.colors.to_rgba("#ffffff")
    axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=fill, edgecolor="white", lw=1.5))
    light = float(np.dot(fill[:3], (0.299, 0.587, 0.114))) > 0.52
    text = f"{mean(each):.2f}" if each else MISSING
    ink = INK if light else "#f5f7fa"
    axes.text(x, y, text, ha="center", va="center", color=ink, fontsize=8.5 if each else 7)


def _title(stages: Sequence[Stage]) -> str:
    """Return a column's title on narrow lines."""
    if len(stages) > 1:
        return f"{len(stages)} stages\nin between"
    kind, _, task = stages[0].title.partition(" ")
    half = task.find("-", max(len(task) // 2 - 2, 5)) + 1
    return "\n".join(line for line in (kind, task[:half], task[half:]) if line)
