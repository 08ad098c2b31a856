"""What soft actor-critic makes of the action head: a policy of two parts, and an ensemble of
critics (section V-D).

An action is `C` dimensions of motion and, where there is a gripper, its opening in the last
dimension. A decision is a chunk of `n` actions: `nC` dimensions of motion, and each step's opening.
"""

from itertools import pairwise, product

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
    opens (-1): its mean is tanh(u), just what the head says. Both parts read one h'. Of the chunk
    that the head gives, `execute` actions are executed, and learnt from.
    """

    def __init__(
        self, head: ActionHead, *, discrete_gripper: bool, std: float, execute: int = 1
    ) -> None:
        super().__init__()
        self.head = head
        self.discrete_gripper = discrete_gripper
        self.execute = execute  # n
        self._moves = head.action_dim - discrete_gripper  # C
        self.motion = execute * self._moves  # nC
        self.std = std
        assert self.motion > 0, "a gripper alone does not move"
        grips = list(product((0, 1), repeat=execute if discrete_gripper else 0))
        self._grips = torch.tensor(grips, dtype=torch.int64)  # K x n: closed or not, step by step

    @property
    def choices(self) -> int:
        """K, in how many ways the gripper opens and closes in a chunk; 1 where there is none."""
        return len(self._grips)

    def forward(self, features: Features) -> Float[Tensor, "B kA"]:
        """Return u, of which tanh is the mean of the actions."""
        u: Tensor = self.head.mlp(self.head.read(features))
        return u

    def move(self, u: Float[Tensor, "B kA"], noise: Float[Tensor, "B nC"]) -> Float[Tensor, "B nC"]:
        """Return the motion that standard normal `noise` gives."""
        return (torch.tanh(self._motion(u)) + self.std * noise).clamp(-1, 1)

    def gripper_log_probs(self, u: Float[Tensor, "B kA"]) -> Float[Tensor, "B K"]:
        """Return the log-probabilities of the gripper's choices: open, closed. In a chunk each step
        has its own, and a choice is of all of them: the last step's changes first."""
        each = self._each_log_probs(u)
        grips = self._grips.to(u.device)
        steps = torch.arange(grips.shape[1], device=u.device)
        return each[:, steps, grips].sum(-1)

    def split(
        self, actions: Float[Tensor, "B nA"]
    ) -> tuple[Float[Tensor, "B nC"], Int[Tensor, " B"]]:
        """Return the motion and the gripper's choice in executed actions.

        What is more closed than open is closed.
        """
        closed = (self._steps(actions)[..., -1] > 0).long()
        choice = torch.zeros_like(closed[:, 0])
        for step in range(self._grips.shape[1]):
            choice = 2 * choice + closed[:, step]
        return self._motion(actions), choice

    @torch.no_grad()
    def act(
        self, features: Features, *, noise: Float[Tensor, "B nA"], chance: Float[Tensor, "B ..."]
    ) -> Float[Tensor, "B nA"]:
        """Return actions to execute: the motion with standard normal `noise`, of which the
        gripper's column does not count; the gripper closed where `chance`, uniform in [0, 1), of
        each step or of all, is less than its probability."""
        u = self(features)
        motion = self.move(u, self._motion(noise).to(u.device))
        if not self.discrete_gripper:
            return motion
        closed = self._each_log_probs(u)[..., -1].exp()
        gripper = (closed > chance.view(len(u), -1).to(u.device)).float() * 2 - 1
        motions = motion.view(len(u), self.execute, -1)
        return torch.cat([motions, gripper[..., None]], 2).flatten(1)

    def _steps(self, actions: Float[Tensor, "B _"]) -> Float[Tensor, "B n A"]:
        """Return what is executed of actions, step by step."""
        return actions.view(len(actions), -1, self.head.action_dim)[:, : self.execute]

    def _motion(self, actions: Float[Tensor, "B _"]) -> Float[Tensor, "B nC"]:
        return self._steps(actions)[..., : self._moves].flatten(1)

    def _each_log_probs(self, u: Float[Tensor, "B kA"]) -> Float[Tensor, "B n 2"]:
        """Return the log-probabilities of open and closed in each step."""
        # Taken twice, so that gradients are summed up as they were before there were chunks.
        opens = -self._steps(u)[..., -1]
        return F.logsigmoid(2 * torch.stack([opens, self._steps(u)[..., -1]], 2))


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
