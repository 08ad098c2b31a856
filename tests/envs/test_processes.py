"""Workers that outlive a stage: who goes on, who must leave, and that nobody can tell."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_vector import CONFIG, REAL, SCRIPTED, gone_within, numbered, shown, walk, zeros

from irevla.config import EnvConfig, ExpertConfig
from irevla.envs.processes import let_go, workers_outlive_stages
from irevla.envs.suite import load_suite
from irevla.envs.vector import Job, VectorEnv
from irevla.rollout.demonstrations import collect_expert

POINTMASS = load_suite("pointmass")


@pytest.fixture
def kept() -> Iterator[None]:
    with workers_outlive_stages():
        yield


def pids_of(suite: object = SCRIPTED, *, horizon: int = 3, slots: int = 2) -> tuple[int, ...]:
    """Play a few episodes; return who did."""
    config = replace(CONFIG, horizon=horizon, envs_per_worker=slots)
    with VectorEnv(suite, config, iter([Job("timeout", seed) for seed in range(3)])) as vec:  # type: ignore[arg-type]
        results = list(walk(vec))
        assert results[horizon].truncated.any() and not results[horizon - 1].truncated.any()
        return vec.pids


def test_a_worker_goes_on_to_the_next_stage_with_other_settings(kept: None) -> None:
    first = pids_of(horizon=3)
    assert pids_of(horizon=5) == first
    assert pids_of(slots=3) != first, "its buffers are too small"
    assert pids_of(horizon=2) == first, "it still rests"


def test_without_it_nobody_stays() -> None:
    first = pids_of()
    assert gone_within(list(first), seconds=5) and pids_of() != first


def test_at_the_end_all_leave() -> None:
    with workers_outlive_stages():
        first = pids_of()
        with workers_outlive_stages():
            assert pids_of() == first
        assert pids_of() == first, "the outer one says when"
    assert gone_within(list(first), seconds=5)


def test_who_is_let_go_leaves_and_the_next_ones_stay(kept: None) -> None:
    first = pids_of()
    let_go()
    assert gone_within(list(first), seconds=5)
    assert pids_of() == pids_of() != first


def test_who_demonstrated_leaves(kept: None, tmp_path: Path) -> None:
    """They have compiled what nobody plays next, for as many environments as there are."""
    env = EnvConfig(image_size=16, workers=1, envs_per_worker=2)
    with VectorEnv(POINTMASS, env, iter([Job("left-disc", 0)])) as vec:
        list(walk(vec))
        before = vec.pids
    expert = ExpertConfig(episodes=1)
    collect_expert(POINTMASS, ("left-disc",), expert, env=env, seed=0, root=tmp_path)
    assert gone_within(list(before), seconds=5)


def test_who_died_at_rest_is_not_sent_for(kept: None) -> None:
    (first,) = pids_of()
    os.kill(first, signal.SIGKILL)
    assert gone_within([first], seconds=5)
    assert pids_of() != (first,)


def test_a_worker_may_finish_its_step_first(kept: None) -> None:
    with VectorEnv(SCRIPTED, CONFIG, iter([Job("timeout", 0)])) as vec:
        vec.recv(0)
        vec.send(0, zeros(vec))
        first = vec.pids
    assert pids_of() == first


def test_after_an_error_nobody_stays(kept: None) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        VectorEnv(SCRIPTED, CONFIG, iter([Job("timeout", 0)])) as vec,
    ):
        first = vec.pids
        raise KeyboardInterrupt
    assert pids_of() != first


def test_the_worker_of_a_real_arm_always_leaves(kept: None) -> None:
    first = pids_of(REAL, slots=1)
    assert gone_within(list(first), seconds=5) and pids_of(REAL, slots=1) != first


def test_episodes_look_as_in_a_fresh_worker(kept: None) -> None:
    def play(config: object) -> list[list[np.ndarray]]:
        with VectorEnv(POINTMASS, config, iter(numbered("left-disc", 5, 6, 7))) as vec:  # type: ignore[arg-type]
            return shown(vec)

    config = replace(CONFIG, horizon=4)
    fresh = play(config)
    play(replace(config, horizon=6))
    again = play(config)
    for old, new in zip(fresh, again, strict=True):
        assert len(old) == len(new) and all(map(np.array_equal, old, new))


LEAVING = """
import os, signal, sys, threading
from irevla.envs import worker

worker._serve = lambda connection, memory: None
read, write = os.pipe()
sys.argv = ["worker", str(os.getppid()), str(read), "0"]
worker.main()
threading._register_atexit(lambda: os.kill(os.getpid(), signal.SIGTERM))
"""


def test_a_worker_that_is_ended_as_it_leaves_says_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", LEAVING], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, b"")
