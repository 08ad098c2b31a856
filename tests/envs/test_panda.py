"""The Panda on a table: both views in one picture, things that look like what they are called,
success that is earned, experts that come back."""

import importlib.util
from dataclasses import replace

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

pytest.importorskip("gymnasium_robotics")

import arms
from arms import CONFIG, PATIENT, STILL, play

from irevla.envs.panda import vegetables
from irevla.envs.panda.env import PandaEnv, places
from irevla.envs.panda.goals import LIFT
from irevla.envs.panda.scene import model_of
from irevla.envs.panda.suite import PANDA_SIM
from irevla.envs.panda.tasks import BLOCKS, SPECS, VEGETABLES, WRIST_SHARE
from irevla.envs.suite import TaskEnv, load_suite
from irevla.errors import UserError
from irevla.tasks import Category

SKILLS = (
    "pick-red-block",
    "place-block",
    "button-press",
    "drawer-open",
    "cable-route",
)  # one task of each


def blind(task: str) -> PandaEnv:
    """An environment that draws nothing."""
    return arms.blind("panda-sim", task)


# --- an environment like others


@pytest.mark.filterwarnings("ignore:.*render")
def test_it_is_a_gymnasium_environment() -> None:
    env = gym.make("irevla/panda-sim-pick-eggplant-v0")
    assert isinstance(env.unwrapped, TaskEnv)
    check_env(env.unwrapped, skip_render_check=True)
    assert env.action_space.shape == (7,)
    assert PANDA_SIM.fps == 10


def test_the_tasks_are_the_papers() -> None:
    assert load_suite("panda-sim") == replace(PANDA_SIM, source="panda-sim")
    of = {
        category: {task.name for task in PANDA_SIM.tasks if task.category is category}
        for category in Category
    }
    assert of[Category.EXPERT] == {
        *SKILLS,
        "pick-blue-block",
        "pick-green-block",
        "pick-yellow-block",
    }
    assert of[Category.RL] == {"pick-eggplant", "pick-carrot"}
    assert len(of[Category.UNSEEN]) >= 4 and not of[Category.UNSEEN] & of[Category.EXPERT]


def test_a_wrong_name_gets_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'pick-carrot'"):
        PandaEnv("pick-carot")


def test_without_the_model_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name == "gymnasium_robotics" else real(name),
    )
    with pytest.raises(UserError, match=r"pip install 'irevla\[panda\]'"):
        PANDA_SIM.check()


# --- what its seed settles


@pytest.mark.parametrize("task", SPECS)
def test_things_are_spread_over_the_table_and_never_in_each_other(task: str) -> None:
    objects = SPECS[task].objects
    drawn = np.array([places(objects, np.random.default_rng(seed)) for seed in range(100)])
    for thing, (low, high) in zip(
        objects, zip(drawn.min(axis=0), drawn.max(axis=0), strict=True), strict=True
    ):
        assert ((high - low)[:2] > 0.7 * (np.array(thing.high) - thing.low)).all() and high[
            2
        ] - low[2] > thing.turn
    for i, one in enumerate(objects):
        for j, other in enumerate(objects[:i]):
            assert (
                np.linalg.norm(drawn[:, i, :2] - drawn[:, j, :2], axis=1).min()
                >= one.room + other.room
            )


@pytest.mark.parametrize("task", SPECS)
def test_nothing_is_done_at_the_start_and_things_lie_still(task: str) -> None:
    env = blind(task)
    for seed in range(2):
        env.reset(seed=seed)
        before = env.scene().target.at
        assert not env.success
        for _ in range(5):
            env.step(STILL)
        assert np.linalg.norm(env.scene().target.at - before) < 0.012


# --- what it looks like


def test_both_views_are_in_the_picture() -> None:
    """What moves before the wrist changes the corner; what moves before the front camera alone
    changes the rest."""
    env = PandaEnv("pick-red-block", CONFIG)
    before = env.reset(seed=0)[0].astype(int)
    env.data.joint("red block").qpos[:2] = env.arm.position[:2] + np.array([0.05, 0.0])
    after = env.picture(64).astype(int)
    side, changed = round(64 * WRIST_SHARE), np.abs(after - before).sum(axis=2) > 60
    corner = changed[:side, :side].copy()
    changed[:side, :side] = False
    assert corner.sum() > 8 and changed.sum() > 8
    reds = after[:side, :side].reshape(-1, 3)
    assert ((reds[:, 0] > 100) & (reds[:, 1] < 60)).sum() > 4


@pytest.mark.parametrize("colour", BLOCKS)
def test_the_named_block_is_the_one_that_counts(colour: str) -> None:
    task = f"pick-{colour}-block"
    assert {thing.name for thing in SPECS[task].objects} == {f"{other} block" for other in BLOCKS}
    assert SPECS[task].task.instruction == f"pick up the {colour} block"
    assert SPECS[task].target == f"{colour} block"


def test_things_of_other_shapes_look_unlike() -> None:
    """Each is seen in the front view, at the same place, and no two alike."""
    seen = {}
    for name in VEGETABLES:
        env = PandaEnv(f"pick-{name}", CONFIG)
        env.reset(seed=0)
        for other in ("blue block", "yellow block"):
            env.data.joint(other).qpos[:3] = [-0.5, 0.0, -1.0]
        env.data.joint(name).qpos[:2], env.data.joint(name).qpos[3:] = (
            [0.5, 0.1],
            [1.0, 0.0, 0.0, 0.0],
        )
        seen[name] = env.picture(64).astype(int)[28:, :]
    for one, first in seen.items():
        assert (np.abs(first - np.median(first, axis=(0, 1))).sum(axis=2) > 40).sum() >= 15, one
        for other, second in seen.items():
            assert one == other or (np.abs(first - second).sum(axis=2) > 40).sum() >= 8, (
                one,
                other,
            )


@pytest.mark.parametrize("name", VEGETABLES)
def test_shapes_are_irregular_and_fit_the_gripper(name: str) -> None:
    pieces = vegetables.MAKERS[name]()
    vertices = np.concatenate([mesh[0] for mesh, _ in pieces])
    widest = max(np.ptp(mesh[0][:, 1]) for mesh, _ in pieces)
    assert 0.02 < widest < 0.07 and np.ptp(vertices, axis=0).max() < 0.18
    assert len({rgb for _, rgb in pieces}) > 1 or name == "potato"
    asymmetry = np.abs(vertices.max(axis=0) + vertices.min(axis=0)).max()
    assert asymmetry > 0.001


# --- success


def test_a_thing_in_the_air_counts_only_in_the_gripper() -> None:
    env = blind("pick-carrot")
    env.reset(seed=0)
    env.data.joint("carrot").qpos[2] += 2 * LIFT
    assert not env.step(STILL)[2]


def test_a_block_above_the_tray_counts_only_when_it_is_let_go() -> None:
    env = blind("place-block")
    env.reset(seed=0)
    block = env.data.joint("red block")
    for height, expected in ((0.15, False), (0.03, True)):
        block.qpos[:3] = env.scene().goal.at + np.array([0.0, 0.0, height])
        block.qvel[:] = 0.0
        assert env.step(STILL)[2] is expected


@pytest.mark.parametrize(
    ("task", "joint", "goal"), [("button-press", "plunger", 0.012), ("drawer-open", "drawer", 0.12)]
)
def test_joints_must_pass_their_goal(task: str, joint: str, goal: float) -> None:
    env = blind(task)
    for share, expected in ((0.0, False), (0.8, False), (1.2, True)):
        env.reset(seed=0)
        env.data.joint(joint).qpos = share * goal
        env.model.opt.timestep = 1e-5  # before a spring moves it
        _, reward, terminated, truncated, info = env.step(STILL)
        env.model.opt.timestep = model_of(task).opt.timestep
        assert (reward == 1.0) is terminated is info["success"] is expected and not truncated


def test_tasks_that_share_a_scene_differ_in_more_than_their_colours() -> None:
    def target(task: str) -> np.ndarray:
        env = blind(task)
        env.reset(seed=5)
        return env.scene().target.at

    red, blue = target("pick-red-block"), target("pick-blue-block")
    assert np.linalg.norm(red - blue) > 0.01 and np.array_equal(red, target("pick-red-block"))


# --- experts


@pytest.mark.parametrize("task", SKILLS)
def test_a_disturbed_hand_comes_back(task: str) -> None:
    env = arms.blind("panda-sim", task, PATIENT)
    assert sum(play(env, seed, steps=PATIENT.horizon, noise=0.5)[1] for seed in range(4)) >= 3


def test_the_expert_answers_by_the_present_state_alone() -> None:
    one, other = blind("place-block"), blind("place-block")
    play(one, 3, steps=12)
    other.reset(seed=3)
    other.data.qpos[:] = one.data.qpos
    mujoco.mj_forward(other.model, other.data)
    np.testing.assert_allclose(one.expert_action(), other.expert_action(), atol=1e-6)
