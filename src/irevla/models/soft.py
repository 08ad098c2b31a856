"""What soft actor-critic makes of the action head: a policy of two parts, and an ensemble of
critics (section V-D).

An action is `C` dimensions of motion and, where there is a gripper, its opening in the last
dimension.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from irevla.models.heads import ActionHead
from irevla.types import Features

LOG_STD = (-5.0, 1.0)  # bounds of the motion's log standard deviation


class SoftActor(nn.Module):
    """The action head, trained in place, as a soft policy: it starts as the SFT policy.

    With u the head's output before tanh: the motion is a Gaussian around u, squashed by tanh, with
    a deviation that depends on the latent and starts at `std`. The gripper closes (+1) with
    probability sigmoid(2 u), else it opens (-1): its mean is tanh(u), just what the head says. Both
    parts read one h'.
    """

    def __init__(self, head: ActionHead, *, gripper: bool, std: float) -> None:
        super().__init__()
        self.head, self.gripper = head, gripper
        self.motion = head.action_dim - gripper
        assert self.motion > 0, "a gripper alone does not move"
        self.spread = nn.Linear(head.width, self.motion)
        nn.init.zeros_(self.spread.weight)
        low, high = LOG_STD
        nn.init.constant_(
            self.spread.bias, math.atanh(2 * (math.log(std) - low) / (high - low) - 1)
        )
        self.spread.to(next(head.parameters()).device)

    @property
    def choices(self) -> int:
        """K, among how many values the gripper chooses; 1 where there is none."""
        return 2 if self.gripper else 1

    def forward(self, features: Features) -> tuple[Float[Tensor, "B A"], Float[Tensor, "B C"]]:
        """u, of which tanh is the mean action, and the log standard deviation of the motion."""
        h = self.head.token_learner(features)
        low, high = LOG_STD
        return self.head.mlp(h), low + 0.5 * (high - low) * (1 + torch.tanh(self.spread(h)))

    def grip(self, u: Float[Tensor, "B A"]) -> Float[Tensor, "B K"]:
        """Log-probabilities of the gripper's choices: open, closed."""
        if not self.gripper:
            return u.new_zeros(len(u), 1)
        return F.logsigmoid(2 * torch.stack([-u[:, -1], u[:, -1]], 1))

    def split(
        self, actions: Float[Tensor, "B A"]
    ) -> tuple[Float[Tensor, "B C"], Int[Tensor, " B"]]:
        """The motion and the gripper's choice in executed actions: what is more closed than open is
        closed."""
        closed = actions[:, -1] > 0 if self.gripper else torch.zeros_like(actions[:, -1])
        return actions[:, : self.motion], closed.long()

    @torch.no_grad()
    def act(
        self, features: Features, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "B A"]:
        """Actions to execute: the likeliest, or drawn where a `generator` (on the CPU) is given."""
        u, log_std = self(features)
        closed = self.grip(u).exp()[:, -1:]
        threshold = torch.full_like(closed, 0.5)
        if generator is not None:
            u = u[:, : self.motion] + log_std.exp() * torch.randn(
                log_std.shape, generator=generator
            ).to(u.device)
            threshold = torch.rand(closed.shape, generator=generator).to(u.device)
        motion = torch.tanh(u[:, : self.motion])
        return (
            torch.cat([motion, (closed > threshold).float() * 2 - 1], 1) if self.gripper else motion
        )


class CriticEnsemble(nn.Module):
    """`E` critics of h' and a motion, each with a value for every choice of the gripper, computed
    at once.

    Two hidden layers with layer norm, which bounds what a critic says of actions never tried (RLPD,
    Ball et al. 2023); the norm has no weights of its own. Like the critic head, they start as Q =
    0.
    """

    def __init__(self, *, critics: int, width: int, motion: int, hidden: int, choices: int) -> None:
        super().__init__()
        sizes = (width + motion, hidden, hidden, choices)
        self.weights = nn.ParameterList([torch.empty(critics, *shape) for shape in pairwise(sizes)])
        self.biases = nn.ParameterList([torch.zeros(critics, 1, outputs) for outputs in sizes[1:]])
        for weight in self.weights[:-1]:
            bound = weight.shape[1] ** -0.5  # as nn.Linear
            nn.init.uniform_(weight, -bound, bound)
        nn.init.zeros_(self.weights[-1])

    def forward(
        self,
        h: Float[Tensor, "B d"],
        motion: Float[Tensor, "B C"],
        *,
        members: Int[Tensor, " k"] | None = None,
    ) -> Float[Tensor, "k B K"]:
        """Q of every critic, or of the `members` alone."""
        x = torch.cat([h, motion], 1)
        layers = list(zip(self.weights, self.biases, strict=True))
        for number, (weight, bias) in enumerate(layers, start=1):
            if members is not None:
                weight, bias = weight[members], bias[members]
            x = torch.baddbmm(bias, x.expand(len(weight), -1, -1), weight)
            if number < len(layers):
                x = F.relu(F.layer_norm(x, x.shape[-1:]))
        return x
