"""Where a thing can be held: across it where it is narrow enough, else over its rim, and where
nothing is in the way of the fingers. Numpy in, numpy out; no simulator."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Vector = Float[np.ndarray, "3"]
Cloud = Float[np.ndarray, "_ 3"]  # several meet in one function: their lengths have no name

OPENING = 0.070  # m: what is wider is held by its rim
FINGER = 0.042  # m of a thing that may be between the fingers, above the middle of their tips
LOWEST = 0.013  # m above what a thing stands on that this middle stays
RIM = 0.012  # m below its top where a rim is held
INSET = 0.006  # m from its outmost points to the middle of a rim
ANGLES = 24  # directions that are tried
SHIFTS = (0.0, -0.25, 0.25)  # of a thing's length, from its middle: where else it is held

# The room of an open hand around the middle between its fingertips, m: half a finger's breadth; how
# far the fingers are from the middle, inside and outside; how far below it they reach; and the same
# of the palm above them.
BREADTH = 0.016
INSIDE = 0.032
OUTSIDE = 0.065
BELOW = 0.012
PALM = (0.035, 0.105, 0.055)  # half its breadth, half its length, height of its lower side

IN_THE_WAY = 0.3  # cost of a point that the hand would meet
TURNING = 0.5  # of a rad that the hand must turn
STRETCHED = 0.65  # m from the arm's foot: beyond it hardly reaches ...
STRETCHING = 15.0  # ... which costs so much a metre
SHIFTING = 0.3  # of holding a thing at its end
GOING = 2.0  # of a metre that the hand is away: it stays with what it has begun


@dataclass(frozen=True)
class Grasp:
    """Where the fingers close."""

    at: Vector  # m, the middle between the fingertips
    yaw: float  # rad: the fingers open along (-sin yaw, cos yaw)


def turn(start: float, end: float) -> float:
    """Return the smaller turn (rad) from one yaw of the hand to another; half a turn is none."""
    return (end - start + np.pi / 2) % np.pi - np.pi / 2


def best(cloud: Cloud, others: Cloud, hand: Vector, yaw: float, base: Vector) -> Grasp:
    """Return how to hold a thing (points of its surface) beside other things, for a hand at `hand`
    that is turned by `yaw`, of an arm that stands at `base`."""
    floor = cloud[:, 2].min() + 0.006
    others = others[others[:, 2] > floor]
    ranked = []
    for grasp, shift in list(_across(cloud)) or list(_rims(cloud)):
        stretched = max(0.0, float(np.hypot(*(grasp.at - base)[:2])) - STRETCHED)
        going = float(np.hypot(*(grasp.at - hand)[:2]))
        cost = STRETCHING * stretched + GOING * going + SHIFTING * shift
        ranked.append((cost + TURNING * abs(turn(yaw, grasp.yaw)), grasp))
    ranked.sort(key=lambda each: each[0])
    chosen = ranked[0][1]
    least = np.inf
    for cost, grasp in ranked:
        if cost >= least:
            break  # nothing in its way would not make it cheaper
        cost += IN_THE_WAY * (_met(grasp, cloud, INSIDE) + _met(grasp, others, 0.0))
        if cost < least:
            least = cost
            chosen = grasp
    return chosen


def _across(cloud: Cloud) -> Iterator[tuple[Grasp, float]]:
    low = cloud[:, 2].min()
    high = cloud[:, 2].max()
    height = max(low + LOWEST, high - FINGER, low + 0.3 * (high - low))
    height = min(height, max(low + LOWEST, high - RIM))
    band = cloud[np.abs(cloud[:, 2] - height) < 0.02]
    band = band if len(band) > 8 else cloud
    for angle in np.arange(ANGLES) * np.pi / ANGLES:
        across = np.array([np.cos(angle), np.sin(angle)])
        along = np.array([-across[1], across[0]])
        sides = band[:, :2] @ across
        ends = band[:, :2] @ along
        if np.ptp(sides) > OPENING:
            continue
        middle = (sides.min() + sides.max()) / 2 * across + (ends.min() + ends.max()) / 2 * along
        for shift in SHIFTS:
            at = middle + shift * np.ptp(ends) * along
            narrow = (np.ptp(sides) / OPENING) ** 2  # the more room, the better
            yield Grasp(np.array([*at, height]), angle - np.pi / 2), abs(shift) + narrow


def _rims(cloud: Cloud) -> Iterator[tuple[Grasp, float]]:
    high = cloud[:, 2].max()
    top = cloud[cloud[:, 2] > high - 0.015]
    middle = np.percentile(top[:, :2], [5, 95], axis=0).mean(axis=0)
    away = top[:, :2] - middle
    for angle in np.arange(2 * ANGLES) * np.pi / ANGLES:
        out = np.array([np.cos(angle), np.sin(angle)])
        beside = np.abs(away @ np.array([-out[1], out[0]])) < 0.02
        edge = (away[beside] @ out).max(initial=0.0) - INSET
        yield Grasp(np.array([*(middle + edge * out), high - RIM]), angle - np.pi / 2), 0.0


def _met(grasp: Grasp, points: Cloud, inside: float) -> int:
    """How many points the open hand would meet, above as below; those within `inside` (m) of the
    middle are between its fingers."""
    off = points - grasp.at
    across = np.array([-np.sin(grasp.yaw), np.cos(grasp.yaw), 0.0])
    along = np.array([np.cos(grasp.yaw), np.sin(grasp.yaw), 0.0])
    y = np.abs(off @ across)
    x = np.abs(off @ along)
    z = off[:, 2]
    fingers = (x < BREADTH) & (y >= inside) & (y < OUTSIDE) & (z > -BELOW)
    palm = (x < PALM[0]) & (y < PALM[1]) & (z > PALM[2])
    return int((fingers | palm).sum())
