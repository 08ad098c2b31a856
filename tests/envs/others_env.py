"""An environment that somebody else wrote: it knows nothing of irevla. `gymnasium.make` finds it as
"others_env:Slider-v0"."""

from typing import Any

import gymnasium as gym
import numpy as np

SCALE = 50.0  # of an action, to a move
SUCCESS = 0.06


class Slider(gym.Env[Any, Any]):
    """A slider on [0, 1] that has to get to a mark; beyond the ends it falls down."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        colour: int = 200,
        says: str = "is_success",
        bounded: bool = True,
        most: float = 10.0,
        careless: bool = False,
        render_mode: str | None = None,
    ) -> None:
        self.render_mode = render_mode
        self._colour = colour
        self._says = says
        self._careless = careless  # draws where no seed of ours reaches
        image = gym.spaces.Box(0, 255, (20, 40, 3), np.uint8)
        state = gym.spaces.Box(0, 1, (1,), np.float64)
        pixels = gym.spaces.Dict({"top": image, "depth": gym.spaces.Box(0, 9, (20, 40))})
        self.observation_space = gym.spaces.Dict({"pixels": pixels, "state": state})
        most = most if bounded else np.inf
        self.action_space = gym.spaces.Box(0.0, most, (1,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        draws: Any = np.random if self._careless else self.np_random
        self.place = draws.uniform(0.1, 0.9)
        self.mark = self.np_random.uniform(0.2, 0.8)
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.place += (float(action[0]) - 5) / SCALE
        solved = abs(self.place - self.mark) < SUCCESS
        fallen = not 0 <= self.place <= 1
        info = {self._says: np.bool_(solved)} if solved or self._says != "success" else {}
        info = {} if self._says == "nothing" else info
        return self._observe(), float(solved) - float(fallen), solved or fallen, False, info

    def render(self) -> Any:
        return self._image()

    def expert(self) -> np.ndarray:
        """What a person would do."""
        return np.clip([5 + SCALE * (self.mark - self.place)], 0, 10).astype(np.float32)

    def _observe(self) -> Any:
        depth = np.zeros((20, 40), np.float32)
        return {"pixels": {"top": self._image(), "depth": depth}, "state": np.array([self.place])}

    def _image(self) -> np.ndarray:
        image = np.full((20, 40, 3), 30, np.uint8)
        for place, rows, colour in ((self.mark, slice(0, 8), 90), (self.place, slice(8, 20), 0)):
            column = int(np.clip(place, 0, 1) * 35)
            image[rows, column : column + 5] = colour or self._colour
        return image


def expert(env: gym.Env[Any, Any]) -> np.ndarray:
    """The same, for irevla: `env` is what gymnasium has made."""
    slider: Any = env.unwrapped
    return np.asarray(slider.expert())


def mute(env: gym.Env[Any, Any]) -> list[float]:
    """An expert that says nothing."""
    return []


gym.register("Slider-v0", entry_point=Slider, max_episode_steps=3)


def eager(env: gym.Env[Any, Any]) -> np.ndarray:
    """Further than it can."""
    return 3 * expert(env)
