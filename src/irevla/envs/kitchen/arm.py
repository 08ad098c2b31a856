"""The Franka Panda of the kitchen: from an end-effector motion to joint velocities, by damped least squares."""

from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float

JOINTS = 7
REACH = 0.06  # m that a full action moves the end effector in a decision of 80 ms, along each axis of the world
TURN = 0.25  # rad that a full action turns it, around each axis
OPEN, SHUT = 0.04, 0.0  # of each finger, m
SPEED = 2.0  # rad/s of a full joint velocity, and m/s of the fingers
PERIOD = 0.08  # s that REACH and TURN are meant for
GAIN = 2.0  # the joints are damped, and go half of the way to a target in a decision: it is set so much further
FINGER_STEP = 0.03  # m that the fingers' target is ahead of them
MARGIN = 0.02  # rad kept from the ends of each joint's range
DAMPING, TURN_WEIGHT, NULL_GAIN = 0.04, 0.2, 0.03
POSTURE = np.array([-0.6, -1.3, 1.5, -2.0, 0.0, 1.2, 1.4])  # that the arm leans to where the motion leaves it free


class Arm:
    """The arm in one simulation (`model`, `data`); its joints are the first nine."""

    def __init__(self, model: Any, data: Any) -> None:
        self._model, self._data = model, data
        self._site = model.site("end_effector").id
        self.low, self.high = model.jnt_range[:JOINTS, 0] + MARGIN, model.jnt_range[:JOINTS, 1] - MARGIN

    @property
    def position(self) -> Float[np.ndarray, "3"]:
        """Of the end effector, between the fingertips, m."""
        return np.array(self._data.site_xpos[self._site])

    @property
    def rotation(self) -> Float[np.ndarray, "3 3"]:
        """Of the end effector; its third column is where the fingers point."""
        return np.array(self._data.site_xmat[self._site]).reshape(3, 3)

    def velocities(self, action: Float[np.ndarray, "7"]) -> Float[np.ndarray, "9"]:
        """Joint velocities in [-1, 1] (of `SPEED`) for an end-effector action: displacement, rotation vector, and the
        gripper, which closes where it is positive."""
        change = GAIN * self._inverse(action[:3] * REACH, action[3:6] * TURN)
        joints = change / (SPEED * PERIOD)
        joints /= max(1.0, np.abs(joints).max())
        fingers = (SHUT if action[6] > 0 else OPEN) - self._data.qpos[JOINTS : JOINTS + 2]
        fingers = np.clip(fingers, -FINGER_STEP, FINGER_STEP) / (SPEED * PERIOD)
        return np.concatenate([joints, fingers])

    def drive(self, velocities: Float[np.ndarray, "9"]) -> None:
        """Set the actuators' targets where the joints would be after `PERIOD`, as FrankaKitchen-v1 does."""
        target = self._data.qpos[: JOINTS + 2] + velocities * SPEED * PERIOD
        self._data.ctrl[:JOINTS] = np.clip(target[:JOINTS], self.low, self.high)
        self._data.ctrl[JOINTS : JOINTS + 2] = np.clip(target[JOINTS:], SHUT, OPEN)

    def _inverse(self, shift: Float[np.ndarray, "3"], turn: Float[np.ndarray, "3"]) -> Float[np.ndarray, "7"]:
        """Change of the joints for a motion (m and rad); joints at an end of their range stand still."""
        model, data = self._model, self._data
        jacobian = np.zeros((6, model.nv))
        mujoco.mj_jacSite(model, data, jacobian[:3], jacobian[3:], self._site)
        weight = np.array([1.0, 1.0, 1.0, TURN_WEIGHT, TURN_WEIGHT, TURN_WEIGHT])
        jacobian, motion = weight[:, None] * jacobian[:, :JOINTS], weight * np.concatenate([shift, turn])
        now, free, change = data.qpos[:JOINTS], np.ones(JOINTS, bool), np.zeros(JOINTS)
        for _ in range(4):
            part = jacobian[:, free]
            inverse = part.T @ np.linalg.inv(part @ part.T + DAMPING**2 * np.eye(6))
            lean = NULL_GAIN * (POSTURE - now)[free]
            change[:] = 0.0
            change[free] = inverse @ motion + lean - inverse @ (part @ lean)
            blocked = free & (((now + change > self.high) & (change > 0)) | ((now + change < self.low) & (change < 0)))
            if not blocked.any():
                break
            free &= ~blocked
        return change


def rotation_vector(rotation: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3"]:
    """Axis times angle, rad."""
    quat, vector = np.zeros(4), np.zeros(3)
    mujoco.mju_mat2Quat(quat, rotation.reshape(-1).copy())
    mujoco.mju_quat2Vel(vector, quat, 1.0)
    return vector
