"""What a task is about, as numbers, and when it is done."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from irevla.envs.panda.scene import CORD, SLOT, WALL

Vector = Float[np.ndarray, "3"]
Matrix = Float[np.ndarray, "3 3"]

LIFT = 0.08  # m that a thing is to be lifted
PRESSED = 0.012  # m that the button is to be moved
OPENED = 0.12  # m that the drawer is to be moved
INSIDE = 0.05  # m from the middle of the tray, along both of its sides
LOW = 0.04  # m above the table: what lies in the tray is lower


@dataclass(frozen=True)
class Pose:
    """Of a body, in the world."""

    at: Vector  # m
    rotation: Matrix

    def local(self, point: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
        """A point of the world in the frame of the body."""
        turned: np.ndarray = (point - self.at) @ self.rotation
        return turned


@dataclass(frozen=True)
class Scene:
    """What success and the scripted experts read of a state."""

    hand: Pose  # the end effector
    target: Pose  # the body that the hand works on
    goal: Pose  # the body that it is brought to; the target itself where there is none
    joint: float  # how far the task's joint has moved, m
    rise: float  # m that the target is above its start
    held: bool  # both fingers touch the target
    cable: Float[np.ndarray, "n 3"]  # points of it, m; none where there is no cable


def picked(scene: Scene) -> bool:
    """It is in the gripper, well above the table."""
    return scene.held and scene.rise >= LIFT


def placed(scene: Scene) -> bool:
    """It lies in the tray, let go."""
    x, y, z = scene.goal.local(scene.target.at)
    return bool(not scene.held and max(abs(x), abs(y)) < INSIDE and z < LOW)


def pressed(scene: Scene) -> bool:
    """The button is down."""
    return scene.joint >= PRESSED


def opened(scene: Scene) -> bool:
    """The drawer is open."""
    return scene.joint >= OPENED


def routed(scene: Scene) -> bool:
    """The cable lies between the walls of the slot."""
    x, y, z = scene.goal.local(scene.cable).T
    return bool(((abs(x) < SLOT[0]) & (abs(y) < SLOT[1]) & (z < WALL - CORD / 2)).any())


DONE: Mapping[str, Callable[[Scene], bool]] = {
    "pick": picked,
    "place": placed,
    "press": pressed,
    "pull": opened,
    "route": routed,
}
