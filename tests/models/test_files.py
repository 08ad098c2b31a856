"""A policy on a large pretrained VLM with LoRA: adapter and heads on disk, in PEFT's own format."""

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
import transformers
import vlm_families
from pretrained import NAME, REVISION, adapted, moved, register
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from irevla.config import AugmentConfig, LoRAConfig, MixtureConfig, ModelConfig, SFTConfig
from irevla.data.episodes import Frames
from irevla.data.mixture import Mixture
from irevla.errors import UserError
from irevla.learners.sft import SFT
from irevla.models.files import adapter_name, folder_hash, parameter_name
from irevla.models.policy import VLAPolicy, build_policy
from irevla.models.vlm import registry
from irevla.models.vlm.base import VLM
from irevla.storage import checkpoint
from irevla.types import Features, Observation, tensors_hash

FILES = {"model.safetensors", "config.json", "adapter_model.safetensors", "adapter_config.json"}


def example_images(count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


def changed(files: dict[str, object], name: str, **values: object) -> dict[str, object]:
    content = files[name]
    assert isinstance(content, dict)
    return {**files, name: {**content, **values}}


def test_files_hold_adapter_and_heads_alone() -> None:
    files = adapted().files()
    assert set(files) == FILES
    assert {name.partition(".")[0] for name in files["model.safetensors"]} == {
        "action_head",
        "noise",
    }
    assert all(".lora_" in name for name in files["adapter_model.safetensors"])
    assert files["config.json"]["base"] == {"name": NAME, "revision": REVISION}
    described = files["adapter_config.json"]
    assert (described["base_model_name_or_path"], described["revision"]) == (NAME, REVISION)
    assert described["target_modules"] == [
        "tower.0.down",
        "tower.0.out",
        "tower.0.qkv",
        "tower.0.up",
    ]


def test_an_adapted_policy_comes_back_equal(tmp_path: Path) -> None:
    policy = adapted()
    policy.save_pretrained(tmp_path / "policy")
    assert {path.name for path in (tmp_path / "policy").iterdir()} == FILES | {
        "MANIFEST.json",
        "README.md",
    }
    loaded = VLAPolicy.from_pretrained(tmp_path / "policy")
    assert loaded.hash() == policy.hash()
    assert np.array_equal(
        loaded.act(example_images(), "open"), policy.act(example_images(), "open")
    )


def test_trained_in_full_everything_is_kept(tmp_path: Path) -> None:
    policy = adapted(rank=0)
    policy.save_pretrained(tmp_path / "policy")
    assert set(policy.files()) == {"model.safetensors", "config.json"}
    assert policy.files()["config.json"]["base"]["name"] == NAME
    loaded = VLAPolicy.from_pretrained(tmp_path / "policy")
    assert np.array_equal(
        loaded.act(example_images(), "open"), policy.act(example_images(), "open")
    )


def test_names_go_to_peft_and_back() -> None:
    name = "vlm.model.layers.0.default.q_proj.lora_A.default.weight"
    there = adapter_name(name, "vlm.model")
    assert there == "base_model.model.layers.0.default.q_proj.lora_A.weight"
    assert parameter_name(there, "vlm.model") == name


# --- the hash


def test_the_hash_follows_every_trainable_weight() -> None:
    policy = adapted()
    seen = {policy.hash()}
    for parameter in policy.trainable("all"):
        with torch.no_grad():
            parameter.view(-1)[0] += 1
        seen.add(policy.hash())
    assert len(seen) == 1 + len(policy.trainable("all"))


def test_the_hash_follows_base_revision_and_scale_but_not_frozen_weights() -> None:
    policy = adapted()
    before = policy.hash()
    policy.trainable("none")
    with torch.no_grad():
        next(
            parameter for name, parameter in policy.vlm.named_parameters() if "lora_" not in name
        ).add_(1)
    assert policy.hash() == before  # 3 billion frozen numbers are not read
    policy.vlm.revision = "f" * 40
    assert policy.hash() != before
    policy.vlm.revision, policy.vlm.base = REVISION, "other/model"
    assert policy.hash() != before
    again = adapted(trained=False, alpha=8.0)
    again.vlm.base, again.vlm.revision = NAME, REVISION
    plain = adapted(trained=False)
    again.load_state_dict(plain.state_dict())
    assert again.hash() != plain.hash()


def test_a_base_that_is_a_folder_counts_by_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "model.safetensors").write_bytes(b"weights")
    (base / "config.json").write_text("{}")
    register(monkeypatch, base=str(base), revision="")
    policy = adapted()
    before, first = policy.hash(), folder_hash(base)
    policy.save_pretrained(tmp_path / "policy")
    assert policy.files()["adapter_config.json"]["revision"] is None
    base.rename(tmp_path / "moved")
    register(monkeypatch, base=str(tmp_path / "moved"), revision="")
    assert VLAPolicy.from_pretrained(tmp_path / "policy").hash() == before
    (tmp_path / "moved" / "model.safetensors").write_bytes(b"strength")
    assert folder_hash(tmp_path / "moved") != first
    with pytest.raises(
        UserError,
        match=r"its adapter is for the base model .*base at sha256:.* but the one here is",
    ):
        VLAPolicy.from_pretrained(tmp_path / "policy")


def test_numbers_without_a_shape_count_in_a_hash() -> None:
    assert tensors_hash({"scale": torch.tensor(1.0)}) != tensors_hash({"scale": torch.tensor(2.0)})


def test_same_size_but_other_bytes_is_another_hash(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"one")
    first = folder_hash(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"two")
    os.utime(tmp_path / "a.safetensors", ns=(1, 1))
    assert folder_hash(tmp_path) != first


# --- what does not fit


@pytest.mark.parametrize(
    ("base", "revision", "said"),
    [
        (
            "other/model",
            REVISION,
            f"{NAME} at 0123456789ab, but the one here is other/model at 0123456789ab",
        ),
        (NAME, "f" * 40, f"{NAME} at 0123456789ab, but the one here is {NAME} at ffffffffffff"),
    ],
)
def test_an_adapter_for_another_base_is_refused(
    base: str, revision: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapted().save_pretrained(tmp_path / "policy")
    register(monkeypatch, base=base, revision=revision)
    with pytest.raises(UserError, match=said) as error:
        VLAPolicy.from_pretrained(tmp_path / "policy")
    assert "\n" not in str(error.value)


def test_another_lora_is_refused() -> None:
    policy = adapted()
    for other, said in (
        (adapted(rank=4), "r 4, but the model here 2"),
        (adapted(alpha=8.0), "lora_alpha 8.0, but the model here 16.0"),
        (
            adapted(targets=r"tower\.0\.up"),
            r"changes 1 layers and the model here 4 \(tower.0.down is not in both\)",
        ),
    ):
        with pytest.raises(UserError, match=said):
            policy.load_files(other.files())


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    policy = adapted()
    policy.save_pretrained(tmp_path / "policy")
    (tmp_path / "policy" / name).unlink()
    with pytest.raises(UserError, match=name):
        VLAPolicy.from_pretrained(tmp_path / "policy")
    files = policy.files()
    del files[name]
    with pytest.raises(UserError, match=name):
        policy.load_files(files)


def test_an_adapter_does_not_fit_a_whole_model() -> None:
    whole, policy = adapted(rank=0), adapted()
    with pytest.raises(UserError, match="adapter for another model"):
        whole.load_files(policy.files())
    with pytest.raises(UserError, match=r"no adapter_model\.safetensors"):
        policy.load_files(whole.files())


def test_a_wrong_adapter_changes_nothing() -> None:
    policy = adapted()
    before = policy.hash()
    files = adapted().files()
    files["adapter_model.safetensors"].popitem()
    with pytest.raises(UserError, match="is missing"):
        policy.load_files(files)
    assert policy.hash() == before


def test_a_folder_that_is_no_policy_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(
        UserError, match=r"not a policy that irevla wrote: it has no MANIFEST\.json"
    ):
        VLAPolicy.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="holds other files"):
        adapted().save_pretrained(tmp_path)  # a config.json alone does not make it ours


@pytest.mark.parametrize("stranger", [".git/HEAD", "train.py", "optimizer.safetensors"])
def test_a_policy_with_other_files_beside_it_is_left_alone(stranger: str, tmp_path: Path) -> None:
    adapted().save_pretrained(tmp_path / "policy")
    path = tmp_path / "policy" / stranger
    path.parent.mkdir(exist_ok=True)
    path.write_text("years of work")
    with pytest.raises(UserError, match=rf"holds other files \({Path(stranger).parts[0]}\)"):
        adapted(rank=0).save_pretrained(tmp_path / "policy")
    assert (
        path.read_text() == "years of work"
        and (tmp_path / "policy" / "adapter_config.json").exists()
    )


def test_an_edited_card_outlives_its_policy(tmp_path: Path) -> None:
    card, whole = tmp_path / "policy" / "README.md", adapted(rank=0)
    adapted().save_pretrained(tmp_path / "policy")
    card.write_text("my own words")
    whole.save_pretrained(tmp_path / "policy")
    assert (
        card.read_text() == "my own words"
        and VLAPolicy.from_pretrained(tmp_path / "policy").hash() == whole.hash()
    )
    whole.save_pretrained(tmp_path / "policy", card="a new one, on purpose")
    assert card.read_text() == "a new one, on purpose"
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


def test_a_card_outlives_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left")

    policy, card = adapted(), tmp_path / "policy" / "README.md"
    policy.save_pretrained(tmp_path / "policy")
    card.write_text("my own words")
    with monkeypatch.context() as patch, pytest.raises(UserError, match="No space left; make room"):
        patch.setattr(checkpoint, "_write_all", full)
        policy.save_pretrained(tmp_path / "policy")
    assert card.read_text() == "my own words"
    policy.save_pretrained(tmp_path / "policy")
    assert card.read_text() == "my own words"
    monkeypatch.setattr(checkpoint, "_write_all", full)
    with pytest.raises(UserError, match=r"cannot write checkpoint .*No space left; make room"):
        policy.save_pretrained(tmp_path / "new")


def test_links_stay_and_we_are_not_swapped_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to("here")
    adapted().save_pretrained(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "here" / "adapter_config.json").exists()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match="is the current directory"):
        adapted().save_pretrained(".")


def test_a_damaged_base_is_the_users_error(tmp_path: Path) -> None:
    files = changed(adapted().files(), "config.json", base={"name": 3})
    checkpoint.save(tmp_path / "policy", files)
    with pytest.raises(UserError, match="base must have a name and a revision"):
        VLAPolicy.from_pretrained(tmp_path / "policy")


# --- in a run


def frames(episodes: int = 6, length: int = 3) -> Frames:
    rng = np.random.default_rng(1)
    count = episodes * length
    images = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    actions = rng.uniform(-1, 1, (count, 3)).astype(np.float32)
    same = np.zeros(count, np.int64)
    return Frames(
        images, actions, same, same, np.repeat(np.arange(episodes), length), ("open",), ("door",)
    )


def test_supervised_learning_goes_on_with_the_adapter(tmp_path: Path) -> None:
    plain = AugmentConfig(shift=0, colour=0.0)
    config = SFTConfig(steps=4, batch=4, lr=1e-2, warmup=1, validate_every=2, augment=plain)
    mixture = Mixture(frames(), None, MixtureConfig(validation=0.3), seed=0)

    def learner() -> tuple[VLAPolicy, SFT]:
        torch.manual_seed(3)
        policy = adapted(trained=False)
        return policy, SFT(policy, config, parts="all", seed=0)

    def train(learning: SFT, stop: int) -> None:
        while learning.updates < stop:
            learning.update(mixture.batch(learning.updates, config.batch))

    whole, learning = learner()
    train(learning, config.steps)
    cut, learning = learner()
    train(learning, 2)
    checkpoint.save(tmp_path / "sft", {**cut.files(), **learning.state()})
    names = {path.name for path in (tmp_path / "sft").iterdir()}
    assert names == FILES | {"MANIFEST.json", "optimizer.safetensors", "learner.json"}
    resumed, learning = learner()
    files = checkpoint.load(tmp_path / "sft")
    resumed.load_files(files)
    learning.load_state(files)
    train(learning, config.steps)
    assert resumed.hash() == whole.hash() != adapted(trained=False).hash()


# --- PEFT itself


class Wrapped(VLM):
    """A language model of transformers as a VLM that sees nothing."""

    lora_targets = r".*\.(q_proj|down_proj)"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.base = str(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder)
        self.width = self.model.config.hidden_size

    def encode(self, observation: Observation) -> Features:
        tokens = torch.tensor([[len(text) % 50, 1, 2] for text in observation.instructions])
        hidden = self.model(tokens, output_hidden_states=True).hidden_states[-1]
        return Features(hidden, torch.ones(tokens.shape, dtype=torch.bool))


@pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing:FutureWarning"
)  # peft asks transformers for it
def test_peft_loads_the_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    LlamaForCausalLM(tiny).save_pretrained(tmp_path / "base")
    monkeypatch.setitem(
        registry.VLMS, "pretrained", lambda config, size: Wrapped(tmp_path / "base")
    )
    policy = adapted()
    policy.save_pretrained(tmp_path / "policy")
    assert VLAPolicy.from_pretrained(tmp_path / "policy").hash() == policy.hash()

    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    tokens = torch.tensor([[4, 1, 2]])
    plain = base(tokens, output_hidden_states=True).hidden_states[-1]
    peft_model = peft.PeftModel.from_pretrained(base, tmp_path / "policy")
    theirs = peft_model(tokens, output_hidden_states=True).hidden_states[-1]
    ours = policy.encode(Observation.of(example_images(1), ["open"])).tokens
    assert torch.equal(ours, theirs) and not torch.allclose(ours, plain, atol=1e-3)
    saved = {
        f"vlm.{name}": value for name, value in peft_model.get_base_model().state_dict().items()
    }
    kept = {
        name.replace("vlm.model.", "vlm.", 1): value for name, value in policy.state_dict().items()
    }
    assert tensors_hash({name: kept[name] for name in saved}) == tensors_hash(saved)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("family", vlm_families.MODELS)
def test_a_model_of_transformers_is_kept_and_shared(family: str, tmp_path: Path) -> None:
    base = vlm_families.save(family, tmp_path / "base")
    config = ModelConfig(vlm=str(base), head_groups=4, head_hidden=16, lora=LoRAConfig(rank=2))
    policy = moved(build_policy(config, action_dim=3, image_size=32))
    policy.save_pretrained(tmp_path / "policy")
    loaded = VLAPolicy.from_pretrained(tmp_path / "policy")
    assert loaded.hash() == policy.hash()
    assert np.array_equal(
        loaded.act(example_images(), "open"), policy.act(example_images(), "open")
    )

    model = getattr(transformers, type(vlm_families.MODELS[family]()).__name__).from_pretrained(
        base
    )
    theirs = (
        peft.PeftModel.from_pretrained(model, tmp_path / "policy").get_base_model().state_dict()
    )
    lora = {name: value for name, value in theirs.items() if ".lora_" in name}
    ours = {
        name.removeprefix("vlm.model."): value
        for name, value in policy.state_dict().items()
        if ".lora_" in name
    }
    assert tensors_hash(lora) == tensors_hash(ours)


def test_a_model_of_transformers_trained_in_full_is_kept_whole(tmp_path: Path) -> None:
    config = ModelConfig(
        vlm=str(vlm_families.save("smolvlm", tmp_path / "base")), head_groups=4, head_hidden=16
    )
    policy = moved(build_policy(config, action_dim=3, image_size=32))
    policy.save_pretrained(tmp_path / "policy")
    loaded = VLAPolicy.from_pretrained(tmp_path / "policy")
    assert loaded.hash() == policy.hash()
    assert np.array_equal(
        loaded.act(example_images(), "open"), policy.act(example_images(), "open")
    )


@pytest.mark.parametrize("rank", [0, 2])
def test_a_base_named_relatively_is_found_from_anywhere(
    rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm_families.save("smolvlm", tmp_path / "base")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    config = ModelConfig(vlm="base", head_groups=4, head_hidden=16, lora=LoRAConfig(rank=rank))
    policy = moved(build_policy(config, action_dim=3, image_size=32))
    policy.save_pretrained("policy")
    before = policy.hash()
    monkeypatch.chdir(tmp_path / "elsewhere")
    loaded = VLAPolicy.from_pretrained(tmp_path / "policy")
    assert loaded.hash() == before and loaded.config.vlm == str(tmp_path / "base")
    assert loaded.files()["config.json"]["base"]["name"] == str(tmp_path / "base")


def test_two_may_write_to_one_folder_at_once(tmp_path: Path) -> None:
    """Each finds a whole policy, and the card that a person wrote is there after both."""
    policies = [adapted(), adapted(rank=0)]
    policies[0].save_pretrained(tmp_path / "policy")
    (tmp_path / "policy" / "README.md").write_text("my own words")

    def write(policy: VLAPolicy) -> None:
        for _ in range(15):
            policy.save_pretrained(tmp_path / "policy")
            checkpoint.load(tmp_path / "policy")  # transformers does not load in two threads

    with ThreadPoolExecutor(2) as both:
        for done in [both.submit(write, policy) for policy in policies]:
            done.result()
    assert (tmp_path / "policy" / "README.md").read_text() == "my own words"
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]
