"""Exploring with words: which instruction the policy is told while a new task's first successes are
sought.

A policy that was taught to pick blocks may pick an eggplant as well as a block, and yet pass it by
for a block when it is told a word that it never heard. Noise on its motions does not change its
mind; another instruction that it knows does. What then succeeds is a success of the task, whatever
the policy was told, and is learnt from under the task's own instruction.
"""

from collections.abc import Sequence

import numpy as np

from irevla.envs.suite import Suite
from irevla.tasks import Stage, TaskLists, draw_seed


class Words:
    """The task's own instruction and those of `others`, by Thompson sampling.

    Each is told as often as it is likely to be the best, by a Beta(1, 1) prior and what is noted.
    Draws are of (seed, number of the episode).
    """

    def __init__(self, own: str, others: Sequence[str], *, seed: int) -> None:
        self.told = list(dict.fromkeys([own, *others]))
        self.tried = dict.fromkeys(self.told, 0)
        self.solved = dict.fromkeys(self.told, 0)
        self._seed = seed

    def choose(self, number: int) -> str:
        """Return the instruction of an episode, the `number`th of its stage."""
        random = np.random.default_rng(draw_seed(self._seed, "words", number))
        hopes = [
            random.beta(1 + self.solved[words], 1 + self.tried[words] - self.solved[words])
            for words in self.told
        ]
        return self.told[int(np.argmax(hopes))]

    def note(self, words: str, *, success: bool) -> None:
        """Take down how an episode ended."""
        self.tried[words] += 1
        self.solved[words] += success

    def facts(self) -> dict[str, list[int]]:
        """Return the successes and the episodes of each that was told."""
        return {words: [self.solved[words], n] for words, n in self.tried.items() if n}


def taught(suite: Suite, tasks: TaskLists, stage: Stage) -> list[str]:
    """Return the instructions that a policy was taught before `stage`: of the expert tasks, and of
    RL tasks that were learned already."""
    before = tasks.rl if stage.round > 1 else tasks.rl[: tasks.rl.index(stage.task)]
    return [suite.task(name).instruction for name in (*tasks.expert, *before)]
