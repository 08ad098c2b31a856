"""The token learner (section IV-A, [44]): m tokens of width d to one vector of width d."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from irevla.types import Features


class TokenLearner(nn.Module):
    """h' in R^d from h in R^{m x d}: each of `groups` groups of channels is its own weighted mean
    over the tokens.

    The weights are a softmax over the m tokens of a score that a small MLP gives each token;
    padding has weight zero.
    """

    def __init__(self, *, width: int, groups: int, hidden: int = 16) -> None:
        super().__init__()
        assert width % groups == 0
        self.groups = groups
        # No bias at the end: a softmax does not see it.
        self.score = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, groups, bias=False)
        )

    def forward(self, features: Features) -> Float[Tensor, "B d"]:
        """h'."""
        # Every group's mean of all channels in one product, of which each group keeps its own: g
        # times the work that is needed, and many times faster than products for each group that
        # must first be permuted and copied.
        means = torch.bmm(self.attention(features), features.tokens)
        own = means.view(len(means), self.groups, self.groups, -1).diagonal(dim1=1, dim2=2)
        return own.transpose(1, 2).flatten(1)

    def attention(self, features: Features) -> Float[Tensor, "B g m"]:
        """The weight that each group gives each token: non-negative, summing to 1 over the
        tokens."""
        scores: Tensor = self.score(features.tokens)
        return scores.transpose(1, 2).masked_fill(~features.mask[:, None], -torch.inf).softmax(-1)
