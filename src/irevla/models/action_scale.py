"""What the head's -1 and 1 are: the suite's own, or the range that actions have in D_e.

Where demonstrations use a small part of what the suite takes, as rotations often do, the head would
tell them apart in its last digits alone, and exploration be far too coarse.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

STILL = 1e-6  # a range below which a dimension counts as constant: then it stays where it is
DEVIATIONS = 3.0  # from the mean to the end of the range, for "mean-std"
PERCENT = 1.0  # of the actions lie beyond either end, for "quantiles"


class ActionScale(nn.Module):
    """The suite's actions that the head calls -1 and 1, dimension by dimension; no parameters, but
    part of the files."""

    low: Tensor
    high: Tensor

    def __init__(self, action_dim: int, kind: str) -> None:
        super().__init__()
        self.kind = kind  # one of `config.ACTION_SCALES`
        self.action_dim = action_dim
        if kind != "suite":  # else there is nothing in the files
            self.register_buffer("low", -torch.ones(action_dim))
            self.register_buffer("high", torch.ones(action_dim))

    def fit(self, actions: Float[Tensor, "N A"], *, gripper: bool) -> None:
        """Take the range from demonstrations, as far as the suite goes.

        A discrete `gripper`, the last dimension, keeps the suite's: open is -1 and closed is 1.
        """
        if self.kind == "suite":
            return
        low, high = _range(actions.double(), self.kind)
        if gripper:
            low[-1] = -1.0
            high[-1] = 1.0
        self.low.copy_(low.clamp(-1, 1))
        self.high.copy_(high.clamp(-1, 1))

    @property
    def grips(self) -> bool:
        """Whether the last dimension reaches from open, -1, to closed, 1."""
        return self.kind == "suite" or bool(self.low[-1] == -1 and self.high[-1] == 1)

    def native(self, actions: Float[Tensor, "B _"]) -> Float[Tensor, "B _"]:
        """Return actions of the head in the suite's scale; of a chunk, one step's after the
        other's."""
        if self.kind == "suite":
            return actions
        centre, half = self._of(actions)
        steps = actions.clamp(-1, 1).view(len(actions), -1, self.action_dim)
        return (centre + half * steps).flatten(1)

    def scaled(self, actions: Float[Tensor, "B A"]) -> Float[Tensor, "B A"]:
        """Return actions of the suite in the head's scale, clipped to [-1, 1]; 0 where they are
        constant."""
        if self.kind == "suite":
            return actions
        centre, half = self._of(actions)
        moves = half > STILL / 2
        scaled = (actions - centre) / torch.where(moves, half, 1.0)
        return torch.where(moves, scaled, 0.0).clamp(-1, 1)

    def outside(self, actions: Float[Tensor, "N A"]) -> Int[Tensor, " A"]:
        """Return how many actions are clipped, dimension by dimension; rounding apart."""
        if self.kind == "suite":
            return torch.zeros(self.action_dim, dtype=torch.int64)
        centre, half = self._of(actions)
        return ((actions - centre).abs() > half + STILL).sum(0)

    def _of(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the range's centre and half its width, where `actions` are."""
        low = self.low.to(actions.device)
        high = self.high.to(actions.device)
        return (high + low) / 2, (high - low) / 2


def _range(actions: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Return the ends of the range that `kind` says, `A` each."""
    if kind == "mean-std":
        std, mean = torch.std_mean(actions, 0, correction=0)
        return mean - DEVIATIONS * std, mean + DEVIATIONS * std
    share = PERCENT / 100 if kind == "quantiles" else 0.0
    ordered = actions.sort(0).values  # torch.quantile takes no more than 16 million numbers
    beyond = int(share * (len(ordered) - 1))
    return ordered[beyond].clone(), ordered[len(ordered) - 1 - beyond].clone()
