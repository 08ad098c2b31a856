"""How it is known that a task is done."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from irevla.robot.teleop import Teleop

Classify = Callable[[np.ndarray, str], bool]
"""Whether a task is done, from an image and the instruction: a `Classifier`, say."""


@runtime_checkable
class SuccessDetector(Protocol):
    """Looks at the present moment."""

    def detect(self, image: UInt8[np.ndarray, "S S 3"], instruction: str) -> bool | None:
        """Return True where the task is done, False where it has failed and the episode is over,
        and None where it is neither yet."""
        ...


class KeyDetector:
    """A person's key."""

    def __init__(self, teleop: Teleop) -> None:
        self._teleop = teleop

    def detect(self, image: UInt8[np.ndarray, "S S 3"], instruction: str) -> bool | None:
        """Return what the person said."""
        return self._teleop.verdict()


class ClassifierDetector:
    """A classifier of images; a person's key goes first.

    It is as good as the images it learned from: take them from failed and successful ends alike, in
    changing light.
    """

    def __init__(self, classify: Classify, teleop: Teleop) -> None:
        self._classify = classify
        self._teleop = teleop

    def detect(self, image: UInt8[np.ndarray, "S S 3"], instruction: str) -> bool | None:
        """Return what the person said; else True where the classifier says so."""
        said = self._teleop.verdict()
        if said is not None:
            return said
        return True if self._classify(image, instruction) else None
