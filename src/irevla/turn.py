"""Whose turn it is in Algorithm 1: an RL task, which may come again in a later round."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Turn:
    """T_i, and which time it is learned."""

    task: str
    round: int = 1

    @property
    def name(self) -> str:
        """ "pick-carrot", and in the second round "pick-carrot@2"."""
        return self.task if self.round == 1 else f"{self.task}@{self.round}"

    def stage(self, kind: str) -> str:
        """A stage or another step of this turn: "rl:pick-carrot"."""
        return f"{kind}:{self.name}"

    @staticmethod
    def of(stage: str) -> "Turn | None":
        """The turn that a stage belongs to; None for one that is of no task, as "sft"."""
        task, _, number = stage.partition(":")[2].partition("@")
        return Turn(task, int(number or 1)) if task else None
