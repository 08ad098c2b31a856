"""What is drawn of a grid: the paper beside it, what was kept, time of robot and clock; by hand."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from irevla.config import Config, SFTConfig
from irevla.config_io import to_dict
from irevla.envs.suite import load_suite
from irevla.evaluation.stats import Row, read_results
from irevla.reproduce.curves import curve, curves
from irevla.reproduce.figures import draw
from irevla.reproduce.found import MISSING, groups, rates, read
from irevla.reproduce.kept import columns_of
from irevla.reproduce.paper import PAPER, published
from irevla.reproduce.tables import table
from irevla.tasks import Category

EXPERT = ("knob-on", "light-on")
RL = ("slide-door-open-red", "left-door-open")
UNSEEN = ("slide-door-open-yellow",)
DECISIONS = {"rl": 9000, "harvest": 1000}
STAGES = [f"{kind}:{task}" for task in RL for kind in ("rl", "harvest", "sl")]


def write_run(
    directory: Path,
    rates: Mapping[str, Mapping[str, float]],
    *,
    seed: int,
    method: str = "irevla",
    done: Sequence[str] = STAGES,
    **settings: Any,
) -> None:
    """A run of the kitchen with these rates: stage -> task -> rate, of 100 episodes each."""
    directory.mkdir(parents=True)
    tasks = {"rl_tasks": RL, "unseen_tasks": UNSEEN}
    config = Config(suite="kitchen", method=method, seed=seed, **{**tasks, **settings})
    suite = load_suite("kitchen")
    measured = {
        stage: [
            Row.of(
                method="blind-replay" if stage == "baseline" else method,
                task=task,
                category=suite.task(task).category,
                stage=stage,
                seed=seed,
                successes=round(100 * rate),
                episodes=100,
                env_steps=100,
                seconds=1.0,
            ).to_json()
            for task, rate in by_task.items()
        ]
        for stage, by_task in rates.items()
    }
    events = [{"event": "evaluated baseline", "time": 90.0, "rows": measured["baseline"]}]
    events += [{"event": "evaluated sft", "time": 100.0, "rows": measured["sft"]}]
    for number, stage in enumerate(done, start=1):
        decisions = DECISIONS.get(stage.partition(":")[0])
        told = {} if decisions is None else {"decisions": decisions}
        events.append({"event": stage, "time": 100.0 + 1000 * number, **told})
        if stage in measured:
            events.append({"event": f"evaluated {stage}", "time": 0.0, "rows": measured[stage]})
    (directory / "journal.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in events))
    rows = [row for event in events for row in event.get("rows", [])]  # type: ignore[attr-defined]
    results = {
        "config": to_dict(config),
        "git": "0123456789ab",
        "machine": {},
        "command": "",
        "rows": rows,
    }
    (directory / "results.json").write_text(json.dumps(results))


def flat(rate: float, **others: float) -> dict[str, float]:
    given = {name.replace("_", "-"): value for name, value in others.items()}
    return {**dict.fromkeys((*EXPERT, *RL, *UNSEEN), rate), **given}


BEFORE = {"baseline": flat(0.1), "sft": flat(0.5)}
ENDS = {**BEFORE, STAGES[-1]: flat(0.8)}
WHOLE = {
    **BEFORE,
    "rl:slide-door-open-red": flat(0.3, slide_door_open_red=0.9),
    "sl:slide-door-open-red": flat(0.6, slide_door_open_red=0.9),
    "rl:left-door-open": flat(0.2, left_door_open=0.95),
    "sl:left-door-open": flat(0.5, slide_door_open_red=0.7, left_door_open=0.9),
}


# --- The paper


def test_the_papers_numbers_are_those_of_its_text() -> None:
    """Some of Table I, as one reads them there."""
    left = published("kitchen", ("left-door-open",))
    assert left and left.rates == {"sft": 0.43, "ppo-replay": 0.12, "irevla": 0.83}
    assert "Left-door-open" in left.source and left.place == "Table I, Franka Kitchen"
    expert = published("metaworld", tuple("abcdefghijklmnopqrstuvwxy"), Category.EXPERT)
    assert expert and expert.rates["ppo-replay"] == 0.69
    arm = published("panda-sim", ("pick-eggplant", "pick-carrot"), Category.RL)
    assert arm and arm.rates == {"sft": 0.35, "irevla": 0.80}


def test_the_paper_stands_beside_the_same_quantity_alone() -> None:
    four = published("metaworld", ("window-close", "button-press"), Category.EXPERT)
    assert four is None, "its number is of 25 tasks"
    assert published("metaworld", ("push",)) is None
    assert published("pointmass", ("left-disc",)) is None
    both = published("metaworld", ("button-press-new", "window-close-new"), Category.RL)
    assert both and both.rates["irevla"] == pytest.approx((1.00 + 0.96) / 2)
    assert "their mean" in both.source
    assert published("metaworld", ("button-press-new", "pull-new"), Category.RL) is None


def test_every_name_of_the_paper_is_a_task_of_ours() -> None:
    for suite, every in PAPER.items():
        known = {task.name for task in load_suite(suite).tasks} if suite != "panda" else set()
        named = {each.of for each in every} - set(Category)
        assert named <= known or suite == "panda"


# --- Groups, rates


def test_what_is_demonstrated_and_trained_by_rl_counts_apart(tmp_path: Path) -> None:
    write_run(tmp_path / "irevla" / "seed-0", ENDS, seed=0)
    results = read_results(tmp_path / "irevla" / "seed-0" / "results.json")
    assert {group.title: group.tasks for group in groups(results)} == {
        "expert (2)": EXPERT,
        "rl, not demonstrated (1)": ("slide-door-open-red",),
        "rl, demonstrated (1)": ("left-door-open",),
        "unseen (1)": UNSEEN,
    }


def test_every_cell_has_its_interval_and_the_paper_beside_it(tmp_path: Path) -> None:
    for seed, rate in enumerate((0.7, 0.8, 0.9)):
        write_run(
            tmp_path / "irevla" / f"seed-{seed}", {**BEFORE, STAGES[-1]: flat(rate)}, seed=seed
        )
    text = table(read(tmp_path, ("sft", "irevla"), (0, 1, 2)), ("sft", "ppo-replay", "irevla"))
    cells = _cells(text, "knob-on")
    # Student's of 0.7, 0.8, 0.9: 4.303 x 0.1 / sqrt(3)
    assert cells == [
        "0.10 [0.10, 0.10]", "0.50 [0.50, 0.50]", "0.84", MISSING, "0.48",
        "0.80 [0.55, 1.05]", "0.90",
    ]  # fmt: skip
    assert _cells(text, "**rl, demonstrated (1)**")[-1] == "0.83"
    assert "irevla against sft, rl, demonstrated: +0.30 [+0.05, +0.55] over 3 seeds" in text
    assert "- sft: seeds 0, 1, 2; commit 0123456789ab; as other rows measured it" in text
    assert "Table I, Franka Kitchen" in text


def test_of_one_seed_it_is_wilsons(tmp_path: Path) -> None:
    write_run(tmp_path / "irevla" / "seed-0", ENDS, seed=0)
    found = read(tmp_path, ("irevla",), (0,))
    assert rates(found, "irevla", ("knob-on",)).text() == "0.80 [0.71, 0.87]"
    assert rates(found, "sft", ("knob-on",)).text() == "0.50 [0.40, 0.60]"


def test_seeds_that_were_made_with_other_settings_are_told(tmp_path: Path) -> None:
    """Their mean stands beside what tells that they are not alike; threads do not matter."""
    write_run(tmp_path / "irevla" / "seed-0", ENDS, seed=0, threads=1)
    write_run(tmp_path / "irevla" / "seed-1", ENDS, seed=1, threads=2)
    alike = table(read(tmp_path, ("irevla",), (0, 1)), ("irevla",))
    assert "other settings" not in alike
    longer = SFTConfig(steps=8)
    write_run(tmp_path / "irevla" / "seed-2", ENDS, seed=2, sft=longer, rounds=2)
    said = table(read(tmp_path, ("irevla",), (0, 1, 2)), ("irevla",))
    assert (
        f"**other settings in seed 2** (rounds 2, not 1, sft.steps 8, not {SFTConfig().steps})"
        in said
    )


def test_a_folder_of_runs_of_one_method(tmp_path: Path) -> None:
    write_run(tmp_path / "seed-0", ENDS, seed=0)
    found = read(tmp_path, ("sft", "irevla", "irevla-sac", "more-sft"), (0, 1))
    assert {row: list(runs) for row, runs in found.items()} == {"irevla": [0], "sft": [0]}


def test_a_run_that_was_not_measured_at_its_end_is_not_there(tmp_path: Path) -> None:
    write_run(tmp_path / "irevla" / "seed-0", {**WHOLE, STAGES[-1]: {}}, seed=0)
    assert read(tmp_path, ("irevla",), (0,)) == {}


# --- What was kept, and what practice brought


def test_the_forgetting_matrix_and_its_numbers(tmp_path: Path) -> None:
    write_run(tmp_path / "irevla" / "seed-0", WHOLE, seed=0)
    found = read(tmp_path, ("irevla",), (0,))
    text = table(found, ("irevla",))
    matrix = text[text.index("Success after each stage of irevla") :]
    cells = _cells(matrix, "slide-door-open-red")
    assert [cell.split(" [")[0] for cell in cells] == [
        "0.10",
        "0.50",
        "**0.90",
        "**0.90",
        "0.20",
        "0.70",
    ]
    hours, gained, back_expert, back_rl, lost_expert, lost_rl = _cells(text, "irevla")
    # 20,000 decisions, 12 a second; both RL tasks from 0.5, to 0.7 and 0.9.
    assert hours == "0.46" and gained.startswith("+0.65 [")
    assert back_expert.startswith("+0.00 [") and back_rl.startswith("−0.20 [")
    assert (lost_expert, lost_rl) == ("+0.10", "+0.20")


def test_stages_that_were_not_measured_are_missing(tmp_path: Path) -> None:
    write_run(tmp_path / "irevla" / "seed-0", ENDS, seed=0)
    text = table(read(tmp_path, ("irevla",), (0,)), ("irevla",))
    assert "Not measured after the stages in between (`--eval.interim 0`): irevla." in text
    assert _cells(text, "irevla")[3] == MISSING
    some = {name: rates for name, rates in WHOLE.items() if name != "rl:left-door-open"}
    write_run(tmp_path / "irevla" / "seed-1", some, seed=1)
    found = read(tmp_path, ("irevla",), (1,))
    columns = columns_of(list(found["irevla"].values()))
    assert [stages[0].name for stages in columns][-2:] == ["rl:left-door-open", "sl:left-door-open"]
    matrix = table(found, ("irevla",)).partition("bold")[2]
    assert [MISSING in cell for cell in _cells(matrix, "knob-on")] == [False] * 4 + [True, False]


def test_hours_that_one_run_does_not_tell_are_missing(tmp_path: Path) -> None:
    write_run(tmp_path / "irevla" / "seed-0", ENDS, seed=0)
    write_run(tmp_path / "irevla" / "seed-1", ENDS, seed=1)
    journal = tmp_path / "irevla" / "seed-1" / "journal.jsonl"
    journal.write_text(journal.read_text().replace(', "decisions": 1000', ""))
    text = table(read(tmp_path, ("irevla",), (0, 1)), ("irevla",))
    assert _cells(text, "irevla")[:2] == [MISSING, MISSING]


# --- Figure 4


def _metrics(directory: Path, times: Sequence[float], *, stage: str = STAGES[0]) -> None:
    points = [
        {"stage": stage, "step": 1000 * number, "time": time, "success": 0.5, "episodes": 10.0}
        for number, time in enumerate(times, start=1)
    ]
    text = "".join(json.dumps(point) + "\n" for point in points)
    (directory / "metrics.jsonl").write_text(text)


def test_a_curve_against_decisions_robot_and_clock(tmp_path: Path) -> None:
    directory = tmp_path / "irevla" / "seed-0"
    write_run(directory, ENDS, seed=0, done=["zero-shot:slide-door-open-red", *STAGES])
    journal = directory / "journal.jsonl"
    journal.write_text(
        journal.read_text().replace(
            '"zero-shot:slide-door-open-red", "time": 1100.0',
            '"zero-shot:slide-door-open-red", "time": 130.0, "decisions": 750',
        )
    )
    _metrics(directory, [160.0, 190.0, 220.0, 250.0])  # 30 s each; zero-shot from 100 to 130
    found = curve(read(tmp_path, ("irevla",), (0,))["irevla"][0], "slide-door-open-red")
    assert found is not None and found.success == pytest.approx(0.5)
    assert found.at["decisions"][-1] == 4000
    assert found.at["robot"][-1] == pytest.approx((750 + 4000) / 12 / 60)
    assert found.at["clock"][-1] == pytest.approx(150 / 60)


def test_a_night_in_which_the_run_was_stopped_does_not_count(tmp_path: Path) -> None:
    directory = tmp_path / "irevla" / "seed-0"
    write_run(directory, ENDS, seed=0)
    _metrics(directory, [130.0, 160.0, 40_160.0, 40_190.0])
    found = curve(read(tmp_path, ("irevla",), (0,))["irevla"][0], "slide-door-open-red")
    assert found is not None and found.at["clock"][-1] == pytest.approx(120 / 60)


def test_what_another_row_measured_is_no_curve_of_stage_0(tmp_path: Path) -> None:
    directory = tmp_path / "irevla" / "seed-0"
    write_run(directory, ENDS, seed=0)
    _metrics(directory, [130.0, 160.0])
    found = read(tmp_path, ("sft", "irevla"), (0,))
    assert curve(found["sft"][0], "slide-door-open-red") is None
    assert curve(found["irevla"][0], "left-door-open") is None


def test_a_later_task_that_takes_longer_is_seen_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "irevla" / "seed-0"
    write_run(directory, ENDS, seed=0)
    _metrics(directory, [130.0, 160.0])
    longer = [3130.0 + 100 * number for number in range(5)]
    first = (directory / "metrics.jsonl").read_text()
    _metrics(directory, longer, stage=STAGES[3])
    later = (directory / "metrics.jsonl").read_text()
    (directory / "metrics.jsonl").write_text(first + later)
    figures: list[Any] = []
    monkeypatch.setattr("irevla.reproduce.curves.save", lambda figure, path: figures.append(figure))
    curves(read(tmp_path, ("sft", "irevla"), (0,)), ("irevla",), tmp_path / "curves.png")
    for axes in figures[0].axes:
        low, high = axes.get_xlim()
        ends = [line.get_xdata()[-1] for line in axes.lines if len(line.get_xdata()) > 2]
        assert low == 0 and ends and max(ends) <= high


# --- All of it


def test_all_figures_are_drawn(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        write_run(tmp_path / "irevla" / f"seed-{seed}", WHOLE, seed=seed)
        _metrics(tmp_path / "irevla" / f"seed-{seed}", [130.0 + 30 * n for n in range(9)])
    draw("figure6", tmp_path, ("sft", "irevla"), (0, 1, 2))
    images = {path.name: path.read_bytes() for path in tmp_path.glob("*.png")}
    assert set(images) == {"figure6.png", "figure6-curves.png", "figure6-forgetting.png"}
    assert len(set(images.values())) == 3
    shutil.rmtree(tmp_path / "irevla" / "seed-2")
    draw("figure6", tmp_path, ("sft", "irevla"), (0, 1, 2))
    assert (tmp_path / "figure6.png").read_bytes() != images["figure6.png"]


def _cells(text: str, first: str) -> list[str]:
    """The cells of the first line that begins with `first`, without it."""
    lines = (line for line in text.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in next(lines).strip("|").split("|")][1:]
