"""When stage 1 is over."""

import pytest

from irevla.config import PPOConfig
from irevla.runs.rl_progress import RLProgress


@pytest.mark.parametrize(
    ("successes", "answer"),
    [
        ([True] * 10, True),
        ([False] * 90 + [True] * 10, True),
        ([True] * 9, False),  # not enough of them yet
        ([True] * 90 + [False, False] + [True] * 8, False),
        ([False] + [True] * 9, True),
        ([], False),
    ],
)
def test_convergence(successes: list[bool], answer: bool) -> None:
    progress = RLProgress(PPOConfig(converged=0.9, window=10, steps=1000))
    progress.add(decisions=100, successes=successes, dropped=0)
    assert progress.converged is progress.over is answer


def test_the_budget_ends_it_too() -> None:
    progress = RLProgress(PPOConfig(converged=0.9, window=10, steps=150))
    progress.add(decisions=100, successes=[False] * 20, dropped=1)
    assert not progress.over and progress.rate == 0 and len(progress.recent) == 10
    progress.add(decisions=50, successes=[True], dropped=0)
    assert progress.over and not progress.converged
    assert progress.facts() == {"decisions": 150, "converged": False, "dropped": 1}
    again = RLProgress(progress.config)
    again.load_files(progress.files())
    assert again == progress
