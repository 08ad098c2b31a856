"""What both suites with a Panda must do: episodes and pictures settled by their seed, a hand that
goes where it is told and does not sink, experts that solve every task, and tasks that nobody solves
blind."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("gymnasium_robotics")

from arms import PATIENT, STILL, SUITES, TASKS, blind, demonstration, play, replay

from irevla.config import EnvConfig
from irevla.envs.suite import load_suite

PLAIN = [
    ("kitchen", "knob-on"),
    ("panda-sim", "button-press"),
]  # where nothing is in the way of the hand
SWEPT = {"slide the door open": 0.45}  # a hand that comes from far away sweeps the whole range
DISTURBED = {"panda-sim": 45}  # successes of 50 in spite of bursts of noise


@pytest.mark.parametrize(
    ("suite", "task"),
    [
        ("kitchen", "microwave-open"),
        ("kitchen", "slide-door-open-red"),
        ("panda-sim", "pick-banana"),
        ("panda-sim", "cable-route"),
    ],
)
def test_the_seed_settles_the_episode(suite: str, task: str) -> None:
    fresh, used = blind(suite, task), blind(suite, task)
    first, _ = play(fresh, 7, steps=15, noise=0.3)
    play(used, 1, steps=30)
    assert np.array_equal(play(used, 7, steps=15, noise=0.3)[0], first)
    assert not np.array_equal(play(used, 8, steps=15, noise=0.3)[0], first)


@pytest.mark.parametrize(
    ("suite", "task", "before"),
    [("kitchen", "knob-on", "left-door-open"), ("panda-sim", "place-block", "drawer-open")],
)
def test_the_seed_settles_the_picture_in_another_process(
    suite: str, task: str, before: str
) -> None:
    code = (
        "import hashlib, sys; from irevla.envs.suite import load_suite; from irevla.config import "
        "EnvConfig; "
        f"o, _ = load_suite({suite!r}).make({task!r}, EnvConfig()).reset(seed=5); "
        "print(hashlib.sha256(o.tobytes()).hexdigest()); "
        "assert not {'torch', 'gymnasium_robotics'} & sys.modules.keys()"  # a worker has neither
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    other, env = (load_suite(suite).make(name, EnvConfig()) for name in (before, task))
    other.reset(seed=1)  # shares the process's GL context, and must leave no trace
    play(env, 1, steps=5)
    picture, _ = env.reset(seed=5)
    assert hashlib.sha256(picture.tobytes()).hexdigest() == answer
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50


@pytest.mark.parametrize(("suite", "task"), PLAIN)
def test_the_hand_does_not_sink(suite: str, task: str) -> None:
    env = blind(suite, task)
    env.reset(seed=0)
    before = env.arm.position
    for _ in range(25):
        env.step(STILL)
    assert np.linalg.norm(env.arm.position - before) < 0.01


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("suite", "task"), PLAIN)
def test_an_action_moves_the_hand_along_its_axis(suite: str, task: str, axis: int) -> None:
    env = blind(suite, task)
    env.reset(seed=0)
    before = env.arm.position
    action = STILL.copy()
    action[axis] = 0.5
    for _ in range(4):
        env.step(action)
    moved = env.arm.position - before
    assert 0.05 < moved[axis] < 0.16 and np.abs(np.delete(moved, axis)).max() < 0.03


@pytest.mark.parametrize(("suite", "task"), PLAIN)
def test_the_gripper_shuts_and_opens(suite: str, task: str) -> None:
    env = blind(suite, task)
    env.reset(seed=0)
    for command, width in ((1.0, 0.0), (-1.0, 0.04)):
        for _ in range(12):
            env.step(np.array([0, 0, 0, 0, 0, 0, command], np.float32))
        np.testing.assert_allclose(env.data.qpos[7:9], width, atol=0.004)


@pytest.mark.parametrize(("suite", "task"), PLAIN)
def test_an_episode_is_truncated_at_the_horizon_and_never_also_terminated(
    suite: str, task: str
) -> None:
    env = blind(suite, task, EnvConfig(horizon=3))
    env.reset(seed=0)
    assert [env.step(STILL)[2:4] for _ in range(3)] == [
        (False, False),
        (False, False),
        (False, True),
    ]


@pytest.mark.parametrize(("suite", "task"), [("kitchen", "knob-on"), ("panda-sim", "drawer-open")])
def test_one_environment_does_not_change_the_model_of_another(suite: str, task: str) -> None:
    untouched, env = blind(suite, task), blind(suite, task)
    before = untouched.model.body_pos.copy()
    env.reset(seed=9)
    assert np.array_equal(untouched.model.body_pos, before) and not np.array_equal(
        env.model.body_pos, before
    )


@pytest.mark.parametrize("suite", SUITES)
def test_settings_that_change_the_picture_or_the_dynamics_are_recorded(suite: str) -> None:
    settings = load_suite(suite).render_settings(EnvConfig(action_repeat=3))
    assert (
        settings["action_repeat"] == 3
        and {"camera_pos", "image_size", "drawing", "dynamics"} <= settings.keys()
    )


@pytest.mark.parametrize(("suite", "task"), TASKS)
def test_the_expert_solves_every_task(suite: str, task: str) -> None:
    env = blind(suite, task)
    assert sum(play(env, seed)[1] for seed in (1, 2, 3)) >= 2


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("suite", "task"), TASKS)
def test_the_expert_solves_nearly_all_episodes_and_a_blind_one_does_not(
    suite: str, task: str
) -> None:
    """Prints the tables of docs/kitchen.md and docs/panda-sim.md (-s).

    Each of 50 demonstrations is replayed once: one that is lucky decides nothing.
    """
    env, lengths = blind(suite, task), []
    for seed in range(50):
        states, success = play(env, seed)
        lengths += [len(states)] if success else []
    row = [
        task,
        env.task.category.value,
        env.task.instruction,
        f"{len(lengths)}/50",
        f"{np.mean(lengths):.0f}",
    ]
    patient, disturbed = blind(suite, task, PATIENT), 0
    if suite in DISTURBED:
        disturbed = sum(
            play(patient, seed, steps=PATIENT.horizon, noise=0.5)[1] for seed in range(50)
        )
    row += [f"{disturbed}/50"] if suite in DISTURBED else []
    shown = [seed for seed in range(1000, 1060) if play(env, seed)[1]][:50]
    replayed = sum(replay(env, seed, demonstration(env, each)) for seed, each in enumerate(shown))
    row.append(f"{replayed}/50")
    print(f"\n| {' | '.join(row)} |")
    assert len(lengths) >= 48 and disturbed >= DISTURBED.get(suite, 0)
    assert replayed <= 50 * SWEPT.get(env.task.instruction, 0.35)
