from dataclasses import replace

import numpy as np
import pytest
import torch

from irevla.bench import latency
from irevla.bench.latency import CONFIG, keep_time
from irevla.config import ModelConfig
from irevla.envs.suite import load_suite
from irevla.envs.vector import VectorEnv
from irevla.errors import UserError
from irevla.models.policy import build_policy
from irevla.rollout import fleet
from irevla.rollout.episodes import endless_jobs
from irevla.types import Features

SMALL = replace(
    CONFIG,
    env=replace(CONFIG.env, image_size=32),
    model=ModelConfig(vlm="tiny-random", width=32, layers=1, head_groups=4, head_hidden=16),
    sac=replace(CONFIG.sac, batch=32, critics=3),
)


@pytest.mark.slow  # it looks at the clock: on its own, not beside other tests
@pytest.mark.timeout(400)
def test_acting_keeps_its_rate_while_sac_learns() -> None:
    for decisions in (20, 60, 180):  # longer where a busy machine leaves the learner no time
        found = latency.run(decisions=decisions, hz=20.0, config=SMALL)
        if min(found[way]["updates_per_s"] for way in ("async", "elsewhere", "thread")) > 0:
            break
    assert found["off"]["updates_per_s"] == 0
    for way in ("off", "async", "elsewhere", "thread"):
        assert found[way]["decisions"] == decisions
        assert found[way]["missed"] <= decisions / 4  # a busy machine may be late
        parts = sum(found[way][part]["median_ms"] for part in ("encode", "act", "send"))
        assert 0 < parts < 2 * found[way]["total"]["p99_ms"]
    for way in ("async", "elsewhere", "thread"):
        assert found[way]["updates_per_s"] > 0
    assert found["ratio"] == found["async"]["total"]["p99_ms"] / found["off"]["total"]["p99_ms"]


def test_a_late_decision_is_seen() -> None:
    """The clock tells what it is there to tell: every third decision takes two beats."""
    calls = [0]

    def slow(features: Features, *, noise: torch.Tensor, chance: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        if calls[0] % 3 == 0:
            end = latency.time.perf_counter() + 0.2
            while latency.time.perf_counter() < end:
                pass
        return torch.zeros(len(features), 2)

    policy = build_policy(SMALL.model, action_dim=2, image_size=32)
    with VectorEnv(load_suite("pointmass"), SMALL.env, endless_jobs(latency.STAGE.task, 0)) as vec:
        start = latency.time.perf_counter()
        seconds = keep_time(vec, policy, slow, decisions=9, hz=10.0)
        elapsed = latency.time.perf_counter() - start
    assert np.flatnonzero(seconds[:, -1] > 0.2).tolist() == [2, 5, 8]
    assert seconds[2, 1] == pytest.approx(0.2, abs=0.05)
    assert elapsed > 1.1  # six beats, and three of two


def test_a_cluster_that_is_not_there_is_said_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fleet, "find_spec", lambda name: None)
    monkeypatch.setattr(latency, "_measure_way", lambda *args, **keywords: pytest.fail("measured"))
    with pytest.raises(UserError, match="no Ray here"):
        latency.run(config=SMALL, ray_address="127.0.0.1:1")
