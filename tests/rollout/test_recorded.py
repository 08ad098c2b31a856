"""The loop against what the first edition's three loops gave, bit for bit.

`recorded.json` was written by them (commit 94b2f37) on the scripted suite, with the policies of
`exact_policies.py`, whose numbers are exact on every machine: integers, halves and eighths.
"""

import json
import math
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exact_policies import FakePolicy, Labels
from torch import Tensor

from irevla.config import EnvConfig
from irevla.data.buffers import RolloutBatch
from irevla.envs.suite import load_suite
from irevla.envs.vector import Job, StepResult, VectorEnv
from irevla.rollout.actors import GaussianActor, MeanActor
from irevla.rollout.batches import Collector, RolloutRecorder
from irevla.rollout.demonstrations import play_expert
from irevla.rollout.episodes import EpisodeRecorder, Outcome, endless_jobs
from irevla.rollout.exploration import PinkNoise
from irevla.rollout.serve import Server
from irevla.types import Features

RECORDED = json.loads((Path(__file__).parent / "recorded.json").read_text())
SCRIPTED = load_suite("scripted_suite:SCRIPTED")
CONFIG = EnvConfig(image_size=16, horizon=3, workers=2, envs_per_worker=2, timeout=20.0)
JOBS = [Job(task, seed) for task in ("mixed", "taken-over") for seed in range(7)]
NOISY = [Job("win", seed, noise=0.4, burst=burst) for seed in range(5) for burst in (0, 3)]
LOG_PROBS = "log_probs"  # whose last bits are the machine's


def pixels(images: np.ndarray | Tensor) -> list[list[int]]:
    """What the scripted images say: seed, decisions taken, and the action that was executed."""
    told = np.asarray(images)[:, [0, 0, 1, 1], [0, 1, 0, 0], [0, 0, 0, 1]]
    return told.astype(int).tolist()


def told(outcome: Outcome) -> dict[str, Any]:
    """An episode as plain data."""
    plain: dict[str, Any] = {
        "task": outcome.job.task,
        "seed": outcome.job.seed,
        "success": outcome.success,
        "length": outcome.length,
    }
    if outcome.episode is not None:
        plain["pixels"] = pixels(outcome.episode.images)
        plain["labels"] = outcome.episode.actions.tolist()
        plain["instruction"] = outcome.episode.instruction
    if outcome.latents is not None:
        plain["tokens"] = outcome.latents.features.tokens[:, 0].tolist()
        plain["actions"] = outcome.latents.actions.tolist()
        plain["rewards"] = outcome.latents.rewards.tolist()
    return plain


def columns(batch: RolloutBatch, finished: list[list[Any]]) -> dict[str, Any]:
    """A rollout as plain data."""
    names = ("actions", LOG_PROBS, "values", "next_values", "rewards")
    flags = ("terminated", "truncated", "valid")
    plain = {name: getattr(batch, name).tolist() for name in (*names, *flags)}
    plain["tokens"] = batch.features.tokens[:, 0].tolist()
    plain["masked"] = batch.features.mask.sum(1).tolist()
    plain["finished"] = finished
    if batch.observations is not None:
        plain["pixels"] = pixels(batch.observations.images)
        plain["instructions"] = list(batch.observations.instructions)
    return plain


def value(features: Features) -> Tensor:
    """V = 10 seed + step."""
    return 10 * features.tokens[:, 0, 0] + features.tokens[:, 0, 1]


class SteadyNoise(PinkNoise):
    """-1, -0.5, 0, 0.5, 1, -1, ..."""

    def __init__(self) -> None:
        self._numbers = count()

    def at(self, result: StepResult, *, dimensions: int) -> Tensor:
        shape = (int(result.playing.sum()), dimensions)
        drawn = [next(self._numbers) % 5 / 2 - 1 for _ in range(math.prod(shape))]
        return torch.tensor(drawn).view(shape)


@pytest.mark.parametrize("live", [False, True])
def test_rollouts_for_ppo(live: bool) -> None:
    with VectorEnv(SCRIPTED, CONFIG, endless_jobs("mixed", 3)) as vec:
        actor = GaussianActor(FakePolicy(), SteadyNoise())
        collector = Collector(Server(vec, actor, RolloutRecorder(vec)), live=live)
        for expected in RECORDED["ppo, live" if live else "ppo"]:
            batch, stats = collector.collect(value, 5)
            ended = [[each.job.seed, each.success, each.length] for each in stats.finished]
            found = columns(batch, ended)
            assert np.allclose(found.pop(LOG_PROBS), expected[LOG_PROBS], atol=1e-5)
            assert found == {name: each for name, each in expected.items() if name != LOG_PROBS}


def test_evaluation() -> None:
    with VectorEnv(SCRIPTED, CONFIG, iter(JOBS)) as vec:
        played = Server(vec, MeanActor(Labels()), EpisodeRecorder(vec)).serve()
        assert [told(outcome) for outcome in played] == RECORDED["evaluation"]


def test_collection_by_the_expert_and_by_a_policy_with_noise() -> None:
    assert [told(outcome) for outcome in play_expert(SCRIPTED, CONFIG, NOISY)] == RECORDED["expert"]
    with VectorEnv(SCRIPTED, CONFIG, iter(NOISY)) as vec:
        recorder = EpisodeRecorder(vec, images=True, policy_hash="abc")
        played: Iterator[Outcome] = Server(vec, MeanActor(Labels()), recorder).serve()
        assert [told(outcome) for outcome in played] == RECORDED["harvest"]


def test_latents_for_sac() -> None:
    policy = Labels()
    with VectorEnv(SCRIPTED, CONFIG, iter(JOBS)) as vec:
        recorder = EpisodeRecorder(vec, images=True, latents=True, policy_hash="abc")
        played = Server(vec, MeanActor(policy, stored=True), recorder).serve()
        assert [told(outcome) for outcome in played] == RECORDED["latents"]
