"""The whole way, as `irevla eval --suite panda` goes it: a worker process, settings in a file, a
simulated arm behind libfranka's protocol, its pictures as a video stream over HTTP, and a person at
another process's keys."""

import json

import numpy as np
import pytest

pytest.importorskip("franky_sim")

from cell import SimulatedCell  # after the package that it needs

from irevla.config import EnvConfig
from irevla.envs.base import Supervised, load_suite
from irevla.envs.real.suite import POLICY
from irevla.envs.vector import Job, Slots, VectorEnv
from irevla.errors import UserError
from irevla.rollout import play

pytestmark = pytest.mark.slow
HASH = "ab" * 32


class Forth:
    """A policy: forth, with open fingers. Remembers what it saw, and where the simulator's hand was
    then."""

    def __init__(self, cell: SimulatedCell) -> None:
        self._cell = cell
        self.seen: list[np.ndarray] = []
        self.hands: list[float] = []

    def act(self, slots: Slots, instructions: tuple[str, ...]) -> np.ndarray:
        self.seen.append(slots.images[0])
        self.hands.append(float(self._cell.sim.hand()[0]))
        return np.array([[0.5, 0, 0, 0, 0, 0, -1]], np.float32)


def test_a_policy_acts_on_the_arm_through_a_worker(cell: SimulatedCell) -> None:
    suite, policy = load_suite("panda"), Forth(cell)
    assert isinstance(suite, Supervised)
    env = suite.admit(HASH, EnvConfig(image_size=64, horizon=30), learning=False)
    with (
        cell.person(),
        VectorEnv("panda", env, iter([Job("pick-red-block", 0), Job("pick-carrot", 1)])) as vec,
    ):
        outcomes = list(play(vec, policy, keep_images=True, policy_hash=HASH))
    assert [outcome.job.task for outcome in outcomes] == ["pick-red-block", "pick-carrot"]
    assert [outcome.length for outcome in outcomes] == [30, 30] and not any(
        outcome.success for outcome in outcomes
    )
    assert max(policy.hands) - 0.42 > 0.03, (
        policy.hands
    )  # 60 cm were asked for, of a simulator without time
    assert len(np.unique(policy.seen[0].reshape(-1, 3), axis=0)) > 50
    assert not cell.path.with_suffix(".stopped.json").exists()  # it closed in order


def test_what_a_worker_refuses_is_said_in_one_line(
    cell: SimulatedCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = EnvConfig(image_size=64, horizon=8, workers=1, envs_per_worker=1, timeout=600.0)
    monkeypatch.setenv(POLICY, HASH)

    def error() -> str:
        with (
            pytest.raises(UserError) as told,
            VectorEnv("panda", env, iter([Job("pick-carrot", 0)])) as vec,
        ):
            list(play(vec, Forth(cell)))
        assert "\n" not in str(told.value)
        return str(told.value)

    assert "irevla arm keys" in error()
    stopped = cell.path.with_suffix(".stopped.json")
    stopped.write_text(json.dumps({"pid": 999999999, "stopped": ""}))
    with cell.person():
        assert "the last session ended without closing" in error()
    stopped.unlink()
    monkeypatch.setenv(POLICY, HASH + "+learning")
    cell.describe(policy=HASH)
    assert "changes as it learns" in error()
