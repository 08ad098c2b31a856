"""gym-pusht's T, pushed straight onto its target: pip install gym-pusht;
python examples/gym_pusht_push.py.

The simulation, its images and its success (95 % of the target covered) are gym-pusht's. Ours are
the starts, where one push is enough, and a scripted expert that pushes: turning the T needs more.
"""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gym_pusht.envs.pusht import PushTEnv

from irevla.config import EnvConfig
from irevla.envs.suite import load_suite

MIDDLE = np.array([0, 45])  # of the T's mass, seen from the middle of its bar, pixels
BEHIND = np.array([0, -15])  # where the round hand touches the bar, likewise
NEAR = 1  # pixels beside that point from which it may push


def turned(angle: float, vector: np.ndarray) -> np.ndarray:
    """Return a vector of the T's own frame as the picture has it."""
    sin, cos = np.sin(angle), np.cos(angle)
    return np.array([[cos, -sin], [sin, cos]]) @ vector


class StraightPush(PushTEnv):
    """The T lies in front of its target, `nearest` to `farthest` pixels away, and is turned by
    `tilt` degrees at most; the hand is somewhere behind it."""

    def __init__(
        self, nearest: float = 30, farthest: float = 90, tilt: float = 0, **keywords: Any
    ) -> None:
        super().__init__(**keywords)
        self._away = nearest, farthest
        self._tilt = np.radians(tilt)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Put the T and the hand somewhere."""
        gym.Env.reset(self, seed=seed)
        x, y, angle = 256, 256, np.pi / 4  # of the target
        back = turned(angle, np.array([0, -self.np_random.uniform(*self._away)]))
        angle += self.np_random.uniform(-self._tilt, self._tilt)
        hand = self.np_random.uniform([-70, -110], [70, -40])
        place = np.array([x, y]) + back
        # The package moves the T first and turns it then, about the middle of its mass.
        state = [*place + turned(angle, hand), *place + turned(angle, MIDDLE) - MIDDLE, angle]
        return super().reset(options={"reset_to_state": state})


def expert(env: gym.Env[Any, Any]) -> np.ndarray:
    """Return where the hand should go: behind the middle of the bar, and then to where that point
    is when the T lies on its target."""
    sim: Any = env.unwrapped
    angle = sim.block.angle
    hand = turned(-angle, np.array(sim.agent.position - sim.block.position))
    if abs(hand[0]) > NEAR:
        aim = np.array(sim.block.position) + turned(angle, 2 * BEHIND)
    else:
        aim = sim.goal_pose[:2] + turned(sim.goal_pose[2], BEHIND)
    return np.asarray(np.clip(aim, 0, 512), np.float32)


gym.register("StraightPush-v0", entry_point=StraightPush)

if __name__ == "__main__":
    suite = load_suite(f"gym:{Path(__file__).with_suffix('.yaml')}")
    env: Any = suite.make("push", EnvConfig(action_repeat=1, horizon=40)).unwrapped
    solved = 0
    for seed in range(10):
        env.reset(seed=seed)
        solved += any(env.step(env.expert_action())[4]["success"] for _ in range(40))
    print(f"the scripted expert brings {solved} of 10 to their target")
