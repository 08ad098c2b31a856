"""The arm of a scene, put where its hand should be by inverse kinematics: nothing is simulated."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

JOINTS = tuple(f"right_j{i}" for i in range(7))
HOME = (1.889, -0.576, -0.977, 1.642, 0.943, 1.044, 2.293)  # rad: where Meta-World's episodes start
DOWN = (0.7071, 0.0, 0.7071, 0.0)  # the hand's orientation in every task (quaternion w x y z)
LOW, HIGH = (-0.45, 0.40, 0.06), (0.45, 0.92, 0.45)  # where the hand may be, m
FINGERS = {"r_close": 0.04, "l_close": -0.03}  # joint -> its position when closed; 0 when open
NEAR = 0.6  # share of the poses in which the hand is near something to be reached ...
SPREAD = 0.08  # ... at this standard deviation, m
PALM = 0.045  # the fingertips are this much below the hand, m
TOLERANCE, TILT = 0.01, 0.1  # of a solved pose: m, rad
DAMPING = 0.05
STEP = 0.5  # largest change of all joints together in one iteration, rad
SOFT = 0.06  # rad: simulated joints give way, and the arm of the benchmark uses it


class Arm:
    """Knows where the joints of the arm are in one model."""

    def __init__(self, model: Any) -> None:
        import mujoco

        self._mujoco = mujoco
        ids = [model.joint(name).id for name in JOINTS]
        self._qpos = np.array([model.jnt_qposadr[i] for i in ids])
        self._dof = np.array([model.jnt_dofadr[i] for i in ids])
        self._low, self._high = model.jnt_range[ids, 0] - SOFT, model.jnt_range[ids, 1] + SOFT
        self._hand = model.body("hand").id
        self._fingers = {
            model.jnt_qposadr[model.joint(name).id]: closed for name, closed in FINGERS.items()
        }

    def pose(
        self,
        model: Any,
        data: Any,
        rng: np.random.Generator,
        near: Sequence[Float[np.ndarray, "3"]] = (),
    ) -> float:
        """Put the hand somewhere over the table, often near one of `near`; returns the gripper's
        opening, 0..1.

        A place that the arm does not reach is drawn again.
        """
        for _ in range(20):
            target = rng.uniform(LOW, HIGH)
            if len(near) and rng.random() < NEAR:
                target = (
                    near[int(rng.integers(len(near)))]
                    + [0, 0, PALM]
                    + SPREAD * rng.standard_normal(3)
                )
            if self.reach(model, data, np.clip(target, LOW, HIGH)):
                break
        opening = float(rng.choice([1.0, 1.0, 0.0, rng.random()]))
        for address, closed in self._fingers.items():
            data.qpos[address] = (1 - opening) * closed
        self._mujoco.mj_kinematics(model, data)
        return opening

    def reach(
        self, model: Any, data: Any, target: Float[np.ndarray, "3"], *, iterations: int = 40
    ) -> bool:
        """Damped least squares from the home pose: the hand at `target` (m), pointing down. Whether
        it got there."""
        data.qpos[self._qpos] = HOME
        for _ in range(iterations):
            self._mujoco.mj_kinematics(model, data)
            error = self._error(data, target)
            if np.linalg.norm(error[:3]) < TOLERANCE / 2 and np.linalg.norm(error[3:]) < TILT / 3:
                return True
            data.qpos[self._qpos] += self._step(model, data, error)
        self._mujoco.mj_kinematics(model, data)
        error = self._error(data, target)
        return bool(np.linalg.norm(error[:3]) < TOLERANCE and np.linalg.norm(error[3:]) < TILT)

    def _step(self, model: Any, data: Any, error: Float[np.ndarray, "6"]) -> Float[np.ndarray, "7"]:
        """Joints that the step would drive beyond their range stay where they are, and the others
        do the work."""
        jacobian = np.zeros((6, model.nv))
        self._mujoco.mj_comPos(model, data)
        self._mujoco.mj_jacBody(model, data, jacobian[:3], jacobian[3:], self._hand)
        now, free = data.qpos[self._qpos], np.ones(len(JOINTS), bool)
        for _ in range(3):
            j = jacobian[:, self._dof] * free
            step = j.T @ np.linalg.solve(j @ j.T + DAMPING**2 * np.eye(6), error)
            step *= min(1.0, STEP / max(1e-9, float(np.linalg.norm(step))))
            beyond = free & ((now + step > self._high) | (now + step < self._low))
            if not beyond.any():
                break
            free &= ~beyond
        return np.asarray(np.clip(now + step, self._low, self._high) - now)

    def tip(self, data: Any) -> Float[np.ndarray, "3"]:
        """The middle between the fingertips, m."""
        return np.asarray(
            0.5 * (data.site("rightEndEffector").xpos + data.site("leftEndEffector").xpos)
        )

    def _error(self, data: Any, target: Float[np.ndarray, "3"]) -> Float[np.ndarray, "6"]:
        inverse, difference, turn = np.zeros(4), np.zeros(4), np.zeros(3)
        self._mujoco.mju_negQuat(inverse, data.xquat[self._hand])
        self._mujoco.mju_mulQuat(difference, np.array(DOWN), inverse)
        self._mujoco.mju_quat2Vel(turn, difference, 1.0)
        return np.concatenate([target - data.xpos[self._hand], turn])
