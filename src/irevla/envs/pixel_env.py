"""What the environments of all suites have in common: spaces, the horizon, and images that can be
left out."""

import zlib
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import UInt8

from irevla.config import EnvConfig
from irevla.tasks import Task


class PixelEnv(gym.Env[np.ndarray, np.ndarray]):
    """Observation: `uint8[S, S, 3]`. Action: `float32[A]` in [-1, 1]; what lies outside is clipped.

    The reward is 1 at success, where the episode terminates; else 0. After `horizon` decisions it
    is truncated, unless it has just terminated. A subclass draws (`picture`), and ends its `reset`
    with `_begin` and its `step` with `_outcome`.
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
        size = self.config.image_size
        self.observation_space = gym.spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (action_dim,), np.float32)
        self.metadata = {
            **self.metadata,
            "render_fps": max(1, control_hz // self.config.action_repeat),
        }
        self._decisions = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Let `np_random` begin anew for the episode of `seed`; a subclass sets the scene with it.

        Each task has its own scenes for one seed: else what is held out in one has twins in
        another.
        """
        super().reset(seed=seed)
        if seed is not None:
            task = zlib.crc32(self.task.name.encode())
            self.np_random = np.random.default_rng([seed, task])
        return np.empty(0), {}

    def picture(self, size: int) -> UInt8[np.ndarray, "size size 3"]:
        """The present scene, whether or not observations are drawn."""
        raise NotImplementedError

    def render(self) -> UInt8[np.ndarray, "S S 3"]:  # type: ignore[override]
        """The present scene at the size of observations."""
        return self.picture(self.config.image_size)

    def close(self) -> None:
        """Nothing to free: what draws belongs to the process."""

    def _begin(self) -> tuple[np.ndarray, dict[str, Any]]:
        """What `reset` returns, when the scene is set."""
        self._decisions = 0
        return self._observe(), {"success": False}

    def _outcome(self, success: bool) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """What `step` returns, when a decision has been carried out."""
        self._decisions += 1
        truncated = self._decisions >= self.config.horizon and not success
        return self._observe(), float(success), success, truncated, {"success": success}

    def _observe(self) -> np.ndarray:
        size = self.config.image_size
        return self.picture(size) if self.draw else np.zeros((size, size, 3), np.uint8)
