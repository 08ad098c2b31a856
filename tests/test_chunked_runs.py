"""Algorithm 1 with a head that gives four actions at once, of which two are executed: by PPO and by
SAC, stopped and resumed, evaluated, saved and loaded; and what cannot be."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from irevla.algorithm import run_algorithm
from irevla.cli.main import main
from irevla.config import (
    AugmentConfig,
    Config,
    EnvConfig,
    EvalConfig,
    ExpertConfig,
    HarvestConfig,
    ModelConfig,
    PPOConfig,
    SACConfig,
    SFTConfig,
)
from irevla.data.episodes import EpisodeStore
from irevla.data.replay import reopen
from irevla.envs.suite import load_suite
from irevla.errors import UserError
from irevla.evaluation.report import write_report
from irevla.evaluation.stats import Row, read_results
from irevla.learners.ppo import PPO
from irevla.learners.sac import SAC
from irevla.models.hub import model_card
from irevla.models.policy import VLAPolicy, build_policy
from irevla.models.sac_actor import SoftActor
from irevla.rollout.serve import Server
from irevla.runs.run import open_run
from irevla.stages.preflight import preflight
from irevla.storage import checkpoint
from irevla.types import Features, Observation, tensors_hash

pytestmark = pytest.mark.usefixtures("coarse_plots")
TASK = "left-disc-new"
PLAIN = AugmentConfig(shift=0, colour=0.0)
SUPERVISED = SFTConfig(steps=250, batch=32, validate_every=250, warmup=10, augment=PLAIN)
MODEL = ModelConfig(
    vlm="tiny-random", width=32, layers=1, head_groups=4, head_hidden=16, chunk=4, execute=2
)
CONFIG = Config(
    suite="pointmass",
    threads=1,
    expert_tasks=("left-disc",),
    rl_tasks=(TASK,),
    unseen_tasks=("left-square-orange",),
    env=EnvConfig(image_size=32, horizon=11, workers=2, envs_per_worker=2),
    expert=ExpertConfig(episodes=20),
    model=MODEL,
    sft=SUPERVISED,
    ppo=PPOConfig(steps=192, rollout=9, minibatch=32, warmup=1, checkpoint_every=2),
    sac=SACConfig(
        steps=120,
        demonstrations=3,
        attempts=60,
        batch=16,
        utd=1,
        critics=2,
        warmup=10,
        checkpoint_every=8,
        updates_per_decision=0.5,
        converged=2.0,
    ),
    harvest=HarvestConfig(episodes=2, attempts=40),
    sl=replace(SUPERVISED, steps=4, validate_every=4, warmup=1),
    eval=EvalConfig(episodes=2, interim=0, videos=False),
)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of stage 0 alone."""
    directory = tmp_path_factory.mktemp("first") / "run"
    play(directory, replace(CONFIG, method="sft"))
    return directory


@pytest.fixture
def config(first: Path) -> Config:
    """CONFIG, from a policy and demonstrations made once."""
    expert = replace(CONFIG.expert, dataset=str(first / "expert"))
    return replace(CONFIG, expert=expert, from_checkpoint=str(first / "checkpoints" / "sft"))


def play(directory: Path, config: Config) -> None:
    with open_run(directory, config) as run:
        run_algorithm(run)
        run.write_results()


def left(directory: Path) -> dict[str, bytes]:
    """What a run left, byte for byte."""
    patterns = ("checkpoints/*/*.safetensors", "online/data/*/*", "latents/*/*/records.bin")
    paths = [path for pattern in patterns for path in sorted(directory.glob(pattern))]
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("rl", "gripper", "updates"), [("ppo", True, 3), ("sac", False, 20), ("sac", True, 20)]
)
def test_interrupted_and_resumed_it_ends_with_the_same_bits(
    rl: str,
    gripper: bool,
    updates: int,
    config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = replace(config, rl=rl, sac=replace(config.sac, gripper=gripper))
    learner: Any = PPO if rl == "ppo" else SAC
    update = learner.update

    def interrupted(self: Any, *args: Any) -> dict[str, float]:
        if self.updates == updates:
            raise KeyboardInterrupt
        return update(self, *args)

    play(tmp_path / "whole", config)
    with monkeypatch.context() as patch:
        patch.setattr(learner, "update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            play(tmp_path / "broken", config)
    torch.rand(3)
    play(tmp_path / "broken", config)
    assert left(tmp_path / "broken") == left(tmp_path / "whole")

    moved = VLAPolicy.from_pretrained(tmp_path / "whole" / "checkpoints" / f"rl-{TASK}")
    start = VLAPolicy.from_pretrained(config.from_checkpoint)
    assert moved.config == start.config == MODEL and moved.hash() != start.hash()
    for row in read_results(tmp_path / "whole" / "results.json").rows:
        blind = row.method == "blind-replay"
        assert (row.chunk, row.execute) == ((1, 1) if blind else (4, 2))
    kept = EpisodeStore(tmp_path / "whole" / "online")
    assert all(episode.actions.shape[1] == 2 for episode in kept), "step by step"
    assert "4 actions at once (k), of which 2" in write_report(tmp_path / "whole").read_text()


def test_the_vlm_runs_once_per_chunk(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And SAC's buffers have one record for each, its budget counts steps, and so do updates."""
    encode = Server._encode
    encoded = [0]

    def counted(self: Any, observation: Observation) -> Any:
        encoded[0] += len(observation) if getattr(self.recorder, "_latents", False) else 0
        return encode(self, observation)

    monkeypatch.setattr(Server, "_encode", counted)
    play(tmp_path, replace(config, rl="sac"))
    lines = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    stage = next(line for line in lines if line["event"] == f"rl:{TASK}")
    zero_shot = next(line for line in lines if line["event"] == f"zero-shot:{TASK}")
    episodes = [
        json.loads(line)
        for name in ("online", "demonstrations")
        for line in (tmp_path / "latents" / TASK / name / "episodes.jsonl").read_text().splitlines()
    ]
    lengths = [each.get("steps", each["decisions"]) for each in episodes]
    assert [-(-length // 2) for length in lengths] == [each["decisions"] for each in episodes]
    assert max(lengths) == 11
    stored = sum(each["decisions"] for each in episodes)
    cut_short = 4 * 6  # episodes under way as either part ended
    failed = (zero_shot["tried"] - 3) * 6
    assert stored <= encoded[0] <= stored + failed + 2 * cut_short
    assert 120 <= stage["decisions"] < 120 + 11
    assert stage["updates"] == pytest.approx(0.5 * stage["decisions"], abs=6)


def test_a_policy_executes_what_sacs_actor_does() -> None:
    torch.manual_seed(0)
    policy = build_policy(MODEL, action_dim=3, image_size=32).eval()
    policy.discrete_gripper = True
    features = Features(torch.randn(40, 5, 32), torch.ones(40, 5, dtype=torch.bool))
    chance = torch.rand(40, 2)
    actor = SoftActor(policy.action_head, discrete_gripper=True, std=0.3, execute=2)
    acted = actor.act(features, noise=torch.zeros(40, 6), chance=chance)
    torch.testing.assert_close(policy.decide(features, chance), acted)
    assert acted.shape == (40, 6)


def test_a_policy_saves_how_it_acts_and_gives_what_is_to_be_executed(tmp_path: Path) -> None:
    policy = build_policy(MODEL, action_dim=3, image_size=32).eval()
    policy.save_pretrained(tmp_path / "policy")
    again = VLAPolicy.from_pretrained(tmp_path / "policy")
    assert (again.chunk, again.execute) == (4, 2)
    image = np.zeros((32, 32, 3), np.uint8)
    assert again.act(image, "push").shape == (2, 3)
    assert again.act(image[None].repeat(5, 0), "push").shape == (5, 2, 3)
    again.set_execute(1)
    assert again.act(image, "push").shape == (3,)
    again.set_execute(4)
    assert np.array_equal(again.act(image, "push")[:2], policy.act(image, "push"))
    card = model_card(policy.files()["config.json"], name="policy")
    assert "2 actions, one after the other, float32[2, 3]" in card
    with pytest.raises(UserError, match=r"model\.execute 5 is more than the head gives"):
        again.set_execute(5)


def test_a_policy_from_before_there_were_chunks_loads(tmp_path: Path) -> None:
    plain = replace(MODEL, chunk=1, execute=1)
    policy = build_policy(plain, action_dim=3, image_size=32).eval()
    files = policy.files()
    assert not {"chunk", "execute"} & files["config.json"]["model"].keys()
    checkpoint.save(tmp_path / "old", files)
    again = VLAPolicy.from_pretrained(tmp_path / "old")
    assert (again.chunk, again.execute) == (1, 1) and again.hash() == policy.hash()
    assert tensors_hash(again.state_dict()) == tensors_hash(files["model.safetensors"])


# --- irevla eval


@pytest.fixture
def evaluated(first: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    def command(*words: str) -> tuple[int, str, str]:
        code = main(["eval", str(first), "--tasks", "left-disc", "--episodes", "1", *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


def test_an_evaluation_says_k_and_n(evaluated: Any) -> None:
    code, out, _ = evaluated("--json")
    rows = [Row.from_json(row) for row in json.loads(out)]
    assert code == 0 and [(row.chunk, row.execute) for row in rows] == [(4, 2)]
    assert json.loads(out)[0]["chunk"] == 4 and json.loads(out)[0]["execute"] == 2
    _, out, _ = evaluated("--execute", "3")
    assert "4 actions at once (k), of which 3" in " ".join(out.split())


def test_an_evaluation_refuses_more_than_there_is(evaluated: Any) -> None:
    code, out, err = evaluated("--execute", "5")
    assert code == 2 and out == "" and "at most model.chunk, 4" in " ".join(err.split())
    assert evaluated("--execute", "-1")[0] == 2


def test_older_rows_are_of_single_actions() -> None:
    row = {
        "method": "sft", "task": "push", "category": "rl", "stage": "sft", "seed": 0,
        "successes": 1, "episodes": 2, "rate": 0.5, "env_steps": 9, "seconds": 1.0,
    }  # fmt: skip
    assert Row.from_json(row).chunk == Row.from_json(row).execute == 1
    with pytest.raises(TypeError, match="no integers"):
        Row.from_json(row | {"chunk": "4"})


# --- what cannot be


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"chunk": 0}, r"model\.chunk must be positive, not 0"),
        ({"execute": 0}, r"model\.execute must be positive, not 0"),
        ({"execute": 2}, r"model\.execute 2 is more than the head gives at once: at most .* 1$"),
        ({"chunk": 2000}, r"model\.chunk must be at most 1024, not 2000"),
    ],
)
def test_chunks_that_cannot_be(given: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ModelConfig(**given)


def test_too_many_ways_to_open_and_close() -> None:
    long = ModelConfig(chunk=9, execute=9)
    with pytest.raises(UserError, match=r"each of 2\^9 ways .* at most 8, or --sac\.no-gripper"):
        Config(rl="sac", model=long)
    assert Config(rl="sac", model=long, sac=SACConfig(gripper=False)).model == long
    assert Config(rl="ppo", model=long).model == long


def test_a_checkpoint_that_gives_another_number_of_actions(config: Config) -> None:
    with pytest.raises(UserError, match=r"gives 4 actions at once, .* is 8: --model\.chunk 4"):
        preflight(replace(config, model=replace(MODEL, chunk=8)))
    suite, _ = preflight(replace(config, model=replace(MODEL, execute=4)))
    assert suite.name == load_suite("pointmass").name


def test_a_damaged_description_is_told(tmp_path: Path) -> None:
    policy = build_policy(MODEL, action_dim=3, image_size=32).eval()
    files = policy.files()
    files["config.json"]["model"]["execute"] = 7
    checkpoint.save(tmp_path / "bad", files)
    with pytest.raises(UserError, match=r"model\.execute 7 is more"):
        VLAPolicy.from_pretrained(tmp_path / "bad")


# --- Actions in the scale of D_e


@pytest.mark.timeout(300)
@pytest.mark.parametrize("rl", ["ppo", "sac"])
def test_actions_in_the_scale_of_the_demonstrations(rl: str, first: Path, tmp_path: Path) -> None:
    """All of Algorithm 1: datasets are in the suite's scale, what is learnt in the head's, and what
    lies outside is counted."""
    expert = replace(CONFIG.expert, dataset=str(first / "expert"))
    model = replace(MODEL, action_scale="quantiles")
    config = replace(CONFIG, expert=expert, model=model, rl=rl)
    play(tmp_path, config)
    lines = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    notes = {line["event"]: line.get("note", "") for line in lines}
    shown = np.concatenate([episode.actions for episode in EpisodeStore(first / "expert")])
    policy = VLAPolicy.from_pretrained(tmp_path)
    scale = policy.action_scale
    outside = scale.outside(torch.from_numpy(shown)).tolist()
    told = f"{outside[0]}, {outside[1]} of {len(shown)} in D_e"
    assert 0 < sum(outside) < 0.05 * shown.size and told in notes["sft"]
    assert f"{told}; 0, 0 of" in notes[f"sl:{TASK}"] and "in D_RL" in notes[f"sl:{TASK}"]
    assert told in write_report(tmp_path).read_text()

    kept = np.concatenate([episode.actions for episode in EpisodeStore(tmp_path / "online")])
    assert (kept >= scale.low.numpy() - 1e-6).all() and (kept <= scale.high.numpy() + 1e-6).all()
    if rl == "sac":
        store = reopen(tmp_path / "latents" / TASK / "online")
        steps = torch.from_numpy(np.array(store._map["action"])).view(-1, 2)
        assert steps.abs().max() == 1, "in the head's scale, to its ends"
        assert policy.discrete_gripper and set(steps[:, 1].abs().tolist()) == {1.0}
    with pytest.raises(UserError, match=r"scaled by quantiles, .* is suite: --model\.action-scale"):
        preflight(replace(config, model=MODEL, from_checkpoint=str(tmp_path)))
