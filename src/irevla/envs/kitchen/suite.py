"""The suite `kitchen`. Nothing heavy is imported before an environment is made."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from irevla.config import EnvConfig
from irevla.envs.arm_state import STATE
from irevla.envs.kitchen.install import check
from irevla.envs.kitchen.tasks import ACTION_DIM, CAMERA_POS, CONTROL_HZ, LOOK_AT, SPECS
from irevla.envs.suite import Suite, register

if TYPE_CHECKING:
    from irevla.types import Episode  # which imports torch, and workers have none

DRAWING = 1  # version of how images look; raise it when they change: old datasets are refused
DYNAMICS = 1  # version of how actions act; likewise
SCENES = 2  # version of which scene a seed gives; likewise


def _make(task: str, config: EnvConfig) -> gym.Env[Any, Any]:
    from irevla.envs.kitchen.env import KitchenEnv

    return KitchenEnv(task, config)


def _render_settings(config: EnvConfig) -> Mapping[str, Any]:
    """Camera, size, version of the drawing, and what changes the dynamics."""
    return {
        "camera_pos": list(CAMERA_POS),
        "look_at": list(LOOK_AT),
        "image_size": config.image_size,
        "action_repeat": config.action_repeat,
        "drawing": DRAWING,
        "dynamics": DYNAMICS,
        "scenes": SCENES,
    }


def _demonstrations(
    path: Path, tasks: Sequence[str], config: EnvConfig, most: int
) -> "Iterator[Episode]":
    """Yield those of people, from Minari's D4RL kitchen sets and R3M's pickles (`humans.py`)."""
    from irevla.envs.kitchen import humans

    return humans.demonstrations(path, tasks, config, most)


KITCHEN = Suite(
    name="kitchen",
    tasks=tuple(spec.task for spec in SPECS.values()),
    action_dim=ACTION_DIM,
    state=STATE,
    fps=CONTROL_HZ // EnvConfig().action_repeat,
    make=_make,
    render_settings=_render_settings,
    check=check,
    demonstrations=_demonstrations,
)
register(KITCHEN, "irevla.envs.kitchen.env:KitchenEnv")
