"""Meta-World behind `Suite`: images in, 4-d actions out, sparse reward.

Physics is the stock environment's, bit by bit; only the image is rendered from a light model
(`render`). `reset(seed=s)` gives the same episode in any process and after any other episodes: the
stock reset settles everything twice over, once its random start position is seeded.
"""

import functools
import warnings
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from irevla.config import EnvConfig
from irevla.envs.metaworld.stock import expert, stock
from irevla.envs.metaworld.tasks import ACTION_DIM, CAMERA, CAMERA_POS, CONTROL_HZ, SPECS
from irevla.envs.pixel_env import PixelEnv, mujoco_broke
from irevla.errors import UserError, unknown

FIXED = (
    "tablelink",
    "RetainingWall",
    "base",
    "controller_box",
    "pedestal_feet",
    "torso",
    "pedestal",
    "right_arm_base_link",
)
PATH_LENGTH = 500  # control steps of Meta-World's longest episode


class MetaWorldEnv(PixelEnv):
    """One task. Action: `float32[4]` in [-1, 1], the hand's displacement and the grip."""

    def __init__(
        self, task: str, config: EnvConfig | None = None, *, render_mode: str | None = None
    ) -> None:
        if task not in SPECS:
            raise unknown("task of metaworld", task, SPECS)
        config = config or EnvConfig()
        if config.horizon * config.action_repeat > PATH_LENGTH:
            asked = f"env.horizon {config.horizon} x env.action_repeat {config.action_repeat}"
            raise UserError(
                f"{asked} is over Meta-World's {PATH_LENGTH} control steps: lower one of them"
            )
        super().__init__(
            SPECS[task].task,
            config,
            action_dim=ACTION_DIM,
            control_hz=CONTROL_HZ,
            render_mode=render_mode,
        )
        self._inner = stock(task)
        self._policy = expert(task)
        self._state = np.zeros(39)

    def _set_scene(self) -> None:
        self._inner.seed(int(self.np_random.integers(2**31)))
        self._state, _ = self._inner.reset()
        self._policy = expert(self.task.name)

    def _advance(self, action: Float32[np.ndarray, "4"]) -> bool:
        """Hold the action for `action_repeat` control steps or until success."""
        for _ in range(self.config.action_repeat):
            self._state, _, _, _, info = self._inner.step(action)
            if info["success"]:
                return True
        return False

    def _robot_state(self) -> Float32[np.ndarray, "4"]:
        return self._state[:4].astype(np.float32)

    def _unstable(self) -> bool:
        return mujoco_broke(self._inner.data)

    def expert_action(self) -> Float32[np.ndarray, "4"]:
        """The scripted expert's clean action for the present state."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # every expert asks for more than 1, and is told so
            action: np.ndarray = self._policy.get_action(self._state)
        return action.clip(-1.0, 1.0).astype(np.float32)

    def picture(self, size: int) -> UInt8[np.ndarray, "size size 3"]:
        """The present scene, whether or not observations are drawn."""
        renderer = _renderer(self.task.name)
        inner = self._inner
        inner.take()
        goals = [
            (inner.model.site(name).id, position) for name, position in inner._target_site_config
        ]
        upside_down: np.ndarray = renderer.draw(inner.model, inner.data, size=size, sites=goals)
        return upside_down[::-1].copy()  # so hangs the stock camera


@functools.cache
def _renderer(task: str) -> Any:
    """The light model of `task`, shared by all its environments in this process."""
    from irevla.envs import render

    model = stock(task).model
    return render.Renderer(model, camera=render.camera_of(model, CAMERA, CAMERA_POS), fixed=FIXED)
