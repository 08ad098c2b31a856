"""PPO's rollouts, stopped between two of them and resumed in other processes, end to the same
bits."""

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from irevla.config import EnvConfig, ModelConfig
from irevla.data.buffers import RolloutBatch
from irevla.envs.suite import load_suite
from irevla.envs.vector import VectorEnv
from irevla.models.policy import VLAPolicy, build_policy
from irevla.rollout.actors import GaussianActor
from irevla.rollout.batches import Collector, Finished, RolloutRecorder
from irevla.rollout.episodes import endless_jobs
from irevla.rollout.exploration import PinkNoise
from irevla.rollout.serve import Server
from irevla.types import Features

CONFIG = EnvConfig(image_size=32, horizon=12, workers=2, envs_per_worker=2)
MODEL = ModelConfig(vlm="tiny-random", width=32, layers=1, head_groups=4, head_hidden=16)
COLUMNS = (
    "actions", "log_probs", "values", "next_values", "rewards", "terminated", "truncated", "valid",
)  # fmt: skip
STEPS = 7  # decisions of a rollout: episodes cross from one to the next
SUITES = [
    ("pointmass", "left-disc-new", ""),
    pytest.param("kitchen", "light-on", "gymnasium_robotics", marks=pytest.mark.slow),
    pytest.param("metaworld", "window-close-new", "metaworld", marks=pytest.mark.slow),
    pytest.param("panda-sim", "pick-carrot", "gymnasium_robotics", marks=pytest.mark.slow),
]


def value(features: Features) -> Tensor:
    return features.tokens.mean((1, 2))


def rollout(server: Server[Finished], *, live: bool) -> RolloutBatch:
    return Collector(server, live=live).collect(value, STEPS)[0]


def serve(vec: VectorEnv, policy: VLAPolicy) -> Server[Finished]:
    return Server(
        vec, GaussianActor(policy, PinkNoise(0, decisions=CONFIG.horizon)), RolloutRecorder(vec)
    )


def written(files: dict[str, Any]) -> dict[str, Any]:
    """The files as a checkpoint gives them back."""
    return {
        "episodes.json": json.loads(json.dumps(files["episodes.json"])),
        "views.safetensors": load(save(files["views.safetensors"])),
    }


def assert_same(found: RolloutBatch, expected: RolloutBatch) -> None:
    for name in COLUMNS:
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert torch.equal(found.features.tokens, expected.features.tokens)
    assert torch.equal(found.features.mask, expected.features.mask)
    if expected.observations is not None:
        assert found.observations is not None
        assert torch.equal(found.observations.images, expected.observations.images)


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize(("name", "task", "needs"), SUITES)
def test_a_resumed_collector_goes_on_to_the_same_bits(
    name: str, task: str, needs: str, live: bool
) -> None:
    if needs:
        pytest.importorskip(needs)
    suite = load_suite(name)
    policy = build_policy(MODEL, action_dim=suite.action_dim, image_size=32).eval()
    policy.reset_exploration(0.5)
    with VectorEnv(suite, CONFIG, endless_jobs(task, 5)) as vec:
        server = serve(vec, policy)
        rollout(server, live=live)
        files = written(server.state())
        expected = [rollout(server, live=live) for _ in range(2)]
    assert any(batch.truncated.any() or batch.terminated.any() for batch in expected)
    jobs = endless_jobs(task, 5)
    with VectorEnv(suite, CONFIG, jobs, state=files["episodes.json"]) as vec:
        server = serve(vec, policy)
        server.resume(files)
        for batch in expected:
            assert_same(rollout(server, live=live), batch)
