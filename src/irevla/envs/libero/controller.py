"""The control step of robosuite 1.4 for LIBERO's arm, to the last bit, in half of its time.

robosuite takes 25 physics steps in a control step, and computes everything three times in each:
`mj_forward` before the controller, again in the controller, and in `mj_step`. Between these nothing
moves; only the constraint solver goes on from where it was. So here positions, velocities and
contacts are computed once, and the solver runs as often as there: results are equal bit by bit (a
test compares them). The controller is robosuite's own; its reading of the state is written out
here with half of the calls.
"""

from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float

SUBSTEPS = 25  # physics steps of 2 ms in a control step
GRIP_SPEED = 0.01  # of the way between open and shut, in a physics step


class ArmController:
    """The operational space controller and the gripper of one episode."""

    def __init__(self, stock: Any, sim: Any, robot: Any) -> None:
        self._stock = stock
        self._model = sim.model._model
        self._data = sim.data._data
        self._site = self._model.site(stock.eef_name).id
        self._arm = list(robot._ref_joint_actuator_indexes)
        self._low, self._high = robot.torque_limits
        self._fingers = list(robot._ref_joint_gripper_actuator_indexes)
        span = self._model.actuator_ctrlrange[self._fingers]
        self._bias = 0.5 * (span[:, 1] + span[:, 0])
        self._weight = 0.5 * (span[:, 1] - span[:, 0])
        self._grip = np.zeros(len(self._fingers))
        stock.update = self._update

    def step(self, action: Float[np.ndarray, "7"]) -> None:
        """Take a control step: displacement and rotation of the hand, and the gripper (positive
        shuts)."""
        model = self._model
        data = self._data
        stock = self._stock
        for substep in range(SUBSTEPS):
            mujoco.mj_step1(model, data)
            mujoco.mj_fwdActuation(model, data)
            mujoco.mj_fwdAcceleration(model, data)
            mujoco.mj_fwdConstraint(model, data)
            if substep == 0:
                stock.set_goal(action[:6])
            torques = stock.run_controller()
            data.ctrl[self._fingers] = self._bias + self._weight * self._gripped(action[6])
            data.ctrl[self._arm] = np.clip(torques, self._low, self._high)
            mujoco.mj_step2(model, data)

    def _gripped(self, action: float) -> Float[np.ndarray, "2"]:
        change = np.array([-1.0, 1.0]) * GRIP_SPEED * np.sign(action)
        self._grip = np.clip(self._grip + change, -1.0, 1.0)
        return self._grip

    def _update(self, force: bool = False) -> None:
        """robosuite's `Controller.update`: the state that the controller acts on."""
        stock = self._stock
        if not (stock.new_update or force):
            return
        model = self._model
        data = self._data
        mujoco.mj_fwdConstraint(model, data)  # what is left of its `mj_forward`
        linear = np.zeros((3, model.nv))
        angular = np.zeros((3, model.nv))
        mujoco.mj_jacSite(model, data, linear, angular, self._site)
        stock.ee_pos = np.array(data.site_xpos[self._site])
        stock.ee_ori_mat = np.array(data.site_xmat[self._site].reshape([3, 3]))
        stock.ee_pos_vel = np.dot(linear, data.qvel)
        stock.ee_ori_vel = np.dot(angular, data.qvel)
        stock.joint_pos = np.array(data.qpos[stock.qpos_index])
        stock.joint_vel = np.array(data.qvel[stock.qvel_index])
        stock.J_pos = np.array(linear[:, stock.qvel_index])
        stock.J_ori = np.array(angular[:, stock.qvel_index])
        stock.J_full = np.array(np.vstack([stock.J_pos, stock.J_ori]))
        mass = np.zeros((model.nv, model.nv))
        mujoco.mj_fullM(model, mass, data.qM)
        stock.mass_matrix = mass[stock.qvel_index, :][:, stock.qvel_index]
        stock.new_update = False
