"""The plots of a run, from results.json and metrics.jsonl alone, for a light and for a dark page.

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
from irevla.evaluation.tables import DROP, NONE, TITLES, dropped, number
from irevla.storage.disk import writing
from irevla.tasks import BASELINE, SFT, Kind, Stage

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
MOST_COLUMNS = 7  # of the forgetting matrix with titles that stand upright
WIDTH = 10.4  # inches: the width of the page, at 96 CSS pixels to the inch
DPI = 160
GREY = "#8c94a3"
ORANGE = "#e69f00"
BLUE = "#0072b2"
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
        """Return matplotlib's settings for it."""
        return {
            "figure.facecolor": self.page,
            "axes.facecolor": self.page,
            "savefig.facecolor": self.page,
            "text.color": self.ink,
            "axes.labelcolor": self.ink,
            "xtick.color": self.ink,
            "ytick.color": self.ink,
            "axes.edgecolor": self.faint,
            "grid.color": self.faint,
            "grid.linewidth": 0.6,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.spines.left": False,
            "axes.grid": True,
            "axes.grid.axis": "y",
            "axes.axisbelow": True,
            "xtick.major.size": 0,
            "ytick.major.size": 0,
            "legend.frameon": False,
            "font.family": "DejaVu Sans",
            "font.size": 9,
            "axes.titlesize": 10,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.titlepad": 10,
            "lines.linewidth": 2.0,
            "lines.solid_capstyle": "round",
        }


LIGHT = Theme("light", "#ffffff", "#1f2430", "#e3e6ec", ("#f1f5fa", "#08519c"))
DARK = Theme("dark", "#171a21", "#d9dde6", "#2c313c", ("#1f2530", "#6cb2f0"))
Draw = Callable[[Results, MetricRows, Theme], Figure | None]


def draw_all(results: Results, metrics: MetricRows, directory: Path) -> dict[str, dict[str, Path]]:
    """Draw what there is data for into `directory`; return {plot: {theme: path of the PNG}}."""
    directory.mkdir(parents=True, exist_ok=True)
    paths: dict[str, dict[str, Path]] = {}
    for name, draw in PLOTS.items():
        for theme in (LIGHT, DARK):
            suffix = "" if theme is LIGHT else f"-{theme.name}"
            path = directory / f"{name}{suffix}.png"
            with mpl.rc_context(theme.style()):
                figure = draw(results, metrics, theme)
                if figure is not None:
                    _save(figure, path)
                    paths.setdefault(name, {})[theme.name] = path
    return paths


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    with writing(path) as aside:
        figure.savefig(aside, dpi=DPI, format="png", metadata={"Software": None})


# --- Success by category


def categories(results: Results, metrics: MetricRows, theme: Theme) -> Figure | None:
    """Plot the success rate of each category after each stage, with Wilson intervals.

    Blind replay is a line across. Of many stages, the first and the last: before and after, as the
    paper's Figure 6.
    """
    stages = results.stages
    if not stages:
        return None
    if len(stages) > MOST_BARS:
        stages = (stages[0], stages[-1])
    figure, (axes,) = _panels(1, height=3.4, width=WIDTH)
    width = 0.82 / len(stages)
    for index, stage in enumerate(stages):
        counts = [results.count(stage, category=category) for category in results.categories]
        offset = (index - (len(stages) - 1) / 2) * width
        places = [group + offset for group in range(len(counts))]
        colour = stage_colour(results, stage)
        _bars(axes, places, counts, width=width, colour=colour, label=stage.title, theme=theme)
    _blind_lines(axes, results, theme)
    titles = [f"{TITLES[each]} ({len(results.tasks(each))})" for each in results.categories]
    axes.set_xticks(range(len(titles)), titles)
    _rate_axis(axes)
    _category_legend(figure, axes, stages)
    return figure


def _blind_lines(axes: Axes, results: Results, theme: Theme) -> None:
    for group, category in enumerate(results.categories):
        blind = results.count(BASELINE, category=category, method="blind-replay")
        if blind:
            axes.hlines(
                blind.rate,
                group - 0.43,
                group + 0.43,
                colors=theme.ink,
                linestyles=(0, (2, 2)),
                lw=1.2,
                # matplotlib leaves out labels that begin with _
                label="Blind replay" if group == 0 else "_",
            )


def _category_legend(figure: Figure, axes: Axes, stages: Sequence[Stage]) -> None:
    """Name the stages column by column: SFT and the blind, then stages 1 and 2 of each task."""
    handles, labels = axes.get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))
    wanted = [SFT.title, "Blind replay", *(stage.title for stage in stages)]
    order = [label for label in dict.fromkeys(wanted) if label in named]
    figure.legend(
        [named[label] for label in order],
        order,
        loc="outside lower center",
        ncols=min(-(-len(order) // 2), 4),
        fontsize=8,
    )


def _bars(
    axes: Axes,
    places: Sequence[float],
    counts: Sequence[Count | None],
    *,
    width: float,
    colour: str,
    label: str,
    theme: Theme,
) -> None:
    shown = [(x, count) for x, count in zip(places, counts, strict=True) if count]
    xs = [x for x, _ in shown]
    rates = [count.rate for _, count in shown]
    whiskers = [_whiskers(count) for _, count in shown]
    axes.bar(xs, rates, width * 0.88, color=colour, label=label)
    axes.errorbar(
        xs,
        rates,
        np.array(whiskers).reshape(-1, 2).T,
        fmt="none",
        ecolor=theme.ink,
        elinewidth=0.9,
        alpha=0.75,
    )
    for x, count in shown:
        axes.text(x, count.ci95[1] + 0.015, f"{hundredths(count.rate)}", ha="center", fontsize=7)


def _whiskers(count: Count) -> tuple[float, float]:
    """Return how far the interval reaches below and above the rate."""
    low, high = count.ci95
    return max(count.rate - low, 0.0), max(high - count.rate, 0.0)


# --- Learning curves


def learning(results: Results, metrics: MetricRows, theme: Theme) -> Figure | None:
    """Plot the success of each RL task's training episodes, and the evaluations around it."""
    stages = _stages_with(metrics, "success", "rl")
    if not stages:
        return None
    figure, panels = _panels(len(stages), height=2.7)
    for axes, stage in zip(panels, stages, strict=True):
        _learning_curve(axes, results, metrics, stage, theme)
        axes.set_title(stage.target)
        axes.set_xlabel("Decisions")
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value else "0")
        _rate_axis(axes)
    _legend_once(figure, panels)
    return figure


def _learning_curve(
    axes: Axes, results: Results, metrics: MetricRows, stage: Stage, theme: Theme
) -> None:
    steps, success = _series(metrics, stage, "success")
    axes.plot(
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
    axes.plot(steps, smooth(success, radius=radius), color=ORANGE, label="Training, smoothed")
    warm = _warm(results, metrics, stage)
    if warm:
        axes.axvspan(0, warm, color=theme.faint, lw=0, alpha=0.8, label="Critic warm-up")
    before = _before(results, metrics, stage)
    if before is not None:
        _diamond(axes, 0, before, colour=GREY, label="Evaluation before")
    after = results.count(stage, task=stage.task)
    if after is not None:
        end = _points(metrics, stage)[-1]["step"]
        _diamond(axes, end, after, colour=BLUE, label="Evaluation after")


def interventions(results: Results, metrics: MetricRows, theme: Theme) -> Figure | None:
    """Plot how often, and for how long, a person took over in training; None where nobody did."""
    helped = {row["stage"] for row in metrics if row.get("interventions")}
    stages = [
        stage for stage in _stages_with(metrics, "interventions", "rl") if stage.name in helped
    ]
    if not stages:
        return None
    figure, panels = _panels(len(stages), height=2.7)
    for axes, stage in zip(panels, stages, strict=True):
        steps, taken = _series(metrics, stage, "intervention_decisions")
        radius = max(3, len(taken) // 30)
        axes.plot(steps, smooth(taken, radius=radius), color=ORANGE, label="Decisions by a person")
        steps, times = _series(metrics, stage, "interventions")
        axes.plot(steps, smooth(times, radius=radius), color=BLUE, label="Times they took over")
        axes.set_title(stage.target)
        axes.set_xlabel("Decisions")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
    _legend_once(figure, panels)
    return figure


def _before(results: Results, metrics: MetricRows, stage: Stage) -> Count | None:
    """Return the task's newest evaluation before `stage`; never one from afterwards."""
    trained = _stages(metrics)  # in order
    later = trained[trained.index(stage) :]
    earlier = [each for each in results.stages if each not in later]
    counts = [results.count(each, task=stage.task) for each in earlier]
    known = [count for count in counts if count is not None]
    return known[-1] if known else None


def _diamond(axes: Axes, x: int, count: Count, *, colour: str, label: str) -> None:
    """Mark an evaluation, with its interval."""
    low, high = _whiskers(count)
    axes.errorbar(
        [x],
        [count.rate],
        [[low], [high]],
        fmt="D",
        color=colour,
        ms=5,
        elinewidth=1.3,
        label=label,
        clip_on=False,
        zorder=5,
    )


def _warm(results: Results, metrics: MetricRows, stage: Stage) -> int:
    """Return the decisions until the critic's warm-up was over; 0 where there was none, or is."""
    points = _points(metrics, stage)
    settings = results.settings
    warmup = settings[settings["rl"]]["warmup"]
    if settings["rl"] == "sac":
        updates = [row["updates"] for row in points]  # a point is an episode
    else:
        updates = list(range(1, len(points) + 1))  # a point is an update
    over = [row["step"] for row, count in zip(points, updates, strict=True) if count >= warmup]
    return over[0] if warmup and len(over) > 1 else 0


# --- Losses


def losses(results: Results, metrics: MetricRows, theme: Theme) -> Figure | None:
    """Plot training and validation loss of each supervised stage, on a logarithmic axis."""
    stages = _stages_with(metrics, "loss", "sft", "sl")
    if not stages:
        return None
    figure, panels = _panels(len(stages), height=2.6)
    for axes, stage in zip(panels, stages, strict=True):
        steps, loss = _series(metrics, stage, "loss")
        axes.plot(steps, loss, color=BLUE, alpha=0.25, lw=1)
        axes.plot(steps, smooth(loss), color=BLUE, label="Training")
        val_steps, validation = _series(metrics, stage, "validation")
        if val_steps.size:
            axes.plot(val_steps, validation, "o-", color=ORANGE, ms=4, lw=1.4, label="Validation")
        axes.set_title(stage.title)
        axes.set_xlabel("Gradient steps")
        axes.set_yscale("log")
        _few_log_ticks(axes)
    panels[0].set_ylabel("Mean squared error")
    _legend_once(figure, panels)
    return figure


# --- Forgetting


def forgetting(results: Results, metrics: MetricRows, theme: Theme) -> Figure | None:
    """Plot task x stage: success rates as numbers on colour.

    A frame marks a task's own training, a sign a drop.
    """
    stages = results.stages
    tasks = results.tasks()
    if not stages:
        return None
    height = 1.1 + 0.34 * len(tasks)
    width = min(WIDTH, 2.4 + 1.15 * len(stages))
    figure, (axes,) = _panels(1, height=height, width=width)
    blues = LinearSegmentedColormap.from_list("rates", theme.blues)
    for y, task in enumerate(tasks):
        for x, stage in enumerate(stages):
            _cell(axes, results, (x, y), task, stage, blues=blues, theme=theme)
    axes.set(xlim=(-0.5, len(stages) - 0.5), ylim=(len(tasks) - 0.5, -0.5))
    _matrix_titles(axes, stages)
    axes.set_yticks(range(len(tasks)), tasks, fontsize=8)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    first = 0
    for category in results.categories[:-1]:
        first += len(results.tasks(category))
        axes.axhline(first - 0.5, color=theme.ink, lw=1.2)
    return figure


def _matrix_titles(axes: Axes, stages: Sequence[Stage]) -> None:
    axes.xaxis.tick_top()
    if len(stages) > MOST_COLUMNS:
        titles = [stage.title for stage in stages]
        axes.set_xticks(range(len(stages)), titles, fontsize=8, rotation=40, ha="left")
    else:
        titles = [_wrap(stage.title) for stage in stages]
        axes.set_xticks(range(len(stages)), titles, fontsize=8)


def _cell(
    axes: Axes,
    results: Results,
    at: tuple[int, int],
    task: str,
    stage: Stage,
    *,
    blues: LinearSegmentedColormap,
    theme: Theme,
) -> None:
    x, y = at
    count = results.count(stage, task=task)
    colour = blues(count.rate) if count else mpl.colors.to_rgba(theme.page)
    axes.add_patch(
        Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor=theme.page, lw=1.5)
    )
    if stage.trains(task):
        axes.add_patch(
            Rectangle((x - 0.45, y - 0.42), 0.9, 0.84, fill=False, edgecolor=ORANGE, lw=1.8)
        )
    if count is None:
        text = NONE
        ink = theme.ink
    else:
        sign = f" {DROP}" if dropped(results, task, stage) else ""
        text = number(count.rate) + sign
        luminance = float(np.dot(colour[:3], (0.299, 0.587, 0.114)))
        ink = "#10131a" if luminance > 0.52 else "#f5f7fa"
    axes.text(x, y, text, ha="center", va="center", color=ink, fontsize=8.5)


PLOTS: Mapping[str, Draw] = {
    "categories": categories,
    "learning": learning,
    "interventions": interventions,
    "forgetting": forgetting,
    "losses": losses,
}


# --- Parts


def smooth(values: Float[np.ndarray, " n"], *, radius: int = 3) -> Float[np.ndarray, " n"]:
    """Return a centred mean over 2 * radius + 1 points, over those there are at the ends.

    It does not lag, and invents no points.
    """
    total = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    low = np.maximum(at - radius, 0)
    high = np.minimum(at + radius + 1, len(values))
    means: np.ndarray = (total[high] - total[low]) / (high - low)
    return means


def stage_colour(results: Results, stage: Stage) -> str:
    """Return a stage's colour: grey before, orange after each stage 1, blue after each stage 2.

    The later, the darker.
    """
    peers = [each for each in results.stages if each.kind == stage.kind]
    base = {"rl": ORANGE, "sl": BLUE}.get(stage.kind, GREY)
    share = 1.0
    if len(peers) > 1:
        share = 0.45 + 0.55 * peers.index(stage) / (len(peers) - 1)
    red, green, blue = (channel * share + (1 - share) * 0.82 for channel in mpl.colors.to_rgb(base))
    return mpl.colors.to_hex((red, green, blue))


def _panels(count: int, *, height: float, width: float = 0.0) -> tuple[Figure, list[Axes]]:
    """Return `count` panels in rows of up to three, sizes in inches; empty places are hidden."""
    columns = min(count, 3)
    rows = -(-count // columns)
    if not width:
        width = 6.4 if count == 1 else WIDTH
    figure = Figure(figsize=(width, height * rows + 0.4), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[count:]:
        axes.set_visible(False)
    return figure, panels[:count]


def _rate_axis(axes: Axes) -> None:
    axes.set_ylim(0, 1.08)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "25%", "50%", "75%", "100%"], fontsize=8)


def _few_log_ticks(axes: Axes) -> None:
    """Set plain numbers, as few as will do.

    Powers of ten alone would leave a short axis with one label or none.
    """
    low, high = axes.get_ylim()
    steps = {4: range(1, 10), 20: (1, 2, 3, 5, 7), 100: (1, 2, 5), float("inf"): (1,)}
    subs = next(subs for limit, subs in steps.items() if high <= limit * low)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.tick_params(axis="y", labelsize=8)


def _legend_once(figure: Figure, panels: Sequence[Axes]) -> None:
    """Set one legend for all panels, each label once."""
    named: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    figure.legend(
        named.values(),
        named.keys(),
        loc="outside lower center",
        ncols=3 if len(panels) == 1 else 5,
        fontsize=8,
    )


def _wrap(title: str) -> str:
    """Return a stage's title on two or three lines, for a narrow column."""
    kind, _, task = title.partition(" ")
    half = task.find("-", max(len(task) // 2 - 2, 8)) + 1
    lines = [kind, task[:half], task[half:]]
    return "\n".join(line for line in lines if line)


# --- Metrics


def _stages(metrics: MetricRows, *kinds: Kind) -> list[Stage]:
    """Return the stages that logged something, in order; of these kinds, or of all."""
    stages = [Stage.parse(name) for name in dict.fromkeys(row["stage"] for row in metrics)]
    return [stage for stage in stages if not kinds or stage.kind in kinds]


def _stages_with(metrics: MetricRows, curve: str, *kinds: Kind) -> list[Stage]:
    """Return the stages of these kinds that have points of a curve."""
    return [stage for stage in _stages(metrics, *kinds) if _series(metrics, stage, curve)[0].size]


def _points(metrics: MetricRows, stage: Stage) -> list[Mapping[str, Any]]:
    return [row for row in metrics if row["stage"] == stage.name]


def _series(
    metrics: MetricRows, stage: Stage, name: str
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Return steps and values of one curve, without the points that have no value."""
    points = [
        (row["step"], row[name])
        for row in _points(metrics, stage)
        if row.get(name) is not None  # not logged with every point, or not finite
    ]
    steps, values = np.array(points, dtype=float).reshape(-1, 2).T
    return steps, values
