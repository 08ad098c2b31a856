"""An environment of your own, and what irevla must know of it: python examples/your_env.py
To train in it: irevla run ... --suite gym:FILE.yaml --expert.dataset PATH (your_dataset.py)
"""

import tempfile
from typing import Any

import gymnasium as gym
import numpy as np

import irevla
from irevla.config import ModelConfig
from irevla.models.policy import build_policy

SETTINGS = """
id: your_env:Dial-v0       # importing your_env registers it
image: camera              # which key of the observation is the image
success: info.is_success
tasks:
  turn: {category: expert, instruction: turn the dial to the top}
  turn-red: {category: unseen, instruction: turn the dial to the top, make: {colour: [220, 50, 40]}}
"""


class Dial(gym.Env[Any, Any]):
    """A bar that an action moves up or down, by at most 5 pixels."""

    metadata = {"render_modes": [], "render_fps": 10}  # noqa: RUF012
    observation_space = gym.spaces.Dict({"camera": gym.spaces.Box(0, 255, (48, 64, 3), np.uint8)})
    action_space = gym.spaces.Box(-5, 5, (1,), np.float32)

    def __init__(self, colour: tuple[int, int, int] = (240, 240, 240)) -> None:
        self._colour = colour

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Start anywhere but at the top."""
        super().reset(seed=seed)
        self._row = self.np_random.uniform(10, 47)
        return {"camera": self._image()}, {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Move the bar."""
        self._row = float(np.clip(self._row - action[0], 0, 47))
        return {"camera": self._image()}, 0.0, False, False, {"is_success": self._row < 3}

    def _image(self) -> np.ndarray:
        image = np.full((48, 64, 3), 60, np.uint8)
        image[int(self._row)] = self._colour
        return image


gym.register("Dial-v0", entry_point=Dial)

if __name__ == "__main__":
    policy = build_policy(ModelConfig(vlm="tiny-random"), action_dim=1, image_size=32).eval()
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        print(SETTINGS, file=file, flush=True)
        for row in irevla.evaluate(policy, f"gym:{file.name}", tasks=["turn-red"], episodes=5):
            print(f"{row.task}: {row.successes} of {row.episodes} solved")
