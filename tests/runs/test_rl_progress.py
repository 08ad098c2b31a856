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
    progress = RLProgress(PPOConfig(converged=0.9, window=10))
    for number in range(0, len(successes), 7):  # as rollouts bring them
        progress.add(decisions=1, successes=successes[number : number + 7], dropped=0)
    assert progress.converged is answer


def test_it_is_over_where_the_budget_is_spent() -> None:
    progress = RLProgress(PPOConfig(steps=10))
    progress.add(decisions=9, successes=[], dropped=0)
    assert not progress.over
    progress.add(decisions=1, successes=[], dropped=0)
    assert progress.over and not progress.converged


def test_it_is_over_where_nothing_ever_succeeds() -> None:
    config = PPOConfig(hopeless=4)
    progress = RLProgress(config)
    progress.add(decisions=9, successes=[False, False, False], dropped=0)
    assert not progress.over
    progress.add(decisions=9, successes=[False], dropped=0)
    assert progress.hopeless and progress.over
    lucky = RLProgress(config)
    lucky.add(decisions=9, successes=[True, *[False] * 9], dropped=0)
    assert not lucky.over


@pytest.mark.parametrize(
    ("successes", "answer"),
    [
        ([True, True, False, True, False, False], True),
        ([True, False, False, True, False, False], False),
        ([True, True, False, True, True, False], False),
        ([True, True, True, False, False], False),  # the first and the last are not apart
    ],
)
def test_it_fell_where_fewer_succeed_at_the_end(successes: list[bool], answer: bool) -> None:
    progress = RLProgress(PPOConfig(window=3))
    for success in successes:
        progress.add(decisions=1, successes=[success], dropped=0)
    assert progress.fell is answer


def test_it_goes_on_from_its_file() -> None:
    config = PPOConfig(window=3)
    progress = RLProgress(config)
    progress.add(decisions=9, successes=[True, False, True, True], dropped=1)
    again = RLProgress(config)
    again.load_files({})
    assert again == RLProgress(config)
    again.load_files(progress.files())
    assert again == progress
    assert again.recent == [False, True, True] and again.first == [True, False, True]
