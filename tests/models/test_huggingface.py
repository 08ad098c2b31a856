"""Every family, tiny and newly initialised, through the path that a downloaded model takes."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from vlm_families import (
    LORA,
    MODELS,
    TEXTS,
    Folders,
    Policies,
    example_images,
    observation,
    policy_of,
)

from irevla.config import LoRAConfig
from irevla.errors import UserError
from irevla.models.policy import VLAPolicy
from irevla.models.vlm.families import question
from irevla.models.vlm.huggingface import HuggingFaceVLM
from irevla.models.vlm.images import example_image
from irevla.types import Features, Observation

SIDE = {
    "qwen2.5-vl": 56,
    "gemma3": 56,
    "florence2": 64,
    "llava": 32,
}  # of images that are not resized; else 28
every_family = pytest.mark.parametrize("family", MODELS)


def coarse_images(side: int) -> np.ndarray:
    """Without detail, which a resizing filter would lose."""
    return np.stack([example_image(side), example_image(side)[::-1], 255 - example_image(side)])


def shake(parameters: list[torch.nn.Parameter]) -> None:
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn_like(parameter), alpha=0.1)


def real(features: Features, row: int) -> torch.Tensor:
    return features.tokens[row][features.mask[row]]


# --- what goes in and what comes out


def librarys_latents(
    vlm: HuggingFaceVLM, whole: Any, image: np.ndarray, instruction: str
) -> torch.Tensor:
    """The hidden states of one image, prepared by the library's own image processor, in the
    library's whole model."""
    vlm.blank = Image.fromarray(image)
    asked = vlm._ask(question(instruction))
    inputs = {
        name: torch.as_tensor(np.asarray(value))
        for name, value in asked.items()
        if name != "labels"
    }
    if not whole.config.is_encoder_decoder:
        outputs = whole(**inputs, output_hidden_states=True)
        return getattr(outputs, "language_model_outputs", outputs).hidden_states[-1][0]
    outputs = whole(**inputs, decoder_input_ids=torch.zeros(1, 1, dtype=torch.long))
    return getattr(outputs, "language_model_outputs", outputs).encoder_last_hidden_state[0]


@every_family
def test_latents_are_the_librarys_own(family: str, folders: Folders) -> None:
    side = SIDE.get(family, 28)
    policy, images = policy_of(folders(family), image_size=side), coarse_images(side)
    ours = policy.encode(Observation.of(images, TEXTS))
    whole = transformers.AutoModelForImageTextToText.from_pretrained(folders(family)).eval()
    # Idefics3's processor always enlarges before it reduces: see test_images.py for how near ours
    # come.
    close = 0.02 if family in ("idefics3", "smolvlm") else 1e-5
    with torch.no_grad():
        for row, text in enumerate(TEXTS):
            theirs = librarys_latents(policy.vlm, whole, images[row], text)
            assert (
                real(ours, row).shape == theirs.shape
                and (real(ours, row) - theirs).abs().mean() < close
            )


@every_family
def test_a_batch_of_one_equals_its_row_in_a_batch_of_many(family: str, policies: Policies) -> None:
    policy, seen = policies(family), observation()
    batch = policy.encode(seen)
    assert batch.tokens.shape[-1] == policy.vlm.width == 16
    assert len(set(batch.mask.sum(1).tolist())) == 3, "the prompts should differ in length"
    for row in range(3):
        alone = policy.encode(seen[row : row + 1])
        torch.testing.assert_close(real(alone, 0), real(batch, row), atol=1e-5, rtol=1e-5)


@every_family
def test_latents_depend_on_image_and_instruction(family: str, policies: Policies) -> None:
    texts = ["open the door", "open the door", "open the window"]
    seen = Observation.of(example_images()[[0, 1, 0]], texts)
    first, image, text = policies(family).encode(seen).tokens
    assert (first - image).abs().max() > 1e-3
    assert (first - text).abs().max() > 1e-3


@every_family
def test_training_mode_changes_no_latent(family: str, policies: Policies) -> None:
    policy = policies(family)
    before = policy.encode(observation())
    after = policy.train().encode(observation())
    assert torch.equal(after.tokens, before.tokens)


@every_family
def test_bfloat16_weights_run_and_learn(family: str, folders: Folders, policies: Policies) -> None:
    exact = policies(family).encode(observation())
    coarse = policy_of(folders(family), dtype="bfloat16")
    assert coarse.vlm.model.dtype == torch.bfloat16 and coarse.config.dtype == "bfloat16"
    assert {p.dtype for p in coarse.trainable("all")} == {torch.float32}
    latents = coarse.encode(observation()).tokens
    assert (latents - exact.tokens).abs().mean() < 0.1 * exact.tokens.abs().mean()
    coarse.mean(coarse.encode(observation())).square().mean().backward()
    learning = [p for name, p in coarse.named_parameters() if ".lora_B." in name]
    assert any(p.grad is not None and p.grad.any() for p in learning)


@pytest.mark.parametrize("family", ["blip2-t5", "llava"])
def test_the_output_layer_and_an_unused_decoder_are_gone(family: str, folders: Folders) -> None:
    policy = policy_of(folders(family), lora=LoRAConfig())
    names = {
        name.removeprefix("vlm.model.")
        for name, _ in policy.named_parameters()
        if name.startswith("vlm.")
    }
    gone = {name for name, _ in MODELS[family]().named_parameters()} - names
    decoder = {name for name in gone if name.startswith("language_model.decoder.")}
    assert bool(decoder) == (family == "blip2-t5") and all(
        "lm_head" in name for name in gone - decoder
    )
    assert not any("lm_head" in name or ".decoder." in name for name in names)


def test_questions_are_asked_as_the_family_was_trained(policies: Policies) -> None:
    def asked(family: str) -> str:
        vlm = policies(family).vlm
        return vlm.processor.tokenizer.decode(vlm._prompt("Open the door.")["input_ids"])

    assert asked("blip2-opt") == (
        "<image> <image> <image> <s> Question : What action should the robot take to <unk> the "
        "door ? Answer :"
    )
    assert asked("paligemma").startswith(
        "<image> <image> <image> <image> <s> answer en What action"
    )
    assert asked("gemma3").count("<s>") == 1, "its chat template brings a BOS of its own"
    assert asked("qwen2.5-vl").count("<|image_pad|>") == 4, (
        "one for every 2 x 2 patches of 56 x 56 pixels"
    )
    assert asked("smolvlm") == asked("idefics3")


@pytest.mark.parametrize(
    (
        "family",
        "prompt",
    ),  # the tests' tokenizer knows no "User", "USER" and "ASSISTANT", and not all families' marks
    [
        ("gemma3", "<s> <start_of_image> IMAGE <end_of_image> {}"),
        (
            "idefics3",
            "<s> <unk> : <fake_token_around_image> <global-img> IMAGE <fake_token_around_image> {} "
            "END <unk> :",
        ),
        ("llava", "<s> <unk> : IMAGE {} <unk> :"),
        (
            "qwen2.5-vl",
            "<s> START user <|vision_start|> IMAGE <|vision_end|> {} <|im_end|> START assistant",
        ),
        (
            "smolvlm",
            "<s> START <unk> : <fake_token_around_image> <global-img> IMAGE "
            "<fake_token_around_image> {} END <unk> :",
        ),
    ],
)
def test_without_a_chat_template_the_familys_prompt_is_used(
    family: str, prompt: str, folders: Folders, tmp_path: Path
) -> None:
    folder = shutil.copytree(folders(family), tmp_path / family)
    (folder / "chat_template.jinja").unlink()
    vlm = policy_of(folder).vlm
    tokens = vlm._prompt("open the door")["input_ids"]
    image = vlm.processor.tokenizer.decode(vlm.model.config.image_token_id)
    marks = {"IMAGE": " ".join([image] * 4), "START": "<|im_start|>", "END": "<end_of_utterance>"}
    for name, mark in marks.items():
        prompt = prompt.replace(name, mark)
    assert vlm.processor.tokenizer.decode(tokens) == prompt.format(
        "What action should the robot take to open the door ?"
    )


# --- LoRA


def adapted(policy: VLAPolicy) -> set[str]:
    return {name.split(".lora_")[0] for name, _ in policy.named_parameters() if ".lora_" in name}


@every_family
def test_lora_trains_the_language_tower_alone(family: str, policies: Policies) -> None:
    policy = policies(family)
    assert adapted(policy) and all(
        "language_model" in name or "text_model" in name for name in adapted(policy)
    )
    before = {name: value.clone() for name, value in policy.named_parameters()}
    optimizer = torch.optim.AdamW(policy.train().trainable("all"), lr=0.1)
    for _ in range(2):  # B starts at zero, so A moves in the second step only
        policy.mean(policy.encode(observation())).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = {
        name for name, value in policy.named_parameters() if not torch.equal(value, before[name])
    }
    assert {name for name in changed if name.startswith("vlm.")} == {
        name for name in before if ".lora_" in name
    }


@every_family
def test_lora_on_the_vision_tower(family: str, folders: Folders, policies: Policies) -> None:
    policy = policy_of(folders(family), lora=replace(LORA, towers=("vision",)))
    assert adapted(policy) and all("vision" in name or "visual" in name for name in adapted(policy))
    shake([p for name, p in policy.named_parameters() if ".lora_" in name])
    moved = policy.encode(observation()).tokens - policies(family).encode(observation()).tokens
    assert moved.abs().max() > 1e-3


@pytest.mark.parametrize("family", ["blip2-opt", "blip2-t5", "instructblip"])
def test_lora_on_the_qformer_too(family: str, folders: Folders) -> None:
    policy = policy_of(folders(family), lora=replace(LORA, towers=("language", "qformer")))
    assert {name.split(".")[2] for name in adapted(policy)} == {"language_model", "qformer"}


def test_wrong_lora_targets_are_the_users_error(folders: Folders) -> None:
    with pytest.raises(UserError, match="llava has no 'qformer'; it has language, vision"):
        policy_of(folders("llava"), lora=replace(LORA, towers=("qformer",)))
    with pytest.raises(UserError, match="matches no linear layer"):
        policy_of(folders("llava"), lora=replace(LORA, targets="q_proj"))
    by_name = policy_of(folders("llava"), lora=replace(LORA, targets=r".*language_model.*\.q_proj"))
    assert {name.split(".")[-1] for name in adapted(by_name)} == {"q_proj"}


@every_family
def test_a_saved_policy_has_the_same_latents(
    family: str, policies: Policies, tmp_path: Path
) -> None:
    policy = policies(family)
    shake(policy.trainable("all"))
    policy.save_pretrained(tmp_path / "policy")
    loaded = VLAPolicy.from_pretrained(tmp_path / "policy")
    expected = policy.encode(observation()).tokens
    assert torch.equal(loaded.encode(observation()).tokens, expected)
    assert np.array_equal(loaded.act(example_images(), TEXTS), policy.act(example_images(), TEXTS))

    merge(policy)
    close = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(policy.encode(observation()).tokens, expected, **close)
    policy.save_pretrained(tmp_path / "policy")
    again = VLAPolicy.from_pretrained(tmp_path / "policy")
    assert again.hash() == loaded.hash() == policy.hash()
    assert torch.equal(again.encode(observation()).tokens, expected)
    with pytest.raises(UserError, match="merged into the VLM's weights"):
        policy.load_files(loaded.files())


def merge(policy: VLAPolicy) -> None:
    for module in policy.vlm.modules():
        if hasattr(module, "lora_A"):
            module.merge()


# --- training


def test_a_policy_on_blip2_acts_and_learns(folders: Folders) -> None:
    policy = policy_of(folders("blip2-opt"), lora=LoRAConfig(rank=4))
    action = policy.act(example_images()[0], "open the door")
    assert action.shape == (4,) and action.dtype == np.float32 and np.abs(action).max() <= 1
    goal = torch.tensor([[0.5, -0.5, 0.1, 0.0], [-0.5, 0.5, 0.2, 0.3], [0.0, 0.1, -0.7, 0.3]])
    optimizer = torch.optim.AdamW(policy.trainable("all"), lr=0.02)
    losses = []
    for _ in range(30):
        loss = (policy.mean(policy.encode(observation())) - goal).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@every_family
def test_gradient_checkpointing_changes_no_gradient(
    family: str, folders: Folders, policies: Policies
) -> None:
    plain, checkpointed = policies(family), policy_of(folders(family), gradient_checkpointing=True)
    checkpointed.load_state_dict(plain.state_dict())
    gradients, forwards = [], []
    for policy in (plain, checkpointed):
        layer = next(module for module in policy.vlm.modules() if hasattr(module, "lora_A"))
        count: list[int] = []
        layer.register_forward_pre_hook(lambda *_, count=count: count.append(1))
        policy.train().trainable("all")
        policy.mean(policy.encode(observation())).square().mean().backward()
        gradients.append(
            {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}
        )
        forwards.append(len(count))
    assert forwards == [1, 2], "once more in the backward pass"
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 10
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-5)


def test_without_lora_all_of_it_trains(folders: Folders) -> None:
    policy = policy_of(folders("llava"), lora=LoRAConfig())
    assert len(policy.trainable("all")) == len(list(policy.parameters()))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_compiled_latents_are_the_same(folders: Folders) -> None:
    plain, compiled = (policy_of(folders("blip2-opt"), compile=each) for each in (False, True))
    expected = plain.encode(observation())
    torch.testing.assert_close(
        compiled.encode(observation()).tokens, expected.tokens, atol=1e-4, rtol=1e-4
    )
    assert compiled.fingerprint().latents == plain.fingerprint().latents, "it is not compiled anew"
