"""What SAC is given of episodes, against a suite whose pictures say which they are."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from irevla.config import EnvConfig
from irevla.envs.vector import Job, VectorEnv
from irevla.rollout import endless_jobs
from irevla.stage1.latents import LatentOutcome, LatentPlayer
from irevla.types import Features

sys.path.append(
    str(Path(__file__).parents[1] / "envs")
)  # the scripted suite, as pytest puts it for the tests there
SCRIPTED = "scripted_suite:SCRIPTED"
ONE = EnvConfig(image_size=16, horizon=3, workers=1, envs_per_worker=2, timeout=20.0)
# The scripted suite's "mixed" task: even seeds succeed at decision 2, odd ones are truncated at 3.


class Labels:
    """A policy whose latents say which picture they are of: (seed, decisions taken)."""

    def __init__(self) -> None:
        self.log_std = torch.zeros(2)
        self.encoded: list[tuple[int, int]] = []

    def encode(self, images: np.ndarray, instructions: Sequence[str]) -> Features:
        assert set(instructions) <= {"do mixed", "do taken-over"} and len(instructions) == len(
            images
        )
        self.encoded += [(int(image[0, 0, 0]), int(image[0, 1, 0])) for image in images]
        tokens = torch.tensor(self.encoded[-len(images) :], dtype=torch.float32)[:, None]
        return Features(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))

    def mean(self, features: Features) -> Tensor:
        return features.tokens[:, 0] / 10

    def decide(self, features: Features, chance: Tensor) -> Tensor:
        return self.mean(features)


def everything(vec: VectorEnv, policy: Labels) -> list[LatentOutcome]:
    return [outcome for outcomes in LatentPlayer(vec, policy, policy.mean) for outcome in outcomes]


def test_episodes_against_numbers_worked_by_hand() -> None:
    policy = Labels()
    with VectorEnv(SCRIPTED, ONE, iter([Job("mixed", seed) for seed in (2, 5, 4)])) as vec:
        won, cut, late = everything(vec, policy)
    assert [(o.job.seed, o.success, o.length) for o in (won, cut, late)] == [
        (2, True, 2),
        (5, False, 3),
        (4, True, 2),
    ]
    assert won.latents.features.tokens[:, 0].tolist() == [
        [2, 0],
        [2, 1],
    ]  # terminated: nothing after it
    assert cut.latents.features.tokens[:, 0].tolist() == [
        [5, 0],
        [5, 1],
        [5, 2],
        [5, 3],
    ]  # the true last one
    assert won.latents.terminated and not cut.latents.terminated
    assert won.latents.rewards.tolist() == [0, 1] and cut.latents.rewards.tolist() == [0, 0, 0]
    torch.testing.assert_close(
        cut.latents.actions, torch.tensor([[0.5, 0.0], [0.5, 0.1], [0.5, 0.2]])
    )
    assert sorted(policy.encoded) == [
        (2, 0),
        (2, 1),
        (4, 0),
        (4, 1),
        (5, 0),
        (5, 1),
        (5, 2),
        (5, 3),
    ]  # each once


def test_what_a_person_did_is_what_is_learnt_from() -> None:
    policy = Labels()
    with VectorEnv(SCRIPTED, ONE, iter([Job("taken-over", 5)])) as vec:
        (shown,) = everything(vec, policy)
    assert shown.latents.actions.tolist()[0] == [-0.5, 0.5]
    assert shown.latents.rewards.tolist() == [0, 1] and not shown.success, (
        "the reward is theirs too"
    )


def test_what_a_lost_worker_left_is_dropped_and_played_again() -> None:
    policy = Labels()
    with VectorEnv(SCRIPTED, ONE, endless_jobs("mixed", 0)) as vec:
        visits = iter(LatentPlayer(vec, policy, policy.mean))
        next(visits)
        os.kill(vec.pids[0], signal.SIGKILL)
        outcomes: list[LatentOutcome] = []
        while len(outcomes) < 2:
            outcomes += next(visits)
        assert vec.dropped == 2
    assert [(o.job.seed, o.length, len(o.latents.features)) for o in outcomes] == [
        (0, 2, 2),
        (1, 3, 4),
    ]
    assert outcomes[1].latents.features.tokens[:, 0].tolist() == [[1, 0], [1, 1], [1, 2], [1, 3]]
