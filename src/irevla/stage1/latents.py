"""Policy x environments -> episodes of latents: each picture is encoded once, for the decision and
for the buffer."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from irevla.data.replay import LatentEpisode
from irevla.envs.vector import Job, Slots, VectorEnv
from irevla.rollout import LatentPolicy, Outcome, Tape
from irevla.types import Features

Decide = Callable[[Features], Float[Tensor, "B A"]]
"""What to do, given latents: actions in [-1, 1]."""


@dataclass(frozen=True, kw_only=True)
class LatentOutcome(Outcome):
    """One episode, played to its end, as SAC learns from it."""

    latents: LatentEpisode


class LatentPlayer:
    """Plays the jobs of a fresh `vec`; iterate over it for what ended, worker by worker, each
    already stepping again.

    With `keep_images` the outcomes have their episodes too, whose labels are what was done. To
    leave early, stop iterating and close `vec`. Raises what `VectorEnv.recv` raises.
    """

    def __init__(
        self,
        vec: VectorEnv,
        policy: LatentPolicy,
        decide: Decide,
        *,
        keep_images: bool = False,
        policy_hash: str = "",
    ) -> None:
        self._vec, self._policy, self._decide = vec, policy, decide
        self._tapes = [
            [_Tape(vec.suite.name, "rl", policy_hash, keep_images) for _ in range(vec.n)]
            for _ in range(vec.workers)
        ]
        self.env_seconds = self.encode_seconds = (
            0.0  # waited for environments, spent in the VLM, so far
        )
        self.latencies: list[
            float
        ] = []  # seconds from what was seen to what was sent, of each decision

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
            return [
                outcome
                for slot, tape in enumerate(tapes)
                if (outcome := tape.end_step(slots, slot, None))
            ]
        chosen = torch.zeros(self._vec.n, self._vec.action_dim)
        if len(playing):
            chosen[playing] = self._decide(features[: len(playing)]).float().cpu()
            self._vec.send(slots.worker, chosen.numpy())
            self.latencies.append(time.perf_counter() - start)
        features, finished = features.to("cpu"), []
        lasts = dict(zip(cut.tolist(), range(len(playing), len(features)), strict=True))
        for slot, tape in enumerate(tapes):
            last = features[lasts[slot] : lasts[slot] + 1] if slot in lasts else None
            if outcome := tape.end_step(slots, slot, last):
                finished.append(outcome)
        instructions = self._vec.instructions(slots.jobs)
        for place, slot in enumerate(playing.tolist()):
            tapes[slot].see(features[place : place + 1])
            tapes[slot].start_step(slots, slot, instructions[slot])
        return finished

    def _encode(self, slots: Slots, playing: np.ndarray, cut: np.ndarray) -> Features | None:
        """The present pictures, then the true last ones of the episodes just cut off; None where
        there are none."""
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


class _Tape(Tape):
    """The episode under way in one slot, and its latents."""

    def _rewind(self) -> None:
        super()._rewind()
        self._seen: list[Features] = []

    def see(self, latent: Features) -> None:
        """What is seen now, as one latent."""
        self._seen.append(latent)

    def end_step(self, slots: Slots, slot: int, last: Features | None) -> LatentOutcome | None:
        """`finish_step`, with the true `last` observation where the episode was cut off."""
        if last is not None:
            self._seen.append(last)
        outcome = self.finish_step(slots, slot)
        assert outcome is None or isinstance(outcome, LatentOutcome)
        return outcome

    def _outcome(self, slots: Slots, slot: int, job: Job) -> LatentOutcome:
        plain = super()._outcome(slots, slot, job)
        latents = LatentEpisode(
            Features.cat(self._seen),
            torch.from_numpy(np.stack(self._actions)),
            torch.tensor(self._rewards),
            bool(slots.terminated[slot]),
        )
        return LatentOutcome(plain.job, plain.success, plain.length, plain.episode, latents=latents)
