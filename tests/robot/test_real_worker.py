"""The whole way, as `irevla eval --suite panda` goes it: a worker process, settings in a file, a
simulated arm behind libfranka's protocol, its images as a video stream over HTTP, and a person at
another process's keys."""

import itertools
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("franky_sim")

from cell import SimulatedCell  # after the package that it needs

from irevla.config import EnvConfig, ExpertConfig
from irevla.envs.suite import PERSON, Authorization, load_suite
from irevla.envs.vector import Job, VectorEnv
from irevla.errors import UserError
from irevla.robot.stop_latch import Session
from irevla.robot.teleop import DONE, PRESSED_STOP, READY, STOP
from irevla.rollout.demonstrations import collect_expert, open_store
from irevla.rollout.episodes import EpisodeRecorder, Outcome
from irevla.rollout.serve import Actor, Choice, Server, View
from irevla.types import Observation

pytestmark = pytest.mark.slow
HASH = "ab" * 32


class Forth:
    """A policy: forth, with open fingers. Remembers what it saw, and where the simulator's hand was
    then."""

    def __init__(self, cell: SimulatedCell) -> None:
        self._cell = cell
        self.seen: list[np.ndarray] = []
        self.hands: list[float] = []

    def encode(self, observation: Observation) -> None:
        """It needs no latents."""

    def act(self, view: View) -> Choice:
        self.seen.append(view.result.images[0])
        self.hands.append(float(self._cell.sim.hand()[0]))
        return Choice(torch.tensor([[0.5, 0, 0, 0, 0, 0, -1]]))


def play(actor: Actor, env: EnvConfig, *tasks: str, who: Authorization | None) -> list[Outcome]:
    jobs = [Job(task, seed) for seed, task in enumerate(tasks)]
    with VectorEnv(load_suite("panda"), env, iter(jobs), authorization=who) as vec:
        return list(Server(vec, actor, EpisodeRecorder(vec, policy_hash=HASH)).serve())


def test_a_policy_acts_on_the_arm_through_a_worker(cell: SimulatedCell) -> None:
    policy = Forth(cell)
    env = EnvConfig(image_size=64, horizon=30)
    with cell.person():
        outcomes = play(policy, env, "pick-red-block", "pick-carrot", who=Authorization(HASH))
    assert [outcome.job.task for outcome in outcomes] == ["pick-red-block", "pick-carrot"]
    assert [outcome.length for outcome in outcomes] == [30, 30]
    assert not any(outcome.success for outcome in outcomes)
    moved = max(policy.hands) - 0.42
    assert moved > 0.03, policy.hands  # 60 cm were asked for, of a simulator without time
    assert len(np.unique(policy.seen[0].reshape(-1, 3), axis=0)) > 50
    assert not cell.stop_latch.reason  # it closed in order


class ThreeForth(Forth):
    """Three steps at once."""

    def act(self, view: View) -> Choice:
        one = super().act(view).actions
        assert one is not None
        return Choice(one.repeat(1, 3))


def test_a_chunk_moves_it_step_by_step(cell: SimulatedCell) -> None:
    policy = ThreeForth(cell)
    env = EnvConfig(image_size=64, horizon=10)
    with cell.person():
        (outcome,) = play(policy, env, "pick-red-block", who=Authorization(HASH))
    assert outcome.length == 10 and len(policy.seen) == 4
    assert max(policy.hands) - 0.42 > 0.01


def test_a_stop_inside_a_chunk_is_obeyed_at_the_next_step(
    cell: SimulatedCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = ThreeForth(cell)
    env = EnvConfig(image_size=64, horizon=10)
    send = VectorEnv.send
    sent: list[float] = []

    def watched(self: VectorEnv, *args: Any) -> None:
        sent.append(float(cell.sim.hand()[0]))
        while len(sent) == 5 and not cell.stop_latch.record:  # the second of the second chunk
            time.sleep(0.05)
        send(self, *args)

    def says() -> str:
        return STOP if len(sent) == 5 else READY

    monkeypatch.setattr(VectorEnv, "send", watched)
    with cell.person(says), pytest.raises(UserError, match=PRESSED_STOP):
        play(policy, env, "pick-red-block", who=Authorization(HASH))
    assert len(sent) == 5 and len(policy.seen) == 2
    cell.stop_latch.release()


def test_what_a_worker_refuses_is_said_in_one_line(cell: SimulatedCell) -> None:
    env = EnvConfig(image_size=64, horizon=8)

    def error(who: Authorization | None, actor: Actor | None = None) -> str:
        with pytest.raises(UserError) as told:
            play(actor or Forth(cell), env, "pick-carrot", who=who)
        assert "\n" not in str(told.value)
        return str(told.value)

    assert "irevla arm keys" in error(Authorization(HASH))
    with cell.person():
        assert "nobody is authorised" in error(None)
        assert "64 hexadecimal digits" in error(Authorization("latest"))
        assert "this is a policy" in error(Authorization(PERSON))
    assert not cell.stop_latch.reason  # it closed in order
    lock = cell.settings.folder / "lock"
    lock.write_text("999999999")  # of a session that was killed
    with cell.person():
        assert "the last session ended without closing" in error(Authorization(HASH))
    cell.stop_latch.release()
    cell.describe(policy=HASH)
    assert "changes as it learns" in error(Authorization(HASH, learning=True))
    assert "not the one that the settings name" in error(Authorization("cd" * 32))
    assert not cell.stop_latch.reason


def test_ctrl_c_at_the_prompt_keeps_what_was_shown_and_needs_no_release(
    cell: SimulatedCell, tmp_path: Path
) -> None:
    turns = itertools.cycle([READY, "w"])
    said: list[str] = []
    been_home: list[float] = []
    root = tmp_path / "demonstrations"
    env = EnvConfig(image_size=64, horizon=100)
    suite = load_suite("panda")

    def says() -> str:
        """They show one episode; at the next prompt they say nothing, and it is interrupted."""
        if said:
            return ""
        where = float(cell.sim.hand()[0])
        been_home.extend([where] if where < 0.43 else [])
        if been_home and where > 0.45:
            said.append(DONE)
            threading.Timer(5.0, os.kill, (os.getpid(), signal.SIGINT)).start()
            return DONE
        return next(turns)

    with cell.person(says), pytest.raises(KeyboardInterrupt):
        collect_expert(
            suite,
            ("pick-red-block",),
            ExpertConfig(episodes=3, noisy_fraction=0.0),
            env=env,
            seed=0,
            root=root,
        )
    assert len(open_store(suite, env, root)) == 1
    session = Session(cell.settings.folder)
    assert not session.stop_latch.reason, "it was let go in order"
    session.close()


def test_a_person_demonstrates_through_a_worker(cell: SimulatedCell, tmp_path: Path) -> None:
    """As `irevla collect panda` does: they press a key, then say that it is done."""
    turns = itertools.cycle([READY, "w"])
    answers = itertools.cycle([READY, DONE])  # it starts forth as well, and waits for leave

    def says() -> str:
        forth = float(cell.sim.hand()[0]) > 0.45
        return next(answers if forth else turns)

    env = EnvConfig(image_size=64, horizon=100)
    config = ExpertConfig(episodes=1, noisy_fraction=0.0)
    suite = load_suite("panda")
    with cell.person(says):
        store = collect_expert(
            suite, ("pick-red-block",), config, env=env, seed=0, root=tmp_path / "demonstrations"
        )
    (episode,) = store
    forth = episode.actions[:, 0]  # what the hand did: a tap is a small step, and the arm lags
    assert episode.success and (forth > 0.05).sum() > 2 and 0.01 < 0.04 * forth.sum() < 0.1
    assert not (
        cell.path.with_suffix(".demonstrations")
    ).exists()  # collected where it was asked for
