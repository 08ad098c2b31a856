"""Line 6 of Algorithm 1: successes only, and whose they are."""

from dataclasses import replace
from pathlib import Path

import pytest

from irevla.config import Config, EnvConfig, HarvestConfig, ModelConfig
from irevla.envs.suite import load_suite
from irevla.models.policy import build_policy
from irevla.rollout.actors import BlindReplay
from irevla.rollout.demonstrations import open_store, replayed_demonstrations
from irevla.runs.run import open_run
from irevla.stages.harvest import run_harvest
from irevla.tasks import Purpose, Stage, first_seed

POINTMASS = load_suite("pointmass")
TASK = "left-disc-new"
CONFIG = Config(
    suite="pointmass",
    env=EnvConfig(image_size=32, horizon=12, rl_horizon=11, workers=2, envs_per_worker=2),
    model=ModelConfig(vlm="tiny-random", width=32, layers=1, head_groups=4, head_hidden=16),
    harvest=HarvestConfig(episodes=3, attempts=60, noise=0.3),
)


def test_harvest_keeps_successes_only_and_says_whose_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A blind policy stands in for a trained one: it succeeds sometimes, and fails often."""
    found = replayed_demonstrations(POINTMASS, [TASK], env=CONFIG.env, seed=1)[TASK]
    blind = BlindReplay({TASK: [outcome.actions * 0.6 for outcome in found]})  # too short a way
    monkeypatch.setattr("irevla.stages.harvest.MeanActor", lambda policy: blind)
    policy = build_policy(CONFIG.model, action_dim=2, image_size=32)
    store = open_store(POINTMASS, CONFIG.env, tmp_path / "online", kind="online")

    with open_run(tmp_path / "run", CONFIG) as run:
        for number in (1, 1, 2):  # nothing more is wanted of a stage that is done
            stage = Stage("harvest", TASK, number)
            run_harvest(run, policy, stage, suite=POINTMASS, online=store)
        facts = [run.journal.done(f"harvest:{TASK}{after}") for after in ("", "@2")]
    first, second = facts
    assert first is not None and second is not None
    assert len(store) == 6 and first["kept"] == second["kept"] == 3 < first["tried"] <= 60
    own = [info for info in store.episodes if info.provenance.seed < 1_000_000_000]
    lengths = [info.length for info in own]
    assert len(own) == 3
    failed = first["tried"] - 3  # failures take time as well, and no more than practice may
    assert first["decisions"] == sum(lengths) + failed * 11
    assert all(episode.success for episode in store)
    for info in store.episodes:
        assert info.provenance.noise == 0.3
        assert (info.provenance.policy, info.provenance.source) == (policy.hash(), "rl")
    seeds = [info.provenance.seed for info in own]
    assert seeds == sorted(seeds)
    assert seeds[-1] == first_seed(Purpose.HARVEST, CONFIG.seed) + first["tried"] - 1


def test_what_is_there_already_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a kill: the same successes in the end, each once."""
    found = replayed_demonstrations(POINTMASS, [TASK], env=CONFIG.env, seed=1)[TASK]
    blind = BlindReplay({TASK: [outcome.actions * 0.6 for outcome in found]})  # too short a way
    monkeypatch.setattr("irevla.stages.harvest.MeanActor", lambda policy: blind)
    policy = build_policy(CONFIG.model, action_dim=2, image_size=32)
    stage = Stage("harvest", TASK)
    seeds = []
    for name, wanted in (("whole", 3), ("broken", 1), ("broken", 3)):
        config = replace(CONFIG, harvest=replace(CONFIG.harvest, episodes=wanted))
        store = open_store(POINTMASS, CONFIG.env, tmp_path / name, kind="online")
        with open_run(tmp_path / f"run-{name}-{wanted}", config) as run:
            run_harvest(run, policy, stage, suite=POINTMASS, online=store)
        seeds.append([info.provenance.seed for info in store.episodes])
    assert seeds[0] == seeds[2] and len(seeds[0]) == 3 and seeds[1] == seeds[0][:1]
