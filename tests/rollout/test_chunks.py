"""Actions that are given at once and executed one a step, worked by hand: who is asked and when,
what recorders keep, and what PPO and SAC are given."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from exact_policies import FakePolicy
from torch import Tensor

from irevla.config import EnvConfig
from irevla.envs.suite import load_suite
from irevla.envs.vector import Job, StepResult, VectorEnv
from irevla.rollout.actors import ExploringActor, GaussianActor, MeanActor, chance
from irevla.rollout.batches import Collector, RolloutRecorder
from irevla.rollout.episodes import EpisodeRecorder, Outcome, endless_jobs
from irevla.rollout.exploration import PinkNoise, pink
from irevla.rollout.serve import Actor, Server
from irevla.types import Features

SCRIPTED = load_suite("scripted_suite:SCRIPTED")
# "timeout": cut off at the horizon. "mixed": even seeds succeed at step 2, odd ones are cut off.
FIVE = EnvConfig(image_size=16, horizon=5, workers=1, envs_per_worker=2, timeout=20.0)
K = 4  # actions that are given at once


class Chunked(FakePolicy):
    """Of step t it says that the action j steps from there is (t + j) / 8 and j / 8."""

    chunk = K

    def __init__(self, execute: int, *, std: float = 0.5) -> None:
        super().__init__(std=std, padding=False)
        self.execute = execute

    def mean(self, features: Features) -> Tensor:
        ahead = torch.arange(K)
        step = features.tokens[:, 0, 1:]
        actions = torch.stack([step + ahead, ahead.expand(len(features), -1)], 2) / 8
        return actions.flatten(1)

    def decide(self, features: Features, chance: Tensor) -> Tensor:
        assert chance.shape == (len(features), self.execute)
        return self.mean(features)[:, : 2 * self.execute]


def value(features: Features) -> Tensor:
    """V = 10 seed + step."""
    return 10 * features.tokens[:, 0, 0] + features.tokens[:, 0, 1]


def play(vec: VectorEnv, actor: Actor, **kept: object) -> list[Outcome]:
    recorder = EpisodeRecorder(vec, images=True, policy_hash="abc", **kept)
    return list(Server(vec, actor, recorder).serve())


@pytest.mark.parametrize(
    ("execute", "looks", "ahead"),
    [(1, [0, 1, 2, 3, 4], [0] * 5), (2, [0, 2, 4], [0, 1, 0, 1, 0]), (4, [0, 4], [0, 1, 2, 3, 0])],
)
def test_a_policy_looks_at_every_nth_step(execute: int, looks: list[int], ahead: list[int]) -> None:
    policy = Chunked(execute)
    with VectorEnv(SCRIPTED, FIVE, iter([Job("timeout", 7)])) as vec:
        server = Server(vec, MeanActor(policy), EpisodeRecorder(vec, images=True))
        (outcome,) = server.serve()
    assert policy.encoded == [(7, step) for step in looks]
    assert len(server.latencies) == len(looks)
    # every step is recorded, with what was executed there
    assert (outcome.actions * 8).tolist() == [[step, ahead[step]] for step in range(5)]
    assert outcome.episode is not None and len(outcome.episode) == 5
    executed = outcome.episode.images[1:, 1, 0, :2]
    assert executed.tolist() == np.round(outcome.actions[:-1] * 100 + 100).tolist()


def test_an_episode_that_ends_inside_a_chunk_ends_it() -> None:
    policy = Chunked(4)
    jobs = [Job("win", seed) for seed in range(5)]  # each succeeds at its second step
    with VectorEnv(SCRIPTED, FIVE, iter(jobs)) as vec:
        outcomes = play(vec, MeanActor(policy))
    assert sorted(policy.encoded) == [(seed, 0) for seed in range(5)]
    assert [(each.actions * 8).tolist() for each in outcomes] == [[[0, 0], [1, 1]]] * 5


def test_where_a_person_takes_over_the_policy_looks_again() -> None:
    """And then as often as ever: episodes are divided alike, whatever happens in them."""
    policy = Chunked(4)
    with VectorEnv(SCRIPTED, FIVE, iter([Job("taken-over", 3)])) as vec:
        (outcome,) = play(vec, MeanActor(policy), latents=True, execute=4)
    assert policy.encoded == [(3, 0), (3, 1)]
    assert outcome.actions.tolist() == [[-0.5, 0.5], [1 / 8, 0]]
    assert outcome.latents is not None and len(outcome.latents) == 1
    assert outcome.latents.actions[0, :4].tolist() == [-0.5, 0.5, 1 / 8, 0]
    shown = outcome.shown()
    assert shown is not None and len(shown) == 1, "the chunk in which they took over"


def test_a_lost_worker_loses_its_chunks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IREVLA_TEST_FLAG", str(tmp_path / "hung"))
    policy = Chunked(4)
    env = EnvConfig(image_size=16, horizon=3, workers=1, envs_per_worker=2, timeout=3.0)
    jobs = [Job("hang-once", seed) for seed in (0, 1)]
    with VectorEnv(SCRIPTED, env, iter(jobs)) as vec:
        outcomes = play(vec, MeanActor(policy))
        assert vec.dropped == 2
    assert policy.encoded == [(0, 0), (1, 0)] * 2
    assert [(each.actions[:, 0] * 8).tolist() for each in outcomes] == [[0, 1, 2]] * 2


def test_each_step_has_its_own_noise_and_chance() -> None:
    told: dict[int, tuple[list[float], list[float]]] = {}

    def decide(features: Features, *, noise: Tensor, chance: Tensor) -> Tensor:
        step = int(features.tokens[0, 0, 1])
        told[step] = (noise[0].tolist(), chance[0].tolist())
        return torch.zeros(len(features), 6)

    policy = Chunked(3)
    noise = PinkNoise(11, decisions=5, execute=3)
    with VectorEnv(SCRIPTED, FIVE, iter([Job("timeout", 7)])) as vec:
        play(vec, ExploringActor(policy, noise, decide))
    along = pink(11, 7, decisions=5, dimensions=2)
    assert told[0][0] == along[:3].flatten().tolist()
    assert told[3][0][:4] == along[3:].flatten().tolist()
    assert told[3][1] == pytest.approx([chance(7, 3 + ahead) for ahead in range(3)])


# --- what SAC is given


def test_latents_are_of_every_nth_step_with_the_discounted_rewards_between() -> None:
    policy = Chunked(2)
    env = EnvConfig(image_size=16, horizon=3, workers=1, envs_per_worker=2, timeout=20.0)
    jobs = [Job("mixed", 4), Job("mixed", 5)]
    with VectorEnv(SCRIPTED, env, iter(jobs)) as vec:
        won, cut = play(vec, MeanActor(policy), latents=True, execute=2, gamma=0.5)
    assert won.latents is not None and cut.latents is not None
    assert won.latents.features.tokens[:, 0].tolist() == [[4, 0]]
    assert won.latents.rewards.tolist() == [0.5], "the success came with the second step"
    assert cut.latents.features.tokens[:, 0].tolist() == [[5, 0], [5, 2]]
    assert (cut.latents.actions * 8).tolist() == [[0, 0, 1, 1], [2, 0, 2, 0]], "the last is held"
    assert cut.latents.rewards.tolist() == [0, 0]


# --- what PPO is given


@pytest.fixture
def mixed() -> Iterator[VectorEnv]:
    with VectorEnv(SCRIPTED, FIVE, endless_jobs("mixed", 0)) as vec:
        yield vec


class NoNoise(PinkNoise):
    def __init__(self, execute: int) -> None:
        self._n = execute

    def at(self, result: StepResult, *, dimensions: int) -> Tensor:
        return torch.zeros(int(result.playing.sum()), self._n * dimensions)


def test_a_rollout_of_chunks_against_numbers_worked_by_hand(mixed: VectorEnv) -> None:
    """Slot 0 plays seeds 0, 2, 4 (each succeeds at its second step) and 5; slot 1 plays seed 1, cut
    off after its fifth, and 3. A chunk is of three steps."""
    policy = Chunked(3)
    actor = GaussianActor(policy, PinkNoise(0, decisions=5, execute=3))
    server = Server(mixed, actor, RolloutRecorder(mixed, gamma=0.5))
    batch, stats = Collector(server).collect(value, 7)

    # step       0     1     2     3     4     5     6
    # slot 0    0:0   0:1*  2:0   2:1*  4:0   4:1*  5:0   a success ends the first three chunks
    # slot 1    1:0   1:1   1:2   1:3   1:4|  3:0   3:1   the horizon ends the second
    assert batch.steps is not None
    assert batch.steps.tolist() == [[2, 3], [2, 2], [2, 2], [1, 0]]
    assert batch.valid.tolist() == [[True, True]] * 3 + [[True, False]]
    assert batch.values.T[0].tolist() == [0, 20, 40, 50]
    assert batch.values.T[1, :3].tolist() == [10, 13, 30]
    assert batch.rewards.tolist() == [[0.5, 0], [0.5, 0], [0.5, 0], [0, 0]]
    assert batch.terminated.tolist() == [[True, False]] * 3 + [[False, False]]
    assert batch.truncated.tolist() == [[False, False], [False, True]] + [[False, False]] * 2
    # after a success nothing; seed 1 after its third step, and its true last observation; seeds 5
    # and 3 go on
    assert batch.next_values.tolist() == [[0, 13], [0, 15], [0, 32], [51, 0]]
    assert batch.features.tokens[:7, 0].tolist() == [
        [0, 0], [1, 0], [2, 0], [1, 3], [4, 0], [3, 0], [5, 0],
    ]  # fmt: skip
    assert stats.decisions == 14, "steps"
    assert [(each.job.seed, each.length) for each in stats.finished] == [
        (0, 2), (2, 2), (1, 5), (4, 2),
    ]  # fmt: skip
    assert len(set(policy.encoded)) == len(policy.encoded) == 7 + 1 + 2, "each look once"
    assert batch.actions.shape == (4, 2, 6)
    z = (batch.actions - policy.mean(batch.features)[:, :6].view(4, 2, 6)) / 0.5
    expected = (-0.5 * z**2 - np.log(0.5) - 0.5 * np.log(2 * np.pi)).sum(-1)
    torch.testing.assert_close(batch.log_probs, expected)


def test_environments_that_make_fewer_decisions_have_cells_that_are_not_valid(
    mixed: VectorEnv,
) -> None:
    policy = Chunked(4)
    actor = GaussianActor(policy, PinkNoise(0, decisions=5, execute=4))
    server = Server(mixed, actor, RolloutRecorder(mixed, gamma=0.5))
    batch, _ = Collector(server, live=True).collect(value, 4)
    # slot 0: two successes; slot 1: one chunk of seed 1
    assert batch.valid.tolist() == [[True, True], [True, False]]
    assert batch.values[batch.valid].tolist() == [0, 10, 20]
    assert batch.next_values.tolist() == [[0, 14], [0, 0]]
    assert batch.observations is not None and len(batch.observations) == 4
    assert batch.observations.images[:3, 0, :2, 0].tolist() == [[0, 0], [1, 0], [2, 0]]
    # a rollout's end ends a chunk, and the next one begins with a look everywhere, which is not
    # made twice
    batch, _ = Collector(server).collect(value, 2)
    assert batch.values[0].tolist() == [40, 14]
    assert len(set(policy.encoded)) == len(policy.encoded)


def test_what_a_rollouts_end_cut_off_is_divided_as_ever() -> None:
    policy = Chunked(4)
    env = EnvConfig(image_size=16, horizon=9, workers=1, envs_per_worker=1, timeout=20.0)
    with VectorEnv(SCRIPTED, env, endless_jobs("timeout", 7)) as vec:
        server = Server(vec, GaussianActor(policy, NoNoise(4)), RolloutRecorder(vec))
        collector = Collector(server)
        first, _ = collector.collect(value, 3)
        second, _ = collector.collect(value, 6)
    assert first.steps is not None and first.steps.tolist() == [[3]]
    assert second.steps is not None and second.steps.tolist() == [[1], [4], [1]]
    assert policy.encoded[:4] == [(7, 0), (7, 3), (7, 4), (7, 8)]
