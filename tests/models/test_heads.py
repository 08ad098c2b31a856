import torch
from torch import Tensor

from irevla.models.heads import ActionHead, CriticHead
from irevla.models.token_learner import TokenLearner
from irevla.types import Features


def latents(batch: int = 3, m: int = 5, d: int = 8) -> Features:
    mask = torch.ones(batch, m, dtype=torch.bool)
    mask[1, 3:] = False
    return Features(torch.randn(batch, m, d), mask)


def by_hand(learner: TokenLearner, h: Tensor) -> Tensor:
    """One row, group by group."""
    scores: Tensor = learner.score(h)
    width = h.shape[1] // learner.groups
    return torch.cat(
        [scores[:, g].softmax(0) @ h[:, g * width : (g + 1) * width] for g in range(learner.groups)]
    )


def test_each_group_of_channels_is_its_own_weighted_mean_over_real_tokens() -> None:
    learner, features = TokenLearner(width=8, groups=4), latents()
    mixed = learner(features)
    for row in range(3):
        torch.testing.assert_close(
            mixed[row], by_hand(learner, features.tokens[row][features.mask[row]])
        )


def test_attention_is_a_distribution_over_real_tokens() -> None:
    features = latents()
    weights = TokenLearner(width=8, groups=4).attention(features)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 4))
    assert (weights[1, :, 3:] == 0).all() and (weights >= 0).all()


def test_what_stands_in_the_padding_does_not_matter() -> None:
    head, features = ActionHead(width=8, groups=2, hidden=16, action_dim=3), latents()
    noise = torch.where(features.mask[..., None], features.tokens, 1e3)
    assert torch.equal(head(features), head(Features(noise, features.mask)))


def test_actions_are_bounded() -> None:
    head, features = ActionHead(width=8, groups=2, hidden=16, action_dim=3), latents()
    actions = head(Features(100 * features.tokens, features.mask))
    assert actions.shape == (3, 3) and actions.abs().max() <= 1
    assert actions.abs().max() > 0.5


def test_the_critic_mirrors_the_head_and_starts_at_zero() -> None:
    head = ActionHead(width=8, groups=2, hidden=16, action_dim=3)
    critic = CriticHead.mirror(head)
    shapes = {name: value.shape for name, value in head.state_dict().items()}
    shapes["mlp.2.weight"], shapes["mlp.2.bias"] = torch.Size([1, 16]), torch.Size([1])
    assert {name: value.shape for name, value in critic.state_dict().items()} == shapes
    assert torch.equal(critic(latents()), torch.zeros(3))
    ours, theirs = critic.token_learner.state_dict(), head.token_learner.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_critics_copy_is_its_own() -> None:
    head = ActionHead(width=8, groups=2, hidden=16, action_dim=3)
    critic = CriticHead.mirror(head)
    with torch.no_grad():
        critic.token_learner.score[0].weight.zero_()
    assert head.token_learner.score[0].weight.abs().sum() > 0
