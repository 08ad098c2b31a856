"""The suite `kitchen`. Nothing heavy is imported before an environment is made."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from irevla.config import EnvConfig
from irevla.envs.base import Task, check_packages
from irevla.envs.kitchen.tasks import SPECS

if TYPE_CHECKING:
    from irevla.types import Episode  # which imports torch, and workers have none

CAMERA_POS, LOOK_AT = (-0.33, -0.93, 2.87), (-0.33, 0.58, 2.2)  # m
CONTROL_HZ = 25  # control steps per second of simulated time
ACTIONS = {"end-effector": 7, "joint-velocity": 9}  # control -> dimensions
DRAWING = (
    1  # version of how pictures look; raise it when they change, so that old datasets are refused
)
DYNAMICS = 1  # version of how actions act; likewise


class Kitchen:
    """The suite `kitchen`."""

    name = "kitchen"
    tasks: tuple[Task, ...] = tuple(spec.task for spec in SPECS.values())
    action_dim = ACTIONS["end-effector"]
    fps = CONTROL_HZ // EnvConfig().action_repeat

    def make(self, task: str, config: EnvConfig) -> gym.Env[Any, Any]:
        """A new environment of `task`. Raises `UserError` for a name that does not exist, and where
        the kitchen cannot be built.
        """
        from irevla.envs.kitchen.env import KitchenEnv

        return KitchenEnv(task, config)

    def render_settings(self, config: EnvConfig) -> Mapping[str, Any]:
        """Camera, size, version of the drawing, and what changes the dynamics."""
        return {
            "camera_pos": list(CAMERA_POS),
            "look_at": list(LOOK_AT),
            "image_size": config.image_size,
            "action_repeat": config.action_repeat,
            "drawing": DRAWING,
            "dynamics": DYNAMICS,
        }

    def demonstrations(
        self, path: Path, tasks: Sequence[str], config: EnvConfig, *, most: int
    ) -> "Iterator[Episode]":
        """Human demonstrations from Minari's D4RL kitchen sets and R3M's pickles (`humans.py`)."""
        from irevla.envs.kitchen import humans

        return humans.demonstrations(path, tasks, config, most=most)

    def check(self) -> None:
        """Raise `UserError` with the remedy where the kitchen's models, MuJoCo or a GL library is
        missing."""
        check_packages(
            "Franka Kitchen", "gymnasium_robotics", "mujoco", "fast_simplification", extra="kitchen"
        )
        from irevla.envs import render

        render.check_gl()


KITCHEN = Kitchen()

for _name in SPECS:
    gym.register(
        f"irevla/kitchen-{_name}-v0",
        entry_point="irevla.envs.kitchen.env:KitchenEnv",
        kwargs={"task": _name},
    )
