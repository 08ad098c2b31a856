"""The Franka Panda, in the kitchen and on the table: from an end-effector motion to joint
velocities, by damped least squares."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float, Float32

JOINTS = 7
OPEN = 0.04  # of each finger, m
SHUT = 0.0
SPEED = 2.0  # rad/s of a full joint velocity, and m/s of the fingers
# the joints are damped, and go half of the way to a target in a decision: it is set so much further
GAIN = 2.0
FINGER_STEP = 0.03  # m that the fingers' target is ahead of them
MARGIN = 0.02  # rad kept from the ends of each joint's range
DAMPING = 0.04  # of the least squares
TURN_WEIGHT = 0.2  # m of the end effector that a rad of it is worth
NULL_GAIN = 0.03  # share of the way to the posture that is gone in a decision


def assets() -> Path:
    """Where the installed gymnasium-robotics keeps the arm and the kitchen."""
    found = importlib.util.find_spec("gymnasium_robotics")
    assert found and found.submodule_search_locations
    return Path(found.submodule_search_locations[0]) / "envs" / "assets" / "kitchen_franka"


@dataclass(frozen=True)
class Motion:
    """What a full action means in a decision of `period`."""

    reach: float  # m that the end effector moves along each axis of the world
    turn: float  # rad that it turns around each axis
    period: float  # s
    # rad, of each joint, that the arm leans to where the motion leaves it free
    posture: tuple[float, ...]


class Arm:
    """The arm in one simulation (`model`, `data`); its joints are the first nine."""

    def __init__(self, model: Any, data: Any, *, motion: Motion) -> None:
        self._model = model
        self._data = data
        self.motion = motion
        self._site = model.site("end_effector").id
        self.low = model.jnt_range[:JOINTS, 0] + MARGIN
        self.high = model.jnt_range[:JOINTS, 1] - MARGIN

    @property
    def position(self) -> Float[np.ndarray, "3"]:
        """Of the end effector, between the fingertips, m."""
        return np.array(self._data.site_xpos[self._site])

    @property
    def rotation(self) -> Float[np.ndarray, "3 3"]:
        """Of the end effector; its third column is where the fingers point."""
        return np.array(self._data.site_xmat[self._site]).reshape(3, 3)

    @property
    def state(self) -> Float32[np.ndarray, "10"]:
        """What `arm_state.STATE` names."""
        opening = self._data.qpos[JOINTS : JOINTS + 2].sum(keepdims=True)
        sides = self.rotation[:, :2].T.ravel()
        return np.concatenate([self.position, sides, opening]).astype(np.float32)

    def velocities(self, action: Float[np.ndarray, "7"]) -> Float[np.ndarray, "9"]:
        """Joint velocities in [-1, 1] (of `SPEED`) for an end-effector action: displacement,
        rotation vector, and the gripper, which closes where it is positive."""
        change = GAIN * self._inverse(
            action[:3] * self.motion.reach, action[3:6] * self.motion.turn
        )
        joints = change / (SPEED * self.motion.period)
        joints /= max(1.0, np.abs(joints).max())
        fingers = (SHUT if action[6] > 0 else OPEN) - self._data.qpos[JOINTS : JOINTS + 2]
        fingers = np.clip(fingers, -FINGER_STEP, FINGER_STEP) / (SPEED * self.motion.period)
        return np.concatenate([joints, fingers])

    def towards(
        self, to: Float[np.ndarray, "3"], facing: Float[np.ndarray, "3 3"], *, shut: bool
    ) -> Float[np.ndarray, "7"]:
        """The end-effector action that leads to a position and an orientation, as fast as may
        be."""
        shift = (to - self.position) / self.motion.reach
        turn = rotation_vector(facing @ self.rotation.T) / self.motion.turn
        straight = shift / max(1.0, np.abs(shift).max())
        gripper = 1.0 if shut else -1.0
        return np.concatenate([straight, turn.clip(-1, 1), [gripper]])

    def drive(self, velocities: Float[np.ndarray, "9"]) -> None:
        """Set the actuators' targets where the joints would be after a decision, as
        FrankaKitchen-v1 does."""
        target = self._data.qpos[: JOINTS + 2] + velocities * SPEED * self.motion.period
        self._data.ctrl[:JOINTS] = np.clip(target[:JOINTS], self.low, self.high)
        self._data.ctrl[JOINTS : JOINTS + 2] = np.clip(target[JOINTS:], SHUT, OPEN)

    def _inverse(
        self, shift: Float[np.ndarray, "3"], turn: Float[np.ndarray, "3"]
    ) -> Float[np.ndarray, "7"]:
        """Change of the joints for a motion (m and rad); joints at an end of their range stand
        still."""
        model = self._model
        data = self._data
        jacobian = np.zeros((6, model.nv))
        mujoco.mj_jacSite(model, data, jacobian[:3], jacobian[3:], self._site)
        weight = np.array([1.0, 1.0, 1.0, TURN_WEIGHT, TURN_WEIGHT, TURN_WEIGHT])
        jacobian = weight[:, None] * jacobian[:, :JOINTS]
        motion = weight * np.concatenate([shift, turn])
        now = data.qpos[:JOINTS]
        free = np.ones(JOINTS, bool)
        change = np.zeros(JOINTS)
        for _ in range(4):
            part = jacobian[:, free]
            inverse = part.T @ np.linalg.inv(part @ part.T + DAMPING**2 * np.eye(6))
            lean = NULL_GAIN * (np.array(self.motion.posture) - now)[free]
            change[:] = 0.0
            change[free] = inverse @ motion + lean - inverse @ (part @ lean)
            above = (now + change > self.high) & (change > 0)
            below = (now + change < self.low) & (change < 0)
            blocked = free & (above | below)
            if not blocked.any():
                break
            free &= ~blocked
        return change


def rotation_vector(rotation: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3"]:
    """Axis times angle, rad."""
    quat = np.zeros(4)
    vector = np.zeros(3)
    mujoco.mju_mat2Quat(quat, rotation.reshape(-1).copy())
    mujoco.mju_quat2Vel(vector, quat, 1.0)
    return vector
