"""The figures of a grid: bars for each category, and learning curves, one line a row."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import numpy as np
from jaxtyping import Float

from irevla.errors import UserError
from irevla.reproduce.grid import ROWS, SFT
from irevla.reproduce.tables import Found, rates, read, table
from irevla.storage.disk import writing
from irevla.storage.metrics import read_metrics
from irevla.tasks import Stage

try:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
except ModuleNotFoundError as missing:
    raise UserError("figures need matplotlib: pip install 'irevla[report]'") from missing

COLOURS = (
    *("#0072b2", "#56b4e9", "#d55e00", "#e69f00", "#882255"),
    *("#8c94a3", "#009e73", "#cc79a7", "#f0e442", "#332288", "#44aa99"),
)
POINTS = 20  # of a learning curve
DPI = 160


def bars(found: Found, rows: Sequence[str], path: Path) -> None:
    """Draw the rate of every row in each category, with a dot for every seed."""
    example = next(run.results for row in rows for run in found.get(row, {}).values())
    figure = Figure(figsize=(10.4, 3.6), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(rows)
    for number, row in enumerate(rows):
        for place, category in enumerate(example.categories):
            each = rates(found, row, category=category).each
            if each:
                x = place + (number - (len(rows) - 1) / 2) * width
                axes.bar(x, mean(each), 0.92 * width, color=_colour(row))
                axes.plot([x] * len(each), each, ".", color="black", markersize=4)
    titles = [f"{category} ({len(example.tasks(category))})" for category in example.categories]
    axes.set_xticks(range(len(titles)), titles)
    _rate_axis(axes)
    _legend(figure, rows)
    save(figure, path)


def curves(root: Path, found: Found, rows: Sequence[str], path: Path) -> None:
    """Draw success with exploration noise against decisions in the first turn of each RL task.

    The mean over seeds; thin lines are the seeds.
    """
    tasks = _rl_tasks(root, found, rows)
    if not tasks:
        return
    figure = Figure(figsize=(10.4, 3.4), layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False, sharey=True)[0]
    for axes, task in zip(panels, tasks, strict=True):
        for row in rows:
            every = [curve(root / row / f"seed-{seed}", task) for seed in found.get(row, {})]
            lines = [line for line in every if line is not None]
            for x, y in lines:
                axes.plot(x, y, color=_colour(row), linewidth=0.6, alpha=0.4)
            if lines:
                # A stage that has converged is over: its last rate goes on.
                x = np.linspace(0, max(x[-1] for x, _ in lines), POINTS + 1)[1:]
                middle = np.mean([np.interp(x, *line) for line in lines], axis=0)
                axes.plot(x, middle, color=_colour(row), linewidth=2)
        axes.set_title(task)
        axes.set_xlabel("decisions")
        _rate_axis(axes)
    _legend(figure, [row for row in rows if row != SFT])
    save(figure, path)


def curve(
    directory: Path, task: str
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]] | None:
    """Return decisions and success in `POINTS` parts of stage 1, each the mean of its episodes."""
    points = [
        (each["step"], each["success"], each.get("episodes", 1.0))
        for each in read_metrics(directory / "metrics.jsonl")
        if each["stage"] == Stage("rl", task).name and isinstance(each.get("success"), float)
    ]
    if len(points) < 2:
        return None
    steps, success, episodes = np.array(points, dtype=float).T
    edges = np.linspace(0, steps[-1], POINTS + 1)
    part = np.clip(np.searchsorted(edges, steps, side="left") - 1, 0, POINTS - 1)
    won = np.bincount(part, success * episodes, POINTS)
    played = np.bincount(part, episodes, POINTS)
    known = played > 0
    rate = np.interp(np.arange(POINTS), np.flatnonzero(known), won[known] / played[known])
    return edges[1:], rate


def save(figure: Figure, path: Path) -> None:
    """Write a PNG; readers never see half a file."""
    FigureCanvasAgg(figure)
    with writing(path) as aside:
        figure.savefig(aside, format="png", dpi=DPI)


def _rl_tasks(root: Path, found: Found, rows: Sequence[str]) -> list[str]:
    """Return the tasks with a stage 1 in any run, in the order in which they were learnt."""
    tasks: dict[str, None] = {}
    for row in rows:
        for seed in found.get(row, {}):
            for each in read_metrics(root / row / f"seed-{seed}" / "metrics.jsonl"):
                stage = Stage.parse(str(each["stage"]))
                if stage.kind == "rl":
                    tasks.setdefault(stage.task)
    return list(tasks)


def _colour(row: str) -> str:
    """Return the colour that a row has in every figure."""
    return COLOURS[list(ROWS).index(row)]


def _legend(figure: Figure, rows: Sequence[str]) -> None:
    handles = [Patch(color=_colour(row), label=row) for row in rows]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(rows), frameon=False)


def _rate_axis(axes: Axes) -> None:
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("success")
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def draw(name: str, root: Path, rows: Sequence[str], seeds: Sequence[int]) -> str:
    """Write ROOT/NAME.md, NAME.png and NAME-curves.png of what is there; return the table."""
    found = read(root, dict.fromkeys([SFT, *rows]), seeds)
    text = table(found, rows)
    if any(row in found for row in rows):
        with writing(root / f"{name}.md") as aside:
            aside.write_text(text + "\n")
        bars(found, rows, root / f"{name}.png")
        curves(root, found, rows, root / f"{name}-curves.png")
    return text
