import copy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraModel
from vlm_families import Folders, policy_of

from irevla.config import LoRAConfig, ModelConfig
from irevla.errors import UserError
from irevla.models.lora import add_lora, lora_layers
from irevla.models.policy import VLAPolicy, build_policy
from irevla.models.vlm.registry import check_model
from irevla.types import Observation

PLAIN = ModelConfig(vlm="tiny-random", width=32, layers=1, head_groups=4, head_hidden=16)


def adapted(**lora: object) -> VLAPolicy:
    lora_config = LoRAConfig(**{"rank": 2, **lora})
    return build_policy(replace(PLAIN, lora=lora_config), action_dim=3, image_size=32)


def example_images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)


def test_only_lora_and_head_train() -> None:
    policy = adapted()
    head = sum(p.numel() for p in policy.action_head.parameters()) + 3
    # rank x (in + out) of qkv, out, up, down
    lora = 2 * ((32 + 96) + (32 + 32) + (32 + 128) + (128 + 32))
    assert sum(p.numel() for p in policy.trainable("all")) == lora + head
    assert sum(p.numel() for p in policy.trainable("head")) == head


def test_training_everything_leaves_the_vlms_own_weights_bit_for_bit() -> None:
    policy = adapted()
    optimizer = torch.optim.AdamW(policy.trainable("all"), lr=0.1)
    before = {name: value.clone() for name, value in policy.named_parameters()}
    seen = Observation.of(example_images(), ["open"] * 4)
    for _ in range(2):  # B starts at zero, so A moves in the second step only
        policy.mean(policy.encode(seen)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = {
        name for name, value in policy.named_parameters() if not torch.equal(value, before[name])
    }
    assert {name for name in changed if name.startswith("vlm.")} == {
        name for name in before if "lora_" in name
    }


def test_a_new_lora_changes_nothing() -> None:
    policy = adapted()
    before = policy.act(example_images(), "open")
    with torch.no_grad():
        for name, parameter in policy.vlm.named_parameters():
            if "lora_A" in name:
                parameter.zero_()
    np.testing.assert_allclose(policy.act(example_images(), "open"), before, atol=1e-6)


def test_targets_are_whole_names() -> None:
    policy = adapted(targets=r"tower\.0\.up")
    assert {name for name, _ in policy.vlm.named_parameters() if "lora_" in name} == {
        "tower.0.up.lora_A.default.weight",
        "tower.0.up.lora_B.default.weight",
    }


def test_saved_with_its_lora(tmp_path: Path) -> None:
    policy = adapted()
    with torch.no_grad():
        for parameter in policy.trainable("all"):
            parameter.add_(0.1)
    policy.save_pretrained(tmp_path / "policy")
    loaded = VLAPolicy.from_pretrained(tmp_path / "policy")
    assert loaded.hash() == policy.hash()
    assert np.array_equal(
        loaded.act(example_images(), "open"), policy.act(example_images(), "open")
    )


def moved(policy: VLAPolicy) -> VLAPolicy:
    with torch.no_grad():
        for parameter in policy.trainable("all"):
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return policy.eval()


def layers(policy: VLAPolicy) -> list[Any]:
    return [module for module in policy.vlm.modules() if hasattr(module, "lora_A")]


def test_merged_into_weights_that_are_kept_it_is_not_saved() -> None:
    """Peft keeps it beside them as well: loaded again, it would count twice."""
    policy = moved(adapted())
    before, files = policy.hash(), copy.deepcopy(policy.files())
    for layer in layers(policy):
        layer.merge()
    for attempt in (policy.files, policy.hash, policy.vlm_hash, lambda: policy.load_files(files)):
        with pytest.raises(UserError, match=r"merged into the VLM's weights: call unmerge\(\)"):
            attempt()
    for layer in layers(policy):
        layer.unmerge()
    policy.load_files(files)
    assert policy.hash() == before


def test_a_lora_that_was_taken_out_is_not_saved() -> None:
    policy = moved(adapted())
    for name, module in list(policy.vlm.named_modules()):
        if hasattr(module, "lora_A"):
            policy.vlm.set_submodule(name, module.get_base_layer())
    for attempt in (policy.files, policy.hash):
        with pytest.raises(UserError, match=r"merged and taken out"):
            attempt()


def test_targets_that_match_nothing_are_the_users_error() -> None:
    with pytest.raises(UserError, match=r"matches no linear layer; there are: tower\.0\.qkv"):
        adapted(targets="up")  # a part of a name is none


def test_without_peft_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"pip install 'irevla\[lora\]'"):
        check_model(ModelConfig(lora=LoRAConfig(rank=2)), torch.device("cpu"))


def test_peft_hears_that_the_weights_are_in_4_bits(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its layers for 4 bits need CUDA; whether it would choose them does not."""
    vlm = policy_of(folders("llava"), lora=LoRAConfig()).vlm
    vlm.model.is_loaded_in_4bit = True  # as the library marks it
    heard, create = [], LoraModel._create_new_module

    def listen(*args: Any, **kwargs: Any) -> Any:
        heard.append(kwargs["loaded_in_4bit"])
        return create(*args, **kwargs)

    monkeypatch.setattr(LoraModel, "_create_new_module", staticmethod(listen))
    add_lora(vlm, LoRAConfig(rank=2))
    assert len(heard) > 2 and all(heard)
    assert all(
        name.startswith("model.model.language_model.")
        for name, _ in vlm.named_parameters()
        if "lora_" in name
    )


def test_under_autocast_inputs_of_lora_are_not_made_float32_first() -> None:
    """Which costs two copies of them a layer, and changes nothing."""
    policy = adapted()
    for name, parameter in policy.vlm.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    layers = lora_layers(policy.vlm)
    observation = Observation.of(example_images(), ["push"] * 4)
    latents, asked = [], []
    for cast in (True, False):
        for layer in layers:
            layer.cast_input_dtype_enabled = cast
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            latents.append(policy.vlm.encode(observation).tokens)
    torch.testing.assert_close(latents[0], latents[1], atol=0, rtol=0)
    for autocast in (True, False):
        vlm = build_policy(PLAIN, action_dim=3, image_size=32).vlm
        add_lora(vlm, LoRAConfig(rank=2), autocast=autocast)
        asked.append({layer.cast_input_dtype_enabled for layer in lora_layers(vlm)})
    assert asked == [{False}, {True}]
