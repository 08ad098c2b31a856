import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from irevla.data.read_replay import ReadReplay, sample_both
from irevla.data.replay import (
    EPISODES,
    HEADER,
    RECORDS,
    LatentEpisode,
    LatentReplay,
    LatentSpec,
)
from irevla.errors import UserError
from irevla.storage import disk
from irevla.types import Features

SPEC = LatentSpec(
    weights="a" * 64, encoder="cpu float32", suite="toy", tokens=3, width=4, action_dim=2
)


def episode(first: int, length: int, *, success: bool, tokens: int = 3) -> LatentEpisode:
    """Observations numbered from `first`, in every token; the action has the number of what was
    seen before it."""
    numbers = torch.arange(first, first + length, dtype=torch.float32)
    features = Features(
        numbers[:, None, None].expand(-1, tokens, 4),
        torch.ones(len(numbers), tokens, dtype=torch.bool),
    )
    rewards = torch.zeros(length)
    rewards[-1] = float(success)
    return LatentEpisode(features, torch.stack([numbers, -numbers], 1), rewards)


def numbers(features: Features) -> torch.Tensor:
    return features.tokens[:, 0, 0]


def seen(buffer: LatentReplay) -> set[float]:
    return set(numbers(buffer.features(np.arange(len(buffer)))).tolist())


def read(buffer: LatentReplay, *, gamma: float = 0.5) -> ReadReplay:
    """All of it, by a head whose h' is the first token."""
    made = ReadReplay(buffer, lambda features: features.tokens[:, 0], gamma=gamma)
    made.take_up(len(buffer.episodes))
    return made


def test_every_decision_comes_back_with_what_was_seen_and_what_came_of_it(tmp_path: Path) -> None:
    buffer = LatentReplay(tmp_path / "latents", SPEC)
    buffer.append(episode(10, 3, success=False))
    buffer.append(episode(20, 2, success=True))
    buffer.append(episode(30, 1, success=True))
    assert len(buffer) == 6
    every = np.arange(6)
    batch, features = read(buffer).decisions(every), buffer.features(every)
    seen = numbers(features)
    assert torch.equal(batch.actions, torch.stack([seen, -seen], 1))
    assert torch.equal(batch.h, features.tokens[:, 0])
    assert features.mask.all() and features.tokens.dtype == torch.float32
    returns = dict(zip(seen.tolist(), batch.returns.tolist(), strict=True))
    assert returns == {10: 0, 11: 0, 12: 0, 20: 0.5, 21: 1, 30: 1}
    assert read(buffer, gamma=0.25).decisions(every).returns[3] == 0.25


def test_returns_add_up_and_are_of_what_came_since(tmp_path: Path) -> None:
    buffer = LatentReplay(tmp_path, SPEC)
    shown = episode(0, 3, success=True)
    buffer.append(replace(shown, rewards=torch.tensor([4.0, 2.0, 8.0])))
    once = read(buffer)
    first = [6.0, 7.0, 8.0]  # the middle one 2 + 8 / 2, the first 4 + 6 / 2
    assert sorted(once.decisions(np.arange(3)).returns.tolist()) == first
    buffer.append(replace(shown, rewards=torch.tensor([0.0, 0.0, 16.0])))
    once.take_up(2)
    for buffered in (once, read(buffer)):
        assert sorted(buffered.decisions(np.arange(6)).returns.tolist()) == [4, *first, 8, 16]


def test_decisions_are_drawn_equally_often_and_by_the_generator(tmp_path: Path) -> None:
    buffer = LatentReplay(tmp_path, SPEC)
    buffer.append(episode(0, 1, success=False))
    buffer.append(episode(2, 4, success=True))
    drawn, again = (read(buffer).draw(5000, torch.Generator().manual_seed(0)) for _ in range(2))
    assert (drawn == again).all()
    _, counts = np.unique(drawn, return_counts=True)
    assert len(counts) == 5 and abs(counts - 1000).max() < 120


@pytest.mark.parametrize("first", [False, True])
def test_padding_beside_longer_instructions_takes_no_room(tmp_path: Path, first: bool) -> None:
    buffer = LatentReplay(tmp_path / "latents", SPEC)
    plain = episode(10, 2, success=True)
    beyond = torch.zeros(2, 2, 4)
    masked = torch.zeros(2, 2, dtype=torch.bool)
    tokens, mask = plain.features.tokens, plain.features.mask
    order = (beyond, tokens) if first else (tokens, beyond)
    masks = (masked, mask) if first else (mask, masked)
    padded = Features(torch.cat(order, 1), torch.cat(masks, 1))
    buffer.append(replace(plain, features=padded))
    assert buffer.read(0).features.tokens.tolist() == tokens.tolist()
    assert buffer.read(0).features.mask.all()
    with pytest.raises(UserError, match="holds 3 tokens, not 4"):
        buffer.append(episode(10, 2, success=True, tokens=4))


def test_padding_may_lie_elsewhere_in_each_decision(tmp_path: Path) -> None:
    """Two cameras' tokens, each padded to the longest instruction of its batch."""
    buffer = LatentReplay(tmp_path / "latents", SPEC)
    mask = torch.tensor([[1, 1, 0, 1, 0], [1, 0, 1, 0, 1]]).bool()
    tokens = torch.arange(5.0)[None, :, None].expand(2, -1, 4)
    rewards = torch.tensor([0.0, 1.0])
    buffer.append(LatentEpisode(Features(tokens, mask), torch.zeros(2, 2), rewards))
    kept = buffer.read(0).features
    assert kept.tokens[..., 0].tolist() == [[0, 1, 3], [0, 2, 4]] and kept.mask.all()


def test_tokens_are_kept_in_bfloat16_and_short_ones_are_padded(tmp_path: Path) -> None:
    buffer = LatentReplay(tmp_path, SPEC)
    tokens = torch.randn(2, 2, 4)
    short = Features(tokens, torch.tensor([[True, False]] * 2))
    buffer.append(LatentEpisode(short, torch.zeros(2, 2), torch.zeros(2)))
    features = buffer.features(np.arange(2))
    assert torch.equal(features.tokens[:, :2], tokens.bfloat16().float())
    assert features.mask.tolist() == [[True, False, False]] * 2
    with pytest.raises(UserError, match="3 tokens, not 5"):
        buffer.append(episode(0, 1, success=True, tokens=5))


def test_what_is_there_is_there_again(tmp_path: Path) -> None:
    buffer = LatentReplay(tmp_path, SPEC)
    buffer.append(episode(0, 5, success=False))
    again = LatentReplay(tmp_path, SPEC)
    assert len(again) == 5
    assert seen(again) == seen(buffer) == {0, 1, 2, 3, 4}
    again.append(episode(10, 2, success=True))
    buffer.append(episode(20, 2, success=True))  # after the other's, not over it
    assert seen(LatentReplay(tmp_path, SPEC)) == seen(buffer) == {0, 1, 2, 3, 4, 10, 11, 20, 21}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weights", "b" * 64),
        ("encoder", "cuda bfloat16"),
        ("suite", "other"),
        ("tokens", 4),
        ("width", 8),
        ("action_dim", 3),
    ],
)
def test_latents_of_others_are_refused(tmp_path: Path, name: str, value: Any) -> None:
    LatentReplay(tmp_path, SPEC).append(episode(0, 5, success=False))
    said = "made on 'cpu float32', and would be" if name == "encoder" else f"made with {name} = "
    with pytest.raises(UserError, match=said):
        LatentReplay(tmp_path, replace(SPEC, **{name: value}))
    assert len(LatentReplay(tmp_path, SPEC)) == 5


@pytest.mark.parametrize("tail", [b"", b"\0" * 5, b"\x7f" * 1000])
def test_a_half_written_episode_is_none(tmp_path: Path, tail: bytes) -> None:
    LatentReplay(tmp_path, SPEC).append(episode(0, 5, success=False))
    with (tmp_path / RECORDS).open("ab") as file:
        file.write(tail)
    with (tmp_path / EPISODES).open("ab") as file:
        file.write(b'{"event": "episode", "observ')
    buffer = LatentReplay(tmp_path, SPEC)
    assert len(buffer) == 5
    buffer.append(episode(10, 2, success=True))
    assert seen(LatentReplay(tmp_path, SPEC)) == {0, 1, 2, 3, 4, 10, 11}


def test_a_kill_while_it_is_made_is_no_harm(tmp_path: Path) -> None:
    (tmp_path / RECORDS).touch()
    (tmp_path / disk.STAGING).mkdir()
    LatentReplay(tmp_path, SPEC).append(episode(0, 5, success=False))
    assert len(LatentReplay(tmp_path, SPEC)) == 5


def test_corruption_is_told(tmp_path: Path) -> None:
    buffer = LatentReplay(tmp_path, SPEC)
    for first in (0, 10):
        buffer.append(episode(first, 5, success=False))
    whole = (tmp_path / RECORDS).read_bytes()
    flipped = bytearray(whole)
    flipped[-100] ^= 1
    (tmp_path / RECORDS).write_bytes(flipped)
    with pytest.raises(UserError, match=r"episode 1 in .* is corrupt"):
        LatentReplay(tmp_path, SPEC)
    (tmp_path / RECORDS).write_bytes(whole[:-1])
    with pytest.raises(UserError, match="cut short"):
        LatentReplay(tmp_path, SPEC)
    (tmp_path / RECORDS).write_bytes(whole)
    (tmp_path / HEADER).write_text("{")
    with pytest.raises(UserError, match=r"header.json is damaged"):
        LatentReplay(tmp_path, SPEC)


def test_another_format_and_another_folder_are_refused(tmp_path: Path) -> None:
    LatentReplay(tmp_path / "latents", SPEC)
    header = json.loads((tmp_path / "latents" / HEADER).read_text())
    (tmp_path / "latents" / HEADER).write_text(json.dumps(header | {"format": 1}))
    with pytest.raises(UserError, match="format = 1"):
        LatentReplay(tmp_path / "latents", SPEC)
    with pytest.raises(UserError, match="something else"):
        LatentReplay(tmp_path, SPEC)


def test_a_full_disk_costs_one_episode_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = LatentReplay(tmp_path, SPEC)
    buffer.append(episode(0, 5, success=False))

    def full(path: Path, size: int, content: bytes) -> None:
        path.write_bytes(path.read_bytes() + content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="make room"):
        patch.setattr(disk, "extend", full)
        buffer.append(episode(10, 5, success=False))
    buffer.append(episode(20, 1, success=True))
    assert seen(LatentReplay(tmp_path, SPEC)) == {0, 1, 2, 3, 4, 20}


def test_half_is_demonstrated(tmp_path: Path) -> None:
    demonstrations, online = LatentReplay(tmp_path / "a", SPEC), LatentReplay(tmp_path / "b", SPEC)
    demonstrations.append(episode(0, 3, success=True))
    generator = torch.Generator().manual_seed(0)
    both = read(demonstrations), read(online)
    assert (numbers(sample_both(*both, 10, generator).features()) < 3).all()
    online.append(episode(100, 30, success=False))
    assert len(both[1]) == 0, "only what was taken up is sampled"
    both[1].take_up(1)
    sample = sample_both(*both, 10, generator)
    batch, features = sample.decisions(), sample.features()
    assert len(batch) == 10 and (numbers(features) < 3).sum() == 5
    assert torch.equal(batch.actions[:, 0], numbers(features))
    assert torch.equal(batch.h[:, 0], numbers(features))


def test_where_the_disk_is_full_what_was_read_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = LatentReplay(tmp_path, SPEC)
    buffer.append(episode(0, 3, success=True))
    made = read(buffer)
    buffer.append(episode(10, 2, success=True))

    def full(content: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="make room"):
        patch.setattr(made, "_file", SimpleNamespace(write=full, seek=made._file.seek))
        made.take_up(2)
    assert len(made) == 3
    made.take_up(2)
    assert made.decisions(np.arange(5)).actions[:, 0].tolist() == [0, 1, 2, 10, 11]


def test_an_episode_of_unequal_parts_is_our_fault() -> None:
    whole = episode(0, 3, success=False)
    with pytest.raises(AssertionError):
        LatentEpisode(whole.features[:2], whole.actions, whole.rewards)


def test_an_episode_of_chunks_folds_rewards_and_holds_its_last_action() -> None:
    seen = Features(torch.zeros(3, 3, 4), torch.ones(3, 3, dtype=torch.bool))
    actions = torch.arange(10.0).view(5, 2) / 10
    rewards = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])
    made = LatentEpisode.of_steps(seen, actions, rewards, execute=2, gamma=0.5)
    assert made.rewards.tolist() == [1 + 0.5 * 2, 4 + 0.5 * 8, 16]
    assert torch.equal(made.actions[:2], actions[:4].view(2, 4))
    assert torch.equal(made.actions[2], torch.cat([actions[4], actions[4]]))


def test_returns_over_chunks_are_those_over_steps(tmp_path: Path) -> None:
    """gamma^n from one to the next: the first one's return is that of the whole episode."""
    rewards = torch.tensor([0.0, 1.0, 0.0, 0.0, 2.0])
    seen = Features(torch.zeros(3, 3, 4), torch.ones(3, 3, dtype=torch.bool))
    store = LatentReplay(tmp_path / "latents", replace(SPEC, action_dim=4))
    actions = torch.zeros(5, 2)
    store.append(LatentEpisode.of_steps(seen, actions, rewards, execute=2, gamma=0.5), seed=0)
    returns = read(store, gamma=0.5**2).decisions(np.arange(3)).returns
    assert returns.tolist() == [0.5 + 2 * 0.5**4, 2 * 0.5**2, 2]
