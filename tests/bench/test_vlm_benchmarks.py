import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

import random_blip2
from irevla.bench import encode, memory, ppo_update, run_benchmark, sft
from irevla.bench.mfu import GIB
from irevla.bench.vlms import VLMS, find_vlm
from irevla.cli.main import main
from irevla.config import LoRAConfig, ModelConfig
from irevla.errors import UserError
from irevla.models.policy import build_policy
from irevla.types import Observation

CPU, META = torch.device("cpu"), torch.device("meta")
SMALL = "blip2-small"


def layer_calls(kind: str, **options: Any) -> int:
    """How often layers of the class `kind` run in a supervised benchmark of the small BLIP-2."""
    calls: Counter[str] = Counter()

    def count(module: nn.Module, _: Any) -> None:
        calls[type(module).__name__] += 1

    handle = register_module_forward_pre_hook(count)
    sft.run(vlm=SMALL, batch=2, repeats=1, **options)
    handle.remove()
    return calls[kind]


# --- the VLMs


def test_blip2_has_the_size_that_was_published() -> None:
    policy = find_vlm("blip2").make(META, lora=False)
    assert sum(p.numel() for p in policy.vlm.parameters()) == 3_744_761_856
    vision = policy.vlm.get_submodule("model.vision_model")
    assert sum(p.numel() for p in vision.parameters()) == 985_952_256
    assert {p.dtype for p in policy.vlm.parameters()} == {torch.bfloat16}
    assert {p.device for p in policy.parameters()} == {META}


@pytest.mark.parametrize("name", ["tiny", SMALL])
def test_latents_have_as_many_tokens_as_the_table_says(name: str) -> None:
    spec = find_vlm(name)
    features = spec.make(CPU, lora=True).encode(encode.random_observation(spec, 2))
    assert features.tokens.shape[1] == spec.tokens and bool(features.mask.all())


def test_the_stand_in_prompt_is_as_long_for_both_blip2() -> None:
    assert find_vlm("blip2").tokens == find_vlm(SMALL).tokens


def test_nothing_depends_on_chance_while_a_random_blip2_learns() -> None:
    spec = find_vlm(SMALL)
    policy = spec.make(CPU, lora=True).train()
    seen = encode.random_observation(spec, 2)
    once, again = (policy.encode(seen).tokens for _ in range(2))
    assert torch.equal(once, again)


def test_only_lora_and_the_head_learn_in_blip2() -> None:
    policy = find_vlm(SMALL).make(CPU, lora=True)
    policy.trainable("all")
    names = {
        name for name, p in policy.named_parameters() if p.requires_grad and name.startswith("vlm.")
    }
    assert names and all(".language_model." in name and ".lora_" in name for name in names)


# --- encode


def test_encoding_counts_every_product_of_tiny() -> None:
    result = encode.run(batch=2, repeats=2)
    stem = 2 * 9 * (32**2 * 3 * 24 + 16**2 * 24 * 48 + 8**2 * 48 * 96 + 4**2 * 96 * 128)
    tokens, width = 20, 128
    block = 2 * tokens * 12 * width**2 + 2 * 2 * tokens**2 * width
    assert result["gflop_per_image"] == pytest.approx((stem + 2 * block) / 1e9)
    assert set(result["where"]) == {"stem", "tower", "rest"}
    assert 0 < result["ratio"] < 1.5  # of what a matrix product reaches


def test_encoding_with_blip2_says_where_the_time_goes() -> None:
    result = encode.run(vlm=SMALL, repeats=2)
    assert set(result["where"]) == {"vision tower", "Q-Former", "language tower", "rest"}
    assert sum(result["where"].values()) == pytest.approx(1)
    rate = result["gflop_per_image"] * result["images_per_s"] / 1e3
    assert result["ratio"] == pytest.approx(rate / result["matrix_tflop_per_s"])
    json.dumps(result)


# --- sft


def test_a_supervised_step_of_tiny_trains_everything() -> None:
    forward = encode.run(batch=2, repeats=1)["gflop_per_image"]
    result = sft.run(batch=8, repeats=2)
    # Backwards twice the forward pass, but for the first convolution: nobody asks for the gradient
    # of an image.
    head = result["gflop_per_image"] / 3 - forward
    assert 0 < head + 2 * 9 * 32**2 * 3 * 24 / 3e9 < 0.1 * forward
    assert result["trainable"] == sum(result["weights"].values())
    assert {"data", "stem", "tower", "head", "backward", "optimiser"} <= set(result["where"])


def test_a_supervised_step_of_blip2_does_not_go_back_through_the_vision_tower() -> None:
    forward = encode.run(vlm=SMALL, repeats=1)["gflop_per_image"]
    result = sft.run(vlm=SMALL, batch=2, repeats=1)
    assert result["lora_rank"] == 16 and result["trainable"] < 0.02 * sum(
        result["weights"].values()
    )
    assert forward < result["gflop_per_image"] < 2.5 * forward
    json.dumps(result)


def test_gradient_checkpointing_computes_layers_again_and_counts_them_once() -> None:
    layer = "OPTAttention"
    once, again = layer_calls(layer), layer_calls(layer, gradient_checkpointing=True)
    assert again > 1.5 * once
    plain, saving = (
        sft.run(vlm=SMALL, batch=2, repeats=1, gradient_checkpointing=on) for on in (False, True)
    )
    assert plain["gflop_per_image"] == saving["gflop_per_image"]


# --- ppo-update, memory


def test_an_update_of_blip2_encodes_once_against_five_times() -> None:
    result = ppo_update.run(vlm=SMALL, samples=16, repeats=1)
    assert (result["forwards_cached"], result["forwards_reencode"]) == (1, 5)
    assert result["loss_difference"] < 1e-5
    assert result["ratio"] > 1


def test_memory_of_tiny_is_sixteen_bytes_for_each_parameter_that_learns() -> None:
    head, everything = memory.rows_of("tiny", VLMS["tiny"])
    count = everything["parameters"]
    assert everything["trainable"] == count
    assert everything["total_gib"] == pytest.approx(16 * count / GIB)
    learning = head["trainable"]
    critic = 16 * (learning - 4) / GIB  # the exploration's four parameters are the actor's alone
    latents = 8 * 128 * 20 * 128 * 4 / GIB
    assert head["total_gib"] == pytest.approx((4 * count + 12 * learning) / GIB + critic + latents)


def test_memory_of_blip2_is_mostly_its_weights() -> None:
    result = memory.run()
    rows = {(row["vlm"], row["stage"]): row for row in result["rows"]}
    head, lora, everything = (
        rows["blip2", stage] for stage in (memory.STAGE_1, memory.ADAPTED, memory.EVERYTHING)
    )
    assert head["weights_gib"] == lora["weights_gib"] > everything["weights_gib"] > 2 * 3.74e9 / GIB
    assert lora["trainable"] - head["trainable"] == 32 * 16 * (4 * 2 * 2560 + 2 * (2560 + 10240))
    assert result["ratio"] == everything["total_gib"] / lora["total_gib"] > 3
    assert "computed" in result["source"]


# --- the command line


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["render", "--vlm", "blip2"], "bench render has no --vlm"),
        (["memory", "--gradient-checkpointing"], "bench memory has no --gradient-checkpointing"),
        (["encode", "--vlm", "blip3"], "unknown VLM 'blip3'; did you mean 'blip2'?"),
        (
            ["sft", "--gradient-checkpointing"],
            "--gradient-checkpointing is for a VLM of transformers",
        ),
        (["encode", "--compile"], "--compile is for a VLM of transformers"),
        (["encode", "--lora"], "--lora is for a VLM that LoRA adapts"),
        (["encode", "--batch", "-1"], "--batch must be"),
        (["encode", "--vlm", "blip2"], "this VLM is measured on a CUDA device"),
    ],
)
def test_an_option_that_means_nothing_is_refused(
    argv: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", *argv]) == 2
    assert expected in capsys.readouterr().err


def test_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "encode", "--vlm", SMALL, "--batch", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["benchmark"] == "encode" and result["batch"] == 2 and result["ratio"] > 0
    assert {"cpu", "gpu", "torch"} <= set(result["machine"])


def test_an_option_reaches_the_benchmark() -> None:
    with pytest.raises(UserError, match="has no --speed"):
        run_benchmark("encode", speed=3)


def test_a_random_blip2_in_a_folder_loads_as_one_of_the_hub(tmp_path: Path) -> None:
    random_blip2.write(tmp_path / "blip2", image_size=56, size="small")
    config = ModelConfig(vlm=str(tmp_path / "blip2"), lora=LoRAConfig(rank=2))
    policy = build_policy(config, action_dim=4, image_size=56)
    image = torch.zeros(1, 56, 56, 3, dtype=torch.uint8)
    assert policy.encode(Observation(image, ("press the button",))).tokens.shape == (1, 48, 32)
