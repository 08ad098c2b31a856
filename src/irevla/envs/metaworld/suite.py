"""The suite `metaworld`. Nothing heavy is imported before an environment is made."""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from irevla.config import EnvConfig
from irevla.envs.metaworld.install import check
from irevla.envs.metaworld.tasks import ACTION_DIM, CAMERA, CAMERA_POS, CONTROL_HZ, SPECS
from irevla.envs.suite import Suite, register

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


METAWORLD = Suite(
    name="metaworld",
    tasks=tuple(spec.task for spec in SPECS.values()),
    action_dim=ACTION_DIM,
    state=("hand x, m", "hand y, m", "hand z, m", "opening, 0 to 1"),
    fps=CONTROL_HZ // EnvConfig().action_repeat,
    make=_make,
    render_settings=_render_settings,
    check=check,
)
register(METAWORLD, "irevla.envs.metaworld.env:MetaWorldEnv")
