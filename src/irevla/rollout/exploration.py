"""Exploration noise that lasts: an episode tries one thing for a while, and not sixty at once.

White noise averages out before a hand has gone anywhere, and of all its draws a success tells
little of each. Pink noise (Eberhard et al. 2023) has as much of it, most of it slow.
"""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from irevla.envs.vector import StepResult

PURPOSE = 3  # beside 2, the gripper's chances: not the same numbers


@lru_cache(maxsize=4096)
def pink(seed: int, episode: int, *, decisions: int, dimensions: int) -> Float32[np.ndarray, "T A"]:
    """Return pink noise for the decisions of one episode: its power falls with frequency as 1 / f.

    Each number has mean 0 and variance 1 over episodes. The episode's mean has the power of its
    slowest wave.
    """
    length = max(2, decisions)
    white = np.random.default_rng([seed, PURPOSE, episode]).standard_normal((length, dimensions))
    frequency = np.abs(np.fft.fftfreq(length))
    frequency[0] = frequency[1]
    power = 1 / frequency
    waves = np.fft.fft(white, axis=0) * np.sqrt(power / power.mean())[:, None]
    return np.fft.ifft(waves, axis=0).real.astype(np.float32)


class PinkNoise:
    """The noise of every episode of one stage, settled by `seed` and the episode's own.

    So it needs no state: an episode that goes on in another process goes on with its noise.
    """

    def __init__(self, seed: int, *, decisions: int, execute: int = 1) -> None:
        self._seed = seed
        self._decisions = decisions  # that an episode may take
        self._execute = execute  # actions that are given at once, each with its step's noise

    def at(self, result: StepResult, *, dimensions: int) -> Float[Tensor, "k nA"]:
        """Return it for the slots that play, in their order, of as many steps as are given at
        once."""
        ahead = np.arange(self._execute)
        rows = []
        for job, step in zip(result.jobs, result.step.tolist(), strict=True):
            if job is not None:
                noise = pink(self._seed, job.seed, decisions=self._decisions, dimensions=dimensions)
                steps = np.minimum(step + ahead, len(noise) - 1)  # beyond it nothing is executed
                rows.append(noise[steps].reshape(-1))
        return torch.from_numpy(np.stack(rows))
