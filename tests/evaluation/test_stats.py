import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from irevla.config import SACConfig
from irevla.errors import UserError
from irevla.evaluation.stats import (
    Results,
    Row,
    change,
    hundredths,
    newcombe,
    over_seeds,
    pool,
    read_results,
    wilson,
)
from irevla.tasks import SFT, Category, Stage


@pytest.mark.parametrize(  # Newcombe (1998), Statistics in Medicine 17:857-872, table I
    ("successes", "episodes", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_against_published_values(
    successes: int, episodes: int, low: float, high: float
) -> None:
    assert wilson(successes, episodes) == pytest.approx((low, high), abs=5e-5)
    mirrored = wilson(episodes - successes, episodes)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)


@pytest.mark.parametrize(  # Newcombe (1998), Statistics in Medicine 17:873-890, table II, method 10
    ("after", "before", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((10, 10), (0, 10), 0.6075, 1.0),
    ],
)
def test_difference_against_published_values(
    after: tuple[int, int], before: tuple[int, int], low: float, high: float
) -> None:
    assert newcombe(before, after) == pytest.approx((low, high), abs=5e-5)
    assert newcombe(after, before) == pytest.approx((-high, -low), abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_rate(counted: tuple[int, int]) -> None:
    low, high = wilson(*counted)
    assert 0 <= low <= counted[0] / counted[1] <= high <= 1 and low < high


def test_the_interval_over_seeds_worked_by_hand() -> None:
    """Mean 0.9, deviation 0.1, three seeds: 4.303 * 0.1 / sqrt(3) = 0.2484 on either side."""
    assert over_seeds([0.8, 0.9, 1.0]) == pytest.approx((0.6516, 1.1484), abs=5e-5)
    assert over_seeds([0.5, 0.5]) == (0.5, 0.5)
    low, high = over_seeds([0.4, 0.6])  # 12.706 * 0.1414 / sqrt(2)
    assert (low, high) == pytest.approx((0.5 - 1.2706, 0.5 + 1.2706), abs=5e-5)
    many = over_seeds([0.0, 1.0] * 20)  # beyond the table, a little wide: 2.086, not 2.023
    assert many[1] - 0.5 == pytest.approx(2.086 * 0.50637 / 40**0.5, abs=1e-4)


def test_nothing_counted_says_nothing() -> None:
    assert wilson(0, 0) == (0, 1)


def test_rounding_is_what_people_do() -> None:
    assert [hundredths(value) for value in (0.885, 0.125, 0.29, -0.005, -0.114, 1.0)] == [
        89,
        13,
        29,
        -1,
        -11,
        100,
    ]


def row(task: str, successes: int, episodes: int, *, stage: str = "sft", seed: int = 0) -> Row:
    return Row.of(
        method="irevla",
        task=task,
        category=Category.EXPERT,
        stage=stage,
        seed=seed,
        successes=successes,
        episodes=episodes,
        env_steps=1,
        seconds=1.0,
    )


def test_a_row_survives_json() -> None:
    one = row("push", 41, 50)
    data = json.loads(json.dumps(one.to_json()))
    assert data["rate"] == 0.82 and data["ci95"] == pytest.approx([0.692, 0.902], abs=1e-3)
    assert list(data) == [
        *("method", "task", "category", "stage", "seed", "successes", "episodes"),
        *("rate", "ci95", "env_steps", "seconds", "chunk", "execute"),
    ]
    assert Row.from_json(data) == one


def test_pooling_states_both_means() -> None:
    both = pool([row("a", 10, 10), row("b", 10, 40), row("b", 20, 40, seed=1)])
    assert both is not None
    assert (both.successes, both.episodes, both.tasks) == (40, 90, 2)
    assert both.rate == pytest.approx(40 / 90) and both.mean == pytest.approx((1 + 30 / 80) / 2)
    assert pool([]) is None


def test_a_change_is_noise_only_if_its_interval_holds_zero() -> None:
    before, near, far = (pool([row("a", n, 50)]) for n in (20, 24, 45))
    up, down, little = change(before, far), change(far, before), change(before, near)
    assert up and not up.noise and up.difference == pytest.approx(0.5)
    assert down and not down.noise and down.difference == pytest.approx(-0.5)
    assert little and little.noise
    assert change(before, None) is None
    assert (
        change(pool([row("a", 1, 5), row("b", 1, 5)]), before) is None
    )  # half a stage is not compared


def test_a_stage_finds_its_task() -> None:
    for stage in (Stage("sl", "knob-on"), Stage("sl", "knob-on", 3), SFT):
        assert Stage.parse(stage.name) == stage
    assert Stage("rl", "knob-on", 3).name == "rl:knob-on@3"
    assert not SFT.task


def test_forgetting_counts_from_the_newest_of_its_own_stages() -> None:
    names = ("sft", "rl:a", "sl:a", "rl:a@2", "sl:a@2", "rl:b@2")
    results = Results({}, "", {}, "", tuple(row("a", 1, 2, stage=name) for name in names))
    assert [stage.name for stage in results.stages] == list(names)
    references = [results.reference("a", stage) for stage in results.stages[1:]]
    assert [stage.name for stage in references] == ["sft", "rl:a", "sl:a", "rl:a@2", "sl:a@2"]


def test_a_task_that_rl_trains_counts_as_an_rl_task_alone() -> None:
    """As the kitchen's left-door-open, which is demonstrated and improved by RL."""
    rows = (row("a", 9, 10), row("both", 1, 10), replace(row("c", 5, 10), category=Category.RL))
    results = Results({"rl_tasks": ["c", "both"]}, "", {}, "", rows)
    assert results.tasks(Category.EXPERT) == ("a",)
    assert set(results.tasks(Category.RL)) == {"both", "c"}
    expert = results.line(Category.EXPERT)
    rl = results.line(Category.RL)
    assert expert.before and rl.before
    assert (expert.tasks, expert.before.successes, expert.before.episodes) == (1, 9, 10)
    assert (rl.tasks, rl.before.successes, rl.before.episodes) == (2, 6, 20)
    assert [line.task for line in results.lines() if line.task == "both"] == ["both"]


def test_a_task_counts_as_what_it_was_in_the_run_not_in_the_suite() -> None:
    """As LIBERO's object-1, an expert task of the suite that the preset's policy never saw."""
    named = {"expert_tasks": ["a"], "rl_tasks": ["b"], "unseen_tasks": ["c", "d"]}
    others = [row(task, 1, 2) for task in "abc"]
    rows = (*others, replace(row("d", 1, 2), category=Category.RL))
    results = Results(named, "", {}, "", rows)
    assert [results.tasks(category) for category in results.categories] == [
        ("a",),
        ("b",),
        ("c", "d"),
    ]


def test_settings_younger_than_the_run_have_their_defaults() -> None:
    old = Results({"suite": "kitchen", "ppo": {"warmup": 7}}, "", {}, "", ())
    assert old.settings["ppo"]["warmup"] == 7
    assert old.settings["rl"] == "ppo"
    assert old.settings["sac"]["warmup"] == SACConfig().warmup
    assert not old.discrete_gripper
    assert "sac" not in old.config


def test_results_answer(make_run: Callable[..., Path]) -> None:
    results = read_results(make_run() / "results.json")
    end = Stage("sl", "button-press-new")
    own = Stage("sl", "window-close-new")
    assert results.stages[0] == SFT
    assert results.last == end
    assert len(results.stages) == 5
    assert results.categories == tuple(Category)[:3] and results.seeds == (0,)
    line = results.line(Category.RL)
    assert line.tasks == 2 and line.before and line.after and line.blind
    assert (line.before.successes, line.after.successes, line.blind.successes) == (32, 82, 3)
    assert results.reference("window-close-new", end) == own
    assert results.reference("window-close-new", own) == Stage("rl", "window-close-new")
    assert results.reference("push", end) == SFT


def test_what_was_measured_again_counts_once(make_run: Callable[..., Path]) -> None:
    results = read_results(make_run([row("a", 1, 10), row("a", 40, 50)]) / "results.json")
    count = results.count(SFT)
    assert count is not None and (count.successes, count.episodes) == (40, 50)


def test_missing_and_torn_results_are_told(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="is missing"):
        read_results(tmp_path / "results.json")
    path = make_run() / "results.json"
    whole = path.read_text()
    for broken in (
        whole[: len(whole) // 2],
        "[]",
        whole.replace('"rate"', '"rat"'),
        whole.replace('"successes": ', '"successes": 1'),
        whole.replace('"expert"', '"exprt"'),
    ):
        path.write_text(broken)
        with pytest.raises(UserError, match="damaged"):
            read_results(path)


def test_wilson_is_not_the_normal_interval() -> None:
    low, high = wilson(47, 50)
    assert not math.isclose(low + high, 2 * 0.94, abs_tol=0.01)
