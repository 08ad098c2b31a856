from dataclasses import replace

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from irevla.config import EnvConfig
from irevla.envs.pointmass import POINTMASS, PointMassEnv
from irevla.envs.suite import TaskEnv, load_suite
from irevla.tasks import Category

CONFIG = EnvConfig(image_size=32, horizon=20)
NAMES = [task.name for task in POINTMASS.tasks]


def play_expert(env: PointMassEnv, *, seed: int) -> tuple[bool, int]:
    env.reset(seed=seed)
    for length in range(1, CONFIG.horizon + 1):
        _, _, terminated, truncated, info = env.step(env.expert_action())
        if terminated or truncated:
            return info["success"], length
    raise AssertionError("an episode must end by its horizon")


def test_suite_is_registered_with_the_three_categories() -> None:
    assert load_suite("pointmass") == replace(POINTMASS, source="pointmass")
    counts = {
        category: sum(task.category is category for task in POINTMASS.tasks)
        for category in Category
    }
    assert counts == dict(zip(Category, (4, 2, 2, 0), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_passes_gymnasiums_checker(name: str) -> None:
    env = POINTMASS.make(name, CONFIG)
    assert isinstance(env, TaskEnv)
    check_env(env, skip_render_check=True)


@pytest.mark.parametrize("name", NAMES)
def test_expert_solves_every_start(name: str) -> None:
    results = [play_expert(POINTMASS.make(name, CONFIG), seed=seed) for seed in range(50)]
    assert all(success for success, _ in results)
    assert max(length for _, length in results) <= 12


def test_doing_nothing_is_truncated_at_the_horizon_without_reward() -> None:
    env = POINTMASS.make("left-disc", CONFIG)
    env.reset(seed=0)
    steps = [env.step(np.zeros(2, np.float32)) for _ in range(CONFIG.horizon)]
    assert [step[3] for step in steps] == [False] * 19 + [True]
    assert not any(step[2] or step[1] or step[4]["success"] for step in steps)


def test_success_terminates_with_reward_one_even_at_the_horizon() -> None:
    env = POINTMASS.make(
        "left-disc",
        EnvConfig(
            image_size=32, horizon=play_expert(POINTMASS.make("left-disc", CONFIG), seed=3)[1]
        ),
    )
    env.reset(seed=3)
    steps = [env.step(env.expert_action()) for _ in range(env.config.horizon)]
    assert steps[-1][1:4] == (1.0, True, False)
    assert all(step[1:4] == (0.0, False, False) for step in steps[:-1])


def test_only_language_tells_left_from_right() -> None:
    left, right = POINTMASS.make("left-disc", CONFIG), POINTMASS.make("right-disc", CONFIG)
    for env in (left, right):  # the same draws in both; one seed would give each task its own
        env.np_random = np.random.default_rng(0)
    assert np.array_equal(left.reset()[0], right.reset()[0])
    assert left.expert_action()[0] < right.expert_action()[0] - 0.5
    assert left.task.instruction != right.task.instruction


def test_variants_share_the_instruction_and_change_the_image() -> None:
    expert, new = POINTMASS.make("left-disc", CONFIG), POINTMASS.make("left-disc-new", CONFIG)
    assert expert.task.instruction == new.task.instruction
    colours = [
        {tuple(colour) for colour in env.reset(seed=0)[0].reshape(-1, 3).tolist()}
        for env in (expert, new)
    ]
    assert len(colours[0] ^ colours[1]) == 2


def test_draw_off_gives_blank_images_and_the_same_dynamics() -> None:
    seen, blind = POINTMASS.make("left-disc", CONFIG), POINTMASS.make("left-disc", CONFIG)
    blind.draw = False
    assert seen.reset(seed=5)[0].any() and not blind.reset(seed=5)[0].any()
    assert np.array_equal(seen.expert_action(), blind.expert_action())


def test_objects_at_the_edge_are_drawn_in_place() -> None:
    env = POINTMASS.make("left-disc", CONFIG)
    env.reset(seed=0)
    env._other, env._dot, env._target = (
        np.array([0.9, 0.9]),
        np.array([0.0, 0.0]),
        np.array([-1.0, -1.0]),
    )
    image = env.picture(64)
    assert tuple(image[63, 0]) == (220, 50, 40)  # the target's centre: bottom left
    assert tuple(image[32, 32]) == (255, 255, 255)
    assert tuple(image[3, 60]) == (220, 50, 40)
