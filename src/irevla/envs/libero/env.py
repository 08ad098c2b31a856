"""One task of LIBERO as a gymnasium environment: an image in, seven-dimensional motions out,
sparse reward."""

from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from irevla.config import EnvConfig
from irevla.envs.libero.controller import ArmController
from irevla.envs.libero.experts import Expert
from irevla.envs.libero.install import check
from irevla.envs.libero.stock import renderer, stock
from irevla.envs.libero.tasks import ACTION_DIM, CAMERA, CAMERAS, CONTROL_HZ, specs
from irevla.envs.pixel_env import PixelEnv, mujoco_broke
from irevla.errors import unknown
from irevla.tasks import evaluation_number

SETTLE = 10  # control steps that things come to rest in, before an episode, as the field has it
STILL = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])


class LiberoEnv(PixelEnv):
    """One task. Action, in [-1, 1]: `float32[7]`, displacement (5 cm) and rotation (0.5 rad) of the
    hand along and around the axes of the world, and the gripper (positive shuts), as LIBERO's
    OSC_POSE. A control step is 0.05 s; the horizon is that of the config, and at most that of the
    field.

    The first 50 seeds of evaluation block 0 start at the benchmark's 50 fixed states; all other
    seeds where its sampler puts things.
    """

    def __init__(
        self, task: str, config: EnvConfig | None = None, *, render_mode: str | None = None
    ) -> None:
        known = specs()
        if task not in known:
            raise unknown("task of libero", task, known)
        check()
        self._spec = known[task]
        config = config or EnvConfig()
        most = max(1, self._spec.horizon // config.action_repeat)
        super().__init__(
            self._spec.task,
            replace(config, horizon=min(config.horizon, most)),
            action_dim=ACTION_DIM,
            control_hz=CONTROL_HZ,
            render_mode=render_mode,
        )
        self._stock = stock(self._spec)
        self._sim = self._stock.new_sim()
        self.model = self._sim.model._model  # shared: see `_use`
        self.data = self._sim.data._data
        self._furniture = (self.model.body_pos.copy(), self.model.body_quat.copy())
        self._arm: ArmController | None = None
        shared = self._stock
        self._expert = Expert(shared.problem, self.model, self.data, shared.clouds)
        self._number: int | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start the episode of `seed`: at a fixed start state, where it is one of evaluation."""
        self._number = None if seed is None else evaluation_number(seed)
        return super().reset(seed=seed, options=options)

    def _set_scene(self) -> None:
        controller = self._stock.reset(self._sim, int(self.np_random.integers(2**31)))
        self._furniture = (self.model.body_pos.copy(), self.model.body_quat.copy())
        if self._number is not None and self._number < len(self._stock.starts):
            self._sim.set_state_from_flattened(self._stock.starts[self._number])
        self._sim.forward()
        robot = self._stock.problem.robots[0]
        self._arm = ArmController(controller, self._sim, robot)
        for _ in range(SETTLE):
            self._arm.step(STILL)

    def _advance(self, action: Float32[np.ndarray, "7"]) -> bool:
        """Hold the action for `action_repeat` control steps or until success."""
        assert self._arm is not None, "an episode begins with reset"
        self._use()
        for _ in range(self.config.action_repeat):
            self._arm.step(action.astype(np.float64))
            if self._stock.success(self._sim):
                return True
        return False

    def _unstable(self) -> bool:
        return mujoco_broke(self.data)

    def expert_action(self) -> Float32[np.ndarray, "7"]:
        """The scripted expert's clean action for the present state."""
        self._use()
        return self._expert.action().clip(-1.0, 1.0).astype(np.float32)

    def picture(self, size: int) -> UInt8[np.ndarray, "size size 3"]:
        """The present scene, whether or not observations are drawn."""
        self._use()
        image: np.ndarray = renderer(self._spec, CAMERA).draw(self.model, self.data, size=size)
        return image

    def _view(self, camera: str, size: int) -> UInt8[np.ndarray, "size size 3"]:
        self._use()
        image: np.ndarray = renderer(self._spec, CAMERAS[camera]).draw(
            self.model, self.data, size=size
        )
        return image

    def _robot_state(self) -> Float32[np.ndarray, " S"]:
        """What `arm_state.STATE` names."""
        site = self.model.site("gripper0_grip_site").id
        sides = self.data.site_xmat[site].reshape(3, 3)[:, :2].T.ravel()
        fingers = self.data.qpos[7:9]
        opening = [abs(fingers[0] - fingers[1])]
        return np.concatenate([self.data.site_xpos[site], sides, opening]).astype(np.float32)

    def _use(self) -> None:
        """Put the furniture of this episode into the model, which other environments share."""
        self.model.body_pos[:], self.model.body_quat[:] = self._furniture
