"""Scripted experts: each reads the next move off the present state alone, so that a disturbed hand
comes back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from irevla.envs.panda.goals import Matrix, Scene, Vector
from irevla.envs.panda.scene import LINK, LINKS, POST, SLOT, SLOT_AT

LOWEST = 0.021  # m above the table that the fingertips do not scrape it
HOVER = 0.10  # m above a thing, before the fingers go down to it
CARRY = 0.14  # m above the table, with a block
CROSS = 0.12  # m above the table, with the plug
NEAR = 0.014  # m
TAUT = LINKS * LINK + 0.015  # m from the post to the plug, where the cable is straight
WIDTH = 0.04  # m between the fingers' axes and what they held, where they have lost it


@dataclass(frozen=True)
class Move:
    """Where the end effector goes now."""

    to: Vector  # m
    facing: Matrix
    shut: bool  # the gripper


def _up(height: float) -> Vector:
    return np.array([0.0, 0.0, height])


def down(along: Vector, hand: Matrix) -> Matrix:
    """Fingers that point down and open across `along`, by the smaller turn from `hand`. Where
    `along` is upright, any direction will do."""
    flat = along * [1.0, 1.0, 0.0]
    if np.linalg.norm(flat) < 0.5:
        flat = hand[:, 0] * [1.0, 1.0, 0.0]
    flat = flat / np.linalg.norm(flat)
    if flat @ hand[:, 0] < 0:
        flat = -flat
    below = np.array([0.0, 0.0, -1.0])
    return np.stack([flat, np.cross(below, flat), below], axis=1)


def _grasp(scene: Scene) -> Move:
    """Above it, down to it, and shut."""
    at = np.maximum(scene.target.at, [-np.inf, -np.inf, LOWEST])
    hand = scene.hand
    facing = down(scene.target.rotation[:, 0], hand.rotation)
    off = hand.at - at
    beside = float(np.hypot(*off[:2]))
    askew = float(np.arccos(np.clip((np.trace(facing.T @ hand.rotation) - 1) / 2, -1, 1)))
    if beside < NEAR and off[2] < NEAR:
        return Move(at, facing, True)
    if beside < NEAR + 0.2 * max(off[2], 0.0) and askew < 0.25:
        return Move(at, facing, False)
    if off[2] < HOVER / 2 and beside > NEAR:
        return Move(hand.at + _up(HOVER), facing, False)
    return Move(at + _up(HOVER), facing, False)


def _has(scene: Scene) -> bool:
    return scene.held and bool(np.linalg.norm(scene.hand.at - scene.target.at) < WIDTH)


def pick(scene: Scene) -> Move:
    """Grasp it and lift it."""
    if _has(scene):
        facing = down(scene.target.rotation[:, 0], scene.hand.rotation)
        return Move(scene.hand.at + _up(HOVER), facing, True)
    return _grasp(scene)


def place(scene: Scene) -> Move:
    """Grasp it; then up, across, down into the tray, and let go."""
    x, y, z = scene.goal.local(scene.target.at)
    facing = down(scene.target.rotation[:, 0], scene.hand.rotation)
    hand = scene.hand.at
    if max(abs(x), abs(y)) < 0.03 and z < 0.055:
        return Move(hand + _up(0.02), facing, False)
    if not _has(scene):
        return _grasp(scene)
    to = scene.goal.at + _up(0.045)
    if np.hypot(*(hand - to)[:2]) < NEAR + 0.2 * max(hand[2] - to[2], 0.0):
        return Move(to, facing, True)
    if hand[2] < 0.7 * CARRY:
        return Move(hand + _up(CARRY), facing, True)
    return Move(scene.goal.at + _up(CARRY), facing, True)


def press(scene: Scene) -> Move:
    """Shut fingers above the button, then down."""
    top = scene.target.at + _up(0.012)
    hand = scene.hand
    facing = down(hand.rotation[:, 0], hand.rotation)
    if np.hypot(*(hand.at - top)[:2]) < NEAR:
        return Move(top - _up(0.03), facing, True)
    return Move(top + _up(0.06), facing, True)


def pull(scene: Scene) -> Move:
    """Shut fingers behind the bar of the handle, from above, then out."""
    out = scene.target.rotation[:, 0]
    behind = scene.target.at - 0.03 * out
    facing = down(out, scene.hand.rotation)
    x, y, z = scene.target.rotation.T @ (scene.hand.at - behind)
    if abs(x) < 0.03 and abs(y) < 0.045 and z < 0.02:
        return Move(behind + 0.08 * out, facing, True)
    if np.hypot(x, y) < NEAR + 0.1 * max(z, 0.0):
        return Move(behind, facing, True)
    if z < HOVER / 2:
        return Move(scene.hand.at + _up(HOVER), facing, True)
    return Move(behind + _up(HOVER), facing, True)


def route(scene: Scene) -> Move:
    """Carry the plug past the slot, pull the cable straight above it, and lay it down. What does
    not lie above the slot is lifted again."""
    if not _has(scene):
        return _grasp(scene)
    along = scene.goal.rotation[:, 0]
    plug = scene.goal.local(scene.target.at)
    facing = down(along, scene.hand.rotation)
    carried = scene.hand.at - scene.target.at
    points = scene.goal.local(scene.cable)
    beside = np.abs(points[np.abs(points[:, 0]) < 0.03, 1]).max(initial=0.0)
    ready = max(beside, abs(plug[1])) < SLOT[1] - 0.004
    if not ready and plug[2] < CROSS / 2:
        return Move(scene.hand.at + _up(CROSS), facing, True)
    height = 0.012 if ready else CROSS
    reach = np.sqrt(TAUT**2 - (plug[2] - POST) ** 2) - SLOT_AT
    return Move(scene.goal.at + reach * along + _up(height) + carried, facing, True)


SCRIPTS: Mapping[str, Callable[[Scene], Move]] = {
    "pick": pick,
    "place": place,
    "press": press,
    "pull": pull,
    "route": route,
}
