"""The toy suite with two cameras: one as it is, and one that sees the table in a mirror."""

from dataclasses import replace

import numpy as np

from irevla.config import EnvConfig
from irevla.envs.pointmass import POINTMASS, PointMassEnv


class TwoCameras(PointMassEnv):
    def _view(self, camera: str, size: int) -> np.ndarray:
        image = self.picture(size)
        return image if camera == "plain" else image[:, ::-1]


def make(task: str, config: EnvConfig) -> TwoCameras:
    return TwoCameras(POINTMASS.task(task), config)


TWO = replace(POINTMASS, name="two-cameras", make=make, cameras=("plain", "mirror"))
