import inspect
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from irevla.config import EnvConfig, ModelConfig
from irevla.errors import UserError
from irevla.evaluation.model_card import exported_settings
from irevla.models.policy import VLAPolicy, build_policy
from irevla.storage import checkpoint
from irevla.storage.journal import Journal
from irevla.types import Observation, Policy, tensors_hash, weights_hash

CONFIG = ModelConfig(vlm="tiny-random", width=32, layers=1, head_groups=4, head_hidden=16)


def small(config: ModelConfig = CONFIG) -> VLAPolicy:
    return build_policy(config, action_dim=3, image_size=32)


def example_images(count: int, size: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_act_gives_one_action_for_one_image() -> None:
    action = small().act(example_images(1)[0], "open the drawer")
    assert action.shape == (3,) and action.dtype == np.float32 and np.abs(action).max() <= 1


def test_a_batch_of_one_equals_its_row_in_a_batch_of_many() -> None:
    policy, images, texts = (
        small(),
        example_images(3),
        ["open", "close the door", "push the red puck to the left"],
    )
    batch = policy.act(images, texts)
    for row in range(3):
        np.testing.assert_allclose(policy.act(images[row], texts[row]), batch[row], atol=1e-6)


def test_actions_depend_on_image_and_instruction() -> None:
    policy, images = small(), example_images(2)
    one = policy.act(images[0], "open the door")
    assert np.abs(one - policy.act(images[1], "open the door")).max() > 1e-4
    assert np.abs(one - policy.act(images[0], "close the window")).max() > 1e-4


def test_images_may_be_tensors_views_or_read_only() -> None:
    policy, images = small(), example_images(1)
    expected = policy.act(images, "open")
    frozen = images.copy()
    frozen.flags.writeable = False
    mirrored = images[:, ::-1].copy()[:, ::-1]
    for same in (torch.from_numpy(images), frozen, mirrored):
        assert np.array_equal(policy.act(same, "open"), expected)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (example_images(1).astype(np.float32), "must be uint8"),
        (example_images(1, 64), "must be 32 x 32 x 3, not 64 x 64 x 3"),
        (example_images(1)[0, 0][None], "must be 32 x 32 x 3"),
        (example_images(1).transpose(0, 3, 1, 2), "must be 32 x 32 x 3, not 3 x 32 x 32"),
    ],
)
def test_wrong_images_are_the_users_error(images: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        small().act(images, "open")


def test_cached_latents_carry_no_graph_but_train_the_head() -> None:
    policy = small()
    policy.trainable("head")
    with torch.no_grad():
        features = policy.encode(Observation.of(example_images(2), ["open", "close"]))
    assert not features.tokens.requires_grad and not features.tokens.is_inference()
    policy.mean(features).sum().backward()
    assert all(parameter.grad is not None for parameter in policy.action_head.parameters())


def test_the_mean_reaches_every_parameter_that_acts() -> None:
    policy = small()
    policy.trainable("all")
    seen = Observation.of(example_images(2), ["open", "close"])
    policy.mean(policy.encode(seen)).sum().backward()
    without = [name for name, parameter in policy.named_parameters() if parameter.grad is None]
    assert without == ["noise.log_std"]


def test_exploration_is_reset_to_a_deviation() -> None:
    policy = small()
    policy.reset_exploration(0.5)
    assert torch.allclose(policy.log_std.exp(), torch.full((policy.action_dim,), 0.5))


def test_trainable_by_counting_parameters() -> None:
    policy = small()
    head = sum(p.numel() for p in policy.action_head.parameters()) + 3
    everything = sum(p.numel() for p in policy.parameters())
    assert sum(p.numel() for p in policy.trainable("all")) == everything
    assert sum(p.numel() for p in policy.trainable("head")) == head < everything
    assert sum(p.numel() for p in policy.parameters() if p.requires_grad) == head
    assert policy.trainable("none") == []
    assert not any(p.requires_grad for p in policy.parameters())


def test_training_the_head_leaves_the_vlm_bit_for_bit() -> None:
    policy = small()
    vlm, head = weights_hash(policy.vlm), weights_hash(policy.action_head)
    optimizer = torch.optim.AdamW(policy.trainable("head"), lr=0.1)
    seen = Observation.of(example_images(4), ["open"] * 4)
    policy.mean(policy.encode(seen)).square().mean().backward()
    optimizer.step()
    assert weights_hash(policy.vlm) == vlm and weights_hash(policy.action_head) != head


def test_unknown_models_get_a_hint() -> None:
    with pytest.raises(UserError, match="did you mean 'tiny-random'"):
        small(ModelConfig(vlm="tiny-randon"))


def test_a_width_that_attention_cannot_share_out_is_the_users_error() -> None:
    with pytest.raises(UserError, match="multiple of 4"):
        small(ModelConfig(vlm="tiny-random", width=30, head_groups=2))


def test_a_saved_policy_comes_back_equal(tmp_path: Path) -> None:
    policy = small()
    policy.save_pretrained(tmp_path / "a policy")
    loaded = VLAPolicy.from_pretrained(tmp_path / "a policy")
    assert loaded.hash() == policy.hash() and loaded.config == policy.config
    assert np.array_equal(
        loaded.act(example_images(2), "open"), policy.act(example_images(2), "open")
    )


@pytest.mark.parametrize(
    ("events", "under_way", "newest"),
    [
        (["sft"], [], "sft"),
        (["sft", "evaluated sft", "rl:door"], [], "rl-door"),
        (["sft", "rl:door", "sl:door", "evaluated sl:door"], [], "sl-door"),
        (["sft", "rl:door"], ["sl-door-000400", "sl-door-000800"], "sl-door-000800"),
        (["sft", "rl:door", "sl:door", "rl:door@2"], [], "rl-door@2"),
    ],
)
def test_a_run_gives_its_newest_policy(
    tmp_path: Path, events: list[str], under_way: list[str], newest: str
) -> None:
    """The journal knows the order; times of files do not survive a copy, or an unzip."""
    journal = Journal(tmp_path / "journal.jsonl")
    folders = [event.replace(":", "-") for event in events if not event.startswith("evaluated")]
    policies = {}
    for number, name in enumerate([*folders, *under_way]):
        policies[name] = small()
        policies[name].save_pretrained(tmp_path / "checkpoints" / name)
        weights = tmp_path / "checkpoints" / name / "model.safetensors"
        os.utime(weights, (1_000_000 - number, 1_000_000 - number))  # as a clock that jumped
    for event in events:
        journal.append(event)
    assert VLAPolicy.from_pretrained(tmp_path).hash() == policies[newest].hash()


def test_without_a_journal_a_checkpoint_must_be_named(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path / "checkpoints" / "sft")
    VLAPolicy.from_pretrained(tmp_path)  # there is one alone
    small().save_pretrained(tmp_path / "checkpoints" / "rl-door")
    with pytest.raises(UserError, match="name one of rl-door, sft"):
        VLAPolicy.from_pretrained(tmp_path)


def test_missing_and_foreign_folders_are_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        VLAPolicy.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no policy"):
        VLAPolicy.from_pretrained(tmp_path)
    checkpoint.save(
        tmp_path / "bert", {"config.json": {"model_type": "bert"}, "model.safetensors": {}}
    )
    with pytest.raises(UserError, match="not one that irevla wrote"):
        VLAPolicy.from_pretrained(tmp_path / "bert")


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path / "policy")
    weights = tmp_path / "policy" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(UserError, match="corrupt"):
        VLAPolicy.from_pretrained(tmp_path / "policy")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action_dim": 7}, "weights are those of another model"),
        ({"model": {"witdh": 3}}, "did you mean 'model.width'"),
        ({"model": 3}, "damaged"),
        ({"image_size": None}, "damaged"),
    ],
)
def test_a_config_that_does_not_fit_is_the_users_error(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    files = small().files()
    checkpoint.save(
        tmp_path / "policy", {**files, "config.json": {**files["config.json"], **change}}
    )
    with pytest.raises(UserError, match=message):
        VLAPolicy.from_pretrained(tmp_path / "policy")


def test_a_config_without_a_field_is_the_users_error(tmp_path: Path) -> None:
    files = small().files()
    del files["config.json"]["action_dim"]
    checkpoint.save(tmp_path / "policy", files)
    with pytest.raises(UserError, match="lacks 'action_dim'"):
        VLAPolicy.from_pretrained(tmp_path / "policy")


@pytest.mark.parametrize("fault", ["missing", "unknown", "type"])
def test_weights_are_checked_by_name_and_type(fault: str) -> None:
    policy = small()
    weights = dict(policy.files()["model.safetensors"])
    if fault == "missing":
        del weights["noise.log_std"]
    elif fault == "unknown":
        weights["extra"] = torch.zeros(1)
    else:
        weights["noise.log_std"] = weights["noise.log_std"].double()
    with pytest.raises(UserError, match="another model"):
        policy.load_files({"model.safetensors": weights})
    with pytest.raises(UserError, match="not a policy"):
        policy.load_files({})


def test_saving_never_replaces_what_is_not_a_policy(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds other files"):
        small().save_pretrained(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_saving_over_an_older_policy_replaces_it(tmp_path: Path) -> None:
    old, new = small(), small()
    old.save_pretrained(tmp_path / "policy")
    new.save_pretrained(tmp_path / "policy")
    assert VLAPolicy.from_pretrained(tmp_path / "policy").hash() == new.hash()
    shutil.rmtree(tmp_path / "policy")


def test_config_json_is_plain() -> None:
    assert json.loads(json.dumps(small().files()["config.json"]))["image_size"] == 32


def test_it_is_a_policy() -> None:
    """From Python 3.12 on, `isinstance` looks members of a protocol up statically."""
    policy = small()
    assert isinstance(policy, Policy)
    members = [name for name in vars(Policy) if not name.startswith("_")]
    assert len(members) >= 10
    for name in members:
        inspect.getattr_static(policy, name)


# --- saved by version 0.1

OLD_MODEL = {
    "vlm": "tiny-random",
    "width": 32,
    "layers": 1,
    "head_groups": 4,
    "head_hidden": 16,
    "lora": {"rank": 0, "alpha": 16.0, "towers": ["language"], "targets": ""},
    "revision": "",
    "dtype": "auto",
    "quantize": "",
    "gradient_checkpointing": False,
    "compile": False,
}
OLD_CONFIG = {"format": "irevla-policy-1", "model": OLD_MODEL, "action_dim": 3, "image_size": 32}
OLD_RUN = {
    "suite": "panda-sim",
    "expert_tasks": ["pick-red-block"],
    "rl_tasks": [],
    "unseen_tasks": [],
    "method": "irevla",
    "seed": 3,
    "env": {
        "image_size": 32,
        "action_repeat": 2,
        "horizon": 60,
        "rl_horizon": 40,
        "workers": 2,
        "envs_per_worker": 4,
        "timeout": 60.0,
    },
}


@pytest.mark.parametrize("gripper", [False, True])
def test_a_policy_of_version_01_loads(gripper: bool, tmp_path: Path) -> None:
    weights = small().files()["model.safetensors"]
    config = {**OLD_CONFIG, **({"gripper": True} if gripper else {})}
    checkpoint.save(tmp_path / "old", {"model.safetensors": weights, "config.json": config})
    policy = VLAPolicy.from_pretrained(tmp_path / "old")
    assert policy.discrete_gripper is gripper and policy.config == CONFIG
    saved = policy.files()["config.json"]
    assert saved == config | {"fingerprint": saved["fingerprint"]}
    assert tensors_hash(policy.state_dict()) == tensors_hash(weights)


def test_settings_that_version_01_carried_along_are_read(tmp_path: Path) -> None:
    weights = small().files()["model.safetensors"]
    files = {"model.safetensors": weights, "config.json": {**OLD_CONFIG, "run": OLD_RUN}}
    checkpoint.save(tmp_path / "old", files)
    carried = exported_settings(tmp_path / "old")
    assert carried is not None and carried.suite == "panda-sim" and carried.seed == 3
    assert carried.env == EnvConfig(image_size=32, horizon=60, rl_horizon=40)
    assert carried.expert_tasks == ("pick-red-block",)
