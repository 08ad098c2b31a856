"""Frames of D_e and D_RL in a share: they come back as they were, and travel once."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from irevla.data.episodes import Frames
from irevla.data.shared_frames import get_frames, put_frames
from irevla.errors import UserError
from irevla.storage.share import Damaged, Share


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IREVLA_CACHE", str(tmp_path / "cache"))


def frames(episodes: int) -> Frames:
    """The first `episodes` of one store, of other lengths, on two tasks."""
    rng = np.random.default_rng(0)
    lengths = 3 + np.arange(episodes) % 3
    images = rng.integers(0, 256, (int(lengths.sum()), 4, 4, 3), dtype=np.uint8)
    actions = np.cumsum(np.ones((len(images), 2), np.float32), 0)
    episode = np.repeat(np.arange(episodes), lengths)
    texts = ("go", "stop", "go on")
    return Frames(images, actions, episode % 3, episode % 2, episode, texts, ("a", "b"))


def same(some: Frames, others: Frames) -> bool:
    arrays = ("images", "actions", "state", "instruction", "task", "episode")
    equal = [np.array_equal(getattr(some, name), getattr(others, name)) for name in arrays]
    texts = (some.instructions, some.tasks) == (others.instructions, others.tasks)
    return all(equal) and texts


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("told", [0, 3])
def test_they_come_back_as_they_were(tmp_path: Path, keep: bool, told: int) -> None:
    share = Share(str(tmp_path / "share"))
    some = frames(7)
    some = replace(some, state=np.random.default_rng(1).random((len(some), told), np.float32))
    reference = put_frames(share, some)
    assert same(get_frames(share, reference, keep=keep), some)
    assert same(get_frames(share, reference, keep=keep), some)


def test_only_what_is_not_there_travels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    share = Share(str(tmp_path / "share"))
    sent: list[int] = []
    write = Share.write

    def counted(self: Share, name: str, content: bytes) -> None:
        sent.append(len(content))
        write(self, name, content)

    monkeypatch.setattr(Share, "write", counted)
    put_frames(share, frames(7))
    assert len(sent) == 7 + 1  # and all actions, which are small
    sent.clear()
    put_frames(share, frames(7))
    assert sent == []
    put_frames(share, frames(9))
    assert len(sent) == 2 + 1


def test_kept_images_are_not_fetched_again(tmp_path: Path) -> None:
    share = Share(str(tmp_path / "share"))
    reference = put_frames(share, frames(7))
    get_frames(share, reference, keep=True)
    for path in (tmp_path / "share" / "episodes").iterdir():
        if path.name != reference["actions"]:
            path.unlink()
    assert same(get_frames(share, reference, keep=True), frames(7))
    with pytest.raises(Damaged, match="missing"):
        get_frames(share, reference, keep=False)


@pytest.mark.parametrize("keep", [False, True])
def test_damaged_ones_are_refused_and_mended(tmp_path: Path, keep: bool) -> None:
    share = Share(str(tmp_path / "share"))
    reference = put_frames(share, frames(7))
    path = tmp_path / "share" / "episodes" / reference["episodes"][3][0]
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)
    with pytest.raises(Damaged, match=path.name):
        get_frames(share, reference, keep=keep)
    assert put_frames(share, frames(7)) == reference
    assert same(get_frames(share, reference, keep=keep), frames(7))


@pytest.mark.parametrize(
    "change",
    [
        {"image_shape": [4, 4]},
        {"image_shape": [4, 4, 4]},
        {"image_shape": [-4, -4, 3]},
        {"image_shape": [1 << 20, 1 << 20, 3]},
        {"action_dim": "many"},
        {"episodes": []},
        {"episodes": [["0" * 64, 3, 0, 0]]},
        {"episodes": [["0" * 64, 0, 0, 0, 0]]},
        {"episodes": [["0" * 64, 3, 9, 0, 0]]},
        {"episodes": [["0" * 64, 3, 0, -1, 0]]},
        {"instructions": 3},
    ],
)
def test_what_is_no_reference_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    share = Share(str(tmp_path / "share"))
    reference = put_frames(share, frames(7))
    with pytest.raises(UserError, match="a job says of its episodes is damaged"):
        get_frames(share, {**reference, **change}, keep=False)


def test_the_order_of_episodes_and_their_numbers_stay(tmp_path: Path) -> None:
    some = frames(7)
    shifted = replace(some, episode=some.episode + 40)
    share = Share(str(tmp_path / "share"))
    assert same(get_frames(share, put_frames(share, shifted), keep=False), shifted)


def test_from_a_place_that_is_no_folder_each_episode_comes_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    share = Share(f"memory://{uuid4().hex}")
    read: list[str] = []
    fetch = Share.read

    def counted(self: Share, name: str, most: int) -> bytes | None:
        if self.place.startswith("memory"):
            read.append(name)
        return fetch(self, name, most)

    monkeypatch.setattr(Share, "read", counted)
    for episodes, new in ((7, 7), (9, 2)):
        reference = put_frames(share, frames(episodes))
        read.clear()
        assert same(get_frames(share, reference, keep=False), frames(episodes))
        assert len(read) == new + 1  # and all actions
