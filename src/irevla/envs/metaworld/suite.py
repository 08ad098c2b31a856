"""The suite `metaworld`. Nothing heavy is imported before an environment is made."""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from irevla.config import EnvConfig
from irevla.envs.metaworld.tasks import SPECS
from irevla.envs.suite import Suite, check_packages, register

CAMERA = "corner2"
CAMERA_POS = (0.75, 0.075, 0.7)  # m: nearer than stock, so that objects fill a small image
CONTROL_HZ = 80  # stock control steps per second of simulated time
ACTION_DIM = 4
DRAWING = 1  # version of how images look; raise it when they change: old datasets are refused
SCENES = 2  # version of which scene a seed gives; likewise


def _make(task: str, config: EnvConfig) -> gym.Env[Any, Any]:
    from irevla.envs.metaworld.env import MetaWorldEnv

    return MetaWorldEnv(task, config)


def _render_settings(config: EnvConfig) -> Mapping[str, Any]:
    """Camera, size, version of the drawing, and what changes the dynamics: the action repeat."""
    return {
        "camera": CAMERA,
        "camera_pos": list(CAMERA_POS),
        "image_size": config.image_size,
        "action_repeat": config.action_repeat,
        "drawing": DRAWING,
        "scenes": SCENES,
    }


def _check() -> None:
    check_packages("Meta-World", "metaworld", "mujoco", "fast_simplification", extra="metaworld")
    from irevla.envs import render

    render.check_gl()


METAWORLD = Suite(
    name="metaworld",
    tasks=tuple(spec.task for spec in SPECS.values()),
    action_dim=ACTION_DIM,
    fps=CONTROL_HZ // EnvConfig().action_repeat,
    make=_make,
    render_settings=_render_settings,
    check=_check,
)
register(METAWORLD, "irevla.envs.metaworld.env:MetaWorldEnv")
