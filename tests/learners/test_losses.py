import math
import warnings

import pytest
import torch
from torch import Tensor

from irevla.learners import losses

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tensordict import TensorDict
    from tensordict.nn import NormalParamExtractor, TensorDictModule
    from torchrl.modules import IndependentNormal, ProbabilisticActor, ValueOperator
    from torchrl.objectives import ClipPPOLoss
    from torchrl.objectives.value.functional import generalized_advantage_estimate

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None]


def flags(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.bool)[:, None]


NONE = flags(0, 0, 0)
ALL = flags(1, 1, 1)


def estimate(**changed: object) -> tuple[list[float], list[float]]:
    """Of three steps with rewards 0 0 1, values .5 .25 .5, next values .25 .5 2, gamma = lambda =
    .5."""
    given: dict[str, object] = {"terminated": NONE, "truncated": NONE, "valid": ALL} | changed
    advantages, returns = losses.gae(
        column(0, 0, 1),
        column(0.5, 0.25, 0.5),
        next_values=column(0.25, 0.5, 2),
        gamma=0.5,
        lam=0.5,
        **given,
    )
    return advantages.squeeze(1).tolist(), returns.squeeze(1).tolist()


# deltas: 0 + .5 * .25 - .5 = -.375;  0 + .5 * .5 - .25 = 0;  1 + .5 * 2 - .5 = 1.5, or 1 - .5 = .5
# where terminated


def test_gae_by_hand_where_the_episode_goes_on() -> None:
    advantages, returns = estimate()
    assert advantages == [-0.375 + 0.25 * 0.375, 0.25 * 1.5, 1.5]
    assert returns == [0.5 - 0.28125, 0.25 + 0.375, 2.0]


def test_gae_by_hand_where_it_terminates() -> None:
    assert estimate(terminated=flags(0, 0, 1))[0] == [-0.375 + 0.25 * 0.125, 0.125, 0.5]


def test_gae_by_hand_where_it_is_truncated_on_the_way() -> None:
    # The truncated step bootstraps with its own next value, and nothing of the next episode flows
    # back.
    assert estimate(truncated=flags(0, 1, 0))[0] == [-0.375, 0.0, 1.5]


def test_gae_by_hand_where_it_terminates_on_the_way() -> None:
    assert estimate(terminated=flags(0, 1, 0))[0] == [-0.375 + 0.25 * -0.25, -0.25, 1.5]


def test_gae_is_zero_at_invalid_steps_and_does_not_flow_over_them() -> None:
    advantages, returns = estimate(valid=flags(1, 0, 1))
    assert advantages == [-0.375, 0.0, 1.5]
    assert returns == [0.125, 0.0, 2.0]


def test_invalid_steps_may_hold_anything() -> None:
    rewards = torch.full((2, 1), math.nan)
    ok = flags(0, 0)
    advantages, returns = losses.gae(
        rewards,
        rewards,
        next_values=rewards,
        terminated=ok,
        truncated=ok,
        valid=ok,
        gamma=0.9,
        lam=0.9,
    )
    assert (advantages == 0).all() and (returns == 0).all()


def test_gae_against_torchrl() -> None:
    shape = (40, 3)
    rewards, values, next_values = torch.randn(3, *shape)
    terminated = torch.rand(shape) < 0.1
    truncated = (torch.rand(shape) < 0.1) & ~terminated
    ours = losses.gae(
        rewards,
        values,
        next_values=next_values,
        terminated=terminated,
        truncated=truncated,
        valid=torch.ones_like(truncated),
        gamma=0.97,
        lam=0.9,
    )
    columns = (values, next_values, rewards, terminated | truncated, terminated)
    oracle = generalized_advantage_estimate(0.97, 0.9, *(column.T[..., None] for column in columns))
    for mine, theirs in zip(ours, oracle, strict=True):
        torch.testing.assert_close(mine, theirs.squeeze(-1).T, atol=1e-5, rtol=1e-5)


def test_gaussian_against_torch() -> None:
    actions, mean, log_std = torch.randn(5, 3), torch.randn(5, 3), torch.randn(3)
    normal = torch.distributions.Normal(mean, log_std.exp())
    ours = losses.gaussian_log_prob(actions, mean=mean, log_std=log_std)
    torch.testing.assert_close(ours, normal.log_prob(actions).sum(-1))
    torch.testing.assert_close(losses.entropy(log_std), normal.entropy().sum(-1)[0])


def test_normalised_by_hand() -> None:
    assert losses.normalised(torch.tensor([1.0, 3.0])).tolist() == [-1.0, 1.0]


def test_advantages_that_are_the_critics_noise_stay_small() -> None:
    assert losses.normalised(1e-4 * torch.randn(1000)).abs().max() < 0.1
    assert (losses.normalised(torch.ones(4)) == 0).all()


def test_surrogate_by_hand() -> None:
    ratios, advantages = (
        torch.tensor([1.5, 1.5, 0.5, 0.5, 1.0]),
        torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0]),
    )
    loss, metrics = losses.clipped_surrogate(
        ratios.log(), old_log_probs=torch.zeros(5), advantages=advantages, clip=0.2
    )
    # A gain is clipped, a harm is not: min(1.5, 1.2), min(-1.5, -1.2), min(.5, .8), min(-.5, -.8),
    # 2
    torch.testing.assert_close(loss, torch.tensor(-(1.2 - 1.5 + 0.5 - 0.8 + 2.0) / 5))
    torch.testing.assert_close(metrics["clip_fraction"], torch.tensor(0.8))
    k3 = 2 * (0.5 - math.log(1.5)) + 2 * (-0.5 - math.log(0.5))
    torch.testing.assert_close(metrics["kl"], torch.tensor(k3 / 5))


def test_no_gradient_beyond_the_clip() -> None:
    log_probs = torch.tensor([1.5, 0.5]).log().requires_grad_()
    loss, _ = losses.clipped_surrogate(
        log_probs, old_log_probs=torch.zeros(2), advantages=torch.tensor([1.0, -1.0]), clip=0.2
    )
    loss.backward()
    assert log_probs.grad is not None and (log_probs.grad == 0).all()


def test_the_kl_estimate_is_that_of_the_gaussians() -> None:
    old, new, log_std = torch.zeros(1), torch.tensor([0.2]), torch.zeros(1)
    actions = torch.randn(200_000, 1)
    before = losses.gaussian_log_prob(actions, mean=old.expand_as(actions), log_std=log_std)
    after = losses.gaussian_log_prob(actions, mean=new.expand_as(actions), log_std=log_std)
    _, metrics = losses.clipped_surrogate(after, old_log_probs=before, advantages=before, clip=0.2)
    assert metrics["kl"].item() == pytest.approx(0.5 * 0.2**2, rel=0.05)


def test_ppo_losses_against_torchrl() -> None:
    net = torch.nn.Linear(3, 4)
    actor = ProbabilisticActor(
        TensorDictModule(
            torch.nn.Sequential(net, NormalParamExtractor()),
            in_keys=["observation"],
            out_keys=["loc", "scale"],
        ),
        in_keys=["loc", "scale"],
        distribution_class=IndependentNormal,
    )
    critic = torch.nn.Linear(3, 1)
    oracle = ClipPPOLoss(
        actor, ValueOperator(critic), clip_epsilon=0.2, entropy_bonus=False, loss_critic_type="l2"
    )
    n = 64
    observation, action, old = torch.randn(n, 3), torch.randn(n, 2), torch.randn(n) - 2
    advantages, returns = torch.randn(n), torch.randn(n)
    data = {
        "observation": observation,
        "action": action,
        "action_log_prob": old,
        "advantage": advantages[:, None],
        "value_target": returns[:, None],
    }
    theirs = oracle(TensorDict(data, [n]))
    mean, scale = NormalParamExtractor()(net(observation))
    log_probs = torch.stack(
        [
            losses.gaussian_log_prob(a, mean=m, log_std=s.log())
            for a, m, s in zip(action, mean, scale, strict=True)
        ]
    )
    loss, metrics = losses.clipped_surrogate(
        log_probs, old_log_probs=old, advantages=advantages, clip=0.2
    )
    torch.testing.assert_close(loss, theirs["loss_objective"])
    torch.testing.assert_close(metrics["clip_fraction"], theirs["clip_fraction"])
    critic_loss = losses.value_loss(critic(observation).squeeze(-1), returns=returns)
    torch.testing.assert_close(2 * critic_loss * oracle.critic_coeff, theirs["loss_critic"])


def test_the_discount_of_a_decision_is_that_of_its_steps() -> None:
    """delta_0 = 0 + .5^3 * .25 - .5, delta_1 = 0 + .5^2 * .5 - .25, delta_2 = 1 + .5 * 2 - .5; what
    comes after a decision counts gamma^steps lambda."""
    advantages, returns = estimate(steps=torch.tensor([[3], [2], [1]]))
    second = (0 + 0.25 * 0.5 - 0.25) + 0.25 * 0.5 * 1.5
    first = (0 + 0.125 * 0.25 - 0.5) + 0.125 * 0.5 * second
    assert advantages == pytest.approx([first, second, 1.5])
    assert returns == pytest.approx([first + 0.5, second + 0.25, 2.0])


def test_decisions_of_one_step_are_what_they_were() -> None:
    assert estimate(steps=torch.ones(3, 1, dtype=torch.int64)) == estimate()
