"""The suite `libero`. Nothing heavy is imported before an environment is made."""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from irevla.config import EnvConfig
from irevla.envs.arm_state import STATE
from irevla.envs.libero.install import check
from irevla.envs.libero.tasks import ACTION_DIM, CAMERA, CAMERAS, CONTROL_HZ, specs
from irevla.envs.suite import Suite, register

DRAWING = 1  # version of how images look; raise it when they change: old datasets are refused
SCENES = 1  # version of which scene a seed gives; likewise


def _make(task: str, config: EnvConfig) -> gym.Env[Any, Any]:
    from irevla.envs.libero.env import LiberoEnv

    return LiberoEnv(task, config)


def _render_settings(config: EnvConfig) -> Mapping[str, Any]:
    """Camera, size, version of the drawing, and what changes the dynamics: the action repeat."""
    return {
        "camera": CAMERA,
        "image_size": config.image_size,
        "action_repeat": config.action_repeat,
        "drawing": DRAWING,
        "scenes": SCENES,
    }


LIBERO = Suite(
    name="libero",
    tasks=tuple(spec.task for spec in specs().values()),
    action_dim=ACTION_DIM,
    state=STATE,
    cameras=tuple(CAMERAS),
    fps=CONTROL_HZ // EnvConfig().action_repeat,
    make=_make,
    render_settings=_render_settings,
    check=check,
)
register(LIBERO, "irevla.envs.libero.env:LiberoEnv")
