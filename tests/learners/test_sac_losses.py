import math
import warnings

import pytest
import torch
from torch import Tensor, nn

from irevla.learners import sac_losses as losses

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tensordict import TensorDict
    from tensordict.nn import TensorDictModule
    from torchrl.modules import OneHotCategorical, ProbabilisticActor, QValueActor
    from torchrl.objectives import DiscreteSACLoss

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

HALVES = torch.tensor([[0.5, 0.5]]).log()


def test_soft_value_by_hand() -> None:
    value = losses.soft_value(torch.tensor([[1.0, 3.0]]), gripper=HALVES, alpha=torch.tensor(0.5))
    assert value.item() == pytest.approx(2 + 0.5 * math.log(2))


def test_soft_value_is_the_sum_over_all_choices() -> None:
    q, logits = torch.randn(20, 3), torch.randn(20, 3)
    gripper = logits.log_softmax(-1)
    value = losses.soft_value(q, gripper=gripper, alpha=torch.tensor(0.7))
    for row in range(20):
        expected = 0.0
        for choice in range(3):
            p = math.exp(gripper[row, choice].item())
            expected += p * (q[row, choice].item() - 0.7 * math.log(p))
        assert value[row].item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_best_gripper_is_the_softmax_of_q_over_the_temperature() -> None:
    """V's maximum over all soft policies is alpha logsumexp(Q / alpha), and gradients lead
    there."""
    q, alpha = torch.tensor([[0.3, 0.1]]), torch.tensor(0.2)
    logits = torch.zeros(1, 2, requires_grad=True)
    for _ in range(500):
        value = losses.soft_value(q, gripper=logits.log_softmax(-1), alpha=alpha)
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        logits.data += 20 * gradient
    torch.testing.assert_close(
        logits.softmax(-1).detach(), (q / 0.2).softmax(-1), atol=1e-3, rtol=1e-3
    )
    torch.testing.assert_close(value.detach(), 0.2 * (q / 0.2).logsumexp(-1))


def test_critic_loss_by_hand() -> None:
    q = torch.tensor(
        [[[1.0, 9.0], [9.0, 2.0]], [[3.0, 9.0], [9.0, 4.0]]]
    )  # two critics, two samples, two choices
    loss = losses.critic_loss(q, gripper=torch.tensor([0, 1]), returns=torch.tensor([1.0, 1.0]))
    assert loss.item() == pytest.approx((0 + 1 + 4 + 9) / 4 / 2)


def test_entropy_by_hand() -> None:
    gripper = torch.tensor([[0.5, 0.5], [1.0, 1e-30]]).log()
    assert losses.gripper_entropy(gripper).item() == pytest.approx(math.log(2) / 2)


@pytest.mark.parametrize(("entropy", "slope"), [(-3.0, -1.0), (-1.5, 0.5)])
def test_a_temperature_rises_where_entropy_is_short_and_falls_where_it_abounds(
    entropy: float, slope: float
) -> None:
    log_alpha = torch.zeros((), requires_grad=True)
    found = torch.tensor(entropy, requires_grad=True)
    losses.temperature_loss(log_alpha, entropy=found, wanted=-2.0).backward()
    assert log_alpha.grad is not None and log_alpha.grad.item() == slope  # descent: up, and down
    assert found.grad is None


def test_anchor_by_hand() -> None:
    penalty = losses.anchor_penalty(
        torch.tensor([[0.5, 1.0]]), reference=torch.tensor([[0.0, -1.0]])
    )
    assert penalty.item() == pytest.approx((0.25 + 4) / 2)


def test_losses_of_the_gripper_against_torchrl() -> None:
    """With a discount of 0 its target is the reward, as the return of a last decision is."""
    n, alpha = 64, torch.tensor(0.3)
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
    oracle.make_value_estimator(oracle.default_value_estimator, gamma=0.0)
    choice = torch.randint(2, (n,))
    seen, following, reward = torch.randn(n, 3), torch.randn(n, 3), torch.randn(n, 1)
    ended = torch.zeros(n, 1, dtype=torch.bool)
    after = {"observation": following, "reward": reward, "done": ended, "terminated": ended}
    data = TensorDict(
        {
            "observation": seen,
            "action": nn.functional.one_hot(choice, 2),
            "next": TensorDict(after, [n]),
        },
        [n],
    )
    weights = oracle.qvalue_network_params["module", "0", "module"]

    def values(observation: Tensor) -> Tensor:
        return (
            torch.einsum("nd,ekd->enk", observation, weights["weight"]) + weights["bias"][:, None]
        )

    theirs, _ = oracle.actor_loss(data)
    gripper = net(seen).log_softmax(-1)
    ours = -losses.soft_value(values(seen).amin(0), gripper=gripper, alpha=alpha).mean()
    torch.testing.assert_close(ours, theirs)

    theirs, _ = oracle.qvalue_loss(data)
    ours = losses.critic_loss(values(seen), gripper=choice, returns=reward.squeeze(-1))
    torch.testing.assert_close(4 * ours, theirs)
