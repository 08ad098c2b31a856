"""What one rollout leaves for one PPO update."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from irevla.types import Features, Observation


@dataclass(frozen=True)
class RolloutBatch:
    """`T` decisions in each of `B` environments, time-major; flattened with `t * B + b` where a single axis is wanted.

    `terminated` and `truncated` are kept apart: a truncated step bootstraps with `next_values`, the value of its true
    last observation (not of the next episode's first), a terminated one never bootstraps. `valid` is False where a
    worker died and its partial episode was dropped.
    """

    features: Features  # of the observation before each action, flattened: (T*B) x m x d; encoded once
    actions: Float[Tensor, "T B A"]  # as sampled, before the environment clips to [-1, 1]
    log_probs: Float[Tensor, "T B"]  # under the policy that acted
    values: Float[Tensor, "T B"]
    next_values: Float[Tensor, "T B"]  # of the true next observation of each step
    rewards: Float[Tensor, "T B"]
    terminated: Bool[Tensor, "T B"]
    truncated: Bool[Tensor, "T B"]
    valid: Bool[Tensor, "T B"]
    observations: Observation | None = None  # flattened likewise; kept only where the encoder is live
