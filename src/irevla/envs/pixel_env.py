"""What the environments of all suites have in common: spaces, the horizon, and images that can be
left out."""

import zlib
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Float32, UInt8

from irevla.config import EnvConfig
from irevla.tasks import Task


class PixelEnv(gym.Env[np.ndarray, np.ndarray]):
    """Observation: `uint8[H, W, 3]`. Action: `float32[A]` in [-1, 1]; what lies outside is clipped.

    The reward is 1 at success, where the episode terminates; else 0. After `horizon` decisions it
    is truncated, unless it has just terminated. `info["state"]` is the robot's. A subclass sets the
    scene (`_set_scene`), carries out a decision (`_advance`) and renders (`picture`).
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        task: Task,
        config: EnvConfig | None,
        *,
        action_dim: int,
        control_hz: int,
        render_mode: str | None = None,
    ) -> None:
        self.task = task
        self.draw = True
        self.config = config or EnvConfig()
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(0, 255, self.config.image_shape, np.uint8)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (action_dim,), np.float32)
        self.metadata = {
            **self.metadata,
            "render_fps": max(1, control_hz // self.config.action_repeat),
        }
        self._decisions = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start the episode of `seed`, wholly decided by it; without one, the generator's next.

        Each task has its own scenes for one seed: else what is held out in one has twins in
        another.
        """
        super().reset(seed=seed)
        if seed is not None:
            task = zlib.crc32(self.task.name.encode())
            self.np_random = np.random.default_rng([seed, task])
        self._set_scene()
        self._decisions = 0
        return self._observe(), {"success": False, "state": self._robot_state()}

    def step(
        self, action: Float32[np.ndarray, " A"]
    ) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Carry out one decision, clipped to [-1, 1].

        Success ends the episode (`terminated`); out of time cuts it off (`truncated`); never both.
        So does a simulation that has become unstable: that is never a success. Raises `ValueError`
        for an action that is not finite.
        """
        if not np.isfinite(action).all():
            raise ValueError(f"the action for {self.task.name} is not finite: {action}")
        success = self._advance(np.clip(action, -1.0, 1.0).astype(np.float32))
        self._decisions += 1
        broken = self._unstable()
        success = success and not broken
        truncated = not success and (broken or self._decisions >= self.config.horizon)
        info = {"success": success, "state": self._robot_state()}
        return self._observe(), float(success), success, truncated, info

    def picture(self, size: int) -> UInt8[np.ndarray, "size size 3"]:
        """Return the present scene, whether or not observations are drawn."""
        raise NotImplementedError

    def render(self) -> UInt8[np.ndarray, "S S 3"]:  # type: ignore[override]
        """Return the present scene at the size of observations."""
        return self.picture(self.config.image_size)

    def close(self) -> None:
        """Nothing to free: what draws belongs to the process."""

    def _set_scene(self) -> None:
        """Set the scene of a new episode, by `np_random` alone."""
        raise NotImplementedError

    def _advance(self, action: Float32[np.ndarray, " A"]) -> bool:
        """Carry out one decision; return whether the task is solved."""
        raise NotImplementedError

    def _view(self, camera: str, size: int) -> UInt8[np.ndarray, "size size 3"]:
        """Return what one of `Suite.cameras` sees."""
        raise NotImplementedError

    def _robot_state(self) -> Float32[np.ndarray, " S"]:
        """What the robot says of itself, in SI units: `Suite.state` numbers."""
        return np.zeros(0, np.float32)

    def _unstable(self) -> bool:
        """Whether the simulation broke down, so that nothing of its state can be believed."""
        return False

    def _observe(self) -> np.ndarray:
        if not self.draw:
            return np.zeros(self.config.image_shape, np.uint8)
        size = self.config.image_size
        if not self.config.cameras:
            return self.picture(size)
        return np.concatenate([self._view(camera, size) for camera in self.config.cameras])


def mujoco_broke(data: Any) -> bool:
    """Whether MuJoCo found a state or an acceleration that is not finite or huge since the last
    reset.

    It then resets the scene by itself, to a start at which some tasks are solved.
    """
    import mujoco

    kinds = (
        mujoco.mjtWarning.mjWARN_BADQPOS,
        mujoco.mjtWarning.mjWARN_BADQVEL,
        mujoco.mjtWarning.mjWARN_BADQACC,
    )
    return any(data.warning[int(kind)].number > 0 for kind in kinds)
