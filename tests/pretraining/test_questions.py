from collections import Counter

import numpy as np
import pytest

from irevla.models.vlm import tokenizer
from irevla.pretraining.exam import displacement, mark
from irevla.pretraining.props import SCENES
from irevla.pretraining.questions import Question, cell, motion, questions
from irevla.pretraining.scenes import Facts, Seen, stage


def seen(
    name: str, point: tuple[float, float, float], pixel: tuple[float, float], **more: object
) -> Seen:
    return Seen(name, np.array(point, np.float64), pixel, **more)  # type: ignore[arg-type]


def facts() -> Facts:
    drawer = seen(
        "drawer", (0.1, 0.8, 0.1), (0.30, 0.40), colour="pink", state=("open", "closed", 0.05)
    )
    ball = seen("ball", (-0.2, 0.6, 0.03), (0.80, 0.70), colour="red", kind="ball", size="big")
    handle = seen("handle of the drawer", (0.1, 0.7, 0.1), (0.31, 0.45))
    hand = seen("gripper", (0.0, 0.6, 0.2), (0.55, 0.30))
    return Facts(
        "sawyer_drawer", (drawer, ball), (handle,), hand, 1.0, (("open the drawer", handle),)
    )


def test_a_motion_is_told_along_the_axes_of_the_robot_in_cm() -> None:
    assert motion(np.zeros(3), np.array([0.12, 0.05, -0.08])) == "right 12 forward 5 down 8"
    assert (
        motion(np.array([0.5, 0.5, 0.0]), np.array([0.26, 0.17, 0.004])) == "left 25 back 30 up 0"
    )


def test_a_cell_is_counted_from_the_top_left() -> None:
    assert cell((0.0, 0.999)) == "column 1 row 16" and cell((0.5, 0.1)) == "column 9 row 2"


def test_questions_about_a_scene_worked_by_hand() -> None:
    right = {}
    for seed in range(60):
        right |= {
            question.text: question.answer
            for question in questions(facts(), np.random.default_rng(seed))
        }
    assert right["where in the picture is the gripper?"] == "column 9 row 5"
    assert right["how high is the gripper?"] == "20 cm"
    assert right["is the gripper open or closed?"] == "open"
    assert right["is the drawer open or closed?"] == "open"
    assert (
        right["open the drawer"] == "column 9 row 5 to column 5 row 8: right 10 forward 10 down 10"
    )
    assert right["how does the gripper move to open the drawer?"] == right["open the drawer"]
    assert right["how does the gripper get to the red ball?"].endswith(
        "to column 13 row 12: left 20 forward 0 down 17"
    )
    assert right["what is at column 13 row 12?"] == "a red ball"
    assert (
        right["what color is the drawer?"] == "pink"
        and right["what shape is the red toy?"] == "ball"
    )
    assert right["how many toys are on the table?"] == "1"
    assert right["is the drawer to the left of the red ball?"] == "yes"
    assert right["which is closest to the gripper, the drawer or the red ball?"] == "the drawer"
    assert right["is there a red ball?"] == "yes" and right["is there a blue cube?"] == "no"
    assert right["describe the picture."] == (
        "the gripper at column 9 row 5, a pink drawer at column 5 row 7, a red ball at column 13 row 12"
    )


def test_what_cannot_be_seen_is_not_asked_for() -> None:
    plain = facts()
    away = Facts(
        plain.scene,
        (seen("drawer", (0, 0, 0), (1.2, 0.5)),),
        (),
        seen("gripper", (0, 0, 0), (-1.0, -1.0)),
        1.0,
        (),
    )
    asked = questions(away, np.random.default_rng(0))
    assert {question.family for question in asked} == {"exists", "count", "caption"}


def test_every_word_is_in_the_vocabulary_and_answers_are_balanced() -> None:
    random, exists, left, longest = np.random.default_rng(0), Counter[str](), Counter[str](), 0
    for scene in SCENES[::6]:
        built = stage(scene.name)
        while not any(toy.kind for toy in built.dress(random).toys):
            pass
        for question in (q for _ in range(16) for q in questions(built.pose(random), random)):
            tokens = (*tokenizer.encode(question.text), *tokenizer.encode(question.answer))
            assert not any(
                tokenizer.FIRST_BYTE <= token < tokenizer.FIRST_WORD for token in tokens
            ), question
            longest = max(longest, len(tokens))
            exists[question.answer] += question.family == "exists"
            left[question.answer] += (
                question.text.endswith("?") and "to the left of" in question.text
            )
    assert longest < 100
    for answers in (exists, left):
        assert 0.3 < answers["yes"] / (answers["yes"] + answers["no"]) < 0.7


@pytest.mark.parametrize(
    ("family", "asked", "told", "right", "near"),
    [
        ("motion", "a: right 12 forward 5 down 8", "a: right 12 forward 5 down 8", True, True),
        ("motion", "a: right 1 forward 5 down 8", "b: left 1 forward 4 down 8", False, True),
        ("task", "a: right 12 forward 5 down 8", "a: right 9 forward 2 down 8", False, False),
        ("motion", "a: right 12 forward 5 down 8", "red", False, False),
        ("place", "column 5 row 7", "column 6 row 8", False, True),
        ("hand", "column 5 row 7", "column 7 row 7", False, False),
        ("place", "column 5 row 7", "column 5", False, False),
        ("colour", "red", "red", True, True),
        ("colour", "red", "blue", False, False),
    ],
)
def test_marks(family: str, asked: str, told: str, right: bool, near: bool) -> None:
    assert mark(Question(family, "?", asked), told) == (right, near)


def test_a_motion_in_words_is_read_back() -> None:
    found = displacement("column 1 row 2 to column 3 row 4: left 25 back 3 up 0")
    assert (
        found is not None
        and found.tolist() == [-25, -3, 0]
        and displacement("a: left 25 up 3") is None
    )
