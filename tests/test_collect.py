"""Demonstrations and harvest: the right number, in an order that does not depend on which worker
was faster."""

from dataclasses import replace
from pathlib import Path

import pytest

from irevla.collect import REPLAYED, collect_expert, demonstrations, harvest, in_order, open_store
from irevla.config import Config, EnvConfig, ExpertConfig, HarvestConfig, ModelConfig
from irevla.envs.base import load_suite
from irevla.envs.vector import Job
from irevla.errors import UserError
from irevla.models.build import build_policy
from irevla.rollout import BlindReplay, Outcome
from irevla.seeds import Purpose, first_seed
from irevla.turn import Turn

ENV = EnvConfig(image_size=32, horizon=12, workers=2, envs_per_worker=2)
MODEL = ModelConfig(vlm="tiny-random", width=32, layers=1, head_groups=4, head_hidden=16)
TASKS = ("left-disc", "right-disc")


def collect(root: Path, config: ExpertConfig) -> list[tuple[str, int, float]]:
    store = collect_expert("pointmass", TASKS, config, env=ENV, seed=3, root=root)
    return [
        (info.provenance.task, info.provenance.seed, info.provenance.noise)
        for info in store.episodes
    ]


def test_demonstrations_are_counted_and_half_of_them_noisy(tmp_path: Path) -> None:
    got = collect(tmp_path, ExpertConfig(episodes=6, noise=0.2))
    first = first_seed(Purpose.EXPERT, 3)
    assert (
        [task for task, _, _ in got].count("left-disc")
        == [task for task, _, _ in got].count("right-disc")
        == 6
    )
    assert sorted(noise for _, _, noise in got) == [0.0] * 6 + [0.2] * 6
    assert all(first <= seed < first + 6 * 20 for _, seed, _ in got)


def test_an_interrupted_collection_ends_with_the_same_episodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("irevla.collect.FLUSH", 4)
    whole = collect(tmp_path / "whole", ExpertConfig(episodes=6))
    broken = open_store(load_suite("pointmass"), ENV, tmp_path / "broken")
    broken.extend(list(open_store(load_suite("pointmass"), ENV, tmp_path / "whole"))[:4])
    assert collect(tmp_path / "broken", ExpertConfig(episodes=6)) == whole


def test_an_expert_that_cannot_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("irevla.collect.ROUNDS", 1)
    with pytest.raises(UserError, match="left-disc 0 of 2"):
        collect_expert(
            "pointmass",
            ("left-disc",),
            ExpertConfig(episodes=2),
            env=EnvConfig(image_size=32, horizon=1),
            seed=0,
            root=tmp_path,
        )


def test_in_order() -> None:
    jobs = [Job("t", seed) for seed in range(4)]
    outcomes = [Outcome(jobs[index], True, 1) for index in (2, 0, 1, 3)]
    assert [outcome.job.seed for outcome in in_order(outcomes, jobs)] == [0, 1, 2, 3]


def test_harvest_keeps_successes_only_and_says_whose_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A blind policy stands in for a trained one: it succeeds sometimes, and fails often."""
    task = "left-disc-new"
    config = Config(
        suite="pointmass",
        env=ENV,
        model=MODEL,
        harvest=HarvestConfig(episodes=3, attempts=40, noise=0.1),
    )
    config = replace(config, env=replace(ENV, rl_horizon=11))
    blind = BlindReplay(
        {task: [demonstrations("pointmass", [task], env=ENV, seed=1)[task][0].actions]}
    )
    monkeypatch.setattr("irevla.collect.Actor", lambda policy: blind)
    policy = build_policy(MODEL, action_dim=2, image_size=32)
    store = open_store(load_suite("pointmass"), ENV, tmp_path, online=True)
    tried, decisions, kept = harvest(policy, Turn(task), config, store=store)
    assert len(store) == kept == 3 < tried <= 40
    assert decisions == sum(map(len, store)) + (tried - 3) * 11, (
        "failures take time as well, and no more than practice may"
    )
    assert all(episode.success for episode in store)
    assert {info.provenance.noise for info in store.episodes} == {0.1}
    assert all(
        info.provenance.policy == policy.hash() and info.provenance.source == "rl"
        for info in store.episodes
    )
    first = first_seed(Purpose.HARVEST, config.seed)
    seeds = [info.provenance.seed for info in store.episodes]
    assert seeds == sorted(seeds) and seeds[-1] == first + tried - 1
    assert (
        harvest(policy, Turn(task), config, store=store) == (0, 0, 3) and len(store) == 3
    )  # nothing more is wanted
    kept = harvest(policy, Turn(task, 2), config, store=store).kept
    assert kept == 3 and len(store) == 6  # of a turn of its own, with other seeds


def test_some_demonstrations_of_each_task_for_blind_replay() -> None:
    found = demonstrations("pointmass", TASKS, env=ENV, seed=0)
    assert set(found) == set(TASKS) and {len(episodes) for episodes in found.values()} == {REPLAYED}
    assert all(episode.success for episodes in found.values() for episode in episodes)
    assert len({episode.provenance.seed for episode in found["left-disc"]}) == REPLAYED
