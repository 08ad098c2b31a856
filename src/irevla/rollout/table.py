"""Which steps of a rollout belong to which decision, where a policy gives several actions at
once."""

import numpy as np
from jaxtyping import Bool, Float32, Int64


class DecisionTable:
    """The decisions of `C` environments, of which some may make more than others: row j has the
    j-th of each. Where each step is a decision, row t is step t.
    """

    def __init__(self, asked: Bool[np.ndarray, "T C"]) -> None:
        assert asked[0].all(), "a rollout begins with a decision everywhere"
        steps = np.arange(len(asked))[:, None]
        columns = np.arange(asked.shape[1])
        self.row: Int64[np.ndarray, "T C"] = np.cumsum(asked, axis=0) - 1
        """In which each step is."""
        row = self.row
        self._cell = (row, np.broadcast_to(columns, row.shape))
        self._age = steps - np.maximum.accumulate(np.where(asked, steps, 0))
        self.shape = (int(row.max()) + 1, len(columns))
        self.used = np.arange(self.shape[0])[:, None] <= row[-1]
        """Which cells have a decision."""
        decisions = int(asked.sum())
        self.places: Int64[np.ndarray, "rows_plus_1 C"] = np.zeros(
            (self.shape[0] + 1, len(columns)), np.int64
        )
        """Where each decision is in a list, step by step and column by column. What is seen after
        the last step follows there, and here the last decision of each column: row j + 1 has what
        comes after row j."""
        self.places[row[asked], self._cell[1][asked]] = np.arange(decisions)
        self.places[row[-1] + 1, columns] = decisions + columns
        self.listed = np.where(self.used, self.places[:-1], 0)
        """The same of the table's cells alone; those without a decision have the first one's."""

    @property
    def dense(self) -> bool:
        """Whether the list has the table's order: each step is a decision."""
        return not self._age.any()

    def any(self, flags: Bool[np.ndarray, "T C"]) -> Bool[np.ndarray, "rows C"]:
        """Return whether a flag is up in any of a decision's steps."""
        found = np.zeros(self.shape, bool)
        np.logical_or.at(found, self._cell, flags)
        return found

    def count(self) -> Int64[np.ndarray, "rows C"]:
        """Return how many steps each decision took."""
        counts = np.zeros(self.shape, np.int64)
        np.add.at(counts, self._cell, 1)
        return counts

    def discounted(
        self, rewards: Float32[np.ndarray, "T C"], gamma: float
    ) -> Float32[np.ndarray, "rows C"]:
        """Return the rewards of each decision's steps: r_t + gamma r_{t+1} + ..."""
        sums = np.zeros(self.shape)
        np.add.at(sums, self._cell, rewards * gamma**self._age)
        return sums.astype(np.float32)
