"""Any gymnasium environment as a suite: `--suite gym:FILE.yaml` (docs/your-data.md)."""

import importlib
import math
from collections.abc import Mapping
from functools import cache, partial
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from irevla.config import EnvConfig
from irevla.envs.gym.env import Expert, GymEnv, make_env, theirs
from irevla.envs.gym.settings import FASTEST, RENDER, SLOWEST, GymSettings, read_settings
from irevla.envs.gym.spaces import action_range, check_image_space, state_names
from irevla.envs.suite import ActionRange, Suite
from irevla.errors import UserError


def gym_suite(name: str) -> Suite:
    """Return the suite that the YAML file `name` describes. Raises `UserError` for what cannot be.

    An environment is made once, to see its spaces; nothing is played.
    """
    if not name.endswith((".yaml", ".yml")):
        raise UserError(
            f"gym:{name} names no YAML file: write what is the image, the instruction and success "
            f"(docs/your-data.md), with id: {name}, and say --suite gym:FILE.yaml"
        )
    settings = read_settings(Path(name))
    tasks = settings.task_list()
    actions, state, rate = _spaces(settings, tasks[0].name)
    expert = _expert(settings)
    control_hz = settings.fps or rate
    if not SLOWEST <= control_hz <= FASTEST:
        says = "does not say how many steps a second has"
        if control_hz:
            says = f"says that a second has {control_hz:g} steps"
        raise UserError(f"{settings.id} {says}: set fps in {name}")
    return Suite(
        name=settings.id,
        tasks=tasks,
        action_dim=len(actions.low),
        fps=max(1, round(control_hz / EnvConfig().action_repeat)),
        control_hz=control_hz,
        make=partial(_make, settings, actions, control_hz, expert),
        render_settings=partial(_render_settings, settings),
        check=cache(partial(_check_tasks, settings)),
        scripted_expert=expert is not None,
        action_range=actions,
        state=state,
        cameras=tuple(settings.cameras),
    )


def _spaces(settings: GymSettings, task: str) -> tuple[ActionRange, tuple[str, ...], float]:
    """Return the actions of a task, what the robot says of itself, and its steps per second (0: not
    said).

    Raises `UserError` where it cannot be made, has no such image or state, or takes other actions
    than we give.
    """
    env = make_env(settings, task)
    with theirs(f"{settings.id} is no environment of gymnasium", "mend it"):
        for path in settings.images:
            if path != RENDER:
                check_image_space(env.observation_space, path, settings)
        actions = action_range(env.action_space, settings)
        state = state_names(env.observation_space, settings)
        told = (env.metadata or {}).get("render_fps")
        env.close()
    rate = float(told) if isinstance(told, Real) and math.isfinite(told) else 0.0
    return actions, state, rate


def _check_tasks(settings: GymSettings) -> None:
    """Raise `UserError` unless every task can be made, and takes the same actions."""
    first, *others = settings.tasks
    actions, state, _ = _spaces(settings, first)
    for task in others:
        found, told, _ = _spaces(settings, task)
        if told != state:
            raise UserError(f"{settings.id}: {task} has another state than {first}; leave it out")
        if not (
            np.array_equal(found.low, actions.low) and np.array_equal(found.high, actions.high)
        ):
            raise UserError(
                f"{settings.id}: {task} takes other actions than {first}; say low and high in the "
                "YAML file, or leave it out"
            )


def _expert(settings: GymSettings) -> Expert | None:
    """Return the scripted expert that the settings name. Raises `UserError` where there is none."""
    if not settings.expert:
        return None
    module, _, name = settings.expert.partition(":")
    remedy = "write module:function, with its folder on PYTHONPATH"
    with theirs(f"the expert of {settings.id}, {settings.expert!r}, cannot be imported", remedy):
        found: Expert = getattr(importlib.import_module(module), name)
        if not callable(found):
            raise TypeError(f"{name} is {found!r:.60}, and no function")
    return found


def _make(
    settings: GymSettings,
    actions: ActionRange,
    control_hz: float,
    expert: Expert | None,
    task: str,
    config: EnvConfig,
) -> GymEnv:
    (found,) = [each for each in settings.task_list() if each.name == task]
    return GymEnv(found, config, settings, actions, control_hz, expert)


def _render_settings(settings: GymSettings, config: EnvConfig) -> Mapping[str, Any]:
    return {
        "settings": settings.plain(),
        "image_size": config.image_size,
        "action_repeat": config.action_repeat,
    }
