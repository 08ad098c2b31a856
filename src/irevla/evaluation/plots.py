"""The plots of a run, from results.json and metrics.jsonl alone. Each is drawn for a light and for
a dark page.

Colours are Okabe and Ito's, which colour-blind people can tell apart; what matters is never said by
colour alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from irevla.errors import UserError
from irevla.evaluation.stats import Count, Results, hundredths
from irevla.evaluation.tables import DROP, NONE, TITLES, dropped, number, stage_title
from irevla.turn import Turn

try:
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import LogLocator, NullLocator
except ModuleNotFoundError as missing:
    raise UserError("plots need matplotlib: pip install 'irevla[report]'") from missing

MOST_BARS = 7  # stages side by side; more of them are the forgetting matrix's
WIDTH, DPI = 10.4, 160  # inches: the width of the page, at 96 CSS pixels to the inch
GREY, ORANGE, BLUE, GREEN = "#8c94a3", "#e69f00", "#0072b2", "#009e73"
MetricRows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Theme:
    """The page's colours."""

    name: str
    page: str
    ink: str
    faint: str  # ink of grids and frames
    blues: tuple[str, str]  # from a rate of 0 to a rate of 1

    def style(self) -> Any:
        """Matplotlib's settings for it."""
        return {
            "figure.facecolor": self.page, "axes.facecolor": self.page, "savefig.facecolor": self.page,
            "text.color": self.ink, "axes.labelcolor": self.ink, "xtick.color": self.ink, "ytick.color": self.ink,
            "axes.edgecolor": self.faint, "grid.color": self.faint, "grid.linewidth": 0.6,
            "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False,
            "axes.grid": True, "axes.grid.axis": "y", "axes.axisbelow": True,
            "xtick.major.size": 0, "ytick.major.size": 0, "legend.frameon": False,
            "font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 10, "axes.titleweight": "bold",
            "axes.titlelocation": "left", "axes.titlepad": 10, "lines.linewidth": 2.0, "lines.solid_capstyle": "round",
        }  # fmt: skip


LIGHT = Theme("light", "#ffffff", "#1f2430", "#e3e6ec", ("#f1f5fa", "#08519c"))
DARK = Theme("dark", "#171a21", "#d9dde6", "#2c313c", ("#1f2530", "#6cb2f0"))
Draw = Callable[[Results, MetricRows, Theme], Figure | None]


def draw_all(results: Results, metrics: MetricRows, directory: Path) -> dict[str, dict[str, Path]]:
    """Draw what there is data for into `directory`: {plot: {theme: path of the PNG}}; what lacks
    data is left out."""
    directory.mkdir(parents=True, exist_ok=True)
    paths: dict[str, dict[str, Path]] = {}
    for name, draw in PLOTS.items():
        for theme in (LIGHT, DARK):
            with mpl.rc_context(theme.style()):
                figure = draw(results, metrics, theme)
                if figure is None:
                    break
                path = directory / (f"{name}.png" if theme is LIGHT else f"{name}-{theme.name}.png")
                FigureCanvasAgg(figure)
                figure.savefig(path, dpi=DPI, metadata={"Software": None})
                paths.setdefault(name, {})[theme.name] = path
    return paths


def categories(results: Results, metrics: MetricRows, theme: Theme) -> Figure | None:
    """Success rate of each category after each stage, with Wilson intervals; blind replay as a line
    across. Of many stages, the first and the last: before and after, as the paper's Figure 6."""
    stages = (
        results.stages
        if len(results.stages) <= MOST_BARS
        else (results.stages[0], results.stages[-1])
    )
    if not stages:
        return None
    figure, axes = _panels(1, height=3.4, width=WIDTH)
    width = 0.82 / len(stages)
    for index, stage in enumerate(stages):
        counts = [results.count(stage, category=category) for category in results.categories]
        at = [group + (index - (len(stages) - 1) / 2) * width for group in range(len(counts))]
        _bars(
            axes[0],
            at,
            counts,
            width=width,
            colour=stage_colour(results, stage),
            label=stage_title(stage),
            theme=theme,
        )
    for group, category in enumerate(results.categories):
        if blind := results.count("baseline", category=category, method="blind-replay"):
            label = (
                "Blind replay" if group == 0 else "_"
            )  # matplotlib leaves out labels that begin with _
            axes[0].hlines(
                blind.rate,
                group - 0.43,
                group + 0.43,
                colors=theme.ink,
                linestyles=(0, (2, 2)),
                lw=1.2,
                label=label,
            )
    titles = [
        f"{TITLES[category]} ({len(results.tasks(category))})" for category in results.categories
    ]
    axes[0].set_xticks(range(len(titles)), titles)
    _rate_axis(axes[0])
    # column by column: SFT and the blind, then stages 1 and 2 of each task
    named = dict(zip(*axes[0].get_legend_handles_labels()[::-1], strict=True))
    first = [label for label in (stage_title("sft"), "Blind replay") if label in named]
    order = [*first, *(label for label in map(stage_title, stages) if label not in first)]
    columns = min(-(-len(order) // 2), 4)
    figure.legend(
        [named[label] for label in order],
        order,
        loc="outside lower center",
        ncols=columns,
        fontsize=8,
    )
    return figure


def learning(results: Results, metrics: MetricRows, theme: Theme) -> Figure | None:
    """Success of the training episodes of each RL task against decisions, and the evaluations
    before and after."""
    stages = [
        stage for stage in _stages(metrics, "rl:") if _series(metrics, stage, "success")[0].size
    ]
    if not stages:
        return None
    figure, axes = _panels(len(stages), height=2.7)
    for axis, stage in zip(axes, stages, strict=False):
        steps, success = _series(metrics, stage, "success")
        axis.plot(
            steps,
            success,
            "o",
            color=ORANGE,
            alpha=0.28,
            ms=3.2,
            mew=0,
            label="Training, each update",
        )
        radius = max(3, len(success) // 30)  # SAC logs each episode, PPO a rollout of many
        axis.plot(steps, smooth(success, radius=radius), color=ORANGE, label="Training, smoothed")
        if warm := _warm(results, metrics, stage):
            axis.axvspan(0, warm, color=theme.faint, lw=0, alpha=0.8, label="Critic warm-up")
        _evaluations(
            axis, results, metrics, stage, end=float(_steps(metrics, stage)[-1]), theme=theme
        )
        axis.set_title(stage.removeprefix("rl:"))
        axis.set_xlabel("Decisions")
        axis.set_xlim(left=0)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value else "0")
        _rate_axis(axis)
    _legend_once(figure, axes)
    return figure


def losses(results: Results, metrics: MetricRows, theme: Theme) -> Figure | None:
    """Training and validation loss of each supervised stage, on a logarithmic axis."""
    stages = [
        stage for stage in _stages(metrics, "sft", "sl:") if _series(metrics, stage, "loss")[0].size
    ]
    if not stages:
        return None
    figure, axes = _panels(len(stages), height=2.6)
    for axis, stage in zip(axes, stages, strict=False):
        steps, loss = _series(metrics, stage, "loss")
        axis.plot(steps, loss, color=BLUE, alpha=0.25, lw=1)
        axis.plot(steps, smooth(loss), color=BLUE, label="Training")
        val_steps, validation = _series(metrics, stage, "validation")
        if val_steps.size:
            axis.plot(val_steps, validation, "o-", color=ORANGE, ms=4, lw=1.4, label="Validation")
        axis.set_title(stage_title(stage))
        axis.set_xlabel("Gradient steps")
        axis.set_yscale("log")
        _few_log_ticks(axis)
    axes[0].set_ylabel("Mean squared error")
    _legend_once(figure, axes)
    return figure


def forgetting(results: Results, metrics: MetricRows, theme: Theme) -> Figure | None:
    """Task x stage, success rates as numbers on colour; a frame marks a task's own training, a sign
    a drop."""
    stages, tasks = results.stages, results.tasks()
    if not stages:
        return None
    many = len(stages) > 7
    figure, axes = _panels(
        1, height=1.1 + 0.34 * len(tasks), width=min(WIDTH, 2.4 + 1.15 * len(stages))
    )
    axis, blues = axes[0], LinearSegmentedColormap.from_list("rates", theme.blues)
    for y, task in enumerate(tasks):
        for x, stage in enumerate(stages):
            _cell(axis, results, (x, y), task, stage, blues=blues, theme=theme)
    axis.set(xlim=(-0.5, len(stages) - 0.5), ylim=(len(tasks) - 0.5, -0.5))
    names = [stage_title(stage) if many else _wrap(stage_title(stage)) for stage in stages]
    axis.set_xticks(
        range(len(stages)),
        names,
        fontsize=8,
        rotation=40 if many else 0,
        ha="left" if many else "center",
    )
    axis.set_yticks(range(len(tasks)), tasks, fontsize=8)
    axis.xaxis.tick_top()
    axis.grid(False)
    axis.spines[:].set_visible(False)
    first = 0
    for category in results.categories:
        if first:
            axis.axhline(first - 0.5, color=theme.ink, lw=1.2)
        first += len(results.tasks(category))
    return figure


PLOTS: Mapping[str, Draw] = {
    "categories": categories,
    "learning": learning,
    "forgetting": forgetting,
    "losses": losses,
}


def smooth(values: Float[np.ndarray, " n"], *, radius: int = 3) -> Float[np.ndarray, " n"]:
    """A centred mean over 2 * radius + 1 points, over those there are at the ends: no lag, no
    invented points."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    low, high = np.maximum(at - radius, 0), np.minimum(at + radius + 1, len(values))
    means: np.ndarray = (total[high] - total[low]) / (high - low)
    return means


def stage_colour(results: Results, stage: str) -> str:
    """Grey before, shades of orange after each stage 1, of blue after each stage 2; darker the
    later."""
    kind = stage.partition(":")[0]
    peers = [name for name in results.stages if name.partition(":")[0] == kind]
    base = {"rl": ORANGE, "sl": BLUE}.get(kind, GREY)
    share = 1 if len(peers) == 1 else 0.45 + 0.55 * peers.index(stage) / (len(peers) - 1)
    red, green, blue = (channel * share + (1 - share) * 0.82 for channel in mpl.colors.to_rgb(base))
    return mpl.colors.to_hex((red, green, blue))


def _panels(count: int, *, height: float, width: float = 0.0) -> tuple[Figure, list[Axes]]:
    """`count` panels in rows of up to three, sizes in inches; empty places are hidden."""
    columns = min(count, 3)
    rows = -(-count // columns)
    figure = Figure(
        figsize=(width or (6.4 if count == 1 else WIDTH), height * rows + 0.4), layout="constrained"
    )
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, axes[:count]


def _bars(
    axis: Axes,
    at: list[float],
    counts: list[Count | None],
    *,
    width: float,
    colour: str,
    label: str,
    theme: Theme,
) -> None:
    shown = [(x, count) for x, count in zip(at, counts, strict=True) if count]
    rates = [count.rate for _, count in shown]
    axis.bar([x for x, _ in shown], rates, width * 0.88, color=colour, label=label)
    spread = [
        [count.rate - count.ci95[0] for _, count in shown],
        [count.ci95[1] - count.rate for _, count in shown],
    ]
    axis.errorbar(
        [x for x, _ in shown],
        rates,
        np.maximum(spread, 0),
        fmt="none",
        ecolor=theme.ink,
        elinewidth=0.9,
        alpha=0.75,
    )
    for x, count in shown:
        axis.text(x, count.ci95[1] + 0.015, f"{hundredths(count.rate)}", ha="center", fontsize=7)


def _evaluations(
    axis: Axes, results: Results, metrics: MetricRows, stage: str, *, end: float, theme: Theme
) -> None:
    """The policy without noise before (the last tested stage before this one) and after, as points
    with intervals."""
    turn = Turn.of(stage)
    task = turn.task if turn else None
    later = _stages(metrics, "")  # in the order in which they were trained, from this one on
    later = later[later.index(stage) :]
    measured = [
        name for name in results.stages if name not in later and results.count(name, task=task)
    ][-1:]
    for x, name, colour in [*((0.0, name, GREY) for name in measured), (end, stage, BLUE)]:
        if count := results.count(name, task=task):
            spread = np.maximum([[count.rate - count.ci95[0]], [count.ci95[1] - count.rate]], 0)
            label = "Evaluation before" if name != stage else "Evaluation after"
            axis.errorbar(
                [x],
                [count.rate],
                spread,
                fmt="D",
                color=colour,
                ms=5,
                elinewidth=1.3,
                label=label,
                clip_on=False,
                zorder=5,
            )


def _cell(
    axis: Axes,
    results: Results,
    at: tuple[int, int],
    task: str,
    stage: str,
    *,
    blues: LinearSegmentedColormap,
    theme: Theme,
) -> None:
    x, y = at
    count = results.count(stage, task=task)
    colour = blues(count.rate) if count else mpl.colors.to_rgba(theme.page)
    axis.add_patch(
        Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor=theme.page, lw=1.5)
    )
    if (turn := Turn.of(stage)) and turn.task == task:
        axis.add_patch(
            Rectangle((x - 0.45, y - 0.42), 0.9, 0.84, fill=False, edgecolor=ORANGE, lw=1.8)
        )
    luminance = float(np.dot(colour[:3], (0.299, 0.587, 0.114)))
    ink = "#10131a" if luminance > 0.52 else "#f5f7fa"
    text = (
        number(count.rate) + (f" {DROP}" if dropped(results, task, stage) else "")
        if count
        else NONE
    )
    axis.text(x, y, text, ha="center", va="center", color=ink if count else theme.ink, fontsize=8.5)


def _rate_axis(axis: Axes) -> None:
    axis.set_ylim(0, 1.08)
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "25%", "50%", "75%", "100%"], fontsize=8)


def _few_log_ticks(axis: Axes) -> None:
    """Plain numbers, as few as will do: powers of ten alone would leave a short axis with one label
    or none."""
    low, high = axis.get_ylim()
    steps = {4: range(1, 10), 20: (1, 2, 3, 5, 7), 100: (1, 2, 5), float("inf"): (1,)}
    subs = next(subs for limit, subs in steps.items() if high <= limit * low)
    axis.yaxis.set_major_locator(LogLocator(subs=subs))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.yaxis.set_minor_locator(NullLocator())
    axis.tick_params(axis="y", labelsize=8)


def _legend_once(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend for all panels, each label once."""
    handles: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=3 if len(axes) == 1 else 5,
        fontsize=8,
    )


def _stages(metrics: MetricRows, *prefixes: str) -> list[str]:
    return [
        stage
        for stage in dict.fromkeys(row["stage"] for row in metrics)
        if stage.startswith(prefixes)
    ]


def _warm(results: Results, metrics: MetricRows, stage: str) -> int:
    """Decisions until the critic's warm-up was over; 0 where there was none, or where it is not
    over. PPO's points are an update each, SAC's say how many there were."""
    points = [row for row in metrics if row["stage"] == stage]
    counts = [row.get("updates", number) for number, row in enumerate(points, start=1)]
    warmup = results.config["sac" if "updates" in points[0] else "ppo"]["warmup"]
    over = [row["step"] for row, count in zip(points, counts, strict=True) if count >= warmup]
    return over[0] if warmup and len(over) > 1 else 0


def _steps(metrics: MetricRows, stage: str) -> list[int]:
    return [row["step"] for row in metrics if row["stage"] == stage]


def _series(
    metrics: MetricRows, stage: str, name: str
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Steps and values of one curve, points without a value left out."""
    points = [
        (row["step"], row[name])
        for row in metrics
        if row["stage"] == stage and row.get(name) is not None
    ]
    steps, values = np.array(points, dtype=float).reshape(-1, 2).T
    return steps, values


def _wrap(title: str) -> str:
    """A stage's title on two or three lines, for a narrow column."""
    kind, _, task = title.partition(" ")
    half = task.find("-", max(len(task) // 2 - 2, 8)) + 1
    return "\n".join(
        part for part in (kind, task[:half] or task, task[half:] if half else "") if part
    )
