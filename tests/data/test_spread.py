"""What a replay of one demonstration gets wrong of another."""

import numpy as np
import pytest

from irevla.data.spread import spread


def waves(*heights: float, length: int = 40) -> list[np.ndarray]:
    return [
        np.stack([height + np.sin(np.arange(length) / 5)], 1).astype(np.float32)
        for height in heights
    ]


def test_the_same_again_and_again_has_none() -> None:
    assert spread(waves(0.0, 0.0, 0.0)) == 0.0
    assert spread([*waves(0.0), *waves(0.0, length=25)]) == 0.0  # where both are


def test_what_differs_at_each_step_and_nowhere_else() -> None:
    still = [np.full((10, 1), value, np.float32) for value in (-1, 1, -1, 1)]
    assert spread(still) == 1.0


def test_noise_is_a_share_of_all_that_moves() -> None:
    draw = np.random.default_rng(0)
    moves = np.sin(np.arange(50))[:, None] * np.sqrt(2)  # variance 1
    noisy = [(moves + draw.normal(0, 1, (50, 1))).astype(np.float32) for _ in range(100)]
    assert spread(noisy) == pytest.approx(0.5, abs=0.03)
    assert spread(noisy[:4]) == pytest.approx(0.5, abs=0.12), "few episodes do not make it smaller"


def test_of_several_dimensions_it_is_the_mean_of_those_that_move() -> None:
    one = np.concatenate([waves(0.0)[0], np.ones((40, 1)), np.zeros((40, 1))], 1)
    other = np.concatenate([waves(0.0)[0], -np.ones((40, 1)), np.zeros((40, 1))], 1)
    found = spread([one.astype(np.float32), other.astype(np.float32)])
    assert found == pytest.approx(0.5)


@pytest.mark.parametrize("episodes", [waves(0.0), [np.zeros((5, 2), np.float32)] * 3])
def test_nothing_to_compare(episodes: list[np.ndarray]) -> None:
    assert spread(episodes) is None
