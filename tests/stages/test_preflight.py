"""What is refused before any work, what a run is pinned to, and what an experiment keeps of its
evaluations."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from recorded import IMAGES, copied, set_action

from irevla.config import (
    ComputeConfig,
    Config,
    EnvConfig,
    ExpertConfig,
    ModelConfig,
    PPOConfig,
    RolloutsConfig,
    SACConfig,
    SFTConfig,
)
from irevla.envs.suite import RealArm, load_suite
from irevla.errors import UserError
from irevla.evaluation import in_run
from irevla.evaluation.evaluate import Evaluation, Protocol
from irevla.evaluation.stats import Row
from irevla.models.policy import build_policy
from irevla.presets import PRESETS, find_preset
from irevla.rollout import fleet
from irevla.rollout.demonstrations import collect_expert, open_demonstrations, open_store
from irevla.runs.run import open_run
from irevla.stages import elsewhere
from irevla.stages import preflight as preflighting
from irevla.stages.preflight import preflight, say_what_surprises
from irevla.stages.start import expert_dataset, starting_policy
from irevla.stages.supervised import out_of_suite_words
from irevla.storage import disk
from irevla.tasks import SFT, Category

MODEL = ModelConfig(vlm="tiny-random", width=32, layers=1, head_groups=4, head_hidden=16)
POINTMASS = load_suite("pointmass")


def rows(protocol: Protocol) -> list[Row]:
    return [
        Row.of(
            method="irevla", task=task, category=Category.RL, stage="sft", seed=0,
            successes=1, episodes=protocol.episodes, env_steps=5, seconds=1.0,
        )
        for task in protocol.tasks
    ]  # fmt: skip


def test_training_episodes_are_never_longer_than_those_of_evaluation() -> None:
    configs = [EnvConfig(horizon=80, rl_horizon=most) for most in (0, 45, 90)]
    assert [config.for_training().horizon for config in configs] == [80, 45, 80]
    with pytest.raises(UserError, match=r"env\.rl_horizon"):
        EnvConfig(rl_horizon=-1)


@pytest.mark.parametrize(("preset", "calls"), [("panda", 4), ("pointmass", 2)])
def test_where_a_person_must_watch_an_evaluation_goes_on_where_it_was(
    preset: str, calls: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(find_preset(preset), eval=replace(find_preset(preset).eval, episodes=3))
    if preset == "panda":
        config = replace(config, expert_tasks=("pick-red-block",))
    suite = load_suite(config.suite)
    asked: list[tuple[str, ...]] = []

    def evaluate(policy: object, protocol: Protocol, **more: Any) -> Evaluation:
        asked.append(protocol.tasks)
        if len(asked) == calls // 2:
            raise KeyboardInterrupt
        firsts = {task: np.zeros((1, 2), np.float32) for task in protocol.tasks}
        return Evaluation(rows(protocol), firsts)

    policy = build_policy(MODEL, action_dim=2, image_size=32)
    monkeypatch.setattr(in_run, "evaluate_policy", evaluate)
    with open_run(tmp_path, config) as run:
        tasks = suite.task_lists(config)
        with pytest.raises(KeyboardInterrupt):
            in_run.evaluate_stage(run, policy, suite, tasks, SFT)
        in_run.evaluate_stage(run, policy, suite, tasks, SFT)
        in_run.evaluate_stage(run, policy, suite, tasks, SFT)
        done = run.journal.done("evaluated sft")
    first, second, third = "pick-red-block", "pick-carrot", "pick-banana"
    one_by_one = [(first,), (second,), (second,), (third,)]
    assert asked == (one_by_one if preset == "panda" else [tasks.all, tasks.all])
    assert done is not None and [row["task"] for row in done["rows"]] == list(tasks.all)


def test_words_put_into_instructions_are_no_tasks_own() -> None:
    """What is told of an unseen task is never trained on, not even by chance."""
    suite = load_suite("panda-sim")
    words = set(out_of_suite_words(suite))
    assert len(words) > 1000 and {"cat", "apple"} <= words
    told = {word for task in suite.tasks for word in task.instruction.split()}
    assert {"pear", "banana", "lemon", "red", "drawer"} <= told and not words & told


def test_a_policy_that_does_not_fit(tmp_path: Path) -> None:
    build_policy(MODEL, action_dim=2, image_size=32).save_pretrained(tmp_path)
    config = Config(suite="pointmass", from_checkpoint=str(tmp_path), env=EnvConfig(image_size=48))
    with pytest.raises(UserError, match="32 pixels"):
        preflight(config)


def test_a_cluster_needs_the_package_that_reaches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("irevla.stages.elsewhere.find_spec", lambda name: name != "ray" or None)
    with pytest.raises(UserError, match=r"pip install 'irevla\[ray\]', or choose torchrun"):
        preflight(Config(suite="pointmass", compute=ComputeConfig(stage2="ray")))


def test_where_others_cannot_compute_is_said_before_any_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compute = ComputeConfig(stage2="torchrun", share="nosuch://bucket/irevla")
    with pytest.raises(UserError, match=r"compute\.share 'nosuch://bucket/irevla' cannot be used"):
        preflight(Config(suite="pointmass", compute=compute))
    asked = []

    def none_answers(address: str, *, asked: str) -> None:
        raise UserError(f"no Ray cluster answers at {asked} {address!r}")

    monkeypatch.setattr(elsewhere, "find_spec", lambda name: name)
    monkeypatch.setattr(elsewhere, "joined", none_answers)
    for stage in ("stage0", "stage1", "stage2"):
        rl = "sac" if stage == "stage1" else "ppo"
        compute = ComputeConfig(**{stage: "ray"}, ray_address="10.8.0.1:6379")
        with pytest.raises(UserError, match=r"answers at compute.ray_address '10.8.0.1:6379'"):
            preflight(Config(suite="pointmass", rl=rl, compute=compute))
    monkeypatch.setattr(elsewhere, "joined", lambda address, *, asked: nullcontext())
    monkeypatch.setattr(elsewhere, "shares", lambda *wanted: asked.append(wanted))
    for compute in (
        ComputeConfig(stage2="ray", processes=4, ray_resource="remote"),
        ComputeConfig(stage1="ray", ray_resource="remote"),
    ):
        preflight(Config(suite="pointmass", rl="sac", device="cpu", compute=compute))
    assert asked == [(4, "remote", "cpu"), (1, "remote", "cpu")]


def test_a_small_vlm_is_not_shared_out() -> None:
    compute = ComputeConfig(stage2="torchrun", processes=2, shard=True)
    with pytest.raises(UserError, match=r"compute.shard is for a VLM of transformers with LoRA"):
        preflight(Config(suite="pointmass", compute=compute))


def test_a_method_that_begins_anew_takes_no_policy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leave from_checkpoint out"):
        Config(method="scratch", from_checkpoint=str(tmp_path))


def test_a_gripper_that_never_opens_wholly_is_refused(tmp_path: Path) -> None:
    given = tmp_path / "given"
    model = replace(MODEL, action_scale="min-max")
    policy = build_policy(model, action_dim=2, image_size=32)
    policy.action_scale.fit(torch.tensor([[0.0, -0.5], [0.0, 0.5]]), gripper=False)
    policy.save_pretrained(given)
    config = Config(
        suite="pointmass", rl="sac", from_checkpoint=str(given), env=EnvConfig(image_size=32)
    )
    with (
        open_run(tmp_path / "run", replace(config, model=model)) as run,
        pytest.raises(UserError, match=r"--sac\.no-gripper"),
    ):
        starting_policy(run, POINTMASS)


def test_another_policy_under_the_same_name_is_refused(tmp_path: Path) -> None:
    """Its path is the same; what the run began with counts."""
    given = tmp_path / "given"
    config = Config(suite="pointmass", from_checkpoint=str(given), env=EnvConfig(image_size=32))
    build_policy(MODEL, action_dim=2, image_size=32).save_pretrained(given)
    with open_run(tmp_path / "run", config) as run:
        starting_policy(run, POINTMASS)
        starting_policy(run, POINTMASS)
        build_policy(MODEL, action_dim=2, image_size=32).save_pretrained(given)
        with pytest.raises(UserError, match=r"not the one that .*run was started from"):
            starting_policy(run, POINTMASS)


def test_another_dataset_under_the_same_name_is_refused(tmp_path: Path) -> None:
    env = EnvConfig(image_size=32, horizon=25)
    config = Config(suite="pointmass", expert_tasks=("left-disc",), env=env)
    expert = replace(config.expert, episodes=2)
    root = tmp_path / "data"
    collect_expert(POINTMASS, ("left-disc",), expert, env=env, seed=0, root=root)
    config = replace(config, expert=replace(config.expert, dataset=str(root)))
    tasks = POINTMASS.task_lists(config)
    with open_run(tmp_path / "run", config) as run:
        assert len(expert_dataset(run, POINTMASS, tasks)) == 2
        more = replace(expert, episodes=3)
        collect_expert(POINTMASS, ("left-disc",), more, env=env, seed=0, root=root)
        with pytest.raises(UserError, match=r"not the one that .*run was started from"):
            expert_dataset(run, POINTMASS, tasks)


def test_a_dataset_of_others_is_noted_and_pinned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(disk.CACHE, str(tmp_path / "cache"))
    root = copied(IMAGES, tmp_path / "data")
    config = Config(
        suite="pointmass",
        expert_tasks=("left-disc", "right-disc"),
        env=EnvConfig(image_size=32),
        expert=ExpertConfig(dataset=str(root)),
    )
    tasks = POINTMASS.task_lists(config)
    with open_run(tmp_path / "run", config) as run:
        first = expert_dataset(run, POINTMASS, tasks)
        again = expert_dataset(run, POINTMASS, tasks)
        assert first.counts() == {"left-disc": 2, "right-disc": 2}
        assert again.hash() == first.hash()
        (note,) = [event["note"] for event in run.journal if event["event"] == "dataset"]
        assert "left-disc 2, right-disc 2; success is not recorded" in note
        set_action(root, 0, [0.5, 0.5])
        with pytest.raises(UserError, match=r"not the one that .*run was started from"):
            expert_dataset(run, POINTMASS, tasks)


def test_settings_of_a_dataset_need_one_of_others(tmp_path: Path) -> None:
    for change in ({"camera": "front"}, {"stride": 2}):
        with pytest.raises(UserError, match=r"name it as expert\.dataset"):
            ExpertConfig(**change)
    env = EnvConfig(image_size=32)
    open_store(POINTMASS, env, tmp_path / "ours")
    config = ExpertConfig(dataset=str(tmp_path / "ours"), stride=2)
    with pytest.raises(UserError, match=r"irevla made .*leave expert\.camera and expert\.stride"):
        open_demonstrations(POINTMASS, ("left-disc",), config, env=env)


# --- warm-ups


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (Config(sft=SFTConfig(steps=50)), "sft.warmup 100 is more than sft.steps 50: the learning"),
        (Config(sl=SFTConfig(steps=20, warmup=40)), "ends at 50% of sl.lr"),
        (Config(ppo=PPOConfig(steps=3_000)), "ppo.warmup 3 leaves nothing of the 3 updates"),
        (Config(rl="sac", sac=SACConfig(steps=800)), "sac.warmup 100 leaves nothing of the 100"),
        (Config(method="sft", sl=SFTConfig(steps=20), ppo=PPOConfig(steps=64)), ""),
        (Config(from_checkpoint="runs/x", sft=SFTConfig(steps=20)), ""),
    ],
)
def test_a_warm_up_that_never_ends_is_said(
    config: Config, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    say_what_surprises(config)
    found = capsys.readouterr().err
    assert said in found if said else not found


@pytest.mark.parametrize("name", PRESETS)
def test_no_preset_surprises(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    say_what_surprises(find_preset(name))
    assert not capsys.readouterr().err


# --- actors on a cluster

ACTORS = RolloutsConfig(backend="ray")


def test_actors_without_ray_or_for_an_arm_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(suite="pointmass", model=MODEL, rollouts=ACTORS)
    monkeypatch.setattr(fleet, "find_spec", lambda name: None if name == "ray" else name)
    with pytest.raises(UserError, match=r"no Ray here: pip install 'irevla\[ray\]'"):
        preflight(config)
    with pytest.raises(UserError, match=r"no Ray here: pip install 'irevla\[ray\]'"):
        preflight(replace(config, rollouts=RolloutsConfig(encoder="ray")))
    arm = replace(POINTMASS, real_arm=MagicMock(spec=RealArm))
    monkeypatch.setattr(preflighting, "load_suite", lambda name: arm)
    monkeypatch.setattr(preflighting, "_check_real_arm", lambda *args: None)
    with pytest.raises(UserError, match=r"pointmass moves an arm, which is here: --rollouts.back"):
        preflight(config)


def test_what_actors_do_not_play_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for rl in ("ppo", "sac"):
        say_what_surprises(Config(suite="pointmass", model=MODEL, rl=rl, rollouts=ACTORS))
        said = "stage 1 by SAC plays in this process's environments" in capsys.readouterr().err
        assert said == (rl == "sac")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"backend": "rya"}, "'ray'"),
        ({"actors": 2}, "rollouts.actors is for ray: choose it as rollouts.backend"),
        ({"actors": 2, "encoder": "ray"}, "rollouts.actors is for ray"),
        (
            {"ray_address": "auto6"},
            "are for ray: choose it as rollouts.backend or rollouts.encoder",
        ),
        ({"encoder": "server"}, "rollouts.encoder"),
        ({"backend": "ray", "encoder": "ray"}, "VLMs of their own: leave rollouts.encoder out"),
        ({"backend": "ray", "actors": 0}, "rollouts.actors must be positive"),
    ],
)
def test_rollouts_that_cannot_be_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        RolloutsConfig(**wrong)
