import pytest
import torch

from irevla.models.heads import ActionHead
from irevla.models.soft import CriticEnsemble, SoftActor
from irevla.types import Features


def features(count: int = 7) -> Features:
    return Features(torch.randn(count, 5, 8), torch.ones(count, 5, dtype=torch.bool))


def actor(*, gripper: bool = True, std: float = 0.2) -> SoftActor:
    return SoftActor(
        ActionHead(width=8, groups=2, hidden=16, action_dim=3), gripper=gripper, std=std
    )


def test_it_starts_as_the_head_gripper_included() -> None:
    soft, seen = actor(std=0.3), features()
    u, log_std = soft(seen)
    opens, closes = soft.grip(u).exp().T
    torch.testing.assert_close(torch.tanh(u), soft.head(seen))
    torch.testing.assert_close(closes - opens, soft.head(seen)[:, -1])  # the mean of -1 and +1
    torch.testing.assert_close(opens + closes, torch.ones(7))
    torch.testing.assert_close(log_std.exp(), torch.full((7, 2), 0.3))


def test_the_likeliest_action_is_the_heads_with_the_gripper_open_or_closed() -> None:
    soft, seen = actor(), features()
    actions, head = soft.act(seen), soft.head(seen)
    torch.testing.assert_close(actions[:, :2], head[:, :2])
    assert torch.equal(actions[:, 2], head[:, 2].sign())


def test_drawn_actions_have_the_policys_spread_and_odds() -> None:
    soft, one = actor(std=0.1), features(1)
    many = Features(one.tokens.expand(4000, -1, -1), one.mask.expand(4000, -1))
    actions = soft.act(many, generator=torch.Generator().manual_seed(0))
    u, _ = soft(one)
    torch.testing.assert_close(torch.atanh(actions[:, :2]).mean(0), u[0, :2], atol=0.01, rtol=0)
    torch.testing.assert_close(
        torch.atanh(actions[:, :2]).std(0), torch.full((2,), 0.1), atol=0.01, rtol=0
    )
    closed = (actions[:, 2] == 1).float().mean().item()
    assert closed == pytest.approx(soft.grip(u)[0, 1].exp().item(), abs=0.03)
    assert (actions[:, 2].abs() == 1).all()
    assert torch.equal(actions, soft.act(many, generator=torch.Generator().manual_seed(0)))


def test_without_a_gripper_all_is_motion() -> None:
    soft, seen = actor(gripper=False), features()
    torch.testing.assert_close(soft.act(seen), soft.head(seen))
    assert soft.act(seen, generator=torch.Generator()).shape == (7, 3)
    u, log_std = soft(seen)
    assert log_std.shape == (7, 3) and torch.equal(soft.grip(u), torch.zeros(7, 1))
    motion, gripper = soft.split(-torch.ones(7, 3))
    assert motion.shape == (7, 3) and (gripper == 0).all()


def test_executed_actions_are_split() -> None:
    motion, gripper = actor().split(torch.tensor([[0.1, 0.2, 1.0], [0.3, 0.4, -0.2]]))
    assert gripper.tolist() == [1, 0]
    torch.testing.assert_close(motion, torch.tensor([[0.1, 0.2], [0.3, 0.4]]))


def ensemble() -> CriticEnsemble:
    critics = CriticEnsemble(critics=4, width=8, motion=2, hidden=16, choices=2)
    for parameter in critics.parameters():
        torch.nn.init.normal_(parameter)
    return critics


def test_each_critic_is_a_network_of_its_own_with_layer_norm() -> None:
    critics, h, motion = ensemble(), torch.randn(5, 8), torch.randn(5, 2)
    found = critics(h, motion)
    assert found.shape == (4, 5, 2)
    norm = torch.nn.LayerNorm(16, elementwise_affine=False)
    for member in range(4):
        x = torch.cat([h, motion], 1)
        for layer in range(3):
            x = x @ critics.weights[layer][member] + critics.biases[layer][member]
            x = norm(x).relu() if layer < 2 else x
        torch.testing.assert_close(found[member], x, atol=1e-4, rtol=1e-4)


def test_some_critics_alone_say_what_they_say_among_all() -> None:
    critics, h, motion = ensemble(), torch.randn(5, 8), torch.randn(5, 2)
    members = torch.tensor([3, 1])
    torch.testing.assert_close(critics(h, motion, members=members), critics(h, motion)[members])


def test_critics_start_at_zero_and_differ_from_the_first_step() -> None:
    critics = CriticEnsemble(critics=4, width=8, motion=2, hidden=16, choices=2)
    h, motion = torch.randn(5, 8), torch.randn(5, 2)
    assert (critics(h, motion) == 0).all()
    optimizer = torch.optim.SGD(critics.parameters(), 0.1)
    (critics(h, motion) - 1).square().mean().backward()
    optimizer.step()
    assert critics(h, motion).std(0).min() > 0
