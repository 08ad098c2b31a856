"""Scripted experts of the kitchen: each a list of moves of the end effector, made anew from every
state; which of them is on is all that is remembered, and forgotten where the hand has lost what it
held.

They see what the policy must find in the image: where the handle is, and how far its joint has
moved.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

# Fingers point to +y, and open along x.
FRONT = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
AJAR = -0.25  # rad: a door that is further open can be pushed from behind
LOST = 0.06  # m between the fingers and what they held
LAST = 10_000  # decisions: the last move goes on for good

Vector = Float[np.ndarray, "3"]
Matrix = Float[np.ndarray, "3 3"]


@dataclass(frozen=True)
class Move:
    """One move, over when the end effector is `near` its end, the joint is past `until`, or `steps`
    are spent."""

    to: Vector  # m, in the world
    facing: Matrix  # orientation of the end effector
    shut: bool  # the gripper
    steps: int = LAST  # decisions
    near: float = 0.0  # m
    until: float | None = None  # of the task's joint, which goes down from 0 (rad)
    held: Vector | None = None  # what the fingers hold, m; once lost, the script begins again


@dataclass(frozen=True)
class Scene:
    """What a script reads."""

    handle: Vector  # the task's site, m
    hinge: Vector  # the body that the handle hangs on, m
    joint: float  # how far it has moved, rad or m
    hand: Vector  # the end effector, m


def _by(x: float, y: float, z: float) -> Vector:
    return np.array([x, y, z])


def _around_z(angle: float) -> Matrix:
    c = np.cos(angle)
    s = np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def _around_y(angle: float) -> Matrix:
    c = np.cos(angle)
    s = np.sin(angle)
    return np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])


def _sweep(scene: Scene, side: float, depth: float) -> list[Move]:
    """Shut fingers on one side of the handle (-1: left), then push it to the other. One move,
    chosen by where the hand is, so that a disturbed hand comes back."""
    at = scene.handle
    off = scene.hand - scene.handle
    beside = side * off[0] > 0.02 and abs(off[2]) < 0.04
    if beside and off[1] > depth - 0.02:
        return [Move(at + _by(-0.10 * side, depth, 0.0), FRONT, True)]
    if beside:
        return [Move(at + _by(0.06 * side, depth, 0.0), FRONT, True)]
    if off[1] > depth - 0.04:  # the handle is in the way: out first
        return [Move(np.array([scene.hand[0], at[1] + depth - 0.10, at[2]]), FRONT, True)]
    return [Move(at + _by(0.08 * side, depth - 0.065, 0.0), FRONT, True)]


def slide_door(scene: Scene) -> list[Move]:
    """Push it to the right."""
    return _sweep(scene, -1.0, -0.03)


def light(scene: Scene) -> list[Move]:
    """Push the switch to the left."""
    return _sweep(scene, 1.0, -0.025)


def knob(scene: Scene) -> list[Move]:
    """Grasp the knob and turn the wrist, always somewhat further than the knob."""
    facing = _around_z(-0.1) @ FRONT
    forward = facing[:, 2]
    ahead = _around_y(min(0.5 - scene.joint, 1.6)) @ facing
    at = scene.handle
    return [
        Move(at - 0.12 * forward, facing, False, 25, near=0.02),
        Move(at - 0.028 * forward, facing, False, 12, near=0.01),
        Move(at - 0.028 * forward, facing, True, 3),
        Move(at - 0.028 * forward, ahead, True, held=at - 0.028 * forward),
    ]


@dataclass(frozen=True)
class Door:
    """How a hinged door is opened: the handle is grasped and pulled until the door stands ajar,
    then the shut fingers go behind its free edge and push it open."""

    yaw: float  # of the grasp, rad
    grasp: float  # height of the grasp from the handle's site, m
    depth: float  # that the fingers go past the handle, m
    rest: float  # direction of the shut door from its hinge, rad from +x
    ajar: float  # where the pull ends, rad
    width: float  # of the door, m
    follow: float  # how much the wrist turns with the door

    def __call__(self, scene: Scene) -> list[Move]:
        """The moves in `scene`."""
        at = scene.handle + _by(0.0, 0.0, self.grasp)
        hinge = np.array([scene.hinge[0], scene.hinge[1], at[2]])
        facing = _around_z(self.yaw) @ FRONT
        forward = facing[:, 2]
        turned = _around_z(self.yaw + self.follow * scene.joint) @ FRONT
        held = at - self.depth * turned[:, 2]
        pulled = hinge + _around_z(-0.3) @ (at - hinge)
        along, out = self._door(scene.joint)
        further, beyond = self._door(scene.joint - 0.5)
        return [
            Move(at - 0.11 * forward, facing, False, 40, near=0.03),
            Move(at - self.depth * forward, facing, False, 24, near=0.012),
            Move(at - self.depth * forward, facing, True, 5),
            Move(pulled - self.depth * turned[:, 2], turned, True, 40, until=self.ajar, held=held),
            Move(at + 0.10 * out + 0.05 * along, turned, False, 5, near=0.05),
            Move(hinge + (self.width + 0.14) * along + 0.03 * out, turned, True, 7, near=0.05),
            Move(hinge + (self.width + 0.10) * along - 0.08 * out, turned, True, 7, near=0.04),
            Move(hinge + (self.width - 0.04) * further + 0.03 * beyond, turned, True),
        ]

    def _door(self, joint: float) -> tuple[Vector, Vector]:
        """Along the door from its hinge, and out of its front, when it has turned by `joint`."""
        angle = self.rest + joint
        along = np.array([np.cos(angle), np.sin(angle), 0.0])
        out = np.array([np.sin(angle), -np.cos(angle), 0.0])
        return along, out


SCRIPTS: Mapping[str, Callable[[Scene], list[Move]]] = {
    "knob-on": knob,
    "light-on": light,
    "microwave-open": Door(
        yaw=0.4, grasp=0.05, depth=0.015, rest=0.3, ajar=-1.3, width=0.518, follow=0.3
    ),
    "slide-door-open": slide_door,
    "left-door-open": Door(
        yaw=0.75, grasp=-0.135, depth=0.015, rest=0.0, ajar=-1.5, width=0.377, follow=-0.4
    ),
}


class Expert:
    """Plays a script in one episode. Asked twice about one state, it answers alike."""

    def __init__(self, script: str) -> None:
        self._script = SCRIPTS[script]
        self._move = 0  # the present one
        self._since = 0  # the decision at which it began

    def action(self, scene: Scene, arm: Any, decision: int) -> Float[np.ndarray, "7"]:
        """The end-effector action in `scene`, where `decision` is the number of the decision to
        take."""
        moves = self._script(scene)
        held = moves[self._move].held
        if held is not None and scene.joint > AJAR and np.linalg.norm(held - scene.hand) > LOST:
            self._move = 0
            self._since = decision
        while self._move < len(moves) - 1 and self._over(moves[self._move], scene, decision):
            self._move += 1
            self._since = decision
        move = moves[self._move]
        action: np.ndarray = arm.towards(move.to, move.facing, shut=move.shut)
        return action

    def _over(self, move: Move, scene: Scene, decision: int) -> bool:
        if decision - self._since >= move.steps:
            return True
        if move.until is not None:
            return scene.joint < move.until
        return bool(np.linalg.norm(move.to - scene.hand) < move.near)
