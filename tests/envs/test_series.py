"""A name for all tasks that differ in a number alone, as benchmarks have them, and for those of a
category."""

from dataclasses import replace

import pytest

from irevla.envs.pointmass import POINTMASS
from irevla.errors import UserError
from irevla.tasks import Category, Task, series

NAMES = ("spatial-0", "spatial-1", "spatial-swap-0", "10-0", "10-1", "left-disc")
SUITE = replace(POINTMASS, tasks=tuple(Task(name, Category.EXPERT, "go") for name in NAMES))


def test_what_numbered_tasks_have_in_common() -> None:
    assert [series(name) for name in NAMES] == [
        "spatial",
        "spatial",
        "spatial-swap",
        "10",
        "10",
        "",
    ]


def test_a_series_names_its_tasks_in_their_order() -> None:
    assert SUITE.several(["10", "spatial", "left-disc"]) == (
        *("10-0", "10-1"),
        *("spatial-0", "spatial-1"),
        "left-disc",
    )
    assert SUITE.several(["spatial-1", "spatial"]) == ("spatial-1", "spatial-0")
    assert SUITE.several([]) == ()
    names = ("fold", "fold-2", "fold-3")
    mine = replace(SUITE, tasks=tuple(Task(name, Category.EXPERT, "fold") for name in names))
    assert mine.several(["fold"]) == ("fold",), "a task of that very name comes first"


def test_a_category_names_its_tasks() -> None:
    assert POINTMASS.several(["unseen", "rl"]) == (
        *POINTMASS.named((), Category.UNSEEN),
        *POINTMASS.named((), Category.RL),
    )
    mine = replace(SUITE, tasks=(Task("rl", Category.EXPERT, "go"), Task("a", Category.RL, "go")))
    assert mine.several(["rl"]) == ("rl",), "a task of that very name comes first"


def test_what_is_neither_is_told() -> None:
    with pytest.raises(UserError, match="did you mean 'left-disc'"):
        SUITE.several(["spatial", "left-disk"])
