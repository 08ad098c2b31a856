"""The suite `panda-sim`. Nothing heavy is imported before an environment is made."""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from irevla.config import EnvConfig
from irevla.envs.base import Task, check_packages
from irevla.envs.panda.tasks import SPECS

CAMERA_POS, LOOK_AT, FOVY = (
    (1.25, 0.0, 0.72),
    (0.43, -0.02, 0.08),
    34.0,
)  # m and degrees: in front of the arm
WRIST_POS, WRIST_LOOK_AT, WRIST_FOVY = (
    (0.06, -0.06, 0.09),
    (0.012, -0.012, 0.30),
    58.0,
)  # in the last link
WRIST_SHARE = 0.375  # of the picture's side, in its top left corner
CONTROL_HZ = 20  # control steps per second of simulated time
ACTION_DIM = 7
REACH, TURN = 0.04, 0.25  # m and rad of a full action; the real arm's are the same
DRAWING = (
    2  # version of how pictures look; raise it when they change, so that old datasets are refused
)
DYNAMICS = 1  # version of how actions act; likewise


class PandaSim:
    """The suite `panda-sim`."""

    name = "panda-sim"
    tasks: tuple[Task, ...] = tuple(spec.task for spec in SPECS.values())
    action_dim = ACTION_DIM
    fps = CONTROL_HZ // EnvConfig().action_repeat

    def make(self, task: str, config: EnvConfig) -> gym.Env[Any, Any]:
        """A new environment of `task`. Raises `UserError` for a name that does not exist, and where
        the arm cannot be built.
        """
        from irevla.envs.panda.env import PandaEnv

        return PandaEnv(task, config)

    def render_settings(self, config: EnvConfig) -> Mapping[str, Any]:
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

    def check(self) -> None:
        """Raise `UserError` with the remedy where the arm's model, MuJoCo or a GL library is
        missing."""
        check_packages(
            "the Panda on a table",
            "gymnasium_robotics",
            "mujoco",
            "fast_simplification",
            extra="panda",
        )
        from irevla.envs import render

        render.check_gl()


PANDA_SIM = PandaSim()

for _name in SPECS:
    gym.register(
        f"irevla/panda-sim-{_name}-v0",
        entry_point="irevla.envs.panda.env:PandaEnv",
        kwargs={"task": _name},
    )
