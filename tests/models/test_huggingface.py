"""Every family, tiny and newly initialised, through the path that a downloaded model takes."""

import copy
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from vlm_families import MODELS, save

from irevla.config import LoRAConfig, ModelConfig
from irevla.errors import UserError
from irevla.models.build import build_policy
from irevla.models.policy import VLAPolicy
from irevla.models.vlm.families import FAMILIES, question
from irevla.models.vlm.huggingface import HuggingFaceVLM
from irevla.models.vlm.pictures import sample
from irevla.types import Features

SIDE = {"qwen2.5-vl": 56, "gemma3": 56, "florence2": 64, "llava": 32}  # of pictures that are not resized; else 28
TEXTS = ["open the door", "close the red drawer to the right", "push puck"]
LORA = LoRAConfig(rank=2)
Folders = Callable[[str], Path]
Policies = Callable[[str], VLAPolicy]
every_family = pytest.mark.parametrize("family", MODELS)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """The folder of a family's tiny model, written once."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = save(family, tmp_path_factory.mktemp(family))
        return made[family]

    return folder


@pytest.fixture(scope="session")
def policies(folders: Folders) -> Policies:
    """A family's policy with LoRA. Built once: a copy of it may be changed."""
    made: dict[str, VLAPolicy] = {}

    def policy(family: str) -> VLAPolicy:
        if family not in made:
            made[family] = policy_of(folders(family))
        processor = made[family].vlm.processor  # slow to copy, and never changed
        return copy.deepcopy(made[family], {id(processor): processor})

    return policy


def policy_of(folder: Path, *, image_size: int = 64, lora: LoRAConfig = LORA, **config: Any) -> VLAPolicy:
    model = ModelConfig(vlm=str(folder), lora=lora, head_hidden=16, **config)
    return build_policy(model, action_dim=4, image_size=image_size).eval()


def pictures(side: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, side, side, 3), dtype=np.uint8)


def coarse_pictures(side: int) -> np.ndarray:
    """Without detail, which a resizing filter would lose."""
    return np.stack([sample(side), sample(side)[::-1], 255 - sample(side)])


def shake(parameters: list[torch.nn.Parameter]) -> None:
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn_like(parameter), alpha=0.1)


def real(features: Features, row: int) -> torch.Tensor:
    return features.tokens[row][features.mask[row]]


# --- what goes in and what comes out


def librarys_latents(vlm: HuggingFaceVLM, whole: Any, image: np.ndarray, instruction: str) -> torch.Tensor:
    """The hidden states of one picture, prepared by the library's own image processor, in the library's whole model."""
    vlm.blank = Image.fromarray(image)
    asked = vlm._ask(question(instruction))
    inputs = {name: torch.as_tensor(np.asarray(value)) for name, value in asked.items() if name != "labels"}
    if not whole.config.is_encoder_decoder:
        outputs = whole(**inputs, output_hidden_states=True)
        return getattr(outputs, "language_model_outputs", outputs).hidden_states[-1][0]
    outputs = whole(**inputs, decoder_input_ids=torch.zeros(1, 1, dtype=torch.long))
    return getattr(outputs, "language_model_outputs", outputs).encoder_last_hidden_state[0]


@every_family
def test_latents_are_the_librarys_own(family: str, folders: Folders) -> None:
    side = SIDE.get(family, 28)
    policy, images = policy_of(folders(family), image_size=side), coarse_pictures(side)
    ours = policy.encode(images, TEXTS)
    whole = transformers.AutoModelForImageTextToText.from_pretrained(folders(family)).eval()
    # Idefics3's processor always enlarges before it reduces: see test_pictures.py for how near ours come.
    close = 0.02 if family in ("idefics3", "smolvlm") else 1e-5
    with torch.no_grad():
        for row, text in enumerate(TEXTS):
            theirs = librarys_latents(policy.vlm, whole, images[row], text)
            assert real(ours, row).shape == theirs.shape and (real(ours, row) - theirs).abs().mean() < close


@every_family
def test_a_batch_of_one_equals_its_row_in_a_batch_of_many(family: str, policies: Policies) -> None:
    policy, images = policies(family), pictures()
    batch = policy.encode(images, TEXTS)
    assert batch.tokens.shape[-1] == policy.vlm.width == 16
    assert len(set(batch.mask.sum(1).tolist())) == 3, "the prompts should differ in length"
    for row in range(3):
        alone = policy.encode(images[row : row + 1], TEXTS[row : row + 1])
        torch.testing.assert_close(real(alone, 0), real(batch, row), atol=1e-5, rtol=1e-5)


@every_family
def test_latents_depend_on_picture_and_instruction(family: str, policies: Policies) -> None:
    policy, images = policies(family), pictures()
    first, picture, text = policy.encode(
        images[[0, 1, 0]], ["open the door", "open the door", "open the window"]
    ).tokens
    assert (first - picture).abs().max() > 1e-3
    assert (first - text).abs().max() > 1e-3


@every_family
def test_training_mode_changes_no_latent(family: str, policies: Policies) -> None:
    policy = policies(family)
    before = policy.encode(pictures(), TEXTS)
    after = policy.train().encode(pictures(), TEXTS)
    assert torch.equal(after.tokens, before.tokens)


@every_family
def test_autocast_and_bfloat16_run(family: str, folders: Folders, policies: Policies) -> None:
    exact = policies(family).encode(pictures(), TEXTS)
    coarse = policy_of(folders(family), dtype="bfloat16")
    assert coarse.vlm.model.dtype == torch.bfloat16 and coarse.config.dtype == "bfloat16"
    assert {p.dtype for p in coarse.trainable("all")} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        latents = coarse.vlm.encode(torch.from_numpy(pictures()), TEXTS).tokens
    assert (latents.float() - exact.tokens).abs().mean() < 0.1 * exact.tokens.abs().mean()


@pytest.mark.parametrize("family", ["blip2-t5", "llava"])
def test_the_output_layer_and_an_unused_decoder_are_gone(family: str, folders: Folders) -> None:
    policy = policy_of(folders(family), lora=LoRAConfig())
    names = {name.removeprefix("vlm.model.") for name, _ in policy.named_parameters() if name.startswith("vlm.")}
    gone = {name for name, _ in MODELS[family]().named_parameters()} - names
    decoder = {name for name in gone if name.startswith("language_model.decoder.")}
    assert bool(decoder) == (family == "blip2-t5") and all("lm_head" in name for name in gone - decoder)
    assert not any("lm_head" in name or ".decoder." in name for name in names)


def test_questions_are_asked_as_the_family_was_trained(policies: Policies) -> None:
    def asked(family: str) -> str:
        vlm = policies(family).vlm
        return vlm.processor.tokenizer.decode(vlm._prompt("Open the door.")["input_ids"])

    assert asked("blip2-opt") == (
        "<image> <image> <image> <s> Question : What action should the robot take to <unk> the door ? Answer :"
    )
    assert asked("paligemma").startswith("<image> <image> <image> <image> <s> answer en What action")
    assert asked("gemma3").count("<s>") == 1, "its chat template brings a BOS of its own"
    assert asked("qwen2.5-vl").count("<|image_pad|>") == 4, "one for every 2 x 2 patches of 56 x 56 pixels"
    assert asked("smolvlm") == asked("idefics3")


@pytest.mark.parametrize("family", ["gemma3", "idefics3", "llava", "qwen2.5-vl", "smolvlm"])
def test_without_a_chat_template_the_familys_prompt_is_used(family: str, folders: Folders, tmp_path: Path) -> None:
    folder = shutil.copytree(folders(family), tmp_path / family)
    (folder / "chat_template.jinja").unlink()
    assert policy_of(folder).encode(pictures(), TEXTS).mask.all(1).any()


# --- LoRA


def adapted(policy: VLAPolicy) -> set[str]:
    return {name.split(".lora_")[0] for name, _ in policy.named_parameters() if ".lora_" in name}


@every_family
def test_lora_trains_the_language_tower_alone(family: str, policies: Policies) -> None:
    policy = policies(family)
    assert adapted(policy) and all("language_model" in name or "text_model" in name for name in adapted(policy))
    before = {name: value.clone() for name, value in policy.named_parameters()}
    optimizer = torch.optim.AdamW(policy.train().trainable("all"), lr=0.1)
    for _ in range(2):  # B starts at zero, so A moves in the second step only
        policy(pictures(), TEXTS).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = {name for name, value in policy.named_parameters() if not torch.equal(value, before[name])}
    assert {name for name in changed if name.startswith("vlm.")} == {name for name in before if ".lora_" in name}


@every_family
def test_lora_on_the_vision_tower(family: str, folders: Folders, policies: Policies) -> None:
    policy = policy_of(folders(family), lora=replace(LORA, towers=("vision",)))
    assert adapted(policy) and all("vision" in name or "visual" in name for name in adapted(policy))
    shake([p for name, p in policy.named_parameters() if ".lora_" in name])
    moved = policy.encode(pictures(), TEXTS).tokens - policies(family).encode(pictures(), TEXTS).tokens
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
def test_a_saved_policy_has_the_same_latents(family: str, policies: Policies, tmp_path: Path) -> None:
    policy = policies(family)
    shake(policy.trainable("all"))
    policy.save_pretrained(tmp_path / "policy")
    loaded = VLAPolicy.from_pretrained(tmp_path / "policy")
    assert torch.equal(loaded.encode(pictures(), TEXTS).tokens, policy.encode(pictures(), TEXTS).tokens)
    assert np.array_equal(loaded.act(pictures(), TEXTS), policy.act(pictures(), TEXTS))


# --- training


def test_a_policy_on_blip2_acts_and_learns(folders: Folders) -> None:
    policy = policy_of(folders("blip2-opt"), lora=LoRAConfig(rank=4))
    action = policy.act(pictures()[0], "open the door")
    assert action.shape == (4,) and action.dtype == np.float32 and np.abs(action).max() <= 1
    goal = torch.tensor([[0.5, -0.5, 0.1, 0.0], [-0.5, 0.5, 0.2, 0.3], [0.0, 0.1, -0.7, 0.3]])
    optimizer = torch.optim.AdamW(policy.trainable("all"), lr=0.02)
    losses = []
    for _ in range(30):
        loss = (policy(pictures(), TEXTS) - goal).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@every_family
def test_gradient_checkpointing_changes_no_gradient(family: str, folders: Folders, policies: Policies) -> None:
    plain, checkpointed = policies(family), policy_of(folders(family), gradient_checkpointing=True)
    checkpointed.load_state_dict(plain.state_dict())
    gradients, forwards = [], []
    for policy in (plain, checkpointed):
        layer = next(module for module in policy.vlm.modules() if hasattr(module, "lora_A"))
        count: list[int] = []
        layer.register_forward_pre_hook(lambda *_, count=count: count.append(1))
        policy.train().trainable("all")
        policy(pictures(), TEXTS).square().mean().backward()
        gradients.append({name: p.grad for name, p in policy.named_parameters() if p.grad is not None})
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
    expected = plain.encode(pictures(), TEXTS)
    torch.testing.assert_close(compiled.encode(pictures(), TEXTS).tokens, expected.tokens, atol=1e-4, rtol=1e-4)


# --- the Hub


COMMIT, LATER = "0123456789abcdef0123456789abcdef01234567", "fedcba9876543210fedcba9876543210fedcba98"
NAME = "someone/tiny-llava"


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache of downloads, and no network."""
    for module in (huggingface_hub.constants, huggingface_hub.file_download.constants):
        monkeypatch.setattr(module, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def download(cache: Path, folder: Path, *, later: Path) -> None:
    """`folder` is the tag v1, and `later` what main has become since."""
    repository = cache / f"models--{NAME.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    for ref, commit, files in (("v1", COMMIT, folder), ("main", LATER, later)):
        shutil.copytree(files, repository / "snapshots" / commit)
        (repository / "refs" / ref).write_text(commit)


@pytest.mark.parametrize("revision", ["v1", COMMIT])
def test_a_name_on_the_hub_is_pinned_to_its_commit(
    revision: str, folders: Folders, cache: Path, tmp_path: Path
) -> None:
    download(cache, folders("llava"), later=folders("idefics3"))
    policy = policy_of(Path(NAME), revision=revision)
    assert policy.config.revision == policy.vlm.revision == COMMIT and policy.vlm.base == NAME
    expected = policy_of(folders("llava")).encode(pictures(), TEXTS)
    assert torch.equal(policy.encode(pictures(), TEXTS).tokens, expected.tokens)
    policy.save_pretrained(tmp_path / "policy")
    assert VLAPolicy.from_pretrained(tmp_path / "policy").config == policy.config


def test_without_a_revision_it_is_what_main_is_now(folders: Folders, cache: Path) -> None:
    download(cache, folders("llava"), later=folders("idefics3"))
    policy = policy_of(Path(NAME))
    assert policy.config.revision == LATER and policy.vlm.model.config.model_type == "idefics3"


def test_no_network_and_an_empty_cache_are_the_users_error(folders: Folders, cache: Path) -> None:
    with pytest.raises(UserError, match="tiny-llava is not in the cache and the Hub cannot be reached"):
        policy_of(Path(NAME))
    download(cache, folders("llava"), later=folders("llava"))
    with pytest.raises(UserError, match="is not in the cache and the Hub cannot be reached"):
        policy_of(Path(NAME), revision="v2")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("GatedRepoError", "is gated: accept its terms"),
        ("RepositoryNotFoundError", "there is no model someone/tiny-llava on the Hub"),
        ("RevisionNotFoundError", "has no such model.revision"),
        ("LocalEntryNotFoundError", "the Hub cannot be reached"),
    ],
)
def test_what_the_hub_refuses_is_the_users_error(error: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = getattr(huggingface_hub.errors, error)

    def refuse(*_: Any, **__: Any) -> str:
        raise kind.__new__(kind)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(UserError, match=message):
        policy_of(Path(NAME))


# --- what a user gets wrong


def test_a_folder_that_is_not_there() -> None:
    for name in ("./nowhere", "/no/such/folder", "a/b/c"):
        with pytest.raises(UserError, match="there is no folder"):
            build_policy(ModelConfig(vlm=name), action_dim=4, image_size=64)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("config.json", r"it has no config.json"),
        ("*.safetensors", r"it has no \*.safetensors \(weights"),
        ("*processor_config.json", r"it has no \*processor_config.json \(how it prepares pictures"),
        ("tokenizer*", r"it has no tokenizer\* \(its tokenizer"),
    ],
)
def test_a_folder_that_lacks_a_part(pattern: str, message: str, folders: Folders, tmp_path: Path) -> None:
    folder = shutil.copytree(folders("llava"), tmp_path / "llava")
    for path in folder.glob(pattern):
        path.unlink()
    with pytest.raises(UserError, match=message):
        policy_of(folder)


@pytest.mark.parametrize("fault", ["truncated", "other sizes", "fewer", "not JSON"])
def test_a_folder_whose_files_are_damaged(fault: str, folders: Folders, tmp_path: Path) -> None:
    folder = shutil.copytree(folders("llava"), tmp_path / "llava")
    weights, config = folder / "model.safetensors", folder / "config.json"
    settings = json.loads(config.read_text())
    if fault == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif fault == "not JSON":
        config.write_text(config.read_text()[:-100])
    else:
        settings["text_config"] |= {"intermediate_size": 40} if fault == "other sizes" else {"num_hidden_layers": 3}
        config.write_text(json.dumps(settings))
    with pytest.raises(UserError, match="are missing" if fault == "fewer" else "cannot load"):
        policy_of(folder)


def rewritten(folder: Path, to: Path, **changes: Any) -> Path:
    shutil.copytree(folder, to)
    config = to / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    return to


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "is a llama, which is no generative vision-language model"),
        ({"model_type": "no-such-model"}, "cannot load"),
        ({"model_type": "new", "auto_map": {"AutoConfig": "code.Config"}}, "brings code of its own"),
    ],
)
def test_a_folder_of_another_kind(changes: dict[str, Any], message: str, folders: Folders, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        policy_of(rewritten(folders("llava"), tmp_path / "other", **changes))


def test_a_saved_policy_is_no_vlm(folders: Folders, tmp_path: Path) -> None:
    policy_of(folders("llava")).save_pretrained(tmp_path / "policy")
    with pytest.raises(UserError, match="not the whole of a model"):
        policy_of(tmp_path / "policy")


def test_a_processor_that_shows_no_picture(folders: Folders, tmp_path: Path) -> None:
    folder = shutil.copytree(folders("llava"), tmp_path / "llava")
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'][1]['text'] }}")
    with pytest.raises(UserError, match=r"llava is not supported: its processor fails \(The total number"):
        policy_of(folder)


def test_a_family_without_a_known_prompt(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(FAMILIES, "paligemma")
    with pytest.raises(UserError, match="paligemma is not supported: its processor has no chat template"):
        policy_of(folders("paligemma"))
    monkeypatch.delitem(FAMILIES, "llava")
    assert policy_of(folders("llava")).act(pictures(), TEXTS).shape == (3, 4), "the library says all that is needed"


def test_a_width_that_the_heads_cannot_share_out(folders: Folders) -> None:
    with pytest.raises(UserError, match=r"width of .* is 16: set a model.head_groups that divides it"):
        policy_of(folders("llava"), head_groups=5)


def test_missing_packages_and_cards(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="need a CUDA device and the package bitsandbytes"):
        policy_of(folders("llava"), quantize="4bit")
    with pytest.raises(UserError, match="a folder: leave it out"):
        policy_of(folders("llava"), revision="main")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'irevla\[hub\]'"):
        policy_of(folders("llava"))


@pytest.mark.parametrize(
    ("vlm", "settings", "message"),
    [
        ("tiny-random", {"revision": "main"}, "model.revision is for OWNER/NAME on the Hub"),
        ("tiny-random", {"dtype": "bfloat16"}, "model.dtype is for OWNER/NAME"),
        ("tiny-random", {"lora": replace(LORA, towers=("vision",))}, "model.lora.towers is for OWNER/NAME"),
        (NAME, {"quantize": "4bit"}, "set model.lora.rank"),
        (NAME, {"quantize": "8bit"}, "model.quantize must be one of"),
        (NAME, {"dtype": "float16"}, "model.dtype must be one of"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(vlm: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ModelConfig(vlm=vlm, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 2, "towers": ("langauge",)}, "did you mean 'language'"),
        ({"rank": 2, "towers": ()}, "lora.towers is empty"),
        ({"towers": ("vision",)}, "lora.rank is 0"),
        ({"rank": 2, "towers": ("vision",), "targets": "x"}, "set one of them"),
    ],
)
def test_towers_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LoRAConfig(**settings)
