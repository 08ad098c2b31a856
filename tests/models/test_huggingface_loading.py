"""What `model.vlm` may name, which of its files are read, and what a user gets wrong."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import transformers
from vlm_families import (
    LORA,
    STRANGERS,
    TEXTS,
    Folders,
    example_images,
    observation,
    policy_of,
    save,
)

from irevla.config import Config, EnvConfig, LoRAConfig, ModelConfig
from irevla.envs.suite import load_suite
from irevla.errors import UserError
from irevla.models.policy import VLAPolicy, build_policy
from irevla.models.vlm.families import FAMILIES
from irevla.models.vlm.huggingface import load
from irevla.models.vlm.registry import check_model
from irevla.runs.run import open_run
from irevla.stages.start import new_policy
from irevla.storage.journal import Journal
from irevla.tasks import SFT

CPU = torch.device("cpu")
COMMIT, LATER = (
    "0123456789abcdef0123456789abcdef01234567",
    "fedcba9876543210fedcba9876543210fedcba98",
)
NAME, REPOSITORY = "someone/tiny-llava", "models--someone--tiny-llava"


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache of downloads, and no network."""
    for module in (huggingface_hub.constants, huggingface_hub.file_download.constants):
        monkeypatch.setattr(module, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def download(cache: Path, folder: Path, *, later: Path) -> None:
    """`folder` is the tag v1, and `later` what main has become since."""
    repository = cache / REPOSITORY
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
    expected = policy_of(folders("llava")).encode(observation())
    assert torch.equal(policy.encode(observation()).tokens, expected.tokens)
    policy.save_pretrained(tmp_path / "policy")
    assert VLAPolicy.from_pretrained(tmp_path / "policy").config == policy.config


def test_without_a_revision_it_is_what_main_is_now(folders: Folders, cache: Path) -> None:
    download(cache, folders("llava"), later=folders("idefics3"))
    policy = policy_of(Path(NAME))
    assert policy.config.revision == LATER and policy.vlm.model.config.model_type == "idefics3"


def test_a_run_keeps_the_commit_and_the_type_that_it_began_with(
    folders: Folders, cache: Path, tmp_path: Path
) -> None:
    model = ModelConfig(vlm=NAME, lora=LORA, head_hidden=16)
    config = Config(
        suite="pointmass", method="scratch", env=EnvConfig(image_size=32), device="cpu", model=model
    )

    def begin() -> VLAPolicy:
        with open_run(tmp_path / "run", config) as run:
            return new_policy(run, load_suite("pointmass"), SFT)

    download(cache, folders("idefics3"), later=folders("llava"))
    first = begin()
    assert first.config.revision == LATER
    (cache / REPOSITORY / "refs" / "main").write_text(COMMIT)
    again = begin()
    assert again.config == first.config and again.hash() == first.hash()
    Journal(tmp_path / "run" / "journal.jsonl").append(
        "vlm", revision=LATER, dtype="bfloat16"
    )  # as if on CUDA
    assert begin().vlm.model.dtype == torch.bfloat16


def test_no_network_and_an_empty_cache_are_the_users_error(folders: Folders, cache: Path) -> None:
    with pytest.raises(
        UserError, match="tiny-llava is not in the cache and the Hub cannot be reached"
    ):
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
def test_what_the_hub_refuses_is_the_users_error(
    error: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
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
        ("*processor_config.json", r"it has no \*processor_config.json \(how it prepares images"),
        ("tokenizer*", r"it has no tokenizer\* \(its tokenizer"),
    ],
)
def test_a_folder_that_lacks_a_part(
    pattern: str, message: str, folders: Folders, tmp_path: Path
) -> None:
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
        settings["text_config"] |= (
            {"intermediate_size": 40} if fault == "other sizes" else {"num_hidden_layers": 3}
        )
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
        (
            {"model_type": "new", "auto_map": {"AutoConfig": "code.Config"}},
            "brings code of its own",
        ),
    ],
)
def test_a_folder_of_another_kind(
    changes: dict[str, Any], message: str, folders: Folders, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        policy_of(rewritten(folders("llava"), tmp_path / "other", **changes))


def test_a_saved_policy_is_no_vlm(folders: Folders, tmp_path: Path) -> None:
    policy_of(folders("llava")).save_pretrained(tmp_path / "policy")
    with pytest.raises(UserError, match="not the whole of a model"):
        policy_of(tmp_path / "policy")


def test_a_processor_that_shows_no_image(folders: Folders, tmp_path: Path) -> None:
    folder = shutil.copytree(folders("llava"), tmp_path / "llava")
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'][1]['text'] }}")
    with pytest.raises(
        UserError, match=r"llava is not supported: its processor fails \(The total number"
    ):
        policy_of(folder)


def test_a_family_without_a_known_prompt(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(FAMILIES, "paligemma")
    with pytest.raises(
        UserError, match="paligemma is not supported: its processor has no chat template"
    ):
        policy_of(folders("paligemma"))
    monkeypatch.delitem(FAMILIES, "llava")
    assert policy_of(folders("llava")).act(example_images(), TEXTS).shape == (3, 4), (
        "the library says all that is needed"
    )


@pytest.mark.parametrize("family", STRANGERS)
def test_other_families_are_refused(family: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^{family} is not supported: [^\n]*$"):
        policy_of(save(family, tmp_path))


@pytest.mark.parametrize("template", ["{{ raise_exception('roles must alternate') }}", "{% if %}"])
def test_a_chat_template_that_fails(template: str, folders: Folders, tmp_path: Path) -> None:
    folder = shutil.copytree(folders("llava"), tmp_path / "llava")
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(
        UserError, match=r"llava is not supported: its processor fails \((roles must|Expected an)"
    ):
        policy_of(folder)


@pytest.mark.parametrize("fault", ["raises", "skips the last layer", "loses a token"])
def test_an_untried_family_shows_first_that_it_works(
    fault: str, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a listed family it is believed."""
    whole = transformers.LlavaForConditionalGeneration.forward

    def forward(model: Any, **inputs: Any) -> None:
        if fault == "raises":
            raise IndexError("no such patch")
        if fault == "loses a token":
            whole(model, **inputs)
            model.lm_head.hidden = model.lm_head.hidden[:, 1:]

    monkeypatch.setattr(transformers.LlavaForConditionalGeneration, "forward", forward)
    assert policy_of(folders("llava")).vlm.family == FAMILIES["llava"]
    monkeypatch.delitem(FAMILIES, "llava")
    with pytest.raises(UserError, match="llava is not supported: it fails with one image"):
        policy_of(folders("llava"))


# --- before anything large is read


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights may be read."""
    monkeypatch.delattr(transformers.AutoModelForImageTextToText, "from_pretrained")


def test_a_width_that_the_heads_cannot_share_out(folders: Folders, unread: None) -> None:
    with pytest.raises(
        UserError, match=r"width of .* is 16: set a model.head_groups that divides it"
    ):
        check_model(ModelConfig(vlm=str(folders("llava")), head_groups=5), CPU)


def test_of_the_hub_the_settings_are_enough(folders: Folders, cache: Path) -> None:
    with pytest.raises(
        UserError, match="tiny-llava is not in the cache and the Hub cannot be reached"
    ):
        check_model(ModelConfig(vlm=NAME), CPU)
    download(cache, folders("llava"), later=folders("llava"))
    for path in (cache / REPOSITORY / "snapshots").rglob("[!c]*.*"):
        path.unlink()
    check_model(ModelConfig(vlm=NAME), CPU)
    with pytest.raises(UserError, match="width of someone/tiny-llava is 16"):
        check_model(ModelConfig(vlm=NAME, head_groups=5), CPU)


def test_settings_without_a_width(folders: Folders, tmp_path: Path) -> None:
    folder = rewritten(folders("llava"), tmp_path / "pi0", model_type="pi0")
    with pytest.raises(
        UserError, match="pi0 is not supported: it does not say how wide its latents are"
    ):
        check_model(ModelConfig(vlm=str(folder)), CPU)


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
        ("tiny-random", {"dtype": "bfloat16"}, "are float32: choose model.dtype auto"),
        (
            "tiny-random",
            {"lora": replace(LORA, towers=("vision",))},
            "model.lora.towers is for OWNER/NAME",
        ),
        (NAME, {"quantize": "4bit"}, "set model.lora.rank"),
        (NAME, {"quantize": "8bit"}, "model.quantize must be one of"),
        (NAME, {"dtype": "float16"}, "model.dtype must be one of"),
        (NAME, {"dtype": "bfloat16"}, "steps are lost in bfloat16 weights: set model.lora.rank"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(
    vlm: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        ModelConfig(vlm=vlm, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 2, "towers": ("langauge",)}, "did you mean 'language'"),
        ({"rank": 2, "towers": ()}, "lora.towers is empty"),
        ({"towers": ("vision",)}, "lora.rank is 0"),
        ({"rank": 2, "towers": ("vision",), "targets": "x"}, "set one of them"),
        ({"rank": 2, "targets": "("}, r"lora.targets '\(' is not a regular expression"),
    ],
)
def test_towers_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LoRAConfig(**settings)


@pytest.mark.parametrize(
    ("rank", "device", "dtype"),
    [(0, "cuda", "float32"), (2, "cuda", "bfloat16"), (2, "cpu", "float32")],
)
def test_what_is_trained_in_full_is_float32(
    rank: int, device: str, dtype: str, folders: Folders
) -> None:
    config = ModelConfig(vlm=str(folders("llava")), lora=LoRAConfig(rank=rank))
    vlm = load(config, image_size=64, device=torch.device(device))  # it puts nothing on the device
    assert vlm.dtype == dtype and vlm.model.dtype == getattr(torch, dtype)
