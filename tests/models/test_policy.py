import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from irevla.config import ModelConfig
from irevla.errors import UserError
from irevla.models.build import build_policy
from irevla.models.policy import VLAPolicy
from irevla.runs import checkpoint
from irevla.types import weights_hash

CONFIG = ModelConfig(vlm="tiny-random", width=32, layers=1, head_groups=4, head_hidden=16)


def small(config: ModelConfig = CONFIG) -> VLAPolicy:
    return build_policy(config, action_dim=3, image_size=32)


def pictures(count: int, size: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_act_gives_one_action_for_one_picture() -> None:
    action = small().act(pictures(1)[0], "open the drawer")
    assert action.shape == (3,) and action.dtype == np.float32 and np.abs(action).max() <= 1


def test_a_batch_of_one_equals_its_row_in_a_batch_of_many() -> None:
    policy, images, texts = (
        small(),
        pictures(3),
        ["open", "close the door", "push the red puck to the left"],
    )
    batch = policy.act(images, texts)
    for row in range(3):
        np.testing.assert_allclose(policy.act(images[row], texts[row]), batch[row], atol=1e-6)


def test_actions_depend_on_picture_and_instruction() -> None:
    policy, images = small(), pictures(2)
    one = policy.act(images[0], "open the door")
    assert np.abs(one - policy.act(images[1], "open the door")).max() > 1e-4
    assert np.abs(one - policy.act(images[0], "close the window")).max() > 1e-4


def test_pictures_may_be_tensors_views_or_read_only() -> None:
    policy, images = small(), pictures(1)
    expected = policy.act(images, "open")
    frozen = images.copy()
    frozen.flags.writeable = False
    mirrored = images[:, ::-1].copy()[:, ::-1]
    for same in (torch.from_numpy(images), frozen, mirrored):
        assert np.array_equal(policy.act(same, "open"), expected)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (pictures(1).astype(np.float32), "must be uint8"),
        (pictures(1, 64), "must be 32 x 32 x 3, not 64 x 64 x 3"),
        (pictures(1)[0, 0][None], "must be 32 x 32 x 3"),
        (pictures(1).transpose(0, 3, 1, 2), "must be 32 x 32 x 3, not 3 x 32 x 32"),
    ],
)
def test_wrong_pictures_are_the_users_error(images: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        small().act(images, "open")


def test_cached_latents_carry_no_graph_but_train_the_head() -> None:
    policy = small()
    policy.trainable("head")
    features = policy.encode(pictures(2), ["open", "close"])
    assert not features.tokens.requires_grad and not features.tokens.is_inference()
    policy.mean(features).sum().backward()
    assert all(parameter.grad is not None for parameter in policy.action_head.parameters())


def test_forward_reaches_every_parameter_that_acts() -> None:
    policy = small()
    policy.trainable("all")
    policy(pictures(2), ["open", "close"]).sum().backward()
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
    policy(pictures(4), ["open"] * 4).square().mean().backward()
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
    assert np.array_equal(loaded.act(pictures(2), "open"), policy.act(pictures(2), "open"))


def test_a_run_gives_its_newest_policy(tmp_path: Path) -> None:
    checkpoints = checkpoint.Checkpoints(tmp_path / "checkpoints")
    old, new = small(), small()
    checkpoints.save("sft", old.files())
    checkpoints.save("sl:door-open", new.files() | {"progress.json": {"steps": 5}})
    checkpoint.save(tmp_path / "checkpoints" / "other", {"critic.safetensors": {}})
    assert VLAPolicy.from_pretrained(tmp_path).hash() == new.hash() != old.hash()
    assert VLAPolicy.from_pretrained(tmp_path / "checkpoints" / "sft").hash() == old.hash()


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
