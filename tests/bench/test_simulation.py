"""The simulation of many actors, against numbers worked by hand."""

from dataclasses import replace

import pytest

from irevla.bench.simulation import (
    Costs,
    Layout,
    asynchronous,
    encoding_seconds,
    expected_largest,
    rollout_seconds,
    synchronous,
)

COSTS = Costs(
    step=1.0, encode=1.0, image=0.5, act=0.0, update=0.1, pack=0.0, unpack=0.0, head=0.0,
    decision=0.0, latency=0.0, bandwidth=1.0,
)  # fmt: skip
ALONE = Layout(actors=1, workers=1, envs=2, decisions=3, cores=8)


def test_one_worker_steps_and_is_encoded_in_turn() -> None:
    # each decision: a pass of 1 + 2 * 0.5 = 2 s, then two environments step for 2 s
    assert encoding_seconds(COSTS, ALONE) == 6
    assert rollout_seconds(COSTS, ALONE) == pytest.approx(12)


def test_one_of_two_workers_is_encoded_while_the_other_steps() -> None:
    two = replace(ALONE, workers=2)
    # the VLM is always busy: 6 passes of 2 s; the last worker then steps for 2 s
    assert rollout_seconds(COSTS, two) == pytest.approx(14)
    # where environments are slow, it waits: both step for 6 s, the second begins 2 s later
    slow = replace(COSTS, step=3.0)
    assert rollout_seconds(slow, two) == pytest.approx(3 * (2 + 6) + 2)


def test_a_single_core_does_one_thing_at_a_time() -> None:
    two = replace(ALONE, workers=2, cores=1)
    assert rollout_seconds(COSTS, two) == pytest.approx(6 * 2 + 6 * 2)
    # with a GPU the cores are the environments' alone: 2 s of encoding, then nothing but steps
    assert rollout_seconds(COSTS, replace(two, gpu=True)) == pytest.approx(14)


def test_actors_share_the_cores_of_their_machine() -> None:
    many = replace(ALONE, actors=4, together=4, cores=1)
    assert rollout_seconds(COSTS, many) == pytest.approx(4 * 12)
    assert rollout_seconds(COSTS, replace(many, cores=4)) == pytest.approx(12)


def test_a_round_is_playing_sending_and_learning() -> None:
    costs = replace(
        COSTS, head=6.0, decision=2.0, bandwidth=12.0, latency=0.5, pack=0.25, unpack=0.5
    )
    found = synchronous(costs, replace(ALONE, actors=4))
    # 6 decisions of 2 bytes each come from each of 4, and a head of 6 bytes goes there
    assert found.parts == pytest.approx(
        {
            "encoding": 6,
            "environments": 6,
            "stragglers": 0,
            "network": 4 * (12 + 6) / 12 + 0.5,
            "messages": 12 * 0.25 + 48 * 0.5,
            "learner": 2.4,
        }
    )
    assert found.seconds == pytest.approx(47.9)
    assert found.decisions_per_s == pytest.approx(24 / 47.9)
    assert found.idle == pytest.approx(1 - 6 / 47.9)
    assert found.staleness == 0
    assert found.bottleneck == "messages"


def test_the_slowest_of_many_makes_all_wait() -> None:
    assert expected_largest(1) == 0
    assert expected_largest(2) == pytest.approx(0.564, abs=0.1)
    assert expected_largest(512) == pytest.approx(3.04, abs=0.1)
    found = synchronous(replace(COSTS, spread=0.1), replace(ALONE, actors=512))
    assert found.parts["stragglers"] == pytest.approx(12 * 0.1 * 3.04, rel=0.03)


def test_one_that_need_not_wait_is_never_idle_and_one_update_behind() -> None:
    # playing takes 12 s, learning 0.6 s: it is done while the next rollout is played
    found = asynchronous(COSTS, ALONE)
    assert found.seconds == pytest.approx(12)
    assert found.idle == pytest.approx(0.5)
    assert found.staleness == 1
    assert synchronous(COSTS, ALONE).seconds == pytest.approx(12.6)


def test_a_slow_learner_makes_them_wait_and_they_are_at_most_two_updates_behind() -> None:
    slow = replace(COSTS, update=10.0)  # 60 s an update
    found = asynchronous(slow, ALONE)
    assert found.seconds == pytest.approx(60)
    assert found.bottleneck == "learner"
    assert found.idle == pytest.approx(1 - 6 / 60)
    assert 1 <= found.staleness <= 2
