"""The Franka Kitchen suite: one-sided success, experts that come back, variants that
really differ."""

import importlib.util
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

pytest.importorskip("gymnasium_robotics")

from irevla.config import EnvConfig
from irevla.envs.kitchen.env import KitchenEnv
from irevla.envs.kitchen.experts import SCRIPTS
from irevla.envs.kitchen.suite import KITCHEN
from irevla.envs.kitchen.tasks import RL, SKILLS, SPECS, TEST, UNSEEN
from irevla.envs.suite import TaskEnv, load_suite
from irevla.errors import UserError
from irevla.tasks import Category


def blind(task: str) -> KitchenEnv:
    """An environment that draws nothing."""
    env = KitchenEnv(task, EnvConfig(horizon=80))
    env.draw = False
    return env


# --- an environment like others


@pytest.mark.filterwarnings("ignore:.*render")
def test_it_is_a_gymnasium_environment() -> None:
    env = gym.make("irevla/kitchen-light-on-v0")
    assert isinstance(env.unwrapped, TaskEnv)
    check_env(env.unwrapped, skip_render_check=True)
    assert env.action_space.shape == (7,)


def test_the_tasks_are_the_papers() -> None:
    assert load_suite("kitchen") == replace(KITCHEN, source="kitchen")
    of = {
        category: [task.name for task in KITCHEN.tasks if task.category is category]
        for category in Category
    }
    assert of[Category.EXPERT] == [
        "knob-on",
        "light-on",
        "microwave-open",
        "slide-door-open",
        "left-door-open",
    ]
    assert (
        "slide-door-open-red" in of[Category.RL] and "slide-door-open-yellow" in of[Category.UNSEEN]
    )
    assert len(of[Category.UNSEEN]) >= 5 and set(SCRIPTS) == set(SKILLS)
    assert {SPECS[name].script for name in of[Category.UNSEEN]} == set(SKILLS), (
        "each object has an unseen version"
    )


def test_a_wrong_name_gets_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean"):
        KitchenEnv("knob-of")


def test_without_the_models_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name == "gymnasium_robotics" else real(name),
    )
    with pytest.raises(UserError, match=r"pip install 'irevla\[kitchen\]'"):
        KITCHEN.check()


# --- what its seed settles


def test_starts_are_spread_over_all_that_the_task_says() -> None:
    env = blind("slide-door-open")
    shifts, postures = [], []
    for seed in range(60):
        env.reset(seed=seed)
        shifts.append(env.model.body("desk").pos.copy())
        postures.append(env.data.qpos[:7].copy())
    low, high = np.array(SKILLS["slide-door-open"].low), np.array(SKILLS["slide-door-open"].high)
    reached = np.ptp(shifts, axis=0)
    assert (reached > 0.8 * (high - low)).all() and (reached <= high - low).all()
    assert (np.ptp(postures, axis=0)[[0, 2, 3]] > 0.1).all()


def test_environments_of_a_task_do_not_move_each_others_kitchen() -> None:
    """They share one model, and each has its own place in it."""
    config = EnvConfig(horizon=20)
    action = np.full(7, 0.5, np.float32)

    def played(env: gym.Env[Any, Any], seed: int, *, beside: gym.Env[Any, Any] | None) -> list[Any]:
        seen = [env.reset(seed=seed)[0]]
        for number in range(6):
            if beside is not None:
                beside.reset(seed=number) if number % 2 else beside.step(action)
            seen.append(env.step(action)[0])
        return [*seen, env.unwrapped.data.qpos.copy(), env.unwrapped.render()]  # type: ignore[attr-defined]

    def make() -> KitchenEnv:
        return KitchenEnv("slide-door-open", config)

    alone = played(make(), 3, beside=None)
    other = make()
    other.reset(seed=9)
    late = make()  # made while the other's kitchen is shifted
    together = played(late, 3, beside=other)
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
    assert late.model is other.model


# --- success


@pytest.mark.parametrize("task", SKILLS)
def test_success_is_one_sided_and_ends_the_episode(task: str) -> None:
    env = blind(task)
    goal = SKILLS[task].goal
    for share, expected in ((0.0, False), (0.9, False), (1.05, True), (1.3, True), (-0.5, False)):
        env.reset(seed=0)
        env.data.qpos[env._joint] = share * goal
        _, reward, terminated, truncated, info = env.step(
            np.zeros(env.action_space.shape, np.float32)
        )
        assert (reward == 1.0) is terminated is info["success"] is expected and not truncated


@pytest.mark.parametrize("skill", SKILLS)
def test_a_disturbed_hand_comes_back(skill: str) -> None:
    env, solved = blind(skill), 0
    env.config = EnvConfig(horizon=140)
    for seed in range(4):
        env.reset(seed=seed)
        push = np.random.default_rng(seed).choice([-1.0, 1.0], 7)
        for decision in range(140):
            disturbed = 24 <= decision < 30
            if env.step((push if disturbed else env.expert_action()).astype(np.float32))[2]:
                solved += 1
                break
    assert solved >= 3


def test_asked_twice_the_expert_answers_alike() -> None:
    env = blind("left-door-open")
    env.reset(seed=0)
    for _ in range(40):
        assert np.array_equal(env.expert_action(), env.expert_action())
        env.step(env.expert_action())


# --- variants


@pytest.mark.parametrize("name", [*RL, *UNSEEN, *TEST])
def test_a_variant_looks_different_and_stands_elsewhere(name: str) -> None:
    spec = SPECS[name]
    plain, varied = KitchenEnv(spec.script), KitchenEnv(name)
    seen = []
    for env in (plain, varied):  # the same draws in both; one seed would give each task its own
        env.np_random = np.random.default_rng(4)
        seen.append(env.reset()[0].astype(int))
    assert (np.abs(seen[0] - seen[1]).sum(axis=2) > 40).mean() > 0.002
    handles = [env.data.site(spec.skill.handle).xpos for env in (plain, varied)]
    assert 0.01 < np.linalg.norm(handles[0] - handles[1]) < 0.12
    assert varied.task.instruction == plain.task.instruction and varied.task.note
