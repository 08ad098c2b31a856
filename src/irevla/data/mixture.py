"""What the supervised stages learn from: (o, l, a) drawn from D_e, or from D_e and D_RL (equations
2 and 4)."""

import hashlib
from collections.abc import Iterator
from fractions import Fraction
from math import ceil, floor
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from torch import Tensor

from irevla.data.episodes import Frames


class Batch(NamedTuple):
    """Samples (o, l, a) of a supervised step."""

    images: UInt8[Tensor, "B H W 3"]
    instructions: list[str]
    actions: Float32[Tensor, "B A"]


class Mixture:
    """Batches of which a fixed share comes from D_RL (`online`) and the rest from D_e (`expert`).

    Batch number `step` of `seed` is a function of these two alone: a resumed run draws what an
    uninterrupted one would, and no generator's state need be saved. `validation` is the share of
    the episodes held out (see `held_out`). `balanced`: every task of a store is drawn equally
    often; else every frame, which favours tasks of long episodes. `discount`: within a task, a
    frame of D_RL is drawn in proportion to its return, discount^(decisions until success); at 1 all
    alike. Without online data the share is 0. Frames are not copied.
    """

    def __init__(
        self,
        expert: Frames,
        online: Frames | None = None,
        online_share: float = 0.25,
        *,
        validation: float = 0.0,
        balanced: bool = True,
        discount: float = 1.0,
    ) -> None:
        has_online = online is not None and len(online) > 0
        self.online_share = online_share if has_online else 0.0
        self._expert = _Source("expert", expert, validation, balanced)
        self._online = (
            _Source("online", online, validation, balanced, discount)
            if online is not None and has_online
            else None
        )

    def batch(self, step: int, size: int, seed: int) -> Batch:
        """Batch number `step`: `online_count(step, size)` samples of D_RL after those of D_e."""
        online = self.online_count(step, size)
        parts = [self._expert.draw(size - online, _generator(step, seed, stream=0))]
        if self._online is not None:
            parts.append(self._online.draw(online, _generator(step, seed, stream=1)))
        return _join(parts)

    def online_count(self, step: int, size: int) -> int:
        """How many samples of batch `step` are D_RL's. Where size * share is no whole number,
        batches take turns."""
        share = Fraction(self.online_share).limit_denominator(10_000) * size
        return floor((step + 1) * share) - floor(step * share)

    def validation(self, *, chunk: int = 256, limit: int = 1024) -> dict[str, Iterator[Batch]]:
        """The held-out frames of each store ("expert", "online") in chunks; at most `limit` of
        each, evenly spread."""
        sources = [
            source
            for source in (self._expert, self._online)
            if source is not None and len(source.held_out)
        ]
        return {source.name: source.validation(chunk, limit) for source in sources}

    def signature(self) -> dict[str, int | float]:
        """What a resumed run compares, to be sure that it goes on with the same data."""
        online = 0 if self._online is None else len(self._online.frames)
        return {
            "expert_frames": len(self._expert.frames),
            "online_frames": online,
            "online_share": self.online_share,
        }


def held_out(
    episodes: Int64[np.ndarray, " N"], share: float, *, store: str
) -> Bool[np.ndarray, " N"]:
    """Which episodes are for validation: one, chosen by a hash, of every 1/share that follow each
    other.

    Depends on the episode's number and the store's name alone. So it stays the same while the store
    grows, in every stage and whatever the run's seed: what was held out once is never trained on.
    Tasks, collected one after another, get about equal shares.
    """
    if share == 0:
        return np.zeros(len(episodes), bool)
    ratio = Fraction(share).limit_denominator(10_000)
    chosen = {
        _choice(cell, ratio, store)
        for cell in range(floor(int(episodes.max(initial=0)) * ratio) + 1)
    }
    return np.isin(episodes, list(chosen))


def _choice(cell: int, ratio: Fraction, store: str) -> int:
    """The episode held out among those numbered from cell / ratio to (cell + 1) / ratio."""
    first, stop = ceil(cell / ratio), ceil((cell + 1) / ratio)
    digest = hashlib.sha256(f"{store} {cell}".encode()).digest()
    return first + int.from_bytes(digest[:8], "big") % (stop - first)


class _Source:
    """One store, split and sorted by task for drawing."""

    def __init__(
        self, name: str, frames: Frames, validation: float, balanced: bool, discount: float = 1.0
    ) -> None:
        assert len(frames) > 0, f"{name}: no frames"
        out = held_out(frames.episode, validation, store=name)
        if out.all():  # so few episodes that nothing would be left to learn from
            out[:] = False
        self.name = name
        self.frames = frames
        self.images = torch.from_numpy(frames.images)
        self.actions = torch.from_numpy(frames.actions)
        self.held_out = np.flatnonzero(out)
        train = np.flatnonzero(~out)
        groups = frames.task[train] if balanced else np.zeros(len(train), np.int64)
        self.order = train[np.argsort(groups, kind="stable")]
        _, self.counts = np.unique(groups, return_counts=True)
        self.starts = np.cumsum(self.counts) - self.counts
        returns = discount ** _to_go(frames.episode)[self.order].astype(np.float64)
        self.sums = (
            np.append(0.0, np.cumsum(returns)) if discount < 1 else None
        )  # before each place of `order`

    def draw(self, size: int, generator: np.random.Generator) -> Batch:
        """With replacement: a task, then a frame of it."""
        group = generator.integers(len(self.counts), size=size)
        start, stop = self.starts[group], self.starts[group] + self.counts[group]
        if self.sums is None:
            return self.take(self.order[start + generator.integers(self.counts[group])])
        place = (
            np.searchsorted(
                self.sums, generator.uniform(self.sums[start], self.sums[stop]), side="right"
            )
            - 1
        )
        return self.take(self.order[np.minimum(place, stop - 1)])  # rounding may reach the end

    def take(self, index: Int64[np.ndarray, " B"]) -> Batch:
        chosen = torch.from_numpy(index)
        instructions = [self.frames.instructions[i] for i in self.frames.instruction[index]]
        return Batch(
            self.images.index_select(0, chosen), instructions, self.actions.index_select(0, chosen)
        )

    def validation(self, chunk: int, limit: int) -> Iterator[Batch]:
        count = min(limit, len(self.held_out))
        spread = self.held_out[np.arange(count) * len(self.held_out) // count]
        for start in range(0, count, chunk):
            yield self.take(spread[start : start + chunk])


def _to_go(episode: Int64[np.ndarray, " N"]) -> Int64[np.ndarray, " N"]:
    """How many decisions of its episode follow each frame; the frames of an episode lie next to
    each other."""
    ends = np.flatnonzero(np.diff(episode, append=-1))
    place = np.arange(len(episode))
    return ends[np.searchsorted(ends, place)] - place


def _generator(step: int, seed: int, *, stream: int) -> np.random.Generator:
    """Philox counts in blocks: `step` in the counter's high word gives every step a stream of its
    own."""
    key = np.array([seed, stream], np.uint64)
    return np.random.Generator(
        np.random.Philox(key=key, counter=np.array([0, 0, 0, step], np.uint64))
    )


def _join(parts: list[Batch]) -> Batch:
    if len(parts) == 1:
        return parts[0]
    return Batch(
        torch.cat([part.images for part in parts]),
        [text for part in parts for text in part.instructions],
        torch.cat([part.actions for part in parts]),
    )
