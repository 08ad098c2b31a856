"""Stages and their names; seeds of all draws."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from irevla.config import MOST_ROUNDS
from irevla.errors import UserError
from irevla.presets import PRESETS
from irevla.storage.checkpoint import series_name, split_name
from irevla.tasks import BASELINE, KINDS, SFT, Purpose, Stage, draw_seed, first_seed

TASKS = st.from_regex(r"[a-z]+(-[a-z0-9]+)*", fullmatch=True)
ROUNDS = st.integers(1, 99)
STAGES = st.builds(Stage, st.sampled_from(KINDS), TASKS, ROUNDS)


@given(STAGES)
def test_a_stage_is_read_from_its_name(stage: Stage) -> None:
    assert Stage.parse(stage.name) == stage


@pytest.mark.parametrize("kind", KINDS)
def test_a_stage_of_no_task_has_its_kind_for_a_name(kind: str) -> None:
    stage = Stage.parse(kind)
    assert (stage.kind, stage.task, stage.round) == (kind, "", 1)
    assert stage.name == stage.folder == kind


@given(STAGES, STAGES)
def test_other_stages_have_other_names_folders_and_draws(one: Stage, other: Stage) -> None:
    for name in ("name", "folder", "title"):
        assert (getattr(one, name) == getattr(other, name)) is (one == other)


@given(STAGES, st.integers(0, 10**6))
def test_a_folder_is_one_series_of_checkpoints(stage: Stage, number: int) -> None:
    assert split_name(series_name(stage.folder, number)) == (stage.folder, number)


def test_names_folders_and_titles_are_what_people_read() -> None:
    second = Stage("rl", "pick-carrot", 2)
    assert second.name == "rl:pick-carrot@2"
    assert second.folder == "rl-pick-carrot@2"
    assert second.title == "RL pick-carrot@2"
    assert second.target == "pick-carrot@2"
    assert Stage("sl", "pick-carrot").title == "SL pick-carrot"
    assert (SFT.name, SFT.folder, SFT.title) == ("sft", "sft", "SFT")
    assert BASELINE.title == "BASELINE"


def test_stages_1_and_2_train_on_their_task_in_every_round() -> None:
    for number in (1, 2):
        assert Stage("rl", "pick-carrot", number).trains("pick-carrot")
        assert Stage("sl", "pick-carrot", number).trains("pick-carrot")
        assert not Stage("rl", "pick-carrot", number).trains("pick-banana")
        assert not Stage("harvest", "pick-carrot", number).trains("pick-carrot")
    assert not SFT.trains("pick-carrot")


def test_the_steps_of_a_turn_have_its_task_and_round() -> None:
    turn = Stage("rl", "pick-carrot", 3)
    assert turn.then("sl") == Stage("sl", "pick-carrot", 3)


@pytest.mark.parametrize("name", ["", "rll:pick", "pick-carrot", "rl:pick@two", "RL:pick"])
def test_what_is_no_stage_is_told(name: str) -> None:
    with pytest.raises(UserError, match="stage"):
        Stage.parse(name)


# --- Seeds

KEYS = st.lists(st.one_of(st.integers(), st.text()), min_size=1, max_size=4)


@given(KEYS, KEYS)
def test_other_keys_draw_otherwise_and_the_same_key_draws_the_same(
    one: list[int | str], other: list[int | str]
) -> None:
    assert draw_seed(*one) == draw_seed(*one)
    assert (draw_seed(*one) == draw_seed(*other)) is (one == other)
    assert 0 <= draw_seed(*one) < 2**63


def test_the_parts_of_a_key_do_not_run_into_each_other() -> None:
    keys = [(1, 23), (12, 3), (123,), ("1", 23), ("1, 23",), ("a", "b"), ("a', 'b",)]
    assert len({draw_seed(*key) for key in keys}) == len(keys)


def test_a_draw_is_the_same_on_every_machine() -> None:
    """Python's own hash is not; and what is drawn must not change from version to version."""
    assert draw_seed(0, "sft") == 5542766211627153743


def test_no_episode_is_played_for_two_purposes() -> None:
    blocks = [
        (purpose, seed, number)
        for purpose in Purpose
        for seed in (0, 1, 999)
        for number in range(1, MOST_ROUNDS + 1)
    ]
    firsts = sorted(first_seed(purpose, seed, round=number) for purpose, seed, number in blocks)
    gaps = [later - earlier for earlier, later in itertools.pairwise(firsts)]
    most = max(config.sac.steps for _, config in PRESETS.values())  # episodes of one decision
    assert min(gaps) >= max(most, 100_000)
    assert firsts[-1] + 100_000 < 2**32
