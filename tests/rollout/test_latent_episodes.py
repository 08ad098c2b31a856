"""What SAC is given of episodes, against a suite whose images say which they are."""

import os
import signal
import sys
from pathlib import Path

import torch

from irevla.config import EnvConfig
from irevla.data.replay import LatentEpisode
from irevla.envs.suite import load_suite
from irevla.envs.vector import Job, VectorEnv
from irevla.rollout.actors import LatentActor
from irevla.rollout.episodes import EpisodeRecorder, Outcome, endless_jobs
from irevla.rollout.serve import Server

# the scripted suite, as pytest puts it for the tests there
sys.path.append(str(Path(__file__).parents[1] / "envs"))
sys.path.append(str(Path(__file__).parents[1]))
from toys import LatentLabels

SCRIPTED = load_suite("scripted_suite:SCRIPTED")
ONE = EnvConfig(image_size=16, horizon=3, workers=1, envs_per_worker=2, timeout=20.0)
# The scripted suite's "mixed" task: even seeds succeed at decision 2, odd ones are truncated at 3.


def server(vec: VectorEnv, policy: LatentLabels) -> Server[Outcome]:
    return Server(vec, LatentActor(policy, policy.mean), EpisodeRecorder(vec, latents=True))


def latents(outcome: Outcome) -> LatentEpisode:
    assert outcome.latents is not None
    return outcome.latents


def test_episodes_against_numbers_worked_by_hand() -> None:
    policy = LatentLabels()
    with VectorEnv(SCRIPTED, ONE, iter([Job("mixed", seed) for seed in (2, 5, 4)])) as vec:
        won, cut, late = server(vec, policy).serve()
    assert [(o.job.seed, o.success, o.length) for o in (won, cut, late)] == [
        (2, True, 2),
        (5, False, 3),
        (4, True, 2),
    ]
    assert latents(won).features.tokens[:, 0].tolist() == [
        [2, 0],
        [2, 1],
    ]  # terminated: nothing after it
    assert latents(cut).features.tokens[:, 0].tolist() == [
        [5, 0],
        [5, 1],
        [5, 2],
        [5, 3],
    ]  # the true last one
    assert latents(won).terminated and not latents(cut).terminated
    assert latents(won).rewards.tolist() == [0, 1] and latents(cut).rewards.tolist() == [0, 0, 0]
    torch.testing.assert_close(
        latents(cut).actions, torch.tensor([[0.5, 0.0], [0.5, 0.1], [0.5, 0.2]])
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
    policy = LatentLabels()
    with VectorEnv(SCRIPTED, ONE, iter([Job("taken-over", 5)])) as vec:
        (shown,) = server(vec, policy).serve()
    assert latents(shown).actions.tolist()[0] == [-0.5, 0.5]
    assert latents(shown).rewards.tolist() == [0, 1] and not shown.success, (
        "the reward is theirs too"
    )


def test_what_a_lost_worker_left_is_dropped_and_played_again() -> None:
    policy = LatentLabels()
    with VectorEnv(SCRIPTED, ONE, endless_jobs("mixed", 0)) as vec:
        playing = server(vec, policy)
        list(playing.serve(rounds=1))
        os.kill(vec.pids[0], signal.SIGKILL)
        outcomes: list[Outcome] = []
        while len(outcomes) < 2:
            outcomes += playing.serve(rounds=1)
        assert vec.dropped == 2
    assert [(o.job.seed, o.length, len(latents(o).features)) for o in outcomes] == [
        (0, 2, 2),
        (1, 3, 4),
    ]
    assert latents(outcomes[1]).features.tokens[:, 0].tolist() == [[1, 0], [1, 1], [1, 2], [1, 3]]
