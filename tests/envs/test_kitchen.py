"""The Franka Kitchen suite: episodes settled by their seed, a hand that does not sink, one-sided success, variants that
really differ."""

import hashlib
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

pytest.importorskip("gymnasium_robotics")

from irevla.config import EnvConfig
from irevla.envs.base import TaskEnv, load_suite
from irevla.envs.kitchen.env import KitchenEnv, model_of
from irevla.envs.kitchen.experts import SCRIPTS
from irevla.envs.kitchen.suite import KITCHEN
from irevla.envs.kitchen.tasks import RL, SKILLS, SPECS, UNSEEN
from irevla.errors import UserError
from irevla.types import Category

CONFIG = EnvConfig(horizon=80)


def blind(task: str, control: Any = "end-effector") -> KitchenEnv:
    """An environment that draws nothing."""
    env = KitchenEnv(task, CONFIG, control=control)
    env.draw = False
    return env


def play(env: KitchenEnv, seed: int, steps: int = 80, noise: float = 0.0) -> tuple[np.ndarray, bool]:
    """The states of an episode of the expert, and whether it succeeded."""
    env.reset(seed=seed)
    generator, states, success = np.random.default_rng(0), [], False
    for _ in range(steps):
        states.append(np.concatenate([env.data.qpos, env.data.qvel, env.data.xpos.ravel()]))
        action = env.expert_action() + noise * generator.standard_normal(env.action_space.shape)
        _, _, terminated, truncated, info = env.step(action.astype(np.float32))
        success = bool(info["success"])
        if terminated or truncated:
            break
    return np.array(states), success


# --- an environment like others


@pytest.mark.parametrize("control", ["end-effector", "joint-velocity"])
@pytest.mark.filterwarnings("ignore:.*render")
def test_it_is_a_gymnasium_environment(control: str) -> None:
    env = gym.make("irevla/kitchen-light-on-v0", control=control)
    assert isinstance(env.unwrapped, TaskEnv)
    check_env(env.unwrapped, skip_render_check=True)
    assert env.action_space.shape == ((7,) if control == "end-effector" else (9,))


def test_the_tasks_are_the_papers() -> None:
    assert load_suite("kitchen") is KITCHEN
    of = {category: [task.name for task in KITCHEN.tasks if task.category is category] for category in Category}
    assert of[Category.EXPERT] == ["knob-on", "light-on", "microwave-open", "slide-door-open", "left-door-open"]
    assert "slide-door-open-red" in of[Category.RL] and "slide-door-open-yellow" in of[Category.UNSEEN]
    assert len(of[Category.UNSEEN]) >= 5 and set(SCRIPTS) == set(SKILLS)
    assert {SPECS[name].script for name in of[Category.UNSEEN]} == set(SKILLS), "each object has an unseen version"


@pytest.mark.parametrize(
    "make", [lambda: KitchenEnv("knob-of"), lambda: KitchenEnv("knob-on", control="joint-velocty")]
)
def test_a_wrong_name_gets_the_nearest(make: Callable[[], object]) -> None:
    with pytest.raises(UserError, match="did you mean"):
        make()


def test_without_the_models_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gymnasium_robotics" else real(name))
    with pytest.raises(UserError, match=r"pip install 'irevla\[kitchen\]'"):
        KITCHEN.check()


# --- what its seed settles


@pytest.mark.parametrize("task", ["microwave-open", "slide-door-open-red"])
def test_the_seed_settles_the_episode(task: str) -> None:
    fresh, used = blind(task), blind(task)
    first, _ = play(fresh, 7, steps=15, noise=0.3)
    play(used, 1, steps=30)
    assert np.array_equal(play(used, 7, steps=15, noise=0.3)[0], first)
    assert not np.array_equal(play(used, 8, steps=15, noise=0.3)[0], first)


def test_the_seed_settles_the_picture_in_another_process() -> None:
    code = (
        "import hashlib, sys; from irevla.envs.kitchen.env import KitchenEnv as E; "
        "o, _ = E('knob-on').reset(seed=5); print(hashlib.sha256(o.tobytes()).hexdigest()); "
        "assert not {'torch', 'gymnasium_robotics'} & sys.modules.keys()"  # a worker has neither
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    other, env = KitchenEnv("left-door-open"), KitchenEnv("knob-on")
    other.reset(seed=1)  # shares the process's renderer, and must leave no trace
    play(env, 1, steps=5)
    picture, _ = env.reset(seed=5)
    assert hashlib.sha256(picture.tobytes()).hexdigest() == answer
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 100


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


# --- dynamics


def test_the_hand_does_not_sink() -> None:
    env = blind("knob-on")
    env.reset(seed=0)
    before = env.arm.position
    for _ in range(25):
        env.step(np.zeros(7, np.float32))
    assert np.linalg.norm(env.arm.position - before) < 0.01


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_action_moves_the_hand_along_its_axis(axis: int) -> None:
    env = blind("knob-on")
    env.reset(seed=0)
    before = env.arm.position
    action = np.zeros(7, np.float32)
    action[axis] = 0.5
    for _ in range(4):
        env.step(action)
    moved = env.arm.position - before
    assert moved[axis] > 0.05 and np.abs(np.delete(moved, axis)).max() < 0.03


def test_the_gripper_shuts_and_opens() -> None:
    env = blind("knob-on")
    env.reset(seed=0)
    for command, width in ((1.0, 0.0), (-1.0, 0.04)):
        for _ in range(12):
            env.step(np.array([0, 0, 0, 0, 0, 0, command], np.float32))
        np.testing.assert_allclose(env.data.qpos[7:9], width, atol=0.004)


def test_both_controls_go_through_the_same_step() -> None:
    hand, joints = blind("light-on"), blind("light-on", "joint-velocity")
    hand.reset(seed=3)
    joints.reset(seed=3)
    for _ in range(10):
        action = hand.expert_action()
        joints.step(hand.arm.velocities(action.astype(np.float64)).astype(np.float32))
        hand.step(action)
        np.testing.assert_allclose(hand.data.qpos, joints.data.qpos, atol=1e-5)
    assert joints.expert_action().shape == (9,)


# --- success


@pytest.mark.parametrize("task", SKILLS)
def test_success_is_one_sided_and_ends_the_episode(task: str) -> None:
    env = blind(task)
    goal = SKILLS[task].goal
    for share, expected in ((0.0, False), (0.9, False), (1.05, True), (1.3, True), (-0.5, False)):
        env.reset(seed=0)
        env.data.qpos[env._joint] = share * goal
        _, reward, terminated, truncated, info = env.step(np.zeros(env.action_space.shape, np.float32))
        assert (reward == 1.0) is terminated is info["success"] is expected and not truncated


def test_an_episode_is_truncated_at_the_horizon_and_never_also_terminated() -> None:
    env = KitchenEnv("knob-on", EnvConfig(horizon=3))
    env.draw = False
    env.reset(seed=0)
    still = np.zeros(7, np.float32)
    assert [env.step(still)[2:4] for _ in range(3)] == [(False, False), (False, False), (False, True)]


@pytest.mark.parametrize("task", SPECS)
def test_the_expert_solves_every_task(task: str) -> None:
    env = blind(task)
    assert sum(play(env, seed)[1] for seed in (1, 2, 3)) >= 2


DEMONSTRATIONS = 3  # that are replayed blindly, so that one lucky one does not decide


def replay(env: KitchenEnv, seed: int, actions: list[np.ndarray]) -> bool:
    """Whether blind actions succeed; the last is held, as in the baseline of every run."""
    env.reset(seed=seed)
    return any(env.step(actions[min(t, len(actions) - 1)])[2] for t in range(CONFIG.horizon))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("task", SPECS)
def test_the_expert_solves_nearly_all_episodes_and_a_blind_one_does_not(task: str) -> None:
    """Prints the table of docs/kitchen.md (-s)."""
    env, lengths, shown = blind(task), [], []
    for seed in range(50):
        states, success = play(env, seed)
        lengths += [len(states)] if success else []
    for seed in range(1000, 1000 + DEMONSTRATIONS):
        env.reset(seed=seed)
        actions, over = [], False
        while not over:
            actions.append(env.expert_action())
            _, _, over, truncated, _ = env.step(actions[-1])
            assert not truncated, "a demonstration that fails"
        shown.append(actions)
    rates = [np.mean([replay(env, seed, actions) for seed in range(50)]) for actions in shown]
    row = (task, env.task.category.value, env.task.instruction, f"{len(lengths)}/50", f"{np.mean(lengths):.0f}")
    print(f"\n| {' | '.join(row)} | {np.mean(rates):.2f} ({', '.join(f'{rate:.2f}' for rate in rates)}) |")
    assert len(lengths) >= 48 and np.mean(rates) <= 0.35


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


@pytest.mark.parametrize("name", [*RL, *UNSEEN])
def test_a_variant_looks_different_and_stands_elsewhere(name: str) -> None:
    spec = SPECS[name]
    plain, varied = KitchenEnv(spec.script), KitchenEnv(name)
    seen = [env.reset(seed=4)[0].astype(int) for env in (plain, varied)]
    assert (np.abs(seen[0] - seen[1]).sum(axis=2) > 40).mean() > 0.002
    handles = [env.data.site(spec.skill.handle).xpos for env in (plain, varied)]
    assert 0.01 < np.linalg.norm(handles[0] - handles[1]) < 0.12
    assert varied.task.instruction == plain.task.instruction and varied.task.note


def test_one_environment_does_not_change_the_model_of_another() -> None:
    before = model_of("knob-on").body_pos.copy()
    env = blind("knob-on")
    env.reset(seed=9)
    assert np.array_equal(model_of("knob-on").body_pos, before) and not np.array_equal(env.model.body_pos, before)


def test_settings_that_change_the_picture_or_the_dynamics_are_recorded() -> None:
    settings = KITCHEN.render_settings(EnvConfig(action_repeat=3))
    assert settings["action_repeat"] == 3 and {"camera_pos", "image_size", "drawing", "dynamics"} <= settings.keys()
