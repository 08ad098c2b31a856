"""The Franka Kitchen suite: two controls, one-sided success, experts that come back, variants that
really differ."""

import importlib.util
from collections.abc import Callable

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

pytest.importorskip("gymnasium_robotics")

from irevla.config import EnvConfig
from irevla.envs.suite import TaskEnv, load_suite
from irevla.envs.kitchen.env import KitchenEnv
from irevla.envs.kitchen.experts import SCRIPTS
from irevla.envs.kitchen.suite import KITCHEN
from irevla.envs.kitchen.tasks import RL, SKILLS, SPECS, UNSEEN
from irevla.errors import UserError
from irevla.tasks import Category


def blind(task: str, control: str = "end-effector") -> KitchenEnv:
    """An environment that draws nothing."""
    env = KitchenEnv(task, EnvConfig(horizon=80), control=control)
    env.draw = False
    return env


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


@pytest.mark.parametrize(
    "make", [lambda: KitchenEnv("knob-of"), lambda: KitchenEnv("knob-on", control="joint-velocty")]
)
def test_a_wrong_name_gets_the_nearest(make: Callable[[], object]) -> None:
    with pytest.raises(UserError, match="did you mean"):
        make()


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


# --- dynamics


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


@pytest.mark.parametrize("name", [*RL, *UNSEEN])
def test_a_variant_looks_different_and_stands_elsewhere(name: str) -> None:
    spec = SPECS[name]
    plain, varied = KitchenEnv(spec.script), KitchenEnv(name)
    seen = [env.reset(seed=4)[0].astype(int) for env in (plain, varied)]
    assert (np.abs(seen[0] - seen[1]).sum(axis=2) > 40).mean() > 0.002
    handles = [env.data.site(spec.skill.handle).xpos for env in (plain, varied)]
    assert 0.01 < np.linalg.norm(handles[0] - handles[1]) < 0.12
    assert varied.task.instruction == plain.task.instruction and varied.task.note
