"""The paper's own numbers (arXiv 2501.16664), each with the place where it stands.

It gives rates without episodes or intervals, of other variants, of 50 demonstrations a task by
people, and of BLIP-2 3B: they stand beside ours for orientation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from irevla.tasks import Category

Rates = Mapping[str, float]
"""Row of the grid -> success rate."""


@dataclass(frozen=True)
class Published:
    """Success rates that the paper gives for one thing."""

    of: str  # a task's name; or a category, of which it gives one number
    tasks: int | None  # that the number is the mean of; None: the paper does not say
    rates: Rates
    source: str  # "Table I, Metaworld, column Button-Press-new"

    @property
    def place(self) -> str:
        """The part of the paper: "Table I, Metaworld"."""
        return self.source.partition(", column")[0]


def _table_1(table: str, of: str, column: str, *rates: float, tasks: int = 1) -> Published:
    """Return a column of Table I: SFT Policy, PPO-Replay, iRe-VLA (Ours)."""
    named = dict(zip(("sft", "ppo-replay", "irevla"), rates, strict=True))
    return Published(of, tasks, named, f"Table I, {table}, column {column}")


def _figure_6(of: str, before: float, after: float) -> Published:
    return Published(of, None, {"sft": before, "irevla": after}, "Figure 6 and section V-D")


METAWORLD = tuple(
    _table_1("Metaworld", *each[:5], tasks=each[5])
    for each in (
        ("expert", "Original 25 tasks", 0.83, 0.69, 0.83, 25),
        ("button-press-new", "Button-Press-new", 0.56, 0.80, 1.00, 1),
        ("drawer-open-new", "Drawer-Open-new", 0.48, 0.24, 0.84, 1),
        ("door-open-new", "Door-Open-new", 0.40, 0.32, 0.84, 1),
        ("window-open-new", "Window-Open-new", 0.32, 0.04, 0.80, 1),
        ("window-close-new", "Window-Close-new", 0.28, 0.36, 0.96, 1),
        ("unseen", "Unseen 10 tasks", 0.51, 0.39, 0.80, 10),
    )
)
KITCHEN = tuple(
    _table_1("Franka Kitchen", *each)
    for each in (
        ("knob-on", "Knob-on", 0.84, 0.48, 0.90),
        ("light-on", "Light-on", 0.96, 0.64, 0.98),
        ("microwave-open", "Microwave-open", 0.70, 0.35, 0.82),
        ("slide-door-open", "Slide-door-open", 0.86, 0.96, 0.99),
        ("left-door-open", "Left-door-open", 0.43, 0.12, 0.83),
        ("slide-door-open-red", "Slide-door-open-red", 0.46, 0.30, 0.99),
        ("slide-door-open-yellow", "Slide-door-open-yellow", 0.98, 0.64, 1.00),
    )
)
ARM = (_figure_6("rl", 0.35, 0.80), _figure_6("unseen", 0.37, 0.61))

PAPER: Mapping[str, tuple[Published, ...]] = {
    "metaworld": METAWORLD,
    "kitchen": KITCHEN,
    "panda": ARM,
    "panda-sim": ARM,
}
"""Suite -> what the paper says of it. Figure 5 is there as a drawing alone."""


def published(
    suite: str, tasks: Sequence[str], category: Category | None = None
) -> Published | None:
    """Return the paper's rates for the very tasks, or None where it has none.

    With a `category` they are all of its tasks: then it is the paper's number of as many, or the
    mean of its numbers for each of them.
    """
    known = {each.of: each for each in PAPER.get(suite, ())}
    whole = known.get(category or "")
    if whole and whole.tasks in (None, len(tasks)):
        return whole
    found = [known[task] for task in tasks if task in known]
    if not found or len(found) < len(tasks):
        return None
    if len(found) == 1:
        return found[0]
    rates = {row: mean(each.rates[row] for each in found) for row in found[0].rates}
    columns = ", ".join(each.source.rpartition("column ")[2] for each in found)
    return Published("", len(found), rates, f"{found[0].place}, columns {columns}: their mean")
