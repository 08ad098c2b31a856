"""Settings as files, of this version and of the one before; what cannot be is told."""

from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from irevla.config import (
    AugmentConfig,
    Config,
    EnvConfig,
    EvalConfig,
    ExpertConfig,
    MixtureConfig,
    SACConfig,
    SFTConfig,
)
from irevla.config_io import differences, from_dict, read_config, to_dict
from irevla.errors import UserError
from irevla.presets import PRESETS, find_preset
from irevla.runs.run import read_config as read_run

RESULTS = Path(__file__).parents[1] / "results"


@pytest.mark.parametrize("name", PRESETS)
def test_a_config_comes_back_from_its_file(name: str) -> None:
    config = find_preset(name)
    plain = yaml.safe_load(yaml.safe_dump(to_dict(config)))
    assert read_config(plain) == from_dict(plain) == config


def test_the_quickstarts_results_are_of_todays_settings_but_for_two_critics() -> None:
    run = RESULTS / "evidence" / "quickstart" / "irevla-sac" / "seed-0"
    config, preset = read_run(run), find_preset("quickstart")
    assert config == replace(
        preset,
        threads=1,
        from_checkpoint=config.from_checkpoint,
        expert=replace(preset.expert, dataset=config.expert.dataset),
        env=replace(preset.env, workers=1, envs_per_worker=8),
        eval=replace(preset.eval, interim=0, videos=False),
        sac=replace(preset.sac, critics=4),
    )


# --- Version 0.1


def test_the_arms_settings_of_version_0_1_are_todays() -> None:
    config = read_run(RESULTS / "panda" / "seed-0")
    preset = find_preset("panda-sim")
    assert config.harvest == preset.harvest
    assert config.harvest.from_training
    assert config.mixture == MixtureConfig(validation=0.05, online_share=0.25, discount=0.93)
    assert config.sft.augment == AugmentConfig(colour=0.1, colour_share=0.5)
    assert config.sl.augment == AugmentConfig(colour=0.6, words=0.5)
    assert (config.sft, config.sl) == (preset.sft, preset.sl)
    assert config.env == replace(preset.env, cameras=(), state=False), "it sees more now"
    assert config.expert.burst == preset.expert.burst
    assert (config.rl, config.rounds, config.seed, config.threads) == ("sac", 4, 0, 1)
    assert config.eval.seed == 50


def test_the_kitchens_settings_of_version_0_1_are_todays() -> None:
    config = read_run(RESULTS / "kitchen" / "seed-0")
    preset = find_preset("kitchen")
    assert (config.sft, config.sl) == (preset.sft, preset.sl)
    assert (config.ppo, config.harvest) == (preset.ppo, preset.harvest)
    assert config.env == replace(preset.env, state=False), "it is told the state now"
    assert (config.rl, preset.rl) == ("ppo", "sac")
    assert config.mixture == replace(preset.mixture, trained=1.0), "D_e whole"
    assert config.from_checkpoint and config.expert.dataset


def test_one_thread_per_core_is_todays_default() -> None:
    plain = to_dict(find_preset("quickstart"))
    assert read_config({**plain, "threads": 0}) == find_preset("quickstart")


def test_an_arm_that_did_not_wait_has_a_learner_of_its_own() -> None:
    old = {"rl": "sac", "sac": {"apart": True, "rate": 0.0}, "harvest": {"practice": True}}
    config = read_config(old)
    assert config.sac.async_learner and config.harvest.from_training


def test_stage_0_never_had_a_discount_and_its_validation_was_that_of_both_stages() -> None:
    old = {
        "sft": {"discount": 0.5, "online_share": 0.5, "validation": 0.2},
        "sl": {"discount": 0.9, "online_share": 0.4, "validation": 0.3},
    }
    wanted = MixtureConfig(discount=0.9, online_share=0.4, validation=0.2)
    assert read_config(old).mixture == wanted


# --- What cannot be


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"sft": {"step": 3}}, "did you mean 'sft.steps'"),
        ({"sead": 3}, "did you mean 'seed'"),
        ({"sft": 3}, "'sft' must be a group of settings"),
        ({"sft": {"augment": {"shift": "3"}}}, "'sft.augment.shift' must be int"),
        ({"seed": True}, "'seed' must be int"),
        ({"seed": 1.5}, "'seed' must be int"),
        ({"eval": {"videos": 1}}, "'eval.videos' must be bool"),
        ({"sft": {"lr": "fast"}}, "'sft.lr' must be float"),
        ({"rl_tasks": "left-disc-new"}, "'rl_tasks' must be"),
        ({"rl_tasks": [1]}, "'rl_tasks' must be"),
        ({"seed": -1}, r"seed must be in 0\.\.999"),
    ],
)
def test_a_file_that_cannot_be_is_told(data: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_config(data)


def test_whole_numbers_are_numbers_and_lists_are_tuples() -> None:
    config = read_config({"sft": {"lr": 1}, "rl_tasks": ["a", "b"]})
    assert config.sft.lr == 1.0 and isinstance(config.sft.lr, float)
    assert config.rl_tasks == ("a", "b")


def test_rl_may_improve_a_task_that_is_demonstrated_too() -> None:
    assert Config(expert_tasks=("a", "b"), rl_tasks=("b", "c")).rl_tasks == ("b", "c")


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (EnvConfig, {"image_size": 8}, "smallest usable image is 16"),
        (EnvConfig, {"rl_horizon": -1}, "env.rl_horizon must not be negative"),
        (SFTConfig, {"validate_every": 0}, "validate_every must be positive"),
        (AugmentConfig, {"words": 1.5}, r"augment.words must be in \[0, 1\]"),
        (MixtureConfig, {"validation": 1.0}, "leave something to train on"),
        (SACConfig, {"checkpoint_every": 0}, "sac.checkpoint_every must be positive"),
        (EvalConfig, {"seed": 1000}, "eval.seed must be at most 999"),
        (EvalConfig, {"episodes": 200_000}, "eval.episodes must be at most 100000"),
        (ExpertConfig, {"episodes": 10**20}, "expert.episodes must be at most 5000"),
        (Config, {"rounds": 9}, r"rounds must be in 1\.\.4"),
        (Config, {"rl": "dqn"}, "unknown rl"),
        (Config, {"rl": "sac", "method": "ppo-replay"}, "choose --rl ppo"),
        (Config, {"expert_tasks": ("a",), "unseen_tasks": ("a",)}, "must not be trained on"),
        (Config, {"expert_tasks": ("a", "b", "a")}, "expert_tasks must name each task once, .* a "),
        (Config, {"rl_tasks": ("a", "a")}, "rl_tasks must name each task once"),
        (Config, {"unseen_tasks": ("b", "b")}, "unseen_tasks must name each task once"),
    ],
)
def test_settings_that_cannot_be_are_told(kind: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        kind(**values)


GROUPS = (
    Config,
    *(each.default_factory for each in fields(Config) if callable(each.default_factory)),
)
FLOATS = [
    (type(made), field.name)
    for made in (make() for make in GROUPS)
    if is_dataclass(made)
    for field in fields(made)
    if isinstance(getattr(made, field.name), float)
]


@pytest.mark.parametrize(("kind", "name"), FLOATS)
def test_no_number_is_infinite(kind: Any, name: str) -> None:
    """Its run's config.yaml could not be read again."""
    for value in (float("inf"), float("-inf"), float("nan")):
        with pytest.raises(UserError):
            kind(**{name: value})


def test_episodes_of_stage_1_may_be_shorter_but_never_longer() -> None:
    env = EnvConfig(horizon=80)
    assert env.for_training() == env
    assert replace(env, rl_horizon=45).for_training().horizon == 45
    assert replace(env, rl_horizon=100).for_training().horizon == 80


def test_what_differs_is_named_with_both_values() -> None:
    config = find_preset("pointmass")
    other = replace(config, seed=1, sft=replace(config.sft, augment=AugmentConfig(shift=2)))
    assert differences(config, config) == []
    assert differences(config, other) == ["seed: 0 -> 1", "sft.augment.shift: 0 -> 2"]
