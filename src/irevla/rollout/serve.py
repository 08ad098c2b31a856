"""The one loop over environments: receive, encode once, act, send, record.

PPO, SAC, evaluation, collection and harvest differ in the actor and the recorder alone. The workers
of a `VectorEnv` are served in turn, so that the images of one are encoded while the others step.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from irevla.envs.vector import Job, StepResult, VectorEnv
from irevla.types import Features, Observation

Recorded = TypeVar("Recorded")


@dataclass(frozen=True)
class View:
    """What one worker's slots show, with its latents."""

    result: StepResult
    features: Features | None  # of what the playing slots see, in their order; None: not asked for
    final_features: Features | None  # of the true last observations of the episodes just cut off
    received: float  # when it came, by `time.perf_counter`


@dataclass(frozen=True)
class Choice:
    """What an actor does in the `k` slots of a worker that play, in their order."""

    actions: Float[Tensor, "k A"] | None  # clipped to [-1, 1]; None: the scripted expert's
    log_probs: Float[Tensor, " k"] | None = None  # where they were drawn


@runtime_checkable
class Actor(Protocol):
    """Who acts."""

    def encode(self, observation: Observation) -> Features | None:
        """Return the latents of an observation; None where the actor does not look."""
        ...

    def act(self, view: View) -> Choice:
        """Return an action for each slot that plays."""
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
        self.latencies: list[float] = []  # seconds from an image to its action, of each decision
        self._busy = list(range(vec.workers))
        self._views: dict[int, View] = {}  # received, and not acted upon yet

    def serve(self, rounds: int | None = None) -> Iterator[Recorded]:
        """Play until no jobs are left, or for `rounds` decisions in each environment; yield what
        ends.

        After so many rounds all workers have answered, and none has been sent an action: the next
        call goes on there. Where something is yielded its worker is stepping again already. Raises
        what `VectorEnv.recv` raises. To leave early, stop iterating and close `vec`.
        """
        for done in count():
            last = done == rounds
            for worker in tuple(self._busy):
                ended: list[Recorded] = []
                if worker not in self._views:
                    ended = self._receive(worker)
                if worker in self._views and not last:
                    self._act(worker)
                yield from ended
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
            features = self._encode(view.result.observation())
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
        present = result.observation()
        final = result.final_observation() if self.recorder.needs_final else present[:0]
        features = self._encode(Observation.cat([present, final]) if len(final) else present)
        if features is None:
            return View(result, None, None, received)
        return View(result, features[: len(present)], features[len(present) :], received)

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
        choice = self.actor.act(view)
        self.vec.send(worker, self._placed(view.result, choice.actions))
        self.latencies.append(time.perf_counter() - view.received)
        self.recorder.chose(view, choice)

    def _placed(
        self, result: StepResult, chosen: Float[Tensor, "k A"] | None
    ) -> Float32[np.ndarray, "n A"] | None:
        """Return one row for each slot; what it says for idle ones is ignored."""
        if chosen is None:
            return None
        actions = np.zeros_like(result.labels)
        actions[result.playing] = chosen.float().cpu().numpy()
        return actions

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
