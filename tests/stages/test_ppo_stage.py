"""Stage 1 by PPO: interrupted anywhere and resumed, it ends with the same bits."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from irevla.config import Config, EnvConfig, ModelConfig, PPOConfig, RolloutsConfig
from irevla.envs.suite import load_suite
from irevla.errors import UserError
from irevla.learners import ppo
from irevla.learners.ppo import PPO
from irevla.models.policy import VLAPolicy
from irevla.rollout import fleet
from irevla.runs.rl_progress import RLProgress
from irevla.runs.run import open_run
from irevla.stages.ppo import run_ppo
from irevla.stages.start import new_policy
from irevla.storage.checkpoint import Checkpoints
from irevla.storage.journal import Journal
from irevla.tasks import SFT, Parts, Stage
from players import LOST, Players

SUITE = load_suite("pointmass")
STAGE = Stage("rl", "left-disc-new")
CONFIG = Config(
    suite="pointmass",
    env=EnvConfig(image_size=32, horizon=11, workers=2, envs_per_worker=2),
    model=ModelConfig(vlm="tiny-random", width=32, layers=1, head_groups=4, head_hidden=16),
    ppo=PPOConfig(
        steps=384, rollout=16, minibatch=32, warmup=1, lr=3e-3, std=0.5, checkpoint_every=2
    ),
)


def learn(directory: Path, parts: Parts, config: Config = CONFIG) -> VLAPolicy:
    with open_run(directory, config) as run:
        run.journal.append("begun")  # as a run has, by then
        policy = new_policy(run, SUITE, SFT)
        return run_ppo(run, policy, STAGE, parts, suite=SUITE)


@pytest.fixture(scope="module", params=["head", "all"])
def uninterrupted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Parts, str, int]:
    """What learns, what it ends with when nothing stops it, and the points of its curve."""
    torch.manual_seed(7)
    directory = tmp_path_factory.mktemp("whole")
    whole = learn(directory, request.param)
    return request.param, whole.hash(), points(directory)


def points(directory: Path) -> int:
    return (directory / "metrics.jsonl").read_text().count("\n")


@pytest.mark.parametrize("updates", [0, 3])
def test_interrupted_anywhere_it_ends_with_the_same_bits(
    uninterrupted: tuple[Parts, str, int],
    updates: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Episodes under way at a checkpoint go on: their actions are taken again."""
    parts, whole, curve = uninterrupted
    update = PPO.update

    def interrupted(self: PPO, batch: Any) -> dict[str, float]:
        if self.updates == updates:
            raise KeyboardInterrupt
        return update(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(PPO, "update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            learn(tmp_path, parts)
    torch.manual_seed(8)
    assert learn(tmp_path, parts).hash() == whole
    assert curve <= points(tmp_path)
    assert learn(tmp_path, parts).hash() == whole, "and once more, when it is done"


def test_a_checkpoint_is_of_whole_updates(tmp_path: Path) -> None:
    """What it holds: policy, critic, optimiser, counts, and the episodes under way."""
    saved: list[set[str]] = []
    save = Checkpoints.save

    def watched(self: Checkpoints, name: str, files: Any) -> Path:
        saved.append(set(files))
        return save(self, name, files)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", watched)
        learn(tmp_path, "head")
    ours = {"critic.safetensors", "optimizer.safetensors", "learner.json", "progress.json"}
    assert ours | {"episodes.json", "views.safetensors"} < saved[0]
    assert saved[-1] == {"model.safetensors", "config.json"}


def test_other_seeds_and_other_stages_draw_otherwise(tmp_path: Path) -> None:
    first = learn(tmp_path / "a", "head")
    assert learn(tmp_path / "b", "head").hash() == first.hash()
    assert learn(tmp_path / "c", "head", replace(CONFIG, seed=1)).hash() != first.hash()


@pytest.mark.parametrize("parts", ["head", "all"])
def test_what_is_learnt_from_is_what_was_acted_on(parts: Parts, tmp_path: Path) -> None:
    learn(tmp_path, parts)
    curve = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    first = [row["first_kl"] for row in curve if "first_kl" in row]
    assert len(first) == len(curve) - CONFIG.ppo.warmup > 3
    assert max(first) < 1e-6


# --- nothing learnt

HOPELESS = replace(
    CONFIG, env=replace(CONFIG.env, horizon=1), ppo=replace(CONFIG.ppo, steps=192, std=0.01)
)


def test_where_nothing_succeeds_the_run_goes_on_and_the_journal_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learn(tmp_path, "head", HOPELESS)
    done = Journal(tmp_path / "journal.jsonl").done(STAGE.name)
    assert done is not None
    note = "nothing was learnt, for nothing succeeded in 192 episodes: begin with a better policy"
    assert done["note"].startswith(note) and note in capsys.readouterr().err


def test_where_nothing_ever_succeeds_it_does_not_go_on_for_hours(tmp_path: Path) -> None:
    learn(tmp_path, "head", replace(HOPELESS, ppo=replace(HOPELESS.ppo, hopeless=60)))
    done = Journal(tmp_path / "journal.jsonl").done(STAGE.name)
    assert done is not None and done["decisions"] == 64
    assert done["note"].endswith("or allow more --ppo.hopeless")


@pytest.mark.parametrize("parts", ["head", "all"])
def test_where_success_falls_the_policy_stays_as_it_was(
    parts: Parts,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    begun: list[dict[str, torch.Tensor]] = []
    reset = VLAPolicy.reset_exploration

    def watched(self: VLAPolicy, std: float) -> None:
        begun.append({name: value.clone() for name, value in self.state_dict().items()})
        reset(self, std)

    monkeypatch.setattr(VLAPolicy, "reset_exploration", watched)
    monkeypatch.setattr(RLProgress, "fell", True)
    policy = learn(tmp_path, parts)
    assert all(torch.equal(value, begun[0][name]) for name, value in policy.state_dict().items())
    done = Journal(tmp_path / "journal.jsonl").done(STAGE.name)
    assert done is not None and "the policy stays as it was before" in done["note"]
    assert done["note"] in capsys.readouterr().err


def test_in_a_warm_up_alone_nothing_is_amiss(tmp_path: Path) -> None:
    learn(tmp_path, "head", replace(HOPELESS, ppo=replace(HOPELESS.ppo, steps=64)))
    done = Journal(tmp_path / "journal.jsonl").done(STAGE.name)
    assert done is not None and "note" not in done


def test_where_episodes_succeed_and_nothing_is_learnt_it_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ppo, "normalised", torch.zeros_like)
    lucky = replace(CONFIG, env=replace(CONFIG.env, horizon=25))
    said = rf"^{STAGE.name}: nothing was learnt, for every gradient .* in \d updates; begin with"
    for _ in range(2):  # and again where it is taken up
        with pytest.raises(UserError, match=said):
            learn(tmp_path, "head", lucky)
    assert Journal(tmp_path / "journal.jsonl").done(STAGE.name) is None


# --- played by actors on a cluster

ONE = RolloutsConfig(backend="ray")
TWO = RolloutsConfig(backend="ray", actors=2)


def test_with_one_actor_it_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "RayActors", Players)
    torch.manual_seed(7)
    here = learn(tmp_path / "here", "head")
    there = learn(tmp_path / "there", "head", replace(CONFIG, rollouts=ONE))
    assert there.hash() == here.hash()
    points_of = [
        [_untimed(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("here", "there")
    ]
    assert points_of[0] == points_of[1]


def _untimed(line: str) -> dict[str, Any]:
    return {name: each for name, each in json.loads(line).items() if "second" not in name} | {
        "time": 0
    }


def test_with_two_it_is_interrupted_and_goes_on_though_one_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "RayActors", Players)
    config = replace(CONFIG, rollouts=TWO, ppo=replace(CONFIG.ppo, steps=768))
    whole = learn(tmp_path / "whole", "head", config)
    update = PPO.update

    def interrupted(self: PPO, batch: Any) -> dict[str, float]:
        if self.updates == 3:
            raise KeyboardInterrupt
        return update(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(PPO, "update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            learn(tmp_path / "parts", "head", config)
    LOST.append((0, 4))
    assert learn(tmp_path / "parts", "head", config).hash() == whole.hash()
    assert not LOST
    lines = (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert sum(row["dropped"] for row in rows) == 4


def test_where_the_vlm_trains_actors_are_refused() -> None:
    with pytest.raises(UserError, match="heads alone, but method ppo-full trains the VLM in stage"):
        Config(method="ppo-full", rollouts=ONE)
    with pytest.raises(UserError, match=r"the VLM of rollouts\.encoder ray is frozen, but method"):
        Config(method="ppo-full", rollouts=RolloutsConfig(encoder="ray"))
