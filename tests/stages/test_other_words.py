"""Exploring with words: which are chosen, and what is known before a stage."""

import numpy as np
import pytest

from irevla.envs.suite import load_suite
from irevla.stages.words import Words, taught
from irevla.tasks import Stage, TaskLists


def explore(chances: dict[str, float], *, episodes: int = 60, seed: int = 0) -> Words:
    own, *others = chances
    words = Words(own, others, seed=seed)
    luck = np.random.default_rng(seed)
    for number in range(episodes):
        told = words.choose(number)
        words.note(told, success=bool(luck.random() < chances[told]))
    return words


@pytest.mark.parametrize("seed", range(5))
def test_it_soon_tells_what_succeeds(seed: int) -> None:
    words = explore({"the eggplant": 0.3, "the red block": 0.0, "the green block": 0.95}, seed=seed)
    assert words.tried["the green block"] > 40
    assert sum(words.tried.values()) == 60 and sum(words.solved.values()) > 40
    assert words.facts()["the green block"][1] == words.tried["the green block"]


def test_each_is_tried_where_nothing_succeeds() -> None:
    words = explore({"a": 0.0, "b": 0.0, "c": 0.0}, episodes=40)
    assert min(words.tried.values()) >= 5


def test_the_same_seed_chooses_the_same_and_an_instruction_counts_once() -> None:
    chances = {"a": 0.4, "b": 0.5}
    assert explore(chances, seed=3).facts() == explore(chances, seed=3).facts()
    assert explore(chances, seed=3).facts() != explore(chances, seed=4).facts()
    assert Words("a", ["b", "a", "b"], seed=0).told == ["a", "b"]


def test_a_policy_knows_the_expert_tasks_and_what_it_has_learned() -> None:
    suite = load_suite("pointmass")
    rl = ("left-disc-new", "right-square-new")
    tasks = TaskLists(("left-disc", "right-disc"), rl, ())
    said = {name: suite.task(name).instruction for name in (*tasks.expert, *rl)}
    expert = [said["left-disc"], said["right-disc"]]
    assert taught(suite, tasks, Stage("zero-shot", rl[0])) == expert
    assert taught(suite, tasks, Stage("zero-shot", rl[1])) == [*expert, said[rl[0]]]
    assert taught(suite, tasks, Stage("zero-shot", rl[0], 2)) == [*expert, *map(said.get, rl)]
