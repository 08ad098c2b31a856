import numpy as np

from irevla.rollout.exploration import pink

DECISIONS = 50


def many(seed: int = 0) -> np.ndarray:
    """The noise of 500 episodes."""
    return np.stack([pink(seed, n, decisions=DECISIONS, dimensions=3) for n in range(500)])


def test_pink_noise_has_variance_one_in_every_decision() -> None:
    noise = many()
    assert noise.shape == (500, DECISIONS, 3)
    assert abs(noise.mean()) < 0.05
    assert np.allclose(noise.std(axis=(0, 2)), 1, atol=0.1)


def test_it_lasts_where_white_noise_averages_out() -> None:
    noise = many()
    slow = noise.mean(axis=1).std()
    white = np.random.default_rng(0).standard_normal(noise.shape).mean(axis=1).std()
    assert slow > 2 * white
    following = (noise[:, 1:] * noise[:, :-1]).mean()
    assert 0.5 < following < 0.9


def test_an_episode_has_its_own_noise_and_has_it_again() -> None:
    pink.cache_clear()
    first = many()
    pink.cache_clear()
    assert np.array_equal(many(), first)
    assert not np.allclose(first[0], first[1])
    assert not np.allclose(many(seed=1)[0], first[0])


def test_an_episode_of_one_decision_has_noise_too() -> None:
    assert np.isfinite(pink(0, 0, decisions=1, dimensions=2)).all()
