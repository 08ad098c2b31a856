"""The toy suite, but one seed has no scene. Workers import it as `breaking_suite:BREAKING`."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np

from irevla.config import EnvConfig
from irevla.envs.pointmass import POINTMASS, PointMassEnv

BROKEN = 7


class BreakingEnv(PointMassEnv):
    """It raises where an episode of `BROKEN` begins."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        if seed == BROKEN:
            raise RuntimeError("no scene")
        return super().reset(seed=seed, options=options)


def _make(task: str, config: EnvConfig) -> gym.Env[Any, Any]:
    return BreakingEnv(POINTMASS.task(task), config)


BREAKING = replace(POINTMASS, make=_make, source="breaking_suite:BREAKING")
