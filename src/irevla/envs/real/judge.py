"""Who says that a task is done."""

from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, UInt8

from irevla.envs.real.cameras import square
from irevla.envs.real.person import Person
from irevla.errors import UserError

SIDE = 16  # of the picture that the classifier sees, pixels
SURE = 0.9  # probability from which it says "done"
STEPS, RATE, DECAY = 400, 0.5, 1e-3  # of its training: gradient descent on all pictures at once
FEWEST = 10  # labelled pictures of each kind


@runtime_checkable
class Judge(Protocol):
    """Judges the present moment."""

    def judge(self, picture: UInt8[np.ndarray, "S S 3"]) -> bool | None:
        """True: the task is done. False: it has failed, and the episode is over. None: neither, yet."""
        ...


class PersonJudge:
    """A person's key."""

    def __init__(self, person: Person) -> None:
        self._person = person

    def judge(self, picture: UInt8[np.ndarray, "S S 3"]) -> bool | None:
        """What they said."""
        return self._person.verdict()


class ClassifierJudge:
    """Logistic regression on small pictures, for one task and one camera that stands still; a person's key goes first.

    It is as good as the pictures it learned from: take them from failed and successful ends alike, in changing light.
    """

    def __init__(self, path: Path, person: Person) -> None:
        self._person = person
        try:
            with np.load(path, allow_pickle=False) as found:
                self._mean, self._scale, self._weights = found["mean"], found["scale"], found["weights"]
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"the classifier {path} cannot be read ({error}): make one with `train_classifier`"
            ) from error

    def judge(self, picture: UInt8[np.ndarray, "S S 3"]) -> bool | None:
        """What the person said; else True where the classifier is sure."""
        said = self._person.verdict()
        if said is not None:
            return said
        return True if self.probability(picture) >= SURE else None

    def probability(self, picture: UInt8[np.ndarray, "S S 3"]) -> float:
        """Of success."""
        features = (_features(picture[None]) - self._mean) / self._scale
        return float(_sigmoid(np.append(features, 1.0)[None] @ self._weights)[0])


def train_classifier(
    pictures: UInt8[np.ndarray, "n S S 3"], done: Bool[np.ndarray, " n"], path: Path
) -> tuple[float, float]:
    """Fit a classifier to labelled pictures, write it to `path`, and return the shares of successes and of failures
    that it gets right on every fifth picture, which it did not learn from. Raises `UserError` where there are too few.
    """
    if min(done.sum(), (~done).sum()) < FEWEST:
        counts = f"{done.sum()} and {(~done).sum()}"
        raise UserError(f"a classifier needs {FEWEST} pictures of success and {FEWEST} of failure, not {counts}")
    features, test = _features(pictures), np.arange(len(done)) % 5 == 0
    mean, scale = features[~test].mean(0), features[~test].std(0) + 0.02
    inputs = np.concatenate([(features - mean) / scale, np.ones((len(done), 1))], axis=1)
    weights = _fit(inputs[~test], done[~test].astype(np.float64))
    np.savez(path, mean=mean, scale=scale, weights=weights)
    says = _sigmoid(inputs[test] @ weights) >= SURE
    return float(says[done[test]].mean()), float((~says[~done[test]]).mean())


def _fit(inputs: Float[np.ndarray, "n d"], done: Float[np.ndarray, " n"]) -> Float[np.ndarray, " d"]:
    weights = np.zeros(inputs.shape[1])
    for _ in range(STEPS):
        gradient = inputs.T @ (_sigmoid(inputs @ weights) - done) / len(done) + DECAY * weights
        weights -= RATE / inputs.shape[1] ** 0.5 * gradient
    return weights


def _features(pictures: UInt8[np.ndarray, "n S S 3"]) -> Float[np.ndarray, "n d"]:
    return np.stack([square(picture, SIDE) for picture in pictures]).reshape(len(pictures), -1) / 255.0


def _sigmoid(x: np.ndarray) -> np.ndarray:
    share: np.ndarray = 1 / (1 + np.exp(-np.clip(x, -30, 30)))
    return share
