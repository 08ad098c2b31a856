import pytest
import torch

from irevla.models.heads import ActionHead
from irevla.models.sac_actor import CriticEnsemble, SoftActor
from irevla.types import Features


def features(count: int = 7) -> Features:
    return Features(torch.randn(count, 5, 8), torch.ones(count, 5, dtype=torch.bool))


def actor(*, discrete_gripper: bool = True, std: float = 0.2) -> SoftActor:
    head = ActionHead(width=8, groups=2, hidden=16, action_dim=3)
    return SoftActor(head, discrete_gripper=discrete_gripper, std=std)


def test_it_starts_as_the_head_gripper_included() -> None:
    soft, seen = actor(std=0.3), features()
    u = soft(seen)
    opens, closes = soft.gripper_log_probs(u).exp().T
    torch.testing.assert_close(torch.tanh(u), soft.head(seen))
    torch.testing.assert_close(closes - opens, soft.head(seen)[:, -1])  # the mean of -1 and +1
    torch.testing.assert_close(opens + closes, torch.ones(7))


def test_without_noise_it_does_what_the_head_says_with_the_gripper_open_or_closed() -> None:
    soft, seen = actor(), features()
    head = soft.head(seen)
    actions = soft.act(seen, noise=torch.zeros(7, 3), chance=torch.full((7,), 0.5))
    torch.testing.assert_close(actions[:, :2], head[:, :2])
    assert torch.equal(actions[:, 2], head[:, 2].sign())


def test_noise_moves_it_by_its_deviation_and_no_further_than_one() -> None:
    soft, seen = actor(std=0.1), features()
    noise = torch.randn(7, 3)
    noise[0] = 1000.0
    actions = soft.act(seen, noise=noise, chance=torch.rand(7))
    torch.testing.assert_close(actions[1:, :2], soft.head(seen)[1:, :2] + 0.1 * noise[1:, :2])
    assert (actions[0, :2] == 1).all() and (actions[:, 2].abs() == 1).all()


def test_the_gripper_closes_with_its_probability() -> None:
    soft, one = actor(), features(1)
    many = Features(one.tokens.expand(4000, -1, -1), one.mask.expand(4000, -1))
    chance = (torch.arange(4000) + 0.5) / 4000
    actions = soft.act(many, noise=torch.zeros(4000, 3), chance=chance)
    closed = (actions[:, 2] == 1).float().mean().item()
    likely = soft.gripper_log_probs(soft(one))[0, 1].exp().item()
    assert closed == pytest.approx(likely, abs=0.001) and 0.05 < likely < 0.95


def test_without_a_gripper_all_is_motion() -> None:
    soft, seen = actor(discrete_gripper=False, std=0.1), features()
    noise = torch.randn(7, 3)
    actions = soft.act(seen, noise=noise, chance=torch.zeros(7))
    torch.testing.assert_close(actions, soft.head(seen) + 0.1 * noise)
    assert torch.equal(soft.gripper_log_probs(soft(seen)), torch.zeros(7, 1))
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


def test_critics_start_at_zero_and_differ_from_the_first_step() -> None:
    critics = CriticEnsemble(critics=4, width=8, motion=2, hidden=16, choices=2)
    h, motion = torch.randn(5, 8), torch.randn(5, 2)
    assert (critics(h, motion) == 0).all()
    optimizer = torch.optim.SGD(critics.parameters(), 0.1)
    (critics(h, motion) - 1).square().mean().backward()
    optimizer.step()
    assert critics(h, motion).std(0).min() > 0


# --- Chunks: of four actions that the head gives, two are executed


def chunked(*, discrete_gripper: bool = True) -> SoftActor:
    head = ActionHead(width=8, groups=2, hidden=16, action_dim=3, chunk=4)
    return SoftActor(head, discrete_gripper=discrete_gripper, std=0.0, execute=2)


def test_of_a_chunk_the_first_actions_are_executed() -> None:
    soft, seen = chunked(), features()
    head = soft.head(seen).view(7, 4, 3)[:, :2]
    actions = soft.act(seen, noise=torch.ones(7, 6), chance=torch.full((7, 2), 0.5)).view(7, 2, 3)
    torch.testing.assert_close(actions[..., :2], head[..., :2])
    assert torch.equal(actions[..., 2], head[..., 2].sign())


def test_every_step_of_a_chunk_has_its_own_opening() -> None:
    """open open, open closed, closed open, closed closed: with the product of their
    probabilities."""
    soft, seen = chunked(), features()
    u = soft(seen)
    first, second = torch.sigmoid(2 * u.view(7, 4, 3)[:, :2, 2]).T
    expected = torch.stack(
        [(1 - first) * (1 - second), (1 - first) * second, first * (1 - second), first * second], 1
    )
    torch.testing.assert_close(soft.gripper_log_probs(u).exp(), expected)
    assert soft.choices == 4 and soft.motion == 4
    chance = torch.tensor([[0.0, 1.0]]).expand(7, -1)  # the first closes, the second opens
    motion, choice = soft.split(soft.act(seen, noise=torch.zeros(7, 6), chance=chance))
    assert choice.tolist() == [2] * 7
    torch.testing.assert_close(motion, soft.head(seen).view(7, 4, 3)[:, :2, :2].reshape(7, 4))


def test_a_chunk_without_a_gripper_is_motion_alone() -> None:
    soft = chunked(discrete_gripper=False)
    actions = torch.rand(7, 6)
    motion, choice = soft.split(actions)
    assert torch.equal(motion, actions) and choice.tolist() == [0] * 7 and soft.choices == 1
