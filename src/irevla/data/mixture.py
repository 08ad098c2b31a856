"""What the supervised stages learn from: (o, l, a) of D_e, or of D_e and D_RL."""

import hashlib
from collections.abc import Mapping
from fractions import Fraction
from math import ceil, floor
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from irevla.compute.ranks import Part
from irevla.config import MixtureConfig
from irevla.data.episodes import Frames
from irevla.tasks import draw_seed
from irevla.types import Observation


class Batch(NamedTuple):
    """Samples (o, l, a) of a supervised step; a is a chunk of `k` actions."""

    observation: Observation
    actions: Float32[Tensor, "B kA"]
    shown: Bool[Tensor, "B kA"]  # which were taken: an episode may end within its last chunks


class Mixture:
    """Batches of which a fixed share comes from D_RL (`online`) and the rest from D_e (`expert`).

    Each sample has the actions of its frame and of those that follow, a `chunk` in all.

    Batch number `step` is a function of `seed` and `step` alone: a resumed run draws what an
    uninterrupted one would, and no generator's state need be saved. Every task of a store is drawn
    equally often; within a task, a frame of D_RL in proportion to its return, discount^(decisions
    until success). A task of D_e that D_RL has too is drawn `trained` times as often as another:
    what RL found need not be learnt against how stage 0 was shown it. Without online data its share
    is 0. Frames are not copied.
    """

    def __init__(
        self,
        expert: Frames,
        online: Frames | None,
        config: MixtureConfig,
        *,
        seed: int,
        chunk: int = 1,
    ) -> None:
        self._seed = seed
        self._online: _Source | None = None
        self.online_share = 0.0
        trained: dict[str, float] = {}
        if online is not None and len(online):
            trained = dict.fromkeys(_tasks(online), config.trained)
            self._online = _Source(
                "online", online, config.validation, config.discount, chunk=chunk
            )
            self.online_share = config.online_share
        self._expert = _Source("expert", expert, config.validation, weights=trained, chunk=chunk)

    def batch(self, step: int, size: int, part: Part | None = None) -> Batch:
        """Return batch number `step`: `online_count(step, size)` samples of D_RL after D_e's.

        With a `part`, only these: whoever has the others draws them as this one would.
        """
        first, last = (part.first, part.last) if part else (0, size)
        online = self.online_count(step, size)
        border = size - online
        generator = self._generator(step, stream=0)
        parts = [self._expert.train.draw(border, generator, slice(first, last))]
        if self._online is not None:
            rows = slice(max(0, first - border), max(0, last - border))
            generator = self._generator(step, stream=1)
            parts.append(self._online.train.draw(online, generator, rows))
        return _join(parts)

    def online_count(self, step: int, size: int) -> int:
        """Return how many samples of batch `step` are D_RL's.

        Where size * share is no whole number, batches take turns.
        """
        share = Fraction(self.online_share).limit_denominator(10_000) * size
        return floor((step + 1) * share) - floor(step * share)

    def validation(self, *, samples: int = 1024, chunk: int = 256) -> dict[str, list[Batch]]:
        """Return held-out samples of each store ("expert", "online"), drawn as batches are.

        They are the same in every stage and run, as long as the store is.
        """
        batches = {}
        for source in (self._expert, self._online):
            if source is not None and source.held_out is not None:
                generator = np.random.default_rng(draw_seed("validation", source.name))
                sizes = [min(chunk, samples - start) for start in range(0, samples, chunk)]
                batches[source.name] = [source.held_out.draw(n, generator) for n in sizes]
        return batches

    def weights(self) -> dict[str, float]:
        """Return the share that each store has in the batches."""
        return {"expert": 1 - self.online_share, "online": self.online_share}

    def _generator(self, step: int, *, stream: int) -> np.random.Generator:
        """Return the generator of one batch. `step` in the counter's high word: its own stream."""
        key = np.array([self._seed, stream], np.uint64)
        counter = np.array([0, 0, 0, step], np.uint64)
        return np.random.Generator(np.random.Philox(key=key, counter=counter))


def held_out(
    episodes: Int64[np.ndarray, " N"], share: float, *, store: str
) -> Bool[np.ndarray, " N"]:
    """Return which frames are for validation: those of one episode, by a hash, of every 1/share.

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
    """Return the episode held out of those numbered from cell / ratio to (cell + 1) / ratio."""
    first = ceil(cell / ratio)
    stop = ceil((cell + 1) / ratio)
    digest = hashlib.sha256(f"{store} {cell}".encode()).digest()
    return first + int.from_bytes(digest[:8], "big") % (stop - first)


class _Source:
    """One store: frames to train on, and frames held out (None where episodes are too few)."""

    def __init__(
        self,
        name: str,
        frames: Frames,
        validation: float,
        discount: float = 1.0,
        *,
        weights: Mapping[str, float] = MappingProxyType({}),
        chunk: int,
    ) -> None:
        assert len(frames) > 0, f"{name}: no frames"
        self.name = name
        out = held_out(frames.episode, validation, store=name)
        if out.all():  # so few episodes that nothing would be left to learn from
            out[:] = False
        self.train = _Pool(frames, np.flatnonzero(~out), discount, chunk, weights)
        self.held_out = _Pool(frames, np.flatnonzero(out), discount, chunk) if out.any() else None


class _Pool:
    """Some frames of a store, sorted by task for drawing."""

    def __init__(
        self,
        frames: Frames,
        chosen: Int64[np.ndarray, " K"],
        discount: float,
        chunk: int,
        weights: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self._frames = frames
        self._ahead = torch.arange(chunk)
        self._to_go = torch.from_numpy(_to_go(frames.episode))
        self._images = torch.from_numpy(frames.images)
        self._actions = torch.from_numpy(frames.actions)
        self._state = torch.from_numpy(frames.state)
        tasks = frames.task[chosen]
        self._order = chosen[np.argsort(tasks, kind="stable")]
        present, self._counts = np.unique(tasks, return_counts=True)
        self._odds = _odds([weights.get(frames.tasks[task], 1.0) for task in present])
        self._starts = np.cumsum(self._counts) - self._counts
        self._sums: np.ndarray | None = None  # of the returns before each place of `_order`
        if discount < 1:
            returns = discount ** self._to_go.numpy()[self._order].astype(np.float64)
            self._sums = np.append(0.0, np.cumsum(returns))

    def draw(self, size: int, generator: np.random.Generator, rows: slice = slice(None)) -> Batch:
        """Draw `size` with replacement, a task, then a frame of it; return the `rows` of them."""
        if self._odds is None:
            task = generator.integers(len(self._counts), size=size)
        else:
            task = generator.choice(len(self._counts), size=size, p=self._odds)
        start = self._starts[task]
        stop = start + self._counts[task]
        if self._sums is None:
            place = start + generator.integers(self._counts[task])
            return self._take(self._order[place[rows]])
        sums = generator.uniform(self._sums[start], self._sums[stop])
        place = np.searchsorted(self._sums, sums, side="right") - 1
        place = np.minimum(place, stop - 1)  # rounding may reach the end
        return self._take(self._order[place[rows]])

    def _take(self, index: Int64[np.ndarray, " B"]) -> Batch:
        chosen = torch.from_numpy(index)
        texts = tuple(self._frames.instructions[i] for i in self._frames.instruction[index])
        state = self._state.index_select(0, chosen)
        observation = Observation(self._images.index_select(0, chosen), texts, state)
        return Batch(observation, *self._chunks(chosen))

    def _chunks(
        self, chosen: Int64[Tensor, " B"]
    ) -> tuple[Float32[Tensor, "B kA"], Bool[Tensor, "B kA"]]:
        """Return the actions from each frame on, and which of them its episode still has."""
        to_go = self._to_go[chosen, None]
        rows = chosen[:, None] + torch.minimum(self._ahead, to_go)
        actions = self._actions[rows]
        shown = (self._ahead <= to_go)[..., None].expand_as(actions)
        return actions.flatten(1), shown.flatten(1)


def _tasks(frames: Frames) -> list[str]:
    """Return the names of the tasks that have frames."""
    return [frames.tasks[task] for task in np.unique(frames.task)]


def _odds(weights: list[float]) -> np.ndarray | None:
    """Return the probabilities of tasks of such weights; None: all the same, as where none has
    any."""
    total = sum(weights)
    if total == 0 or min(weights) == max(weights):
        return None
    return np.array(weights) / total


def _to_go(episode: Int64[np.ndarray, " N"]) -> Int64[np.ndarray, " N"]:
    """Return how many decisions of its episode follow each frame.

    The frames of an episode lie next to each other.
    """
    ends = np.flatnonzero(np.diff(episode, append=-1))
    place = np.arange(len(episode))
    return ends[np.searchsorted(ends, place)] - place


def _join(parts: list[Batch]) -> Batch:
    if len(parts) == 1:
        return parts[0]
    observation = Observation.cat([part.observation for part in parts])
    actions = torch.cat([part.actions for part in parts])
    return Batch(observation, actions, torch.cat([part.shown for part in parts]))
