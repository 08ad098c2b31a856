"""A toy suite in numpy alone: a white dot glides over a table to the object that the instruction
names.

It runs everywhere in microseconds, so tests use it, and it is the model for a suite of your own: a
list of `Task`s, a `gymnasium.Env` that is a `TaskEnv`, and a `Suite` that makes one from the other.
Every scene holds two objects that look alike, so the image alone does not say where to go.
Lengths are in table units: the table spans [-1, 1]^2.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from irevla.config import EnvConfig
from irevla.envs.pixel_env import PixelEnv
from irevla.envs.suite import Suite
from irevla.tasks import Category, Task

RADIUS = 0.28  # of an object; the dot is half as large
SUCCESS = 0.2  # distance of the dot from the target's centre at which the task is solved
CONTROL_HZ = 20  # control steps per second of what would be time
SPEED = 0.08  # length moved in one control step by an action of 1
TABLE = np.array([40, 42, 48], np.uint8)
RED = (220, 50, 40)
BLUE = (50, 90, 230)
ORANGE = (235, 130, 45)
VIOLET = (110, 90, 220)


@dataclass(frozen=True)
class Scene:
    """What lies on the table, and where: the data behind a task's name. Two like objects, one left
    and one right."""

    side: Literal["left", "right"]  # of the target
    shape: Literal["disc", "square"]
    colour: tuple[int, int, int]
    # |x| and y of each object are uniform between these corners
    low: tuple[float, float] = (0.35, 0.0)
    high: tuple[float, float] = (0.75, 0.6)


# Mostly outside the expert range.
OUTER: dict[str, tuple[float, float]] = {"low": (0.6, -0.3), "high": (0.85, 0.0)}
SCENES: dict[Task, Scene] = {
    Task("left-disc", Category.EXPERT, "reach the left disc"): Scene("left", "disc", RED),
    Task("right-disc", Category.EXPERT, "reach the right disc"): Scene("right", "disc", RED),
    Task("left-square", Category.EXPERT, "reach the left square"): Scene("left", "square", BLUE),
    Task("right-square", Category.EXPERT, "reach the right square"): Scene("right", "square", BLUE),
    Task(
        "left-disc-new", Category.RL, "reach the left disc", "orange, lower and further out"
    ): Scene("left", "disc", ORANGE, **OUTER),
    Task(
        "right-square-new", Category.RL, "reach the right square", "violet, lower and further out"
    ): Scene("right", "square", VIOLET, **OUTER),
    Task(
        "right-disc-outer", Category.UNSEEN, "reach the right disc", "lower and further out"
    ): Scene("right", "disc", RED, **OUTER),
    Task("left-square-orange", Category.UNSEEN, "reach the left square", "orange"): Scene(
        "left", "square", ORANGE
    ),
}


class PointMassEnv(PixelEnv):
    """One task. An action is a velocity in x (right) and y (up)."""

    def __init__(self, task: Task, config: EnvConfig) -> None:
        super().__init__(task, config, action_dim=2, control_hz=CONTROL_HZ)
        self._scene = SCENES[task]

    def _set_scene(self) -> None:
        places = self.np_random.uniform(self._scene.low, self._scene.high, (2, 2))
        places *= [(-1, 1), (1, 1)]
        self._target, self._other = places if self._scene.side == "left" else places[::-1]
        self._dot = self.np_random.uniform((-0.6, -0.8), (0.6, -0.5))

    def _advance(self, action: Float32[np.ndarray, "2"]) -> bool:
        self._dot = np.clip(self._dot + self._stride * action, -1, 1)
        return bool(np.linalg.norm(self._target - self._dot) < SUCCESS)

    def _robot_state(self) -> Float32[np.ndarray, "2"]:
        return np.asarray(self._dot, np.float32)

    def expert_action(self) -> Float32[np.ndarray, "2"]:
        """Straight to the target."""
        velocity = np.clip((self._target - self._dot) / self._stride, -1, 1)
        return np.asarray(velocity, np.float32)

    def picture(self, size: int) -> UInt8[np.ndarray, "size size 3"]:
        """The table from above."""
        image = np.tile(TABLE, (size, size, 1))
        for place in (self._other, self._target):
            _stamp(image, place, self._scene.shape, RADIUS, self._scene.colour)
        _stamp(image, self._dot, "disc", RADIUS / 2, (255, 255, 255))
        return image

    @property
    def _stride(self) -> float:
        return SPEED * self.config.action_repeat


def _stamp(
    image: np.ndarray, centre: np.ndarray, shape: str, radius: float, colour: tuple[int, int, int]
) -> None:
    size = len(image)
    mask = _mask(shape, round(radius * size))
    corner = np.array([centre[0] + 1, 1 - centre[1]]) * size / 2 - len(mask) / 2
    column, row = corner.round().astype(int)
    top = max(row, 0)
    left = max(column, 0)
    window = image[top : max(row + len(mask), 0), left : max(column + len(mask), 0)]
    window[mask[top - row :, left - column :][: len(window), : window.shape[1]]] = colour


@cache
def _mask(shape: str, pixels: int) -> Bool[np.ndarray, "pixels pixels"]:
    """A filled disc or square, `pixels` wide."""
    axis = (np.arange(pixels) + 0.5) / pixels * 2 - 1
    if shape == "square":
        return np.ones((pixels, pixels), bool)
    disc: np.ndarray = axis**2 + axis[:, None] ** 2 <= 1
    return disc


# --- The suite


def _make(task: str, config: EnvConfig) -> PointMassEnv:
    return PointMassEnv(POINTMASS.task(task), config)


def _render_settings(config: EnvConfig) -> Mapping[str, Any]:
    return {
        "suite": "pointmass",
        "image_size": config.image_size,
        "action_repeat": config.action_repeat,
    }


POINTMASS = Suite(
    name="pointmass",
    tasks=tuple(SCENES),
    action_dim=2,
    state=("dot x", "dot y"),
    fps=CONTROL_HZ // EnvConfig().action_repeat,
    make=_make,
    render_settings=_render_settings,
)
