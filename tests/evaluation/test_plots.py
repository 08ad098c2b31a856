from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from irevla.evaluation.plots import (
    LIGHT,
    MOST_BARS,
    PLOTS,
    _warm,
    categories,
    draw_all,
    forgetting,
    interventions,
    learning,
    smooth,
    stage_colour,
)
from irevla.evaluation.stats import Results, read_results
from irevla.storage.metrics import read_metrics
from irevla.tasks import SFT, Stage


def test_every_plot_is_drawn_for_light_and_dark(make_run: Callable[..., Path]) -> None:
    run = make_run()
    results = read_results(run / "results.json")
    paths = draw_all(results, read_metrics(run / "metrics.jsonl"), run / "plots")
    assert set(paths) == set(PLOTS) - {"interventions"}, "nobody took over"
    for themes in paths.values():
        light, dark = (
            np.asarray(Image.open(themes[name]).convert("RGB")) for name in ("light", "dark")
        )
        assert light[0, 0].min() > 240 and dark[0, 0].max() < 60
        assert len(np.unique(light[::9, ::9].reshape(-1, 3), axis=0)) > 50  # something is drawn
    colours = [stage_colour(results, stage) for stage in results.stages]
    assert len(set(colours)) == len(colours)


@pytest.mark.parametrize(("turns", "bars"), [(3, 7), (4, 2)])
def test_of_many_stages_the_bars_are_before_and_after(
    turns: int, bars: int, make_run: Callable[..., Path]
) -> None:
    results = read_results(make_run() / "results.json")
    stages = [
        "sft",
        *(
            f"{kind}:window-close-new@{number}"
            for number in range(2, turns + 2)
            for kind in ("rl", "sl")
        ),
    ]
    tested = [row for row in results.rows if row.stage == "sft"]
    many = replace(
        results, rows=tuple(replace(row, stage=stage) for stage in stages for row in tested)
    )
    assert (len(many.stages) <= MOST_BARS) == (bars > 2)
    figure = categories(many, [], LIGHT)
    assert figure is not None
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert (
        len(labels) == bars
        and labels[0] == "SFT"
        and labels[-1] == f"SL window-close-new@{turns + 1}"
    )


def test_no_data_no_plot_and_missing_keys_are_borne(tmp_path: Path) -> None:
    nothing = Results({"ppo": {"warmup": 3}}, "", {}, "", ())
    assert draw_all(nothing, [], tmp_path) == {}
    bare = [
        {"stage": "rl:a", "step": 1024, "kl": 0.1},
        {"stage": "sft", "step": 1, "lr": 1e-3, "loss": None},
    ]
    assert draw_all(nothing, bare, tmp_path) == {}
    some = [*bare, {"stage": "rl:a", "step": 2048, "success": 0.5}]
    assert set(draw_all(nothing, some, tmp_path)) == {"learning"}


def test_the_matrix_frames_own_training_of_later_rounds(make_run: Callable[..., Path]) -> None:
    results = read_results(make_run() / "results.json")
    names = ("sft", "rl:window-close-new", "sl:push@2", "sl:window-close-new@2")
    tested = [row for row in results.rows if row.stage == "sft"]
    rows = tuple(replace(row, stage=name) for name in names for row in tested)
    figure = forgetting(replace(results, rows=rows), [], LIGHT)
    assert figure is not None
    (axes,) = figure.axes
    frames = [patch for patch in axes.patches if not patch.get_fill()]
    tasks = results.tasks()
    places = [(round(frame.get_x() + 0.45), round(frame.get_y() + 0.42)) for frame in frames]
    own = tasks.index("window-close-new")
    assert sorted(places) == [(1, own), (2, tasks.index("push")), (3, own)]


def test_the_warm_up_is_that_of_the_learner() -> None:
    """SAC counts updates, of which an episode brings many; PPO makes one for each point."""
    rl = Stage("rl", "a")
    points = [{"stage": rl.name, "step": 100 * n, "updates": 30.0 * n} for n in range(1, 6)]
    for learner, steps in (("ppo", 200), ("sac", 300)):
        config = {"rl": learner, "ppo": {"warmup": 2}, "sac": {"warmup": 90}}
        assert _warm(Results(config, "", {}, "", ()), points, rl) == steps


def test_smoothing_neither_lags_nor_invents() -> None:
    line = np.arange(20.0)
    assert smooth(line)[3:-3] == pytest.approx(line[3:-3])
    assert smooth(np.full(5, 0.4)) == pytest.approx(0.4)
    assert smooth(np.array([0.0, 1.0])) == pytest.approx([0.5, 0.5])


def test_the_evaluation_before_is_never_one_from_afterwards(make_run: Callable[..., Path]) -> None:
    """Without tests between the stages, what is known before each turn is the first, not the
    last."""
    results = read_results(make_run() / "results.json")
    few = replace(
        results,
        rows=tuple(row for row in results.rows if row.stage in ("sft", "sl:button-press-new")),
    )
    turns = ("window-close-new", "button-press-new")
    metrics = [
        {"stage": f"{kind}:{task}", "step": step, "success": 0.5}
        for task in turns for kind in ("rl", "sl") for step in (1, 2)
    ]  # fmt: skip
    figure = learning(few, metrics, LIGHT)
    assert figure is not None
    for axis, task in zip(figure.axes, turns, strict=True):
        (before,) = (bars for bars in axis.containers if bars.get_label() == "Evaluation before")
        count = few.count(SFT, task=task)
        assert count is not None and before.lines[0].get_ydata()[0] == pytest.approx(count.rate)
        assert not any(bars.get_label() == "Evaluation after" for bars in axis.containers)


def test_a_persons_help_is_a_curve(make_run: Callable[..., Path], tmp_path: Path) -> None:
    results = read_results(make_run() / "results.json")
    stage = "rl:window-close-new"
    metrics = [
        {
            "stage": stage,
            "step": 50 * number,
            "interventions": 1.0,
            "intervention_decisions": 20.0 - number,
        }
        for number in range(1, 20)
    ]
    figure = interventions(results, metrics, LIGHT)
    assert figure is not None
    length, times = figure.axes[0].lines
    assert np.all(np.diff(np.asarray(length.get_ydata())) <= 0)
    assert np.allclose(np.asarray(times.get_ydata()), 1.0)
    quiet = [{**row, "interventions": 0.0, "intervention_decisions": 0.0} for row in metrics]
    assert interventions(results, quiet, LIGHT) is None
