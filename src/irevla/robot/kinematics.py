"""Where a Panda's or FR3's flange is, by its joints: both have the same lengths.

What an arm takes for its fingertips is then seen from the pose that it reports.
"""

import math

import numpy as np

from irevla.robot.pose import Pose, compose

# Craig's parameters of each joint: turn around x (rad) and shift along it (m), then shift along z.
JOINTS = (
    (0.0, 0.0, 0.333),
    (-math.pi / 2, 0.0, 0.0),
    (math.pi / 2, 0.0, 0.316),
    (math.pi / 2, 0.0825, 0.0),
    (-math.pi / 2, -0.0825, 0.384),
    (math.pi / 2, 0.0, 0.0),
    (math.pi / 2, 0.088, 0.0),
)
FLANGE = 0.107  # m, along z of the last joint


def flange_pose(joints: np.ndarray) -> Pose:
    """Return the flange's pose in the frame of the base; `joints`: float64[7], rad."""
    pose = Pose(np.zeros(3), np.array([0.0, 0.0, 0.0, 1.0]))
    for (twist, along_x, along_z), angle in zip(JOINTS, joints.tolist(), strict=True):
        pose = compose(pose, Pose(np.array([along_x, 0.0, 0.0]), _around(0, twist)))
        pose = compose(pose, Pose(np.array([0.0, 0.0, along_z]), _around(2, angle)))
    return compose(pose, Pose(np.array([0.0, 0.0, FLANGE]), _around(2, 0.0)))


def _around(axis: int, angle: float) -> np.ndarray:
    quaternion = np.zeros(4)
    quaternion[axis] = math.sin(angle / 2)
    quaternion[3] = math.cos(angle / 2)
    return quaternion
