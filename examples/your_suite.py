"""A suite of your own: one file, no registration. python examples/your_suite.py

The command line takes it as "module:attribute", wherever it can be imported:

    cd examples && PYTHONPATH=. irevla tasks your_suite:SUITE
"""

import tempfile
from dataclasses import replace

import numpy as np

import irevla
from irevla.config import EnvConfig
from irevla.envs.pixel_env import PixelEnv
from irevla.envs.suite import Suite
from irevla.tasks import Category, Task

TASKS = (
    Task("high-mark", Category.EXPERT, "move the bar to the mark"),
    Task("low-mark", Category.RL, "move the bar to the mark", "a mark further down"),
    Task("high-red", Category.UNSEEN, "move the bar to the mark", "a red bar"),
)


class Bar(PixelEnv):
    """A bar at a height in [-1, 1], which an action moves, and a mark."""

    def __init__(self, task: str, config: EnvConfig) -> None:
        super().__init__(SUITE.task(task), config, action_dim=1, control_hz=20)

    def _set_scene(self) -> None:
        side = -1 if self.task.name == "low-mark" else 1
        self._height = self.np_random.uniform(-0.9, 0.9)
        self._mark = side * self.np_random.uniform(0.1, 0.9)

    def _advance(self, action: np.ndarray) -> bool:
        self._height += 0.1 * float(action[0])
        return abs(self._height - self._mark) < 0.1

    def expert_action(self) -> np.ndarray:
        """Return the way to the mark."""
        return np.clip([10 * (self._mark - self._height)], -1, 1).astype(np.float32)

    def picture(self, size: int) -> np.ndarray:
        """Return the bar and, at the left edge, the mark."""
        image = np.full((size, size, 3), 60, np.uint8)
        colour = (220, 50, 40) if self.task.name == "high-red" else (240, 240, 240)
        image[self._row(self._mark, size), : size // 4] = (50, 90, 230)
        image[self._row(self._height, size), size // 4 :] = colour
        return image

    def _row(self, height: float, size: int) -> slice:
        top = round((1 - min(max(height, -1), 1)) / 2 * (size - 3))
        return slice(top, top + 3)


SUITE = Suite(
    name="bar",
    tasks=TASKS,
    action_dim=1,
    fps=20,
    make=Bar,
    render_settings=lambda config: {"suite": "bar", "image_size": config.image_size},
)

if __name__ == "__main__":
    toy = irevla.preset("pointmass", suite="your_suite:SUITE", method="sft", threads=1)
    config = replace(  # demonstrations, stage 0, success rates: minute ones
        toy,
        expert=replace(toy.expert, episodes=10),
        sft=replace(toy.sft, steps=100, batch=32, validate_every=100),
        eval=replace(toy.eval, episodes=5, videos=False),
    )
    with tempfile.TemporaryDirectory() as out:
        policy = irevla.run(config, out=f"{out}/bar")
    image, _ = SUITE.make("high-mark", config.env).reset(seed=0)
    print("action:", policy.act(image, "move the bar to the mark"))
