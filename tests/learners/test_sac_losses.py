import math
import warnings

import pytest
import torch
from torch import Tensor, nn

from irevla.learners import sac_losses as losses

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tensordict import TensorDict
    from tensordict.nn import NormalParamExtractor, TensorDictModule
    from torchrl.modules import (
        OneHotCategorical,
        ProbabilisticActor,
        QValueActor,
        TanhNormal,
        ValueOperator,
    )
    from torchrl.objectives import DiscreteSACLoss, SACLoss

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

HALVES = torch.tensor([[0.5, 0.5]]).log()


def test_squashed_log_density_against_torch() -> None:
    mean, log_std, noise = torch.randn(3, 50, 2)
    motion, log_prob = losses.squashed(mean, log_std=log_std, noise=noise)
    oracle = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(mean.double(), log_std.double().exp()),
        [torch.distributions.TanhTransform(cache_size=1)],
    )
    u = (mean + log_std.exp() * noise).double()
    torch.testing.assert_close(motion, u.tanh().float())
    inner = oracle.base_dist.log_prob(u) - oracle.transforms[0].log_abs_det_jacobian(u, u.tanh())
    torch.testing.assert_close(log_prob, inner.sum(-1).float(), atol=1e-4, rtol=1e-4)


def test_squashed_density_integrates_to_one() -> None:
    motion = torch.linspace(-0.99999, 0.99999, 200_001, dtype=torch.float64)[:, None]
    mean, log_std = torch.full_like(motion, 0.4), torch.full_like(motion, -0.7)
    noise = (torch.atanh(motion) - mean) / log_std.exp()
    again, log_prob = losses.squashed(mean, log_std=log_std, noise=noise)
    torch.testing.assert_close(again, motion)
    assert torch.trapezoid(log_prob.exp(), motion[:, 0]).item() == pytest.approx(1, abs=1e-4)


def test_squashed_log_density_is_finite_where_tanh_is_one() -> None:
    mean = torch.tensor([[60.0, -60.0]], requires_grad=True)
    _, log_prob = losses.squashed(mean, log_std=torch.zeros(1, 2), noise=torch.zeros(1, 2))
    log_prob.sum().backward()
    # log p = -log(2 pi) - 2 * 2 (log 2 - 60)
    assert log_prob.item() == pytest.approx(
        -math.log(2 * math.pi) + 4 * (60 - math.log(2)), rel=1e-5
    )
    assert mean.grad is not None and mean.grad.isfinite().all()


def test_soft_value_by_hand() -> None:
    value = losses.soft_value(
        torch.tensor([[1.0, 3.0]]),
        gripper=HALVES,
        log_prob=torch.tensor([-2.0]),
        alpha=torch.tensor([0.1, 0.5]),
    )
    assert value.item() == pytest.approx(2 + 0.5 * math.log(2) + 0.1 * 2)


def test_soft_value_is_the_sum_over_all_choices() -> None:
    q, logits, log_prob = torch.randn(20, 3), torch.randn(20, 3), torch.randn(20)
    alpha = torch.tensor([0.2, 0.7])
    gripper = logits.log_softmax(-1)
    value = losses.soft_value(q, gripper=gripper, log_prob=log_prob, alpha=alpha)
    for row in range(20):
        expected = -0.2 * log_prob[row].item()
        for choice in range(3):
            p = math.exp(gripper[row, choice].item())
            expected += p * (q[row, choice].item() - 0.7 * math.log(p))
        assert value[row].item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_best_gripper_is_the_softmax_of_q_over_the_temperature() -> None:
    """V's maximum over all soft policies is alpha logsumexp(Q / alpha), and gradients lead
    there."""
    q, alpha, logits = (
        torch.tensor([[0.3, 0.1]]),
        torch.tensor([0.0, 0.2]),
        torch.zeros(1, 2, requires_grad=True),
    )
    for _ in range(500):
        value = losses.soft_value(
            q, gripper=logits.log_softmax(-1), log_prob=torch.zeros(1), alpha=alpha
        )
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        logits.data += 20 * gradient
    torch.testing.assert_close(
        logits.softmax(-1).detach(), (q / 0.2).softmax(-1), atol=1e-3, rtol=1e-3
    )
    torch.testing.assert_close(value.detach(), 0.2 * (q / 0.2).logsumexp(-1))


def test_targets_by_hand() -> None:
    targets = losses.td_target(
        torch.tensor([0.0, 1.0, 1.0]),
        terminated=torch.tensor([False, True, False]),
        next_values=torch.tensor([0.5, math.nan, 0.25]),
        gamma=0.8,
    )
    torch.testing.assert_close(targets, torch.tensor([0.4, 1.0, 1.2]))


def test_critic_loss_by_hand() -> None:
    q = torch.tensor(
        [[[1.0, 9.0], [9.0, 2.0]], [[3.0, 9.0], [9.0, 4.0]]]
    )  # two critics, two samples, two choices
    loss = losses.critic_loss(q, gripper=torch.tensor([0, 1]), targets=torch.tensor([1.0, 1.0]))
    assert loss.item() == pytest.approx((0 + 1 + 4 + 9) / 4 / 2)


def test_entropies_by_hand() -> None:
    gripper = torch.tensor([[0.5, 0.5], [1.0, 1e-30]]).log()
    found = losses.entropies(gripper=gripper, log_prob=torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(found, torch.tensor([-1.5, math.log(2) / 2]))


def test_a_temperature_rises_where_entropy_is_short_and_falls_where_it_abounds() -> None:
    log_alpha = torch.zeros(2, requires_grad=True)
    entropies = torch.tensor([-3.0, 0.6], requires_grad=True)
    loss = losses.temperature_loss(
        log_alpha, entropies=entropies, targets=torch.tensor([-2.0, 0.1])
    )
    loss.backward()
    torch.testing.assert_close(
        log_alpha.grad, torch.tensor([-1.0, 0.5])
    )  # descent: the first up, the second down
    assert entropies.grad is None


def test_anchor_by_hand() -> None:
    penalty = losses.anchor_penalty(
        torch.tensor([[0.5, 1.0]]), reference=torch.tensor([[0.0, -1.0]])
    )
    assert penalty.item() == pytest.approx((0.25 + 4) / 2)


# --- against TorchRL


class Q(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(5, 1)

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        value: Tensor = self.net(torch.cat([observation, action], -1))
        return value


def step_data(n: int, action: Tensor) -> TensorDict:
    terminated = torch.rand(n, 1) < 0.3
    following = {
        "observation": torch.randn(n, 3),
        "reward": torch.randn(n, 1),
        "done": terminated,
        "terminated": terminated,
    }
    return TensorDict(
        {"observation": torch.randn(n, 3), "action": action, "next": TensorDict(following, [n])},
        [n],
    )


def same_noise(n: int) -> Tensor:
    torch.manual_seed(5)
    return torch.normal(torch.zeros(n, 2), torch.ones(n, 2))


def test_losses_of_the_motion_against_torchrl() -> None:
    n, gamma, alpha = 64, 0.9, torch.tensor([0.3, 0.0])
    net = nn.Linear(3, 4)
    actor = ProbabilisticActor(
        TensorDictModule(
            nn.Sequential(net, NormalParamExtractor()),
            in_keys=["observation"],
            out_keys=["loc", "scale"],
        ),
        in_keys=["loc", "scale"],
        distribution_class=TanhNormal,
        distribution_kwargs={"upscale": 1.0, "tanh_loc": False},
    )
    critics = [Q(), Q()]
    oracle = SACLoss(
        actor,
        [ValueOperator(critic, in_keys=["observation", "action"]) for critic in critics],
        loss_function="l2",
        alpha_init=0.3,
        target_entropy=-2.0,
        delay_qvalue=False,
    )
    oracle.make_value_estimator(oracle.default_value_estimator, gamma=gamma)
    data = step_data(n, torch.rand(n, 2) * 2 - 1)
    none = torch.zeros(n, 1)  # log-probabilities where there is no gripper

    def draw(observation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, std = NormalParamExtractor()(net(observation))
        motion, log_prob = losses.squashed(mean, log_std=std.log(), noise=same_noise(n))
        return (
            torch.stack([critic(observation, motion) for critic in critics]).amin(0),
            log_prob,
            motion,
        )

    torch.manual_seed(5)
    theirs, _ = oracle.actor_loss(data)
    q, log_prob, _ = draw(data["observation"])
    ours = -losses.soft_value(q, gripper=none, log_prob=log_prob, alpha=alpha).mean()
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)

    torch.manual_seed(5)
    theirs, _ = oracle.qvalue_v2_loss(data)
    q, log_prob_next, _ = draw(data["next", "observation"])
    targets = losses.td_target(
        data["next", "reward"].squeeze(-1),
        terminated=data["next", "terminated"].squeeze(-1),
        next_values=losses.soft_value(q, gripper=none, log_prob=log_prob_next, alpha=alpha),
        gamma=gamma,
    )
    said = torch.stack([critic(data["observation"], data["action"]) for critic in critics])
    ours = losses.critic_loss(
        said, gripper=torch.zeros(n, dtype=torch.long), targets=targets.detach()
    )
    torch.testing.assert_close(2 * len(critics) * ours, theirs, atol=1e-4, rtol=1e-4)

    entropy = losses.entropies(gripper=none, log_prob=log_prob.detach())
    log_alpha = torch.tensor([math.log(0.3), 0.0])
    ours = losses.temperature_loss(log_alpha, entropies=entropy, targets=torch.tensor([-2.0, 0.0]))
    torch.testing.assert_close(ours, oracle.alpha_loss(log_prob.detach()).mean())


def test_losses_of_the_gripper_against_torchrl() -> None:
    n, gamma, alpha = 64, 0.9, torch.tensor([0.0, 0.3])
    net = nn.Linear(3, 2)
    actor = ProbabilisticActor(
        TensorDictModule(net, in_keys=["observation"], out_keys=["logits"]),
        in_keys=["logits"],
        distribution_class=OneHotCategorical,
    )
    critic = QValueActor(nn.Linear(3, 2), in_keys=["observation"], action_space="one-hot")
    oracle = DiscreteSACLoss(
        actor,
        critic,
        action_space="one-hot",
        num_actions=2,
        num_qvalue_nets=2,
        loss_function="l2",
        alpha_init=0.3,
        target_entropy=0.5,
        delay_qvalue=False,
    )
    oracle.make_value_estimator(oracle.default_value_estimator, gamma=gamma)
    choice = torch.randint(2, (n,))
    data = step_data(n, nn.functional.one_hot(choice, 2))
    weights = oracle.qvalue_network_params["module", "0", "module"]
    no_motion = torch.zeros(n)

    def values(observation: Tensor) -> Tensor:
        return (
            torch.einsum("nd,ekd->enk", observation, weights["weight"]) + weights["bias"][:, None]
        )

    theirs, _ = oracle.actor_loss(data)
    gripper = net(data["observation"]).log_softmax(-1)
    q = values(data["observation"]).amin(0)
    ours = -losses.soft_value(q, gripper=gripper, log_prob=no_motion, alpha=alpha).mean()
    torch.testing.assert_close(ours, theirs)

    theirs, _ = oracle.qvalue_loss(data)
    following = data["next", "observation"]
    next_values = losses.soft_value(
        values(following).amin(0),
        gripper=net(following).log_softmax(-1),
        log_prob=no_motion,
        alpha=alpha,
    )
    targets = losses.td_target(
        data["next", "reward"].squeeze(-1),
        terminated=data["next", "terminated"].squeeze(-1),
        next_values=next_values,
        gamma=gamma,
    )
    ours = losses.critic_loss(values(data["observation"]), gripper=choice, targets=targets)
    torch.testing.assert_close(4 * ours, theirs)
