"""The losses of soft actor-critic as pure functions of tensors, for an action of two parts.

The motion (`C` dimensions) is a Gaussian of fixed deviation, clipped to [-1, 1]; the gripper is one
of `K` choices, whose expectations are exact, as in discrete SAC (Christodoulou 2019). Without a
gripper there is one choice: its log-probability and its entropy are 0.
"""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def soft_value(
    q: Float[Tensor, "B K"], *, gripper: Float[Tensor, "B K"], alpha: Float[Tensor, ""]
) -> Float[Tensor, " B"]:
    """Return V of the policy: `q` is of a motion that it drew, with each choice of the gripper.

    `gripper` are the log-probabilities of these, `alpha` is their temperature.
    """
    # V = sum_g pi(g) (Q(a, g) - alpha log pi(g))
    return (gripper.exp() * (q - alpha * gripper)).sum(-1)


def critic_loss(
    q: Float[Tensor, "E B K"], *, gripper: Int[Tensor, " B"], returns: Float[Tensor, " B"]
) -> Float[Tensor, ""]:
    """Return the squared error of `E` critics for the choice that the gripper made: the mean."""
    chosen = q.gather(-1, gripper.expand(len(q), -1)[..., None]).squeeze(-1)
    # L = E[(Q_i(s, a, g) - R)^2] / 2
    return 0.5 * (chosen - returns).square().mean()


def gripper_entropy(gripper: Float[Tensor, "B K"]) -> Float[Tensor, ""]:
    """Return the mean entropy of log-probabilities, in nats."""
    return -(gripper.exp() * gripper).sum(-1).mean()


def temperature_loss(
    log_alpha: Float[Tensor, ""], *, entropy: Float[Tensor, ""], wanted: float
) -> Float[Tensor, ""]:
    """Return a loss under which the temperature rises while the entropy is below what is wanted."""
    # L = log alpha (H - wanted)
    return log_alpha * (entropy.detach() - wanted)


def anchor_penalty(
    mean: Float[Tensor, "B A"], *, reference: Float[Tensor, "B A"]
) -> Float[Tensor, ""]:
    """Return the squared distance to what the SFT policy does, mean over dimensions."""
    # E[|a - a_SFT|^2] / A
    return F.mse_loss(mean, reference)
