"""The losses of RL as pure functions of tensors.

`r` is the probability ratio, `A` here the advantage, `V` the value.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

Metrics = dict[str, Tensor]  # name -> a detached scalar
MIN_STD = 0.01  # see `normalised`


@torch.no_grad()
def gae(
    rewards: Float[Tensor, "T B"],
    values: Float[Tensor, "T B"],
    *,
    next_values: Float[Tensor, "T B"],
    terminated: Bool[Tensor, "T B"],
    truncated: Bool[Tensor, "T B"],
    valid: Bool[Tensor, "T B"],
    gamma: float,
    lam: float,
    steps: Int[Tensor, "T B"] | None = None,
) -> tuple[Float[Tensor, "T B"], Float[Tensor, "T B"]]:
    """Return generalised advantage estimates and returns, zero at steps that are not valid.

    See Schulman et al. 2016.
    `next_values` are of each step's own next observation, also where the episode was truncated
    there. A truncated step bootstraps with them, a terminated one never; no advantage flows back
    over the end of an episode or an invalid step. Where a decision took `steps` steps, its discount
    is gamma^steps; None: each took one.
    """
    steps = torch.ones_like(valid, dtype=torch.int64) if steps is None else steps
    powers = [gamma**step for step in range(int(steps.max()) + 1)]
    discount = torch.tensor(powers, dtype=torch.float64, device=steps.device)[steps]
    # delta_t = r_t + gamma^n V(s_{t+n}) (1 - terminated_t) - V(s_t)
    after = discount.to(values.dtype) * next_values
    deltas = torch.where(valid, rewards + after * ~terminated - values, 0)
    # A_t = delta_t + gamma^n lambda (1 - end_t) A_{t+n}
    decay = (discount * lam).to(values.dtype) * (valid & ~terminated & ~truncated)
    advantages = torch.empty_like(deltas)
    following = torch.zeros_like(deltas[0])
    for t in reversed(range(len(deltas))):
        following = advantages[t] = deltas[t] + decay[t] * following
    # R_t = A_t + V(s_t)
    return advantages, torch.where(valid, advantages + values, 0)


def normalised(advantages: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Return advantages of mean 0 and standard deviation 1, or less where it was under `MIN_STD`.

    With a sparse reward, a rollout without any success has only the critic's small errors for
    advantages: made as large as real ones, they would lead the actor astray.
    """
    # A <- (A - mean A) / max(std A, MIN_STD)
    return (advantages - advantages.mean()) / advantages.std(correction=0).clamp_min(MIN_STD)


def gaussian_log_prob(
    actions: Float[Tensor, "*N A"], *, mean: Float[Tensor, "*N A"], log_std: Float[Tensor, " A"]
) -> Float[Tensor, "*N"]:
    """Return the log-density of actions under a Gaussian with independent dimensions."""
    # log p(a) = sum_i -((a_i - mu_i) / sigma_i)^2 / 2 - log sigma_i - log(2 pi) / 2
    z = (actions - mean) * torch.exp(-log_std)
    return -0.5 * z.square().sum(-1) - log_std.sum() - 0.5 * math.log(2 * math.pi) * log_std.numel()


def entropy(log_std: Float[Tensor, " A"]) -> Float[Tensor, ""]:
    """Return the entropy of that Gaussian, in nats: how much the policy still explores."""
    # H = sum_i log sigma_i + log(2 pi e) / 2
    return log_std.sum() + 0.5 * math.log(2 * math.pi * math.e) * log_std.numel()


def clipped_surrogate(
    log_probs: Float[Tensor, " N"],
    *,
    old_log_probs: Float[Tensor, " N"],
    advantages: Float[Tensor, " N"],
    clip: float,
) -> tuple[Float[Tensor, ""], Metrics]:
    """Return PPO's clipped objective (Schulman et al. 2017), as a loss, with metrics.

    These say how far the policy has moved.
    """
    log_ratio = log_probs - old_log_probs
    ratio = log_ratio.exp()
    # L = -E[min(r A, clip(r, 1 - eps, 1 + eps) A)]
    loss = -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages).mean()
    with torch.no_grad():
        # KL(old || new) ~ E[(r - 1) - log r]: unbiased, and never negative ("k3" of Schulman's
        # note)
        kl = (ratio - 1 - log_ratio).mean()
        clipped = ((ratio - 1).abs() > clip).float().mean()
    return loss, {"actor_loss": loss.detach(), "kl": kl, "clip_fraction": clipped}


def value_loss(values: Float[Tensor, " N"], *, returns: Float[Tensor, " N"]) -> Float[Tensor, ""]:
    """Return the mean squared error of the critic, halved."""
    # L = E[(V - R)^2] / 2
    return 0.5 * F.mse_loss(values, returns)
