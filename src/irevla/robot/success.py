"""How it is known that a task is done."""

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from irevla.robot.teleop import Teleop

Classify = Callable[[np.ndarray, str], bool]
"""Whether a task is done, from an image and the instruction: a `Classifier`, say."""


@runtime_checkable
class SuccessDetector(Protocol):
    """Looks at the present moment."""

    def begin(self) -> None:
        """An episode begins."""
        ...

    def detect(self, image: UInt8[np.ndarray, "H W 3"], instruction: str) -> bool | None:
        """Return True where the task is done, False where it has failed and the episode is over,
        and None where it is neither yet."""
        ...

    def vetoed(self) -> None:
        """A person has said that it was not done, after the last True."""
        ...


class KeyDetector:
    """A person's key."""

    def __init__(self, teleop: Teleop) -> None:
        self._teleop = teleop

    def begin(self) -> None:
        """Nothing is kept."""

    def detect(self, image: UInt8[np.ndarray, "H W 3"], instruction: str) -> bool | None:
        """Return what the person said."""
        return self._teleop.verdict()

    def vetoed(self) -> None:
        """They have corrected themselves."""


class ClassifierDetector:
    """A classifier of images; a person's key goes first.

    It must say so of `images` in a row, and the `gate` be open meanwhile: RL finds whatever a
    single image lets through. `look` gives the image that it judges (None: the policy's). Those of
    which it was wrong, as a person says, are kept in `mistakes`: they are failures to learn from.

    It is as good as the images it learned from: take them from failed and successful ends alike, in
    changing light.
    """

    def __init__(
        self,
        classify: Classify,
        teleop: Teleop,
        *,
        images: int = 1,
        gate: Callable[[], bool] = lambda: True,
        look: Callable[[], np.ndarray] | None = None,
        mistakes: Path | None = None,
    ) -> None:
        self._classify = classify
        self._teleop = teleop
        self._images = images
        self._gate = gate
        self._look = look
        self._mistakes = mistakes
        self._agreed: deque[np.ndarray] = deque(maxlen=images)  # in a row, it says that it is done

    def begin(self) -> None:
        """Count from zero."""
        self._agreed.clear()

    def detect(self, image: UInt8[np.ndarray, "H W 3"], instruction: str) -> bool | None:
        """Return what the person said; else True where the classifier has said so often enough."""
        said = self._teleop.verdict()
        if said is not None:
            self._agreed.clear()
            return said
        if not self._gate():
            self._agreed.clear()
            return None
        judged = image if self._look is None else self._look()
        if not self._classify(judged, instruction):
            self._agreed.clear()
            return None
        self._agreed.append(judged)
        return True if len(self._agreed) == self._images else None

    def vetoed(self) -> None:
        """Keep what it was wrong about."""
        if self._mistakes is not None and self._agreed:
            self._mistakes.mkdir(parents=True, exist_ok=True)
            for image in self._agreed:
                Image.fromarray(image).save(self._mistakes / f"{time.time_ns()}.png")
        self._agreed.clear()
