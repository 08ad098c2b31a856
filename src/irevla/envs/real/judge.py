"""Who says that a task is done."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from irevla.envs.real.person import Person

Classifier = Callable[
    [np.ndarray, str], bool
]  # picture and instruction -> done: one that `irevla classifier` wrote


@runtime_checkable
class Judge(Protocol):
    """Judges the present moment."""

    def judge(self, picture: UInt8[np.ndarray, "S S 3"], instruction: str) -> bool | None:
        """True: the task is done. False: it has failed, and the episode is over. None: neither,
        yet."""
        ...


class PersonJudge:
    """A person's key."""

    def __init__(self, person: Person) -> None:
        self._person = person

    def judge(self, picture: UInt8[np.ndarray, "S S 3"], instruction: str) -> bool | None:
        """What they said."""
        return self._person.verdict()


class ClassifierJudge:
    """A classifier of pictures; a person's key goes first.

    It is as good as the pictures it learned from: take them from failed and successful ends alike,
    in changing light.
    """

    def __init__(self, classifier: Classifier, person: Person) -> None:
        self._classifier, self._person = classifier, person

    def judge(self, picture: UInt8[np.ndarray, "S S 3"], instruction: str) -> bool | None:
        """What the person said; else True where the classifier says so."""
        said = self._person.verdict()
        if said is not None:
            return said
        return True if self._classifier(picture, instruction) else None
