"""Policies on the Hub: everything but the network, which a folder stands in for."""

import shutil
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import yaml
from huggingface_hub import errors
from pretrained import NAME, REVISION, adapted, register

from irevla.config import ModelConfig
from irevla.errors import UserError
from irevla.models.hub import download, locate, model_card
from irevla.models.policy import VLAPolicy, build_policy

COMMIT = "c" * 40
REPO = "me/policy"


class FakeHub:
    """The Hub as a folder, with what of huggingface_hub is used."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.private: dict[str, bool] = {}
        self.fetched: list[str] = []

    def create_repo(self, repo: str, *, private: bool, exist_ok: bool) -> str:
        assert exist_ok
        self.private.setdefault(repo, private)
        (self.root / repo).mkdir(parents=True, exist_ok=True)
        (self.root / repo / ".gitattributes").touch()
        return f"hub://{repo}"

    def list_repo_files(self, repo: str) -> list[str]:
        return [path.name for path in (self.root / repo).iterdir()]

    def repo_info(self, repo: str) -> SimpleNamespace:
        return SimpleNamespace(private=self.private[repo])

    def upload_folder(
        self, *, repo_id: str, folder_path: Path, commit_message: str, delete_patterns: list[str]
    ) -> None:
        new = {path.name for path in folder_path.iterdir()}
        for path in (self.root / repo_id).iterdir():
            if path.name not in new and any(
                fnmatch(path.name, pattern) for pattern in delete_patterns
            ):
                path.unlink()
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)

    def snapshot_download(
        self, repo: str, *, revision: str | None, allow_patterns: list[str]
    ) -> str:
        assert revision in (None, "main", COMMIT)
        here = self.root / "cache" / repo / COMMIT
        here.mkdir(parents=True, exist_ok=True)
        for path in (self.root / repo).iterdir():
            if any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copy(path, here)
                self.fetched.append(path.name)
        return str(here)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda library_name: fake)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    monkeypatch.chdir(tmp_path)  # where no folder is called me/policy
    register(monkeypatch)
    return fake


def small() -> VLAPolicy:
    return build_policy(
        ModelConfig(vlm="tiny-random", width=32, layers=1, head_groups=4, head_hidden=16),
        action_dim=3,
        image_size=32,
    )


def example_images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("make", [small, adapted])
def test_what_is_pushed_comes_back_bit_for_bit(make: Callable[[], VLAPolicy], hub: FakeHub) -> None:
    policy = make()
    assert policy.push_to_hub(REPO) == f"hub://{REPO}"
    loaded = VLAPolicy.from_pretrained(REPO)
    assert loaded.hash() == policy.hash()
    assert np.array_equal(
        loaded.act(example_images(), "open"), policy.act(example_images(), "open")
    )
    assert VLAPolicy.from_pretrained(REPO, revision="main").hash() == policy.hash()
    assert "README.md" in hub.list_repo_files(REPO)


def test_an_older_policy_is_replaced_with_its_adapter(hub: FakeHub) -> None:
    adapted().push_to_hub(REPO)
    whole = adapted(rank=0)
    whole.push_to_hub(REPO)
    assert not any(name.startswith("adapter_") for name in hub.list_repo_files(REPO))
    assert VLAPolicy.from_pretrained(REPO).hash() == whole.hash()


def test_a_repository_of_something_else_is_left_alone(hub: FakeHub) -> None:
    (hub.root / REPO).mkdir(parents=True)
    (hub.root / REPO / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"holds other files \(thesis\.tex\)"):
        small().push_to_hub(REPO)
    assert not (hub.root / REPO / "model.safetensors").exists()


def test_private_means_private(hub: FakeHub) -> None:
    small().push_to_hub(REPO, private=True)
    assert hub.private[REPO]
    small().push_to_hub("me/public")
    with pytest.raises(UserError, match="exists and is public"):
        small().push_to_hub("me/public", private=True)


def test_nothing_large_is_fetched_of_what_is_no_policy(hub: FakeHub) -> None:
    (hub.root / "google" / "bert").mkdir(parents=True)
    (hub.root / "google" / "bert" / "config.json").write_text('{"model_type": "bert"}')
    (hub.root / "google" / "bert" / "model.safetensors").write_bytes(b"x" * 1000)
    with pytest.raises(UserError, match="google/bert on the Hub is not a policy"):
        VLAPolicy.from_pretrained("google/bert")
    assert hub.fetched == ["config.json"]


def test_only_safe_formats_are_fetched(hub: FakeHub) -> None:
    small().push_to_hub(REPO)
    (hub.root / REPO / "train.py").write_text("print()")
    (hub.root / REPO / "pytorch_model.bin").write_bytes(b"pickle")
    assert {path.suffix for path in download(REPO).iterdir()} == {".json", ".md", ".safetensors"}


def test_a_partial_repository_is_named(hub: FakeHub) -> None:
    adapted().push_to_hub(REPO)
    (hub.root / REPO / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"adapter_model\.safetensors is missing"):
        VLAPolicy.from_pretrained(REPO)


def test_a_folder_of_that_name_comes_first(hub: FakeHub) -> None:
    policy = small()
    policy.save_pretrained(Path(REPO))
    assert VLAPolicy.from_pretrained(REPO).hash() == policy.hash() and hub.fetched == []
    with pytest.raises(UserError, match="is a folder and has no revision main"):
        locate(REPO, revision="main")


@pytest.mark.parametrize(
    "path", ["/nowhere/policy", "./me/policy", "../me/policy", "policy", "a/b/c", "~/policy"]
)
def test_paths_are_not_looked_up_on_the_hub(path: str, hub: FakeHub) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        locate(path)
    assert hub.fetched == []


@pytest.mark.parametrize("repo", ["policy", "a/b/c", "", "me/"])
def test_a_bad_name_is_the_users_error(repo: str, hub: FakeHub) -> None:
    with pytest.raises(UserError, match="no name of a repository: say OWNER/NAME"):
        small().push_to_hub(repo)


def test_a_base_that_no_one_else_has_is_not_pushed(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "base").mkdir()
    register(monkeypatch, base=str(tmp_path / "base"), revision="")
    with pytest.raises(
        UserError, match=r"the base model is the folder .*base, which no one else has"
    ):
        adapted().push_to_hub(REPO)


# --- what the Hub may say


def answer(kind: type[errors.HfHubHTTPError], status: int) -> Exception:
    request = sys.modules[errors.HTTPError.__module__.partition(".")[0]]  # httpx or httpx2
    response = request.Response(status, request=request.Request("GET", "https://example.org"))
    return kind("a long\n\nstory", response=response)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (answer(errors.RepositoryNotFoundError, 404), "no such repository, or it is private"),
        (answer(errors.GatedRepoError, 403), "gated: ask for access"),
        (answer(errors.RevisionNotFoundError, 404), "no such revision"),
        (answer(errors.HfHubHTTPError, 401), "does not know you: log in"),
        (answer(errors.HfHubHTTPError, 403), "a token that may write"),
        (answer(errors.HfHubHTTPError, 500), "a long story"),
        (errors.LocalEntryNotFoundError("offline\nat all"), "cannot be reached"),
        (errors.OfflineModeIsEnabled("offline"), "cannot be reached"),
        (errors.LocalTokenNotFoundError("no token"), "does not know you: log in"),
        (
            errors.HFValidationError("Cannot have -- or ..\nin repo_id"),
            "Cannot have -- or .. in repo_id",
        ),
        (errors.HTTPError("no answer"), "cannot be reached"),
    ],
)
def test_every_answer_becomes_one_line(
    error: Exception, said: str, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object, **options: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    monkeypatch.setattr(FakeHub, "create_repo", fails)
    for attempt in (lambda: VLAPolicy.from_pretrained(REPO), lambda: small().push_to_hub(REPO)):
        with pytest.raises(UserError, match=said) as caught:
            attempt()
        assert "\n" not in str(caught.value) and REPO in str(caught.value)


def test_the_library_itself_says_what_is_wrong_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        UserError, match=r"there is no folder me/policy, and .* the Hub cannot be reached"
    ):
        VLAPolicy.from_pretrained(REPO)
    with pytest.raises(UserError, match="cannot push to me/policy: the Hub cannot be reached"):
        small().push_to_hub(REPO)


def test_without_the_library_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        UserError, match=r"there is no folder me/policy; .*pip install 'irevla\[hub\]'"
    ):
        VLAPolicy.from_pretrained(REPO)


# --- the card


def front_matter(card: str) -> dict[str, object]:
    front = yaml.safe_load(card.split("---")[1])
    assert isinstance(front, dict)
    return front


def test_the_card_of_an_adapter_names_its_base(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)
    card = model_card(
        adapted().files()["config.json"], name=REPO, results="## Success rates\n\n| Task |"
    )
    front = front_matter(card)
    assert front["library_name"] == "irevla" and front["base_model"] == NAME
    assert front["base_model_relation"] == "adapter" and "license" not in front
    assert REVISION in card and "LoRA of rank 2" in card and f'from_pretrained("{REPO}")' in card
    assert card.endswith("| Task |\n")
    assert (
        front_matter(model_card(adapted(rank=0).files()["config.json"], name=REPO))[
            "base_model_relation"
        ]
        == "finetune"
    )


def test_the_card_says_what_else_must_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)
    whole = model_card(adapted(rank=0).files()["config.json"], name=REPO)
    assert (
        "all weights are here, but loading them reads that model too" in whole
        and "all of it" not in whole
    )
    assert "the rest is loaded from there" in model_card(
        adapted().files()["config.json"], name=REPO
    )
    assert "all of it is here" in model_card(small().files()["config.json"], name=REPO)


def test_the_card_of_a_small_policy_has_no_base() -> None:
    card = model_card(small().files()["config.json"], name=REPO)
    assert (
        "base_model" not in front_matter(card)
        and "uint8[32, 32, 3]" in card
        and "float32[3]" in card
    )
