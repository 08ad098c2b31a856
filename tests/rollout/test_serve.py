"""The loop over workers, against numbers worked by hand: PPO's rollouts, whole episodes, and who
acts."""

from collections.abc import Iterator
from itertools import count

import numpy as np
import pytest
import torch
from exact_policies import FakePolicy, KillsAWorker
from torch import Tensor

from irevla.config import EnvConfig
from irevla.envs.suite import load_suite
from irevla.envs.vector import Job, VectorEnv
from irevla.rollout.actors import BlindReplay, GaussianActor, MeanActor, ScriptedExpert
from irevla.rollout.batches import Collector, RolloutRecorder
from irevla.rollout.episodes import EpisodeRecorder, Outcome, endless_jobs
from irevla.rollout.exploration import PinkNoise
from irevla.rollout.serve import Actor, Server
from irevla.types import Features

SCRIPTED = load_suite("scripted_suite:SCRIPTED")
POINTMASS = load_suite("pointmass")
ONE = EnvConfig(image_size=16, horizon=3, workers=1, envs_per_worker=2, timeout=20.0)
TWO = EnvConfig(image_size=16, horizon=3, workers=2, envs_per_worker=2, timeout=20.0)
# The scripted suite's "mixed" task: even seeds succeed at decision 2, odd ones are truncated at 3.


def value(features: Features) -> Tensor:
    """V = 10 seed + step."""
    return 10 * features.tokens[:, 0, 0] + features.tokens[:, 0, 1]


@pytest.fixture
def mixed() -> Iterator[VectorEnv]:
    with VectorEnv(SCRIPTED, ONE, endless_jobs("mixed", 0)) as vec:
        yield vec


def collector(vec: VectorEnv, policy: FakePolicy, *, live: bool = False) -> Collector:
    actor = GaussianActor(policy, PinkNoise(0, decisions=8))
    return Collector(Server(vec, actor, RolloutRecorder(vec)), live=live)


def play(
    vec: VectorEnv, actor: Actor, *, images: bool = False, policy_hash: str = ""
) -> Iterator[Outcome]:
    return Server(vec, actor, EpisodeRecorder(vec, images=images, policy_hash=policy_hash)).serve()


def test_collector_against_numbers_worked_by_hand(mixed: VectorEnv) -> None:
    policy = FakePolicy()
    collect = collector(mixed, policy).collect
    batch, stats = collect(value, 4)

    # slot 0 plays seeds 0, 0, 2, 2 (each ends in success); slot 1 plays 1, 1, 1 (cut off), 3
    assert batch.values.tolist() == [[0, 10], [1, 11], [20, 12], [21, 30]]
    assert batch.terminated.tolist() == [
        [False, False],
        [True, False],
        [False, False],
        [True, False],
    ]
    assert batch.truncated.tolist() == [
        [False, False],
        [False, False],
        [False, True],
        [False, False],
    ]
    assert batch.rewards.tolist() == [[0, 0], [1, 0], [0, 0], [1, 0]]
    # terminated: 0; truncated: V(seed 1, step 3) = 13, not V(seed 3, step 0) = 30; at the end: of
    # what is seen now
    assert batch.next_values.tolist() == [[1, 11], [0, 12], [21, 13], [0, 31]]
    assert batch.valid.all()
    assert batch.features.tokens[:, 0].tolist() == [
        [0, 0],
        [1, 0],
        [0, 1],
        [1, 1],
        [2, 0],
        [1, 2],
        [2, 1],
        [3, 0],
    ]
    assert [(o.job.seed, o.success, o.length) for o in stats.finished] == [
        (0, True, 2),
        (1, False, 3),
        (2, True, 2),
    ]
    assert (
        stats.decisions == 8
        and stats.dropped == 0
        and stats.metrics()["success"] == pytest.approx(2 / 3)
    )


def test_collector_goes_on_and_encodes_every_observation_once(mixed: VectorEnv) -> None:
    policy = FakePolicy()
    collect = collector(mixed, policy).collect
    collect(value, 4)
    assert (
        len(policy.encoded) == 4 * 2 + 2 + 1
    )  # every step, the last observations, the one cut off
    # the critic has changed, the latents have not
    batch, stats = collect(lambda features: -value(features), 2)
    assert batch.values.tolist() == [[-40, -31], [-41, -32]]
    assert batch.next_values.tolist() == [[-41, -32], [0, -33]]
    assert len(policy.encoded) == 11 + 2 * 2 + 1
    assert len(set(policy.encoded)) == len(policy.encoded)
    assert [(o.job.seed, o.length) for o in stats.finished] == [(4, 2), (3, 3)]


def test_columns_of_several_workers_keep_their_order() -> None:
    with VectorEnv(SCRIPTED, TWO, endless_jobs("timeout", 0)) as vec:
        batch, _ = collector(vec, FakePolicy(), live=True).collect(value, 2)
    # few jobs are spread first: worker 0 has seeds 0 and 2, worker 1 has 1 and 3
    assert batch.values.tolist() == [[0, 20, 10, 30], [1, 21, 11, 31]]
    assert batch.next_values.tolist() == [[1, 21, 11, 31], [2, 22, 12, 32]]
    assert batch.observations is not None
    assert batch.observations.images[:, 0, 0, 0].tolist() == [0, 2, 1, 3] * 2
    assert batch.observations.instructions == ("do timeout",) * 8
    assert batch.features.tokens[:, 0, 0].tolist() == [0, 2, 1, 3] * 2


def test_actions_are_gaussian_and_reach_the_environment_clipped(mixed: VectorEnv) -> None:
    policy = FakePolicy(mean=0.9, std=0.5)
    batch, _ = collector(mixed, policy, live=True).collect(value, 2)
    z = (batch.actions - 0.9) / 0.5
    expected = (-0.5 * z**2 - np.log(0.5) - 0.5 * np.log(2 * np.pi)).sum(-1)
    torch.testing.assert_close(batch.log_probs, expected)
    assert batch.actions.max() > 1  # kept as sampled
    assert batch.observations is not None
    executed = (
        batch.observations.images[2:, 1, 0, :2].float() / 100 - 1
    )  # as the second images show it
    np.testing.assert_allclose(executed, batch.actions[0].clamp(-1, 1), atol=0.006)
    assert not torch.equal(batch.actions[0], batch.actions[1])


def test_exploration_noise_is_the_generators_alone() -> None:
    def actions() -> Tensor:
        torch.rand(3)  # the global generator is not read
        with VectorEnv(SCRIPTED, ONE, endless_jobs("mixed", 0)) as vec:
            return collector(vec, FakePolicy()).collect(value, 2)[0].actions

    assert torch.equal(actions(), actions())


def test_live_encoder_encodes_the_carried_observation_afresh(mixed: VectorEnv) -> None:
    policy = FakePolicy()
    collect = collector(mixed, policy, live=True).collect
    collect(value, 1)
    before = len(policy.encoded)
    collect(value, 1)
    assert len(policy.encoded) == before + 2 + 2 and policy.encoded[before : before + 2] == [
        (0, 1),
        (1, 1),
    ]


def test_partial_episodes_of_a_lost_worker_are_not_valid(mixed: VectorEnv) -> None:
    batch, stats = collector(mixed, KillsAWorker(mixed)).collect(value, 4)
    # lost with the step at t = 2: slot 0 had begun seed 2 there, slot 1 was in seed 1 from the
    # start; both begin again
    assert batch.valid.tolist() == [[True, False], [True, False], [False, False], [True, True]]
    assert batch.values[3].tolist() == [20, 10]
    assert batch.next_values[2].tolist() == [0, 0]
    assert stats.dropped == 2 and [o.job.seed for o in stats.finished] == [0]


@pytest.mark.parametrize("config", [ONE, TWO])
def test_play_plays_each_job_once(config: EnvConfig) -> None:
    jobs = [Job("mixed", seed) for seed in range(9)]
    policy = FakePolicy()
    with VectorEnv(SCRIPTED, config, iter(jobs)) as vec:
        outcomes = list(play(vec, MeanActor(policy)))
    assert sorted(o.job.seed for o in outcomes) == list(range(9))
    assert all(
        o.success == (o.job.seed % 2 == 0) and o.length == (2 if o.success else 3) for o in outcomes
    )
    assert all(o.episode is None for o in outcomes)
    assert (
        len(set(policy.encoded)) == len(policy.encoded) == 5 * 2 + 4 * 3
    )  # idle slots and last observations are not
    assert set(policy.instructions) == {"do mixed"}


def test_play_survives_a_killed_worker_with_whole_episodes() -> None:
    jobs = [Job("timeout", seed) for seed in range(5)]
    with VectorEnv(SCRIPTED, ONE, iter(jobs)) as vec:
        outcomes = list(play(vec, MeanActor(KillsAWorker(vec)), images=True))
        assert vec.dropped == 2
    assert [o.job for o in outcomes] == jobs
    for outcome in outcomes:
        assert outcome.episode is not None
        assert outcome.episode.images[:, 0, :2, 0].tolist() == [
            [outcome.job.seed, t] for t in range(3)
        ]


def test_episodes_of_the_expert_have_clean_labels_and_provenance() -> None:
    with VectorEnv(SCRIPTED, ONE, iter([Job("win", 7, noise=0.4)])) as vec:
        (outcome,) = play(vec, ScriptedExpert(), images=True)
    episode = outcome.episode
    assert episode is not None and episode.success and episode.instruction == "do win"
    assert episode.actions.tolist() == [[0.5, -0.25]] * 2
    assert episode.rewards.tolist() == [0, 1]
    assert episode.images[:, 0, :2, 0].tolist() == [[7, 0], [7, 1]]
    assert episode.images[1, 1, 0, :2].tolist() != [
        150,
        75,
    ]  # the executed action was not the label
    provenance = episode.provenance
    assert (provenance.suite, provenance.task, provenance.seed) == ("scripted", "win", 7)
    assert (provenance.source, provenance.noise, provenance.policy) == ("expert", 0.4, "")


def test_episodes_of_a_policy_have_the_actions_as_executed() -> None:
    with VectorEnv(SCRIPTED, ONE, iter([Job("win", 7)])) as vec:
        (outcome,) = play(vec, MeanActor(FakePolicy(mean=1.5)), images=True, policy_hash="abc")
    assert outcome.episode is not None
    assert outcome.episode.actions.tolist() == [[1, 1]] * 2
    assert (outcome.episode.provenance.source, outcome.episode.provenance.policy) == ("rl", "abc")


def test_where_a_person_took_over_the_episode_has_what_they_did_and_is_no_success() -> None:
    with VectorEnv(SCRIPTED, ONE, iter([Job("taken-over", 7)])) as vec:
        (outcome,) = play(vec, MeanActor(FakePolicy(mean=1.5)), images=True)
    assert outcome.episode is not None and outcome.episode.actions.tolist() == [[-0.5, 0.5], [1, 1]]
    assert not outcome.success and not outcome.episode.success


def test_only_the_gaussian_actor_explores() -> None:
    def executed(actor: Actor) -> list[list[int]]:
        with VectorEnv(SCRIPTED, ONE, iter([Job("timeout", 7)])) as vec:
            (outcome,) = play(vec, actor, images=True)
        assert outcome.episode is not None
        return outcome.episode.images[1:, 1, 0, :2].tolist()

    assert executed(MeanActor(FakePolicy())) == [[125, 125]] * 2
    assert executed(GaussianActor(FakePolicy(), PinkNoise(0, decisions=8))) != [[125, 125]] * 2


def test_blind_replay_plays_demonstrations_of_each_task_in_turn_and_holds_its_last_action() -> None:
    demonstrations = {
        "timeout": [np.array([[0.1, 0], [0.2, 0]], np.float32)],
        "win": [
            np.array([[-0.1, 0], [-0.2, 0], [-0.3, 0]], np.float32),
            np.array([[-0.5, 0]], np.float32),
        ],
    }
    jobs = [Job("timeout", 1), Job("win", 2), Job("win", 3)]
    with VectorEnv(SCRIPTED, ONE, iter(jobs)) as vec:
        outcomes = {o.job: o.episode for o in play(vec, BlindReplay(demonstrations), images=True)}
    played = [
        (episode.actions[:, 0] * 10).round().tolist()
        for episode in map(outcomes.get, jobs)
        if episode
    ]
    assert played == [[1, 2, 2], [-1, -2], [-5, -5]]


def test_blind_replay_of_the_point_mass_mostly_fails() -> None:
    config = EnvConfig(image_size=16, horizon=12, workers=1, envs_per_worker=4)
    with VectorEnv(POINTMASS, config, iter([Job("left-disc", 1000)])) as vec:
        (demonstration,) = play(vec, ScriptedExpert(), images=True)
    assert demonstration.success and demonstration.episode is not None
    jobs = [Job("left-disc", seed, draw=False) for seed in range(40)]
    with VectorEnv(POINTMASS, config, iter(jobs)) as vec:
        outcomes = list(play(vec, BlindReplay({"left-disc": [demonstration.episode.actions]})))
    assert np.mean([o.success for o in outcomes]) < 0.4


def test_endless_jobs_count_their_seeds() -> None:
    jobs = endless_jobs("mixed", 5)
    assert [next(jobs) for _ in range(2)] == [Job("mixed", 5), Job("mixed", 6)]
    assert next(job for job, i in zip(jobs, count(), strict=False) if i == 1000).seed == 1007
