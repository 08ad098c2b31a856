"""Positions and orientations of the hand, in numpy alone. Quaternions are x y z w, as in libfranka
and SERL."""

import math
from dataclasses import dataclass

import numpy as np

Vector = (
    np.ndarray
)  # float64[3]. Not checked at every call, as elsewhere: these run in the thousands ...
Quaternion = np.ndarray  # ... float64[4], and `Pose.sound` looks at what comes from outside


@dataclass(frozen=True)
class Pose:
    """Of the end effector (between the fingertips), in the frame of the arm's base."""

    position: Vector  # m
    quaternion: Quaternion  # x y z w, of length 1; the third axis is where the fingers point

    @property
    def sound(self) -> bool:
        """Whether every number is finite and the quaternion is one."""
        if self.position.shape != (3,) or self.quaternion.shape != (4,):
            return False
        numbers = [*self.position.tolist(), *self.quaternion.tolist()]
        return all(map(math.isfinite, numbers)) and abs(length(self.quaternion) - 1) < 0.01

    @property
    def tilt(self) -> float:
        """Angle between the fingers and straight down, rad."""
        x, y, _, _ = self.quaternion.tolist()
        return math.acos(min(1.0, max(-1.0, 2 * (x * x + y * y) - 1)))

    @property
    def sides(self) -> Vector:
        """The first two axes of the hand, one after the other: float64[6]."""
        x, y, z, w = self.quaternion.tolist()
        first = 1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)
        second = 2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)
        return np.array([*first, *second])

    @property
    def yaw(self) -> float:
        """Turn around the third axis of the frame it is seen in, rad."""
        x, y, z, w = self.quaternion.tolist()
        return math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))


def length(vector: Vector) -> float:
    """Return the Euclidean length."""
    return math.hypot(*vector.tolist())


def shortened(vector: Vector, longest: float) -> Vector:
    """Return the same direction, at most so long. Finite for any finite `vector`, however long."""
    largest = max(map(abs, vector.tolist()))
    if largest > 1e6:  # so that squares do not overflow
        vector = vector / largest
        vector = vector * 1e6
    now = length(vector)
    return vector * (longest / now) if now > longest else vector


def turned(quaternion: Quaternion, rotation_vector: Vector) -> Quaternion:
    """Return an orientation, turned around an axis of the world: axis times angle, rad."""
    angle = length(rotation_vector)
    if angle < 1e-12:
        return quaternion / length(quaternion)
    axis = rotation_vector * (math.sin(angle / 2) / angle)
    return product(np.array([*axis, math.cos(angle / 2)]), quaternion)


def product(a: Quaternion, b: Quaternion) -> Quaternion:
    """Return the rotation that is first `b`, then `a`; of length 1."""
    ax, ay, az, aw = a.tolist()
    bx, by, bz, bw = b.tolist()
    both = np.array([
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
        aw * bw - ax * bx - ay * by - az * bz,
    ])  # fmt: skip
    return both / length(both)


def turn_between(start: Quaternion, end: Quaternion) -> Vector:
    """Return the shortest turn around an axis of the world from one orientation to another: axis
    times angle, rad."""
    x, y, z, w = product(end, start * np.array([-1.0, -1.0, -1.0, 1.0])).tolist()
    if w < 0:  # the same orientation, the other way round
        x, y, z, w = -x, -y, -z, -w
    sine = math.hypot(x, y, z)
    scale = 2.0 if sine < 1e-9 else 2 * math.atan2(sine, w) / sine
    return np.array([x, y, z]) * scale


def rotated(quaternion: Quaternion, vector: Vector) -> Vector:
    """Return `vector`, which is seen from a frame of that orientation, as its surroundings see
    it."""
    x, y, z, w = quaternion.tolist()
    a, b, c = vector.tolist()
    # v + w t + q x t, with t = 2 q x v
    p = 2 * (y * c - z * b)
    q = 2 * (z * a - x * c)
    r = 2 * (x * b - y * a)
    return np.array([
        a + w * p + y * r - z * q,
        b + w * q + z * p - x * r,
        c + w * r + x * q - y * p,
    ])  # fmt: skip


def compose(base: Pose, pose: Pose) -> Pose:
    """Return, as the surroundings of `base` see it, a pose that is seen from `base`."""
    position = base.position + rotated(base.quaternion, pose.position)
    return Pose(position, product(base.quaternion, pose.quaternion))


def seen_from(base: Pose, pose: Pose) -> Pose:
    """Return `pose` as it is seen from `base`: the inverse of `compose`."""
    back = base.quaternion * np.array([-1.0, -1.0, -1.0, 1.0])
    return Pose(rotated(back, pose.position - base.position), product(back, pose.quaternion))
