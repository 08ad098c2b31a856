"""Meta-World's environments made light: physics, starts and successes are Meta-World's own, bit by
bit, whatever else is played with the same model."""

import copy
import warnings
from typing import Any

import numpy as np
import pytest

pytest.importorskip("metaworld")

from irevla.envs.metaworld.env import MetaWorldEnv
from irevla.envs.metaworld.stock import MOVED, expert, stock
from irevla.envs.metaworld.tasks import SPECS

READ = [*range(7), *range(11, 14), *range(36, 39)]  # of what experts see: all but rotations


def as_it_comes(ours: Any) -> Any:
    """Meta-World's own class, with the variant of `ours`: a model of its own, all rewards."""
    base: Any = type(ours).__mro__[1]

    class Theirs(base):  # type: ignore[misc]
        def _initialize_simulation(self) -> tuple[Any, Any]:
            import mujoco

            ours.take()
            model = copy.copy(ours.model)
            return model, mujoco.MjData(model)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = Theirs()
    theirs.__dict__.update(_freeze_rand_vec=False, seeded_rand_vec=True, _set_task_called=True)
    theirs._partially_observable = False
    vars(theirs).pop("sawyer_observation_space", None)
    theirs._random_reset_space = ours._random_reset_space
    return theirs


@pytest.mark.parametrize("task", SPECS)
def test_episodes_are_the_stock_environments_bit_by_bit(task: str) -> None:
    ours, beside = stock(task), stock(task)
    theirs = as_it_comes(ours)
    who = expert(task)
    for seed in (3, 4):
        noise = np.random.default_rng(seed)
        beside.seed(seed + 90)
        beside.reset()  # what others do with the same model must not matter
        ours.seed(seed)
        theirs.seed(seed)
        seen, _ = theirs.reset()
        np.testing.assert_array_equal(ours.reset()[0][READ], seen[READ])
        np.testing.assert_array_equal(ours._target_pos, theirs._target_pos)
        for _ in range(150):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                clean = who.get_action(seen)
            action = (clean + 0.3 * noise.standard_normal(4)).clip(-1, 1).astype(np.float32)
            beside.step(-action)
            mine, _, _, _, told = ours.step(action)
            seen, _, _, _, truth = theirs.step(action)
            np.testing.assert_array_equal(mine[READ], seen[READ])
            for name in ("qpos", "qvel", "mocap_pos", "xpos"):
                np.testing.assert_array_equal(getattr(ours.data, name), getattr(theirs.data, name))
            assert told["success"] == truth["success"]
            if truth["success"]:
                break
    ours.take()
    changed = arrays(ours.model)
    for name, value in arrays(theirs.model).items():
        np.testing.assert_array_equal(changed[name], value, err_msg=f"add it to MOVED? {MOVED}")


def arrays(model: Any) -> dict[str, np.ndarray]:
    found = {name: getattr(model, name) for name in dir(model) if not name.startswith("__")}
    return {name: value for name, value in found.items() if isinstance(value, np.ndarray)}


def test_the_environments_of_a_task_share_one_model() -> None:
    one, other = MetaWorldEnv("window-close"), MetaWorldEnv("window-close")
    assert one._inner.model is other._inner.model
    first, _ = one.reset(seed=1)
    second, _ = other.reset(seed=2)
    assert not np.array_equal(first, second)
    assert np.array_equal(one.render(), first), "a picture is of its own environment's scene"
    assert np.array_equal(other.render(), second)


def test_rewards_of_others_are_as_they_were() -> None:
    ours = stock("window-close")
    theirs = as_it_comes(ours)
    for each in (ours, theirs):
        each.seed(1)
        each.reset()
    action = np.zeros(4, np.float32)
    assert ours.step(action)[1] == 0.0
    assert theirs.step(action)[1] > 0.0
