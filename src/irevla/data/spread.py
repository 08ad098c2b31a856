"""How much the demonstrations of a task differ: what a blind replay gets wrong."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32


def spread(episodes: Sequence[Float32[np.ndarray, "_ A"]]) -> float | None:
    """Return which share of the actions' variance is left once the step is known, in 0..1.

    0: at each step every episode does the same, so that a replay of any one does them all and
    nothing need be seen; 1: the step tells nothing. Over steps that two episodes have at least, the
    mean over dimensions; None where there is no such step, or nothing moves.
    """
    count, total, squares = _sums(episodes)
    shared = count[:, 0] > 1
    if not shared.any():
        return None
    count, total, squares = count[shared], total[shared], squares[shared]
    # Each step's sum of squares around its own mean, as large as with many episodes.
    around_step = (squares - total**2 / count) * count / (count - 1)
    around_mean = squares.sum(0) - total.sum(0) ** 2 / count.sum()
    moves = around_mean > 1e-9 * count.sum()
    if not moves.any():
        return None
    left = around_step.sum(0)[moves] / around_mean[moves]
    return float(np.clip(left, 0, 1).mean())


def _sums(
    episodes: Sequence[Float32[np.ndarray, "_ A"]],
) -> tuple[Float[np.ndarray, "T 1"], Float[np.ndarray, "T A"], Float[np.ndarray, "T A"]]:
    """Return, for each step, in how many episodes it is, and the sums of actions and squares."""
    longest = max(len(actions) for actions in episodes)
    dimensions = episodes[0].shape[1]
    count = np.zeros((longest, 1))
    total = np.zeros((longest, dimensions))
    squares = np.zeros((longest, dimensions))
    for actions in episodes:
        exact = actions.astype(np.float64)
        count[: len(actions)] += 1
        total[: len(actions)] += exact
        squares[: len(actions)] += exact**2
    return count, total, squares
