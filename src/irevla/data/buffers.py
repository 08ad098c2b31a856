"""What learners on latents are given: PPO one rollout, SAC decisions of any time."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from irevla.types import Features, Observation


@dataclass(frozen=True)
class RolloutBatch:
    """`T` decisions in each of `B` environments, time-major; in one axis, at `t * B + b`.

    A decision is a chunk of `n` actions, of which `steps` were executed: fewer where the episode or
    the rollout ended. `rewards` are those of all of them, discounted to its beginning.

    `terminated` and `truncated` are kept apart: a truncated step bootstraps with `next_values`, the
    value of its true last observation (not of the next episode's first), a terminated one never
    bootstraps. `valid` is False where a worker died and its partial episode was dropped, and where
    an environment made fewer decisions than others.
    """

    features: Features  # (T*B) x m x d: of the observation before each action
    actions: Float[Tensor, "T B nA"]  # as sampled, before the environment clips to [-1, 1]
    log_probs: Float[Tensor, "T B"]  # under the policy that acted
    values: Float[Tensor, "T B"]
    next_values: Float[Tensor, "T B"]  # of the true next observation of each step
    rewards: Float[Tensor, "T B"]
    terminated: Bool[Tensor, "T B"]
    truncated: Bool[Tensor, "T B"]
    valid: Bool[Tensor, "T B"]
    steps: Int[Tensor, "T B"] | None = None  # None: one in each
    observations: Observation | None = None  # T*B, where the encoder is live


@dataclass(frozen=True)
class Decisions:
    """`B` decisions of any time, each with what was seen before it and what came after it."""

    h: Float[Tensor, "B n"]  # h' and the robot's state, as the SFT policy's head reads them
    actions: Float[Tensor, "B nA"]  # as executed, in [-1, 1]
    returns: Float[Tensor, " B"]  # rewards from there to the episode's end, discounted

    def __len__(self) -> int:
        return len(self.actions)

    def to(self, device: torch.device | str) -> "Decisions":
        """Return the same on another device."""
        return Decisions(self.h.to(device), self.actions.to(device), self.returns.to(device))

    @staticmethod
    def cat(parts: Sequence["Decisions"]) -> "Decisions":
        """Join batches."""
        return Decisions(
            torch.cat([part.h for part in parts]),
            torch.cat([part.actions for part in parts]),
            torch.cat([part.returns for part in parts]),
        )
