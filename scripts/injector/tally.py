"""What a part of the attack saw: counts for its last line, and every fault with its place."""

import random
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Tally:
    """The counts and the faults of one part."""

    part: str
    seed: int
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def luck(self, number: int) -> random.Random:
        """Return what case `number` draws from: the same whichever cases came before."""
        return random.Random(f"{self.part} {self.seed} {number}")

    def fault(self, number: int, text: str, *, count: int = 1) -> None:
        """Note that case `number` went wrong, and how to see it again: it counted as `count`."""
        place = f"--seed {self.seed} --first {number} --count {max(1, count)}"
        again = f"scripts/attack.py {self.part} {place}"
        self.faults.append(f"{self.part}, case {number}: {text}\n    again: {again}")
        print(f"FAULT {self.faults[-1]}", flush=True)

    def __str__(self) -> str:
        counts = ", ".join(f"{number} {what}" for what, number in self.counts.items())
        return f"{self.part}: {counts or 'nothing'}; {len(self.faults)} faults"
