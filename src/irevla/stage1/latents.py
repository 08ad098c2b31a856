"""Policy x environments -> episodes of latents: each picture is encoded once, for the decision and for the buffer."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from irevla.data.replay import LatentEpisode
from irevla.envs.vector import Slots, VectorEnv
from irevla.rollout import LatentPolicy, Outcome
from irevla.types import Features

Decide = Callable[[Features], Float[Tensor, "B A"]]
"""What to do, given latents: actions in [-1, 1]."""


@dataclass(frozen=True, kw_only=True)
class LatentOutcome(Outcome):
    """One episode, played to its end, as SAC learns from it."""

    latents: LatentEpisode


class LatentPlayer:
    """Plays the jobs of a fresh `vec`; iterate over it for what ended, worker by worker, each already stepping again.

    To leave early, stop iterating and close `vec`. Raises what `VectorEnv.recv` raises.
    """

    def __init__(self, vec: VectorEnv, policy: LatentPolicy, decide: Decide) -> None:
        self._vec, self._policy, self._decide = vec, policy, decide
        self._tapes = [[_Tape() for _ in range(vec.n)] for _ in range(vec.workers)]
        self.env_seconds = self.encode_seconds = 0.0  # waited for environments, spent in the VLM, so far
        self.latencies: list[float] = []  # seconds from what was seen to what was sent, of each decision

    def __iter__(self) -> Iterator[list[LatentOutcome]]:
        busy = list(range(self._vec.workers))
        while busy:
            for worker in tuple(busy):
                start = time.perf_counter()
                slots = self._vec.recv(worker)
                self.env_seconds += time.perf_counter() - start
                yield self._visit(slots)
                if not slots.playing.any():
                    busy.remove(worker)

    @torch.no_grad()
    def _visit(self, slots: Slots) -> list[LatentOutcome]:
        """Encode what is seen, decide, send; then note what the step before brought."""
        start = time.perf_counter()
        playing, cut = np.flatnonzero(slots.playing), np.flatnonzero(slots.cut_off)
        features = self._encode(slots, playing, cut)
        tapes = self._tapes[slots.worker]
        if features is None:
            return [outcome for slot, tape in enumerate(tapes) if (outcome := tape.finish_step(slots, slot, None))]
        chosen = torch.zeros(self._vec.n, self._vec.action_dim)
        if len(playing):
            chosen[playing] = self._decide(features[: len(playing)]).float().cpu()
            self._vec.send(slots.worker, chosen.numpy())
            self.latencies.append(time.perf_counter() - start)
        features, finished = features.to("cpu"), []
        lasts = dict(zip(cut.tolist(), range(len(playing), len(features)), strict=True))
        for slot, tape in enumerate(tapes):
            last = features[lasts[slot] : lasts[slot] + 1] if slot in lasts else None
            if outcome := tape.finish_step(slots, slot, last):
                finished.append(outcome)
        for place, slot in enumerate(playing.tolist()):
            tapes[slot].start_step(features[place : place + 1])
        return finished

    def _encode(self, slots: Slots, playing: np.ndarray, cut: np.ndarray) -> Features | None:
        """The present pictures, then the true last ones of the episodes just cut off; None where there are none."""
        if not len(playing) + len(cut):
            return None
        present, past = self._vec.instructions(slots.jobs), self._vec.instructions(slots.previous)
        start = time.perf_counter()
        features = self._policy.encode(
            np.concatenate([slots.images[playing], slots.final_images[cut]]),
            [*(present[slot] for slot in playing), *(past[slot] for slot in cut)],
        )
        self.encode_seconds += time.perf_counter() - start
        return features


class _Tape:
    """The episode under way in one slot."""

    def __init__(self) -> None:
        self._rewind()

    def _rewind(self) -> None:
        self._seen: list[Features] = []
        self._actions: list[Tensor] = []
        self._rewards: list[float] = []

    def start_step(self, seen: Features) -> None:
        """What is seen now, as one latent; what is done comes back with the step."""
        self._seen.append(seen)

    def finish_step(self, slots: Slots, slot: int, last: Features | None) -> LatentOutcome | None:
        """Note what the step brought; the outcome if it was the episode's last, with the true `last` observation
        where the episode was cut off. What a lost worker left is dropped."""
        job = slots.previous[slot]
        if job is None or slots.lost[slot]:
            self._rewind()
            return None
        self._actions.append(torch.from_numpy(slots.labels[slot]))
        self._rewards.append(float(slots.rewards[slot]))
        if not slots.ended[slot]:
            return None
        latents = LatentEpisode(
            Features.cat([*self._seen, *([] if last is None else [last])]),
            torch.stack(self._actions),
            torch.tensor(self._rewards),
            bool(slots.terminated[slot]),
        )
        success = bool(slots.success[slot])
        self._rewind()
        return LatentOutcome(job, success, len(latents), latents=latents)
