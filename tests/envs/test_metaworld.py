"""The Meta-World suite: episodes settled by their seed, variants that really differ."""

import hashlib
import math
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

pytest.importorskip("metaworld")

from irevla.config import EnvConfig
from irevla.envs.metaworld.env import MetaWorldEnv
from irevla.envs.metaworld.stock import stock
from irevla.envs.metaworld.suite import METAWORLD
from irevla.envs.metaworld.tasks import EXPERT, RL, SPECS, TEST, UNSEEN, Variant
from irevla.envs.suite import TaskEnv, load_suite
from irevla.errors import UserError
from irevla.tasks import Category


def play(env: MetaWorldEnv, seed: int, steps: int = 12) -> np.ndarray:
    """The states (qpos, qvel, places of all bodies and of the goal) of an episode of noisy expert
    actions."""
    env.reset(seed=seed)
    noise = np.random.default_rng(0)
    states = []
    for _ in range(steps):
        env.step((env.expert_action() + 0.3 * noise.standard_normal(4)).astype(np.float32))
        inner = env._inner
        states.append(
            np.concatenate(
                [inner.data.qpos, inner.data.qvel, inner.data.xpos.ravel(), inner._target_pos]
            )
        )
    return np.array(states)


@pytest.mark.parametrize("task", ["coffee-push", "plate-slide-side", "dial-turn", "door-close"])
def test_the_seed_settles_the_episode(task: str) -> None:
    fresh, used = MetaWorldEnv(task), MetaWorldEnv(task)
    fresh.draw = used.draw = False
    first = play(fresh, seed=7)
    play(used, seed=1, steps=50)
    play(used, seed=2, steps=30)
    assert np.array_equal(play(used, seed=7), first)
    assert not np.array_equal(play(used, seed=8), first)


def test_the_seed_settles_the_image_in_another_process() -> None:
    code = (
        "import hashlib; from irevla.envs.metaworld.env import MetaWorldEnv as E; "
        "o, _ = E('faucet-open').reset(seed=5); print(hashlib.sha256(o.tobytes()).hexdigest())"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    env = MetaWorldEnv("faucet-open")
    play(env, seed=1)
    image, _ = env.reset(seed=5)
    assert hashlib.sha256(image.tobytes()).hexdigest() == answer


def test_without_a_seed_episodes_differ_but_repeat_from_the_last_seed() -> None:
    env = MetaWorldEnv("window-open")
    env.draw = False

    def starts() -> list[list[float]]:
        env.reset(seed=3)
        found = []
        for _ in range(2):
            env.reset()
            found.append(env._inner.model.body("window").pos.tolist())
        return found

    first = starts()
    assert first[0] != first[1]
    assert starts() == first


def test_gymnasiums_checker_passes_and_ids_are_registered() -> None:
    env = gym.make("irevla/metaworld-window-close-new-v0", render_mode="rgb_array").unwrapped
    assert isinstance(env, TaskEnv)
    check_env(env, skip_render_check=True)
    assert all(f"irevla/metaworld-{name}-v0" in gym.registry for name in SPECS)


def test_success_terminates_with_reward_1_and_nothing_else_does() -> None:
    env = MetaWorldEnv("handle-press")
    env.draw = False
    env.reset(seed=0)
    for _ in range(75):
        _, reward, terminated, truncated, info = env.step(env.expert_action())
        assert (reward, info["success"]) == (float(terminated), terminated)
        assert not truncated
        if terminated:
            break
    assert terminated


def test_the_horizon_truncates_without_terminating() -> None:
    env = METAWORLD.make("door-open", EnvConfig(horizon=3, action_repeat=1))
    env.reset(seed=0)
    ends = [env.step(np.zeros(4, np.float32))[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]


def test_success_on_the_last_decision_is_not_a_truncation() -> None:
    env = MetaWorldEnv("handle-press")
    env.draw = False
    env.reset(seed=0)
    needed = next(t + 1 for t in range(75) if env.step(env.expert_action())[2])
    short = MetaWorldEnv("handle-press", EnvConfig(horizon=needed))
    short.draw = False
    short.reset(seed=0)
    ends = [short.step(short.expert_action())[2:4] for _ in range(needed)]
    assert ends[-1] == (True, False)


def test_actions_are_clipped() -> None:
    plain, wild = MetaWorldEnv("reach-wall"), MetaWorldEnv("reach-wall")
    for env, action in ((plain, 1.0), (wild, 9.0)):
        env.draw = False
        env.reset(seed=0)
        env.step(np.full(4, action, np.float32))
    assert np.array_equal(plain._inner.data.qpos, wild._inner.data.qpos)


def test_blank_images_when_nobody_looks_and_videos_all_the_same() -> None:
    env = MetaWorldEnv("drawer-open")
    env.draw = False
    image, _ = env.reset(seed=0)
    assert image.shape == (64, 64, 3) and not image.any()
    assert len(np.unique(env.picture(128).reshape(-1, 3), axis=0)) > 50


def test_the_suite_holds_the_papers_three_categories() -> None:
    suite = load_suite("metaworld")
    names = {
        category: [t.name for t in suite.tasks if t.category == category] for category in Category
    }
    assert [len(names[category]) for category in Category] == [25, 5, 10, 4]
    assert len({t.name for t in suite.tasks}) == 44
    skills = {name.removesuffix("-new") for name in names[Category.RL]}
    assert skills == {"button-press", "drawer-open", "door-open", "window-open", "window-close"}
    for name, spec in SPECS.items():
        assert spec.task.instruction == EXPERT[spec.skill]
        assert (spec.variant == Variant()) == (name in EXPERT)
    suite.check()


@pytest.mark.parametrize("name", [*RL, *UNSEEN, *TEST])
def test_variants_differ_in_colour_shape_and_place(name: str) -> None:
    spec = SPECS[name]
    varied, plain = stock(name), stock(spec.skill)
    for material, rgb in spec.variant.recolour.items():
        assert not np.allclose(plain.model.material(material).rgba[:3], rgb, atol=0.05)
        assert np.allclose(varied.model.material(material).rgba[:3], rgb, atol=1e-6)
    handle = spec.variant.handle
    assert handle is not None
    collides = [e.model.geom_contype | e.model.geom_conaffinity for e in (varied, plain)]
    sizes = [
        sorted(
            map(
                tuple,
                e.model.geom_size[
                    (e.model.geom_bodyid == e.model.body(handle.body).id) & (c > 0)
                ].tolist(),
            )
        )
        for e, c in zip((varied, plain), collides, strict=True)
    ]
    assert sizes[0] != sizes[1]  # physics, not the picture alone
    new, old = varied._random_reset_space, plain._random_reset_space
    shared = np.maximum(np.minimum(new.high, old.high) - np.maximum(new.low, old.low), 0)[:3]
    share = math.prod(
        s / w for s, w in zip(shared, (new.high - new.low)[:3], strict=True) if w > 0.01
    )
    assert share < 1 / 3, "at least two starts in three are none of the expert's"


def test_variants_are_drawn_as_they_collide() -> None:
    model = stock("window-close-new").model
    handle = SPECS["window-close-new"].variant.handle
    assert handle is not None
    of_body = model.geom_bodyid == model.body(handle.body).id
    drawn = np.flatnonzero(
        of_body & np.all(np.isclose(model.geom_rgba, [*handle.colour, 1.0]), axis=1)
    )
    solid = np.flatnonzero(of_body & (model.geom_contype > 0))
    poses = {
        tuple(np.concatenate([model.geom_size[g], model.geom_pos[g], model.geom_quat[g]]).round(6))
        for g in solid
    }
    assert len(drawn) == 5
    for g in drawn:
        assert (
            tuple(
                np.concatenate([model.geom_size[g], model.geom_pos[g], model.geom_quat[g]]).round(6)
            )
            in poses
        )


def test_bad_input_is_told_with_the_remedy() -> None:
    with pytest.raises(UserError, match="did you mean 'door-open'"):
        METAWORLD.make("door-opne", EnvConfig())
    with pytest.raises(UserError, match="500 control steps"):
        METAWORLD.make("door-open", EnvConfig(horizon=300))


def test_render_settings_tell_images_apart() -> None:
    assert METAWORLD.render_settings(EnvConfig()) != METAWORLD.render_settings(
        EnvConfig(image_size=96)
    )
    assert METAWORLD.render_settings(EnvConfig()) != METAWORLD.render_settings(
        EnvConfig(action_repeat=1)
    )
    assert METAWORLD.render_settings(EnvConfig()) == METAWORLD.render_settings(EnvConfig(workers=1))


def demonstration(env: MetaWorldEnv, seed: int) -> list[np.ndarray]:
    """What the scripted expert did until it had solved an episode; empty where it did not."""
    env.reset(seed=seed)
    actions = []
    for _ in range(env.config.horizon):
        actions.append(env.expert_action())
        if env.step(actions[-1])[2]:
            return actions
    return []


def replay(env: MetaWorldEnv, seed: int, actions: list[np.ndarray]) -> bool:
    """Whether these actions, the last one held, solve an episode."""
    env.reset(seed=seed)
    last = len(actions) - 1
    return any(env.step(actions[min(t, last)])[2] for t in range(env.config.horizon))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_scripted_expert_solves_every_task_and_blindness_no_variant() -> None:
    """Prints the table of docs/metaworld.md (run with -s)."""
    solved, blind = {}, {}
    for name, spec in SPECS.items():
        env = MetaWorldEnv(name)
        env.draw = False
        lengths = [len(demonstration(env, seed)) for seed in range(50)]
        lengths = [length for length in lengths if length]
        shown = [demonstration(env, seed) for seed in range(1000, 1060)]
        shown = [actions for actions in shown if actions]  # each is replayed once
        replayed = [replay(env, seed, shown[seed]) for seed in range(50)]
        solved[name], blind[name] = len(lengths) / 50, sum(replayed) / 50
        row = [
            name,
            spec.task.category.value,
            spec.task.instruction,
            f"{len(lengths)}/50",
            f"{np.mean(lengths):.0f}",
            f"{sum(replayed)}/50",
        ]
        print("|", " | ".join(row), "|", flush=True)
    new = [name for name, spec in SPECS.items() if spec.task.category is not Category.EXPERT]
    assert {name: rate for name, rate in solved.items() if rate < 0.9} == {}
    assert {name: solved[name] for name in new if solved[name] < 0.95} == {}
    assert {name: blind[name] for name in new if blind[name] > 0.35} == {}
