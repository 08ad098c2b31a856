"""What SAC is given of episodes, against a suite whose images say which they are."""

import os
import signal
from pathlib import Path

import torch
from exact_policies import Labels
from torch import Tensor

from irevla.config import EnvConfig, ModelConfig
from irevla.data.replay import LatentReplay, LatentSpec
from irevla.envs.suite import load_suite
from irevla.envs.vector import Job, VectorEnv
from irevla.models.policy import build_policy
from irevla.rollout.actors import ExploringActor, MeanActor
from irevla.rollout.episodes import EpisodeRecorder, Outcome, endless_jobs
from irevla.rollout.exploration import PinkNoise
from irevla.rollout.serve import Server
from irevla.types import Features

SCRIPTED = load_suite("scripted_suite:SCRIPTED")
ONE = EnvConfig(image_size=16, horizon=3, workers=1, envs_per_worker=2, timeout=20.0)
# The scripted suite's "mixed" task: even seeds succeed at decision 2, odd ones are truncated at 3.


def server(vec: VectorEnv, policy: Labels) -> Server[Outcome]:
    actor = MeanActor(policy, stored=True)
    return Server(vec, actor, EpisodeRecorder(vec, policy_hash="abc", latents=True))


def test_episodes_against_numbers_worked_by_hand() -> None:
    policy = Labels()
    with VectorEnv(SCRIPTED, ONE, iter([Job("mixed", seed) for seed in (2, 5, 4)])) as vec:
        won, cut, late = server(vec, policy).serve()
    assert [(o.job.seed, o.success, o.length) for o in (won, cut, late)] == [
        (2, True, 2),
        (5, False, 3),
        (4, True, 2),
    ]
    assert won.latents.features.tokens[:, 0].tolist() == [[2, 0], [2, 1]]
    assert cut.latents.features.tokens[:, 0].tolist() == [[5, 0], [5, 1], [5, 2]]
    assert won.latents.rewards.tolist() == [0, 1] and cut.latents.rewards.tolist() == [0, 0, 0]
    torch.testing.assert_close(
        cut.latents.actions, torch.tensor([[0.625, 0.0], [0.625, 0.125], [0.625, 0.25]])
    )
    assert sorted(policy.encoded) == [
        (2, 0),
        (2, 1),
        (4, 0),
        (4, 1),
        (5, 0),
        (5, 1),
        (5, 2),
    ]  # each once, and none that nobody acts on


def test_what_a_person_did_is_what_is_learnt_from() -> None:
    policy = Labels()
    with VectorEnv(SCRIPTED, ONE, iter([Job("taken-over", 5)])) as vec:
        (shown,) = server(vec, policy).serve()
    assert shown.latents.actions.tolist()[0] == [-0.5, 0.5]
    assert shown.latents.rewards.tolist() == [0, 1] and not shown.success, (
        "the reward is theirs too"
    )


def test_what_a_lost_worker_left_is_dropped_and_played_again() -> None:
    policy = Labels()
    with VectorEnv(SCRIPTED, ONE, endless_jobs("mixed", 0)) as vec:
        served = server(vec, policy)
        list(served.serve(1))
        os.kill(vec.pids[0], signal.SIGKILL)
        outcomes = list(served.serve(5))[:2]
        assert vec.dropped == 2
    assert [(o.job.seed, o.length, len(o.latents.features)) for o in outcomes] == [
        (0, 2, 2),
        (1, 3, 3),
    ]
    assert outcomes[1].latents.features.tokens[:, 0].tolist() == [[1, 0], [1, 1], [1, 2]]


def test_what_was_acted_upon_is_what_the_buffer_gives_back(tmp_path: Path) -> None:
    """The latents that decide are those that are learnt from, to the last bit: bfloat16."""
    model = ModelConfig(vlm="tiny-random", width=32, layers=1, head_groups=4, head_hidden=16)
    policy = build_policy(model, action_dim=2, image_size=32).eval()
    decided: set[tuple[bytes, tuple[float, ...]]] = set()  # latents, and the action on them

    def decide(features: Features, *, noise: Tensor, chance: Tensor) -> Tensor:
        actions = policy.mean(features) + 0.01 * noise + 0.01 * chance
        for tokens, action in zip(features.tokens, actions, strict=True):
            decided.add((tokens.numpy().tobytes(), tuple(action.tolist())))
        return actions

    config = EnvConfig(image_size=32, horizon=4, workers=1, envs_per_worker=2)
    jobs = [Job("left-disc", seed) for seed in range(3)]
    with VectorEnv(load_suite("pointmass"), config, iter(jobs)) as vec:
        recorder = EpisodeRecorder(vec, policy_hash="abc", latents=True)
        noise = PinkNoise(0, decisions=4)
        episodes = list(Server(vec, ExploringActor(policy, noise, decide), recorder).serve())
    assert episodes[0].latents is not None
    _, m, width = episodes[0].latents.features.tokens.shape
    store = LatentReplay(tmp_path, LatentSpec("abc", "cpu float32", "pointmass", m, width, 2))
    for episode in episodes:
        assert episode.latents is not None
        store.append(episode.latents, seed=episode.job.seed)
    assert len(store) == 12
    for index in range(len(episodes)):
        stored = store.read(index)
        for tokens, action in zip(stored.features.tokens, stored.actions, strict=True):
            assert (tokens.numpy().tobytes(), tuple(action.tolist())) in decided
