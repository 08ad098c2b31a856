"""Success of every row as bars, with intervals, seeds, blind replay and what the paper gives."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from irevla.reproduce.found import Found, Group, blind, groups, rates
from irevla.reproduce.paper import Published, published
from irevla.reproduce.style import (
    BLIND,
    BLIND_LINE,
    INK,
    WIDTH,
    colour,
    legend,
    rate_axis,
    row_patches,
    save,
)
from irevla.tasks import Category

PAPER_MARK = Line2D(
    [], [], marker="D", color=INK, markerfacecolor="white", linestyle="", label="paper"
)
SEED_MARK = Line2D([], [], marker=".", color=INK, linestyle="", label="a seed")


def bars(found: Found, rows: Sequence[str], path: Path, *, by_task: bool = False) -> None:
    """Draw the rate of every row in each category, and before them on each RL task if `by_task`."""
    example = next(run.results for row in rows for run in found.get(row, {}).values())
    every = groups(example)
    if by_task:
        tasks = example.tasks(Category.RL)
        every = [*(Group(task, Category.RL, (task,), whole=False) for task in tasks), *every]
    suite = str(example.settings["suite"])
    papers = [published(suite, each.tasks, each.category if each.whole else None) for each in every]
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    axes = figure.subplots()
    for place, (group, paper) in enumerate(zip(every, papers, strict=True)):
        _group(axes, found, rows, group, place, paper)
    axes.set_xticks(range(len(every)), [each.title for each in every])
    rate_axis(axes)
    shown = [row for row in rows if row in found]
    several = any(len(found[row]) > 1 for row in shown)
    marks = [*([SEED_MARK] if several else []), BLIND_LINE, *([PAPER_MARK] if any(papers) else [])]
    legend(figure, [*row_patches(shown), *marks])
    save(figure, path)


def _group(
    axes: Axes,
    found: Found,
    rows: Sequence[str],
    group: Group,
    place: int,
    paper: Published | None,
) -> None:
    shown = [row for row in rows if row in found]
    width = 0.8 / len(shown)
    for number, row in enumerate(shown):
        x = place + (number - (len(shown) - 1) / 2) * width
        _bar(axes, found, row, group, x, width=width)
        if paper and row in paper.rates:
            axes.plot(x, paper.rates[row], "D", color=INK, markerfacecolor="white", zorder=6)
    unseeing = blind(found, group.tasks).each
    if unseeing:
        axes.hlines(
            mean(unseeing), place - 0.44, place + 0.44, colors=INK, linestyles=BLIND, zorder=4
        )


def _bar(axes: Axes, found: Found, row: str, group: Group, x: float, *, width: float) -> None:
    measured = rates(found, row, group.tasks)
    if not measured.counts:
        axes.text(x, 0.02, "–", ha="center", va="bottom", color=INK)
        return
    middle = mean(measured.each)
    low, high = np.clip(measured.ci95, 0, 1.02)
    axes.bar(x, middle, 0.92 * width, color=colour(row))
    reach = [[max(middle - low, 0)], [max(high - middle, 0)]]
    axes.errorbar(x, middle, reach, fmt="none", ecolor=INK, elinewidth=1, capsize=2, zorder=5)
    if len(measured.each) > 1:
        places = x + np.linspace(-0.2, 0.2, len(measured.each)) * width
        axes.plot(places, measured.each, ".", color=INK, markersize=4, zorder=5)
