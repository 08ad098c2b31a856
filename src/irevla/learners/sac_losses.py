"""The losses of soft actor-critic as pure functions of tensors, for an action of two parts.

The motion (`C` dimensions) is a Gaussian squashed by tanh; the gripper is one of `K` choices, whose
expectations are exact. Without a gripper there is one choice: its log-probability and its entropy
are 0, and the equations are plain SAC's. With a gripper and no motion they are discrete SAC's
(Christodoulou 2019).
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def squashed(
    mean: Float[Tensor, "B C"], *, log_std: Float[Tensor, "B C"], noise: Float[Tensor, "B C"]
) -> tuple[Float[Tensor, "B C"], Float[Tensor, " B"]]:
    """Return the motion that standard normal `noise` gives, in [-1, 1], and its log-density.

    See Haarnoja et al. 2018, appendix C.
    """
    u = mean + log_std.exp() * noise
    # log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2 u)), which does not overflow
    log_slope = 2 * (math.log(2) - u - F.softplus(-2 * u))
    gaussian = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    # log p(tanh u) = log N(u) - sum_i log(1 - tanh(u_i)^2)
    return torch.tanh(u), (gaussian - log_slope).sum(-1)


def soft_value(
    q: Float[Tensor, "B K"],
    *,
    gripper: Float[Tensor, "B K"],
    log_prob: Float[Tensor, " B"],
    alpha: Float[Tensor, "2"],
) -> Float[Tensor, " B"]:
    """Return V of the policy whose motion was drawn with `log_prob`.

    `gripper` are the log-probabilities of the gripper's choices, `q` is of that motion with each of
    them, `alpha` are the temperatures of motion and gripper.
    """
    # V = sum_g pi(g) (Q(a, g) - alpha_2 log pi(g)) - alpha_1 log pi(a)
    return (gripper.exp() * (q - alpha[1] * gripper)).sum(-1) - alpha[0] * log_prob


def td_target(
    rewards: Float[Tensor, " B"],
    *,
    terminated: Bool[Tensor, " B"],
    next_values: Float[Tensor, " B"],
    gamma: float,
) -> Float[Tensor, " B"]:
    """Return what the critics are to say; `next_values` of terminated steps do not count."""
    # y = r + gamma V(s') (1 - terminated)
    return rewards + gamma * next_values.masked_fill(terminated, 0)


def critic_loss(
    q: Float[Tensor, "E B K"], *, gripper: Int[Tensor, " B"], targets: Float[Tensor, " B"]
) -> Float[Tensor, ""]:
    """Return the squared error of `E` critics for the choice that the gripper made: the mean."""
    chosen = q.gather(-1, gripper.expand(len(q), -1)[..., None]).squeeze(-1)
    # L = E[(Q_i(s, a, g) - y)^2] / 2
    return 0.5 * (chosen - targets).square().mean()


def entropies(
    *, gripper: Float[Tensor, "B K"], log_prob: Float[Tensor, " B"]
) -> Float[Tensor, "2"]:
    """Return the entropies of the motion, estimated from a draw, and of the gripper, in nats."""
    return torch.stack([-log_prob.mean(), -(gripper.exp() * gripper).sum(-1).mean()])


def temperature_loss(
    log_alpha: Float[Tensor, "2"], *, entropies: Float[Tensor, "2"], targets: Float[Tensor, "2"]
) -> Float[Tensor, ""]:
    """Return a loss under which a temperature rises while its entropy is below the target."""
    # L = sum_i log alpha_i (H_i - target_i)
    return (log_alpha * (entropies.detach() - targets)).sum()


def anchor_penalty(
    mean: Float[Tensor, "B A"], *, reference: Float[Tensor, "B A"]
) -> Float[Tensor, ""]:
    """Return the squared distance to what the SFT policy does, mean over dimensions."""
    # E[|a - a_SFT|^2] / A
    return F.mse_loss(mean, reference)
