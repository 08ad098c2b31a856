"""Policies whose numbers can be worked by hand: integers, halves and quarters."""

import os
import signal

import torch
from torch import Tensor, nn

from irevla.envs.vector import VectorEnv
from irevla.types import Features, Observation, Policy


class FakePolicy(Policy):
    """Latents that say which image they are of: one token (seed, step), and padding that differs
    between batches."""

    chunk = 1
    execute = 1

    def __init__(self, *, mean: float = 0.25, std: float = 0.5, padding: bool = True) -> None:
        self._log_std = nn.Parameter(torch.tensor([std, std]).log())
        self.encoded: list[tuple[int, int]] = []
        self.instructions: list[str] = []
        self.calls = 0
        self._mean = mean
        self._padding = padding

    @property
    def log_std(self) -> nn.Parameter:
        return self._log_std

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def encode(self, observation: Observation) -> Features:
        self.calls += 1
        self.encoded += [(int(image[0, 0, 0]), int(image[0, 1, 0])) for image in observation.images]
        self.instructions += observation.instructions
        number = len(observation)
        padded = self.calls % 3 if self._padding else 0
        latents = torch.tensor(self.encoded[-number:], dtype=torch.float32)[:, None]
        padding = torch.zeros(number, padded, 2)
        mask = torch.tensor([[True] + [False] * padded] * number)
        return Features(torch.cat([latents, padding], 1), mask)

    def mean(self, features: Features) -> Tensor:
        return torch.full((len(features), 2), self._mean)

    def decide(self, features: Features, chance: Tensor) -> Tensor:
        return self.mean(features)

    def native(self, actions: Tensor) -> Tensor:
        return actions


class Labels(FakePolicy):
    """Its actions say what it saw: (seed, step) / 8."""

    def __init__(self) -> None:
        super().__init__(padding=False)

    def mean(self, features: Features) -> Tensor:
        return features.tokens[:, 0] / 8


class KillsAWorker(FakePolicy):
    """At its third look it kills a worker."""

    def __init__(self, vec: VectorEnv) -> None:
        super().__init__()
        self._vec = vec

    def mean(self, features: Features) -> Tensor:
        if self.calls == 3 and not self._vec.dropped:
            os.kill(self._vec.pids[0], signal.SIGKILL)
        return super().mean(features)
