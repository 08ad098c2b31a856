"""Where episodes start."""

from dataclasses import dataclass

import numpy as np

from irevla.robot.limits import Limits
from irevla.robot.pose import Pose, turned


@dataclass(frozen=True)
class Home(Pose):
    """A start, or the middle of where starts are drawn."""

    spread: float = 0.0  # m: how far from it a start may be, along each axis ...
    turn: float = 0.0  # ... and rad, turned around the vertical

    def start(self, random: np.random.Generator, limits: Limits) -> Pose:
        """Return the start of an episode, within the workspace."""
        shift = random.uniform(-self.spread, self.spread, 3)
        yaw = random.uniform(-self.turn, self.turn)
        position = np.minimum(np.maximum(self.position + shift, limits.low), limits.high)
        return Pose(position, turned(self.quaternion, np.array([0.0, 0.0, yaw])))
