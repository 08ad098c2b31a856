"""The one loop over environments: receive, encode once, act, send, record.

A policy may give several actions at once; then it looks, and is asked, only where these are used
up. The environments go on step by step, and recorders hear of every step.
PPO, SAC, evaluation, collection and harvest differ in the actor and the recorder alone. The workers
of a `VectorEnv` are served in turn, so that the images of one are encoded while the others step.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from irevla.envs.vector import Job, StepResult, VectorEnv
from irevla.rollout.chunks import Chunks
from irevla.types import Features, Observation

Recorded = TypeVar("Recorded")


@dataclass(frozen=True)
class View:
    """What one worker's slots show, with its latents."""

    result: StepResult
    features: Features | None  # of what the asked slots see, in their order; None: nobody looks
    final_features: Features | None  # of the true last observations of the episodes just cut off
    received: float  # when it came, by `time.perf_counter`
    under_way: Bool[np.ndarray, " n"] | None = None  # slots that go on with a chunk; None: none

    @cached_property
    def asked(self) -> StepResult:
        """The same, in which those slots alone play that are asked for actions."""
        if self.under_way is None or not self.under_way.any():
            return self.result
        both = zip(self.result.jobs, self.under_way, strict=True)
        return replace(self.result, jobs=tuple(None if goes_on else job for job, goes_on in both))


@dataclass(frozen=True)
class Choice:
    """What an actor does in the `k` slots of a worker that are asked, in their order: a chunk of so
    many actions as it wants to be executed before it is asked again."""

    actions: Float[Tensor, "k nA"] | None  # clipped to [-1, 1]; None: the scripted expert's
    log_probs: Float[Tensor, " k"] | None = None  # where they were drawn
    drawn: Float[Tensor, "k nA"] | None = None  # likewise: in the head's scale, nothing clipped


NOTHING = Choice(None)
"""What is chosen where nobody is asked."""


@runtime_checkable
class Actor(Protocol):
    """Who acts."""

    def encode(self, observation: Observation) -> Features | None:
        """Return the latents of an observation; None where the actor does not look."""
        ...

    def act(self, view: View) -> Choice:
        """Return a chunk for each slot that is asked."""
        ...


@runtime_checkable
class Recorder(Protocol[Recorded]):
    """What is kept of it."""

    needs_final: bool  # whether the last observations of episodes that were cut off are encoded

    def chose(self, view: View, choice: Choice) -> None:
        """Note what was seen, and what was chosen."""
        ...

    def brought(self, view: View) -> list[Recorded]:
        """Note what the step just taken brought; return what came to its end with it."""
        ...


class Server(Generic[Recorded]):
    """An actor in the environments of `vec`, and what a recorder keeps of it."""

    def __init__(self, vec: VectorEnv, actor: Actor, recorder: Recorder[Recorded]) -> None:
        self.vec = vec
        self.actor = actor
        self.recorder = recorder
        self.env_seconds = 0.0  # waited for environments, so far
        self.encode_seconds = 0.0  # spent in the VLM, so far
        self.latencies: list[float] = []  # seconds from an image to its action, where one looked
        self._busy = list(range(vec.workers))
        self._views: dict[int, View] = {}  # received, and not acted upon yet
        self._chunks = [Chunks(vec.n) for _ in range(vec.workers)]

    def serve(self, rounds: int | None = None) -> Iterator[Recorded]:
        """Play until no jobs are left, or for `rounds` steps in each environment; yield what ends.

        After so many rounds all workers have answered, and none has been sent an action: the next
        call goes on there, and every slot is asked, whatever is left of its chunk. Where something
        is yielded its worker is stepping again already. Raises what `VectorEnv.recv` raises. To
        leave early, stop iterating and close `vec`.
        """
        for done in count():
            last = done == rounds
            for worker in tuple(self._busy):
                ended: list[Recorded] = []
                if worker not in self._views:
                    if last:
                        self._chunks[worker].drop()
                    ended = self._receive(worker)
                if worker in self._views and not last:
                    self._act(worker)
                yield from ended
            if not self._busy and self.vec.deal_next():
                self._busy = list(range(self.vec.workers))
            if last or not self._busy:
                return

    def play(self, jobs: Iterator[Job]) -> Iterator[Recorded]:
        """Play further jobs in the same environments, once all that were there have ended."""
        self.vec.play(jobs)
        self._busy = list(range(self.vec.workers))
        return self.serve()

    def views(self) -> list[View]:
        """Return what was received and not acted upon yet, worker by worker."""
        return [self._views[worker] for worker in sorted(self._views)]

    @torch.no_grad()
    def look_again(self) -> None:
        """Encode anew what was not acted upon yet: the VLM has changed."""
        for worker, view in self._views.items():
            features = self._encode(view.asked.observation())
            self._views[worker] = replace(view, features=features)

    @torch.no_grad()
    def _receive(self, worker: int) -> list[Recorded]:
        start = time.perf_counter()
        result = self.vec.recv(worker)
        received = time.perf_counter()
        self.env_seconds += received - start
        view = self._look(result, received)
        ended = self.recorder.brought(view)
        if result.playing.any():
            self._views[worker] = view
        else:
            self._busy.remove(worker)
        return ended

    def _look(self, result: StepResult, received: float) -> View:
        """Encode what is seen, and the true last observations in the same batch where they
        count."""
        under_way = self._chunks[result.worker].under_way(result)
        view = View(result, None, None, received, under_way)
        present = view.asked.observation()
        final = result.final_observation() if self.recorder.needs_final else present[:0]
        features = self._encode(Observation.cat([present, final]) if len(final) else present)
        if features is None:
            return view
        shown = len(present)
        return replace(view, features=features[:shown], final_features=features[shown:])

    def _encode(self, observation: Observation) -> Features | None:
        if not len(observation):
            return None
        start = time.perf_counter()
        features = self.actor.encode(observation)
        self.encode_seconds += time.perf_counter() - start
        return features

    @torch.no_grad()
    def _act(self, worker: int) -> None:
        view = self._views.pop(worker)
        chunks = self._chunks[worker]
        looks = bool(view.asked.playing.any())
        choice = self.actor.act(view) if looks else NOTHING
        if choice.actions is not None:
            chunks.give(view.asked, choice.actions)
        self.vec.send(worker, chunks.next(view.result))
        if looks:
            self.latencies.append(time.perf_counter() - view.received)
        self.recorder.chose(view, choice)

    # --- to go on in another process

    def state(self) -> dict[str, Any]:
        """Return the episodes under way, as files of a checkpoint; only after `serve(rounds)`."""
        latents: dict[str, Tensor] = {}
        for worker, view in self._views.items():
            if view.features is not None:
                latents[f"{worker}.tokens"] = view.features.tokens
                latents[f"{worker}.mask"] = view.features.mask
                latents[f"{worker}.state"] = view.features.state
        return {"episodes.json": self.vec.state(), "views.safetensors": latents}

    def resume(self, files: dict[str, Any]) -> None:
        """Go on where `state` was taken: `vec` was made with its "episodes.json".

        The latents are those of then, since encoding other batches of images could change last
        bits.
        """
        latents = files["views.safetensors"]
        for worker in tuple(self._busy):
            result = self.vec.recv(worker)
            if result.playing.any():
                tokens = latents.get(f"{worker}.tokens")
                mask = latents.get(f"{worker}.mask")
                state = latents.get(f"{worker}.state")
                features = None if tokens is None else Features(tokens, mask, state)
                self._views[worker] = View(result, features, None, time.perf_counter())
            else:
                self._busy.remove(worker)
