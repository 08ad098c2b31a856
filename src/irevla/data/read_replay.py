"""A buffer of latents as SAC's critics see it: h' of each decision, which a frozen head has read
once.

With the action and the return it is all that they are fitted to, many times over. The numbers lie
in a file without a name, beside the latents: memory stays as it is.
"""

import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from irevla.data.buffers import Decisions
from irevla.data.replay import LatentEpisode, LatentReplay
from irevla.errors import UserError
from irevla.storage import disk
from irevla.types import Features

Read = Callable[[Features], Float[Tensor, "B n"]]


class ReadReplay:
    """The episodes of `store` that were taken up, each decision with h' and the robot's state as
    `read` gives them, its return, discounted by `gamma`, and its action.

    The store may grow meanwhile, in another thread: what was not taken up is not sampled.
    """

    def __init__(self, store: LatentReplay, read: Read, *, gamma: float) -> None:
        self.store = store
        self._read = read
        self._gamma = gamma
        self._width = store.spec.width + store.spec.state_dim
        self._file: Any = None  # made with the first episode
        self._rows: Any = np.zeros((0, self._width + 1 + store.spec.action_dim), np.float32)
        self._episodes = 0

    def __len__(self) -> int:
        """Return how many decisions were taken up."""
        return len(self._rows)

    def take_up(self, episodes: int) -> None:
        """Take up the first `episodes` of the store, as far as they are not there yet.

        Raises `UserError` where the disk is full.
        """
        new = [self._rows_of(self.store.read(at)) for at in range(self._episodes, episodes)]
        if not new:
            return
        _, numbers = self._rows.shape
        count = len(self) + sum(map(len, new))
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self.store.root)  # noqa: SIM115
                weakref.finalize(self, self._file.close)
            self._file.seek(4 * numbers * len(self))
            self._file.write(np.concatenate(new).tobytes())
            self._file.flush()
            self._rows = np.memmap(self._file, np.float32, "r", shape=(count, numbers))
        except OSError as error:
            raise UserError(
                f"cannot write to {self.store.root}: {error.strerror}; {disk.remedy(error)}"
            ) from error
        self._episodes = episodes

    def draw(self, count: int, generator: torch.Generator) -> Int64[np.ndarray, " count"]:
        """Return which decisions are drawn: with equal chances, with replacement."""
        assert len(self) > 0 or not count, "nothing to sample from"
        drawn: Int64[np.ndarray, " count"] = torch.randint(
            max(1, len(self)), (count,), generator=generator
        ).numpy()
        return drawn

    def decisions(self, index: Int64[np.ndarray, " n"]) -> Decisions:
        """Return those decisions."""
        h, returns, actions = torch.from_numpy(self._rows[index]).split_with_sizes(
            [self._width, 1, self.store.spec.action_dim], 1
        )
        return Decisions(h, actions, returns.squeeze(1))

    def _rows_of(self, episode: LatentEpisode) -> Float32[np.ndarray, "T n"]:
        returns = episode.rewards.clone()
        for at in range(len(episode) - 2, -1, -1):
            returns[at] += self._gamma * returns[at + 1]
        h = self._read(episode.features).cpu()
        rows: Float32[np.ndarray, "T n"] = torch.cat(
            [h, returns[:, None], episode.actions], 1
        ).numpy()
        return rows


@dataclass(frozen=True)
class Sample:
    """What was drawn from two buffers, side by side."""

    buffers: tuple[ReadReplay, ReadReplay]
    index: tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " k"]]

    def decisions(self) -> Decisions:
        """Return the decisions, as critics see them."""
        parts = zip(self.buffers, self.index, strict=True)
        return Decisions.cat([buffer.decisions(index) for buffer, index in parts if len(index)])

    def features(self) -> Features:
        """Return the latents themselves, for an actor that learns to read them."""
        parts = zip(self.buffers, self.index, strict=True)
        return Features.cat([buffer.store.features(index) for buffer, index in parts if len(index)])


def sample_both(
    demonstrations: ReadReplay, online: ReadReplay, count: int, generator: torch.Generator
) -> Sample:
    """Draw half from each (section V-D); all from the demonstrations while the other is empty."""
    half = count // 2 if len(online) else 0
    index = demonstrations.draw(count - half, generator), online.draw(half, generator)
    return Sample((demonstrations, online), index)
