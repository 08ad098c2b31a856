"""What soft actor-critic makes of the action head: a policy of two parts, and an ensemble of
critics (section V-D).

An action is `C` dimensions of motion and, where there is a gripper, its opening in the last
dimension.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from irevla.models.heads import ActionHead
from irevla.types import Features


class SoftActor(nn.Module):
    """The action head, trained in place, as a soft policy: it starts as the SFT policy.

    With u the head's output before tanh: the motion is a Gaussian around tanh(u), of deviation
    `std` and clipped to [-1, 1]. The gripper closes (+1) with probability sigmoid(2 u), else it
    opens (-1): its mean is tanh(u), just what the head says. Both parts read one h'.
    """

    def __init__(self, head: ActionHead, *, discrete_gripper: bool, std: float) -> None:
        super().__init__()
        self.head = head
        self.discrete_gripper = discrete_gripper
        self.motion = head.action_dim - discrete_gripper  # C
        self.std = std
        assert self.motion > 0, "a gripper alone does not move"

    @property
    def choices(self) -> int:
        """K, among how many values the gripper chooses; 1 where there is none."""
        return 2 if self.discrete_gripper else 1

    def forward(self, features: Features) -> Float[Tensor, "B A"]:
        """Return u, of which tanh is the mean action."""
        u: Tensor = self.head.mlp(self.head.read(features))
        return u

    def move(self, u: Float[Tensor, "B A"], noise: Float[Tensor, "B C"]) -> Float[Tensor, "B C"]:
        """Return the motion that standard normal `noise` gives."""
        return (torch.tanh(u[:, : self.motion]) + self.std * noise).clamp(-1, 1)

    def gripper_log_probs(self, u: Float[Tensor, "B A"]) -> Float[Tensor, "B K"]:
        """Return the log-probabilities of the gripper's choices: open, closed."""
        if not self.discrete_gripper:
            return u.new_zeros(len(u), 1)
        return F.logsigmoid(2 * torch.stack([-u[:, -1], u[:, -1]], 1))

    def split(
        self, actions: Float[Tensor, "B A"]
    ) -> tuple[Float[Tensor, "B C"], Int[Tensor, " B"]]:
        """Return the motion and the gripper's choice in executed actions.

        What is more closed than open is closed.
        """
        motion = actions[:, : self.motion]
        closed = (actions[:, -1] > 0).long()
        return motion, closed if self.discrete_gripper else torch.zeros_like(closed)

    @torch.no_grad()
    def act(
        self, features: Features, *, noise: Float[Tensor, "B A"], chance: Float[Tensor, " B"]
    ) -> Float[Tensor, "B A"]:
        """Return actions to execute: the motion with standard normal `noise`, of which the
        gripper's column does not count; the gripper closed where `chance`, uniform in [0, 1), is
        less than its probability."""
        u = self(features)
        motion = self.move(u, noise[:, : self.motion].to(u.device))
        if not self.discrete_gripper:
            return motion
        closed = self.gripper_log_probs(u).exp()[:, -1:]
        gripper = (closed > chance[:, None].to(u.device)).float() * 2 - 1
        return torch.cat([motion, gripper], 1)


class CriticEnsemble(nn.Module):
    """`E` critics of h' (and the robot's state) and a motion, each with a value for every choice of
    the gripper, computed at once.

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
    ) -> Float[Tensor, "E B K"]:
        """Return Q of every critic."""
        x = torch.cat([h, motion], 1)
        layers = list(zip(self.weights, self.biases, strict=True))
        for number, (weight, bias) in enumerate(layers, start=1):
            x = torch.baddbmm(bias, x.expand(len(weight), -1, -1), weight)
            if number < len(layers):
                x = F.relu(F.layer_norm(x, x.shape[-1:]))
        return x
