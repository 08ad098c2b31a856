"""The suite `panda-sim`. Nothing heavy is imported before an environment is made."""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from irevla.config import EnvConfig
from irevla.envs.arm_state import STATE
from irevla.envs.panda.install import check
from irevla.envs.panda.tasks import (
    ACTION_DIM,
    CAMERA_POS,
    CONTROL_HZ,
    LOOK_AT,
    REACH,
    SPECS,
    TURN,
    WRIST_POS,
    WRIST_SHARE,
)
from irevla.envs.suite import ActionRange, Suite, register

DRAWING = 2  # version of how images look; raise it when they change: old datasets are refused
DYNAMICS = 1  # version of how actions act; likewise

_MOST = np.array([REACH, REACH, REACH, TURN, TURN, TURN, 1.0], np.float32)
# Of datasets of others: displacements in m and rad, and the fingers from -1 (open) to 1 (closed).
ACTIONS = ActionRange(-_MOST, _MOST, displacements=6)


def _make(task: str, config: EnvConfig) -> gym.Env[Any, Any]:
    from irevla.envs.panda.env import PandaEnv

    return PandaEnv(task, config)


def _render_settings(config: EnvConfig) -> Mapping[str, Any]:
    """Cameras, size, version of the drawing, and what changes the dynamics."""
    return {
        "camera_pos": list(CAMERA_POS),
        "look_at": list(LOOK_AT),
        "wrist_pos": list(WRIST_POS),
        "wrist_share": WRIST_SHARE,
        "image_size": config.image_size,
        "action_repeat": config.action_repeat,
        "drawing": DRAWING,
        "dynamics": DYNAMICS,
    }


PANDA_SIM = Suite(
    name="panda-sim",
    tasks=tuple(spec.task for spec in SPECS.values()),
    action_dim=ACTION_DIM,
    state=STATE,
    cameras=("front", "wrist"),
    fps=CONTROL_HZ // EnvConfig().action_repeat,
    make=_make,
    render_settings=_render_settings,
    action_range=ACTIONS,
    check=check,
)
register(PANDA_SIM, "irevla.envs.panda.env:PandaEnv")
