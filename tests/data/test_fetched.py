"""Datasets on the Hub: everything but the network, which a folder stands in for."""

import json
import shutil
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import errors
from recorded import IMAGES, VIDEOS, as_v21, edit_info

from irevla.cli.main import main
from irevla.data import fetched
from irevla.data.fetched import dataset_folder, named
from irevla.errors import UserError

COMMIT = "c" * 40
REPO = "someone/discs"


class FakeHub:
    """The Hub as a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[str | None] = []

    def put(self, dataset: Path) -> Path:
        return Path(shutil.copytree(dataset, self.root / REPO))

    def snapshot_download(
        self, repo: str, *, repo_type: str, revision: str | None, allow_patterns: Sequence[str]
    ) -> str:
        assert repo_type == "dataset"
        self.asked.append(revision)
        if not (self.root / repo).exists():
            raise errors.LocalEntryNotFoundError("no network, and not in the cache")
        here = self.root / "cache" / repo / COMMIT
        for path in (self.root / repo).rglob("*"):
            name = str(path.relative_to(self.root / repo))
            if path.is_file() and any(fnmatch(name, pattern) for pattern in allow_patterns):
                (here / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, here / name)
        return str(here)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    monkeypatch.chdir(tmp_path)
    fetched._fetched.cache_clear()
    return fake


def there(root: Path) -> set[str]:
    return {path.relative_to(root).parts[0] for path in root.rglob("*") if path.is_file()}


def test_a_folder_is_itself(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "someone/discs").mkdir(parents=True)
    assert dataset_folder(REPO, ()) == Path(REPO)
    assert dataset_folder("/nowhere", ()) == Path("/nowhere")
    assert not hub.asked
    named(REPO)
    with pytest.raises(UserError, match="no dataset /nowhere; name another folder"):
        named("/nowhere")


def test_what_is_needed_is_fetched_once_and_of_one_commit(hub: FakeHub) -> None:
    hub.put(VIDEOS)
    found = dataset_folder(f"{REPO}@main", ["front"])
    assert {path.name for path in (found / "videos").iterdir()} == {"observation.images.front"}
    assert there(found) == {"meta", "data", "videos"}
    assert dataset_folder(f"{REPO}@main", ["front"]) == found
    assert hub.asked == ["main", COMMIT], "what was newest must not change in between"
    assert len(list((dataset_folder(REPO, ()) / "videos").iterdir())) == 2, "a choice is to be made"


def test_the_videos_of_one_camera_of_version_2(hub: FakeHub, tmp_path: Path) -> None:
    hub.put(as_v21(VIDEOS, tmp_path / "old"))
    found = dataset_folder(REPO, ["wrist"])
    folders = {path.name for path in (found / "videos/chunk-000").iterdir()}
    assert folders == {"observation.images.wrist"}
    assert {path.name for path in (found / "meta").iterdir()} == {
        "info.json", "episodes.jsonl", "tasks.jsonl",
    }  # fmt: skip


def test_files_that_are_elsewhere(hub: FakeHub) -> None:
    root = hub.put(VIDEOS)
    (root / "data").rename(root / "frames")
    edit_info(root, data_path="frames/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet")
    assert there(dataset_folder(REPO, ["front"])) == {"meta", "frames", "videos"}


def test_irevla_data_needs_no_videos(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.put(VIDEOS)
    assert main(["data", REPO, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["episodes"] == 4
    assert not (hub.root / "cache" / REPO / COMMIT / "videos").exists()


def test_nothing_large_is_fetched_of_what_is_none(hub: FakeHub) -> None:
    edit_info(hub.put(IMAGES), codebase_version="v1.6")
    with pytest.raises(UserError, match=r"LeRobotDataset v1\.6, and irevla reads v3\.0, v2\.0 and"):
        dataset_folder(REPO, ())
    assert there(hub.root / "cache") == {"someone"} and len(hub.asked) == 1


def test_where_it_cannot_be_had_it_is_one_line(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = ["run", "pointmass", "--expert.dataset", "someone/else", "--out", str(tmp_path / "r")]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "no folder someone/else, and it cannot be had from the Hub: the Hub cannot be" in said
    assert not (tmp_path / "r").exists()
