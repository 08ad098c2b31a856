"""The suite `panda-sim`. Nothing heavy is imported before an environment is made."""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from irevla.config import EnvConfig
from irevla.envs.panda.tasks import SPECS
from irevla.envs.suite import Suite, check_packages, register

# The front camera, in front of the arm: m and degrees.
CAMERA_POS = (1.25, 0.0, 0.72)
LOOK_AT = (0.43, -0.02, 0.08)
FOVY = 34.0
# The wrist camera, in the frame of the last link.
WRIST_POS = (0.06, -0.06, 0.09)
WRIST_LOOK_AT = (0.012, -0.012, 0.30)
WRIST_FOVY = 58.0
WRIST_SHARE = 0.375  # of the image's side, in its top left corner
CONTROL_HZ = 20  # control steps per second of simulated time
ACTION_DIM = 7
REACH = 0.04  # m that a full action moves the hand; the real arm's is the same
TURN = 0.25  # rad that it turns the hand; likewise
DRAWING = 2  # version of how images look; raise it when they change: old datasets are refused
DYNAMICS = 1  # version of how actions act; likewise


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


def _check() -> None:
    check_packages(
        "the Panda on a table",
        "gymnasium_robotics",
        "mujoco",
        "fast_simplification",
        extra="panda",
    )
    from irevla.envs import render

    render.check_gl()


PANDA_SIM = Suite(
    name="panda-sim",
    tasks=tuple(spec.task for spec in SPECS.values()),
    action_dim=ACTION_DIM,
    fps=CONTROL_HZ // EnvConfig().action_repeat,
    make=_make,
    render_settings=_render_settings,
    check=_check,
)
register(PANDA_SIM, "irevla.envs.panda.env:PandaEnv")
