"""Actions that were given at once, and are executed one a step."""

import numpy as np
from jaxtyping import Bool, Float32
from torch import Tensor

from irevla.envs.vector import StepResult

Actions = Float32[np.ndarray, "_ A"]


class Chunks:
    """What is left of its chunk in each slot of one worker.

    A policy that gives `n` actions is asked at every n-th step of an episode, and wherever nothing
    is left: an episode that ends, is lost, or in which a person takes over drops its chunk. What is
    given in between reaches up to the next n-th step, so that all episodes are divided alike.
    """

    def __init__(self, slots: int) -> None:
        self._left: list[Actions | None] = [None] * slots

    def drop(self) -> None:
        """Let every slot be asked next."""
        self._left = [None] * len(self._left)

    def under_way(self, result: StepResult) -> Bool[np.ndarray, " n"]:
        """Return which slots go on with their chunk after the step that brought `result`."""
        began = np.array([job is None for job in result.previous])
        over = result.ended | result.lost | result.person | began
        for slot in np.flatnonzero(over).tolist():
            self._left[slot] = None
        left = np.array([left is not None for left in self._left])
        return np.asarray(result.playing & left)

    def give(self, asked: StepResult, chosen: Tensor) -> None:
        """Take a chunk for each slot of `asked`, in their order: `k nA`."""
        chunks = chosen.float().cpu().numpy().reshape(len(chosen), -1, asked.labels.shape[1])
        for slot, chunk in zip(np.flatnonzero(asked.playing).tolist(), chunks, strict=True):
            until = len(chunk) - int(asked.step[slot]) % len(chunk)
            self._left[slot] = chunk[:until]

    def next(self, result: StepResult) -> Float32[np.ndarray, "n A"] | None:
        """Return what each slot executes now; None where nothing was given: the expert acts.

        What it says for idle slots is ignored.
        """
        actions = np.zeros_like(result.labels)
        for slot in np.flatnonzero(result.playing).tolist():
            left = self._left[slot]
            if left is None:
                return None
            actions[slot] = left[0]
            self._left[slot] = left[1:] if len(left) > 1 else None
        return actions
