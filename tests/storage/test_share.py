"""A place that several machines see: nothing half, nothing else than was put there."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest
from fsspec.implementations.local import LocalFileOpener, LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from irevla.errors import UserError
from irevla.storage.share import Damaged, Share

CONTENT = b"some bytes" * 1000


@pytest.fixture(params=["folder", "memory"])
def share(request: pytest.FixtureRequest, tmp_path: Path) -> Share:
    """A folder, and a file system of fsspec that is none."""
    return Share(str(tmp_path) if request.param == "folder" else f"memory://{uuid4().hex}")


def test_files_and_documents_come_back(share: Share) -> None:
    name = share.put("episodes", CONTENT)
    assert share.get("episodes", name, most=len(CONTENT)) == CONTENT
    assert share.sizes("episodes") == {name: len(CONTENT)}
    assert share.put("episodes", CONTENT) == name
    assert share.sizes("nothing") == {}
    share.say("jobs/a.json", {"step": 3})
    share.say("jobs/a.json", {"step": 4})
    assert Share(share.place).hear("jobs/a.json") == {"step": 4}
    assert share.hear("jobs/b.json") is None
    share.remove("jobs")
    share.remove("jobs")
    assert share.hear("jobs/a.json") is None


class Bucket(MemoryFileSystem):
    """One that looks files up in listings that it keeps, as s3fs and others do."""

    protocol = "bucket"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("bucket://").strip("/")

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        found = super().ls(path, detail=True)
        self.dircache[self._strip_protocol(path)] = found
        return found

    def info(self, path: str, **options: Any) -> Any:
        path = self._strip_protocol(path)
        return (self._ls_from_cache(path) or [super().info(path)])[0]


def test_what_another_machine_brings_is_seen_after_a_look_into_the_folder() -> None:
    fsspec.register_implementation("bucket", Bucket, clobber=True)
    place = f"bucket://{uuid4().hex}"
    share, other = Share(place), Share(place)
    other._fs = Bucket(skip_instance_cache=True)  # of another machine
    first = other.put("jobs/files", CONTENT)
    assert share.sizes("jobs/files") == {first: len(CONTENT)}
    name = other.put("jobs/files", b"new")
    assert share.get("jobs/files", name, most=3) == b"new"


def test_another_file_of_that_name_is_refused_and_deleted(share: Share) -> None:
    name = share.put("episodes", CONTENT)
    share.write(f"episodes/{name}", CONTENT[:-1] + b"!")
    with pytest.raises(Damaged, match=f"{name} was not what its name says, and is deleted; give"):
        share.get("episodes", name, most=len(CONTENT))
    with pytest.raises(Damaged, match=f"{name} is missing"):
        share.get("episodes", name, most=len(CONTENT))
    share.put("episodes", CONTENT)
    assert share.get("episodes", name, most=len(CONTENT)) == CONTENT


def test_a_file_that_is_too_large_is_not_read(share: Share) -> None:
    name = share.put("episodes", CONTENT)
    with pytest.raises(Damaged, match="too large"):
        share.get("episodes", name, most=len(CONTENT) - 1)


def test_a_torn_document_is_deleted(share: Share) -> None:
    share.write("jobs/a.json", b'{"step": 3')
    with pytest.raises(Damaged, match=r"jobs/a.json is damaged: no JSON"):
        share.hear("jobs/a.json")
    assert share.hear("jobs/a.json") is None


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[OSError | None], None]]:
    """Say which error writing to a folder ends with, half of the bytes being written by then."""
    fault: list[OSError | None] = [None]
    write = LocalFileOpener.write if "write" in vars(LocalFileOpener) else None

    def failing(self: Any, content: bytes) -> int:
        if fault[0] is not None:
            self.f.write(content[: len(content) // 2])
            raise fault[0]
        return int(self.f.write(content)) if write is None else write(self, content)

    monkeypatch.setattr(LocalFileOpener, "write", failing, raising=False)
    yield lambda error: fault.__setitem__(0, error)


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device; make room"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "reset by peer"),
        (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)), "No such file or directory"),
    ],
)
def test_a_write_that_fails_on_the_way_leaves_nothing(
    tmp_path: Path, writes: Callable[[OSError | None], None], error: OSError, remedy: str
) -> None:
    share = Share(str(tmp_path))
    share.say("jobs/a.json", {"step": 3})
    writes(error)
    with pytest.raises(UserError, match=remedy):
        share.put("episodes", CONTENT)
    with pytest.raises(UserError, match=remedy):
        share.say("jobs/a.json", {"step": 4})
    assert share.sizes("episodes") == {}
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == ["a.json"]
    assert share.hear("jobs/a.json") == {"step": 3}
    writes(None)
    name = share.put("episodes", CONTENT)
    assert share.get("episodes", name, most=len(CONTENT)) == CONTENT


@pytest.mark.parametrize("call", ["put", "hear", "sizes", "remove"])
def test_what_a_bucket_s_library_raises_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """That of S3 has errors of its own, as where there are no credentials."""
    share = Share(str(tmp_path))

    class NoCredentials(Exception):
        pass

    def fail(*args: Any, **keywords: Any) -> Any:
        raise NoCredentials("Unable to locate\n  credentials")

    for name in ("makedirs", "open", "mv", "rm", "ls", "size", "cat_file"):
        monkeypatch.setattr(share._fs, name, fail)
    asked: dict[str, Callable[[], Any]] = {
        "put": lambda: share.put("episodes", CONTENT),
        "hear": lambda: share.hear("jobs/a.json"),
        "sizes": lambda: share.sizes("episodes"),
        "remove": lambda: share.remove("jobs"),
    }
    with pytest.raises(UserError, match="Unable to locate credentials; give the same command ag"):
        asked[call]()


def test_a_kill_while_it_writes_leaves_nothing_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = Share(str(tmp_path))

    def kill(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt  # as of SIGKILL, nothing is cleaned up

    monkeypatch.setattr(LocalFileSystem, "mv", kill)
    with pytest.raises(KeyboardInterrupt):
        share.put("episodes", CONTENT)
    monkeypatch.undo()
    assert all(name.endswith(".part") for name in share.sizes("episodes"))
    name = share.put("episodes", CONTENT)
    assert share.get("episodes", name, most=len(CONTENT)) == CONTENT


def test_a_place_that_cannot_be_is_said_in_one_line(tmp_path: Path) -> None:
    for place in ("nonsense://bucket", "s3://bucket"):
        try:
            fsspec.core.url_to_fs(place)
        except (ImportError, ValueError):
            with pytest.raises(UserError, match=f"compute.share '{place}' cannot be used"):
                Share(place)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UserError, match="episodes"):
        Share(str(file)).put("episodes", CONTENT)


def test_a_folder_is_the_same_one_wherever_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    share = Share("here")
    name = share.put("episodes", CONTENT)
    monkeypatch.chdir("/")
    assert Share(share.place).get("episodes", name, most=len(CONTENT)) == CONTENT
