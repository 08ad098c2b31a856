"""What learners on latents are given: PPO one rollout, SAC transitions of any time."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from irevla.types import Features, Observation


@dataclass(frozen=True)
class RolloutBatch:
    """`T` decisions in each of `B` environments, time-major; in one axis, at `t * B + b`.

    `terminated` and `truncated` are kept apart: a truncated step bootstraps with `next_values`, the
    value of its true last observation (not of the next episode's first), a terminated one never
    bootstraps. `valid` is False where a worker died and its partial episode was dropped.
    """

    features: Features  # (T*B) x m x d: of the observation before each action
    actions: Float[Tensor, "T B A"]  # as sampled, before the environment clips to [-1, 1]
    log_probs: Float[Tensor, "T B"]  # under the policy that acted
    values: Float[Tensor, "T B"]
    next_values: Float[Tensor, "T B"]  # of the true next observation of each step
    rewards: Float[Tensor, "T B"]
    terminated: Bool[Tensor, "T B"]
    truncated: Bool[Tensor, "T B"]
    valid: Bool[Tensor, "T B"]
    observations: Observation | None = None  # T*B, where the encoder is live


@dataclass(frozen=True)
class Transitions:
    """`B` decisions with what was seen before and after each.

    A terminated one never bootstraps; one that was truncated does, with its true last observation,
    like any other.
    """

    features: Features
    actions: Float[Tensor, "B A"]  # as executed, in [-1, 1]
    rewards: Float[Tensor, " B"]
    terminated: Bool[Tensor, " B"]
    next_features: Features  # means nothing where terminated

    def __len__(self) -> int:
        return len(self.actions)

    def to(self, device: torch.device | str) -> "Transitions":
        """Return the same on another device."""
        return Transitions(
            self.features.to(device),
            self.actions.to(device),
            self.rewards.to(device),
            self.terminated.to(device),
            self.next_features.to(device),
        )

    @staticmethod
    def cat(parts: Sequence["Transitions"]) -> "Transitions":
        """Join batches."""
        return Transitions(
            Features.cat([part.features for part in parts]),
            torch.cat([part.actions for part in parts]),
            torch.cat([part.rewards for part in parts]),
            torch.cat([part.terminated for part in parts]),
            Features.cat([part.next_features for part in parts]),
        )
