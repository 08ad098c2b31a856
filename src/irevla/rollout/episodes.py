"""Whole episodes: what evaluation counts, and what datasets hold."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from irevla.data.replay import LatentEpisode
from irevla.envs.vector import Job, StepResult, VectorEnv
from irevla.rollout.serve import Choice, View
from irevla.types import Episode, Features, Provenance


@dataclass(frozen=True)
class Outcome:
    """One episode, played to its end."""

    job: Job
    success: bool  # by the policy alone: with a person's help it is none
    actions: Float32[np.ndarray, "T A"]  # what was meant, without noise; what an arm has done
    episode: Episode | None = None  # where images are kept
    latents: LatentEpisode | None = None  # where latents are kept
    person: Bool[np.ndarray, " T"] | None = None  # where one took over; None: nobody could

    @property
    def length(self) -> int:
        """Decisions."""
        return len(self.actions)

    @property
    def interventions(self) -> int:
        """How often a person took over."""
        if self.person is None:
            return 0
        before = np.concatenate([[False], self.person[:-1]])
        return int((self.person & ~before).sum())

    def shown(self) -> LatentEpisode | None:
        """Return what a person showed: from the chunk in which they first took over to the end, if
        it was a success. None: nothing."""
        if self.latents is None or self.person is None or not self.person.any():
            return None
        if self.latents.rewards[-1] <= 0:
            return None
        execute = self.latents.actions.shape[1] // self.actions.shape[1]
        return self.latents.since(int(np.argmax(self.person)) // execute)


@dataclass
class _PartialEpisode:
    """The episode under way in one slot."""

    images: list[np.ndarray] = field(default_factory=list)
    states: list[np.ndarray] = field(default_factory=list)
    latents: list[Features] = field(default_factory=list)
    actions: list[np.ndarray] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    person: list[bool] = field(default_factory=list)


class EpisodeRecorder:
    """Records whole episodes, with images or latents where asked for.

    The actions are what was meant, without the job's noise; on an arm what it has done.
    What a lost worker left is dropped. `policy_hash` says who acts; without one it is the scripted
    expert. Latents are of every `execute`-th step; rewards between two are discounted by `gamma`,
    and actions are in the scale of the head, by `scaled`.
    """

    def __init__(
        self,
        vec: VectorEnv,
        *,
        policy_hash: str = "",
        images: bool = False,
        latents: bool = False,
        execute: int = 1,
        gamma: float = 1.0,
        scaled: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.needs_final = False
        self._suite = vec.suite.name
        self._policy_hash = policy_hash
        self._images = images
        self._latents = latents
        self._execute = execute
        self._gamma = gamma
        self._scaled = scaled or _as_it_is
        self._partial = [[_PartialEpisode() for _ in range(vec.n)] for _ in range(vec.workers)]

    def chose(self, view: View, choice: Choice) -> None:
        """Keep what is seen; what is done comes back with the step."""
        result = view.result
        partial = self._partial[result.worker]
        if self._images:
            for slot in np.flatnonzero(result.playing).tolist():
                partial[slot].images.append(result.images[slot])
                partial[slot].states.append(result.states[slot])
        if self._latents:
            for place, slot in enumerate(np.flatnonzero(view.asked.playing).tolist()):
                if result.step[slot] % self._execute == 0:
                    partial[slot].latents.append(_one(view.features, place))

    def brought(self, view: View) -> list[Outcome]:
        """Note what the step brought; return the episodes that ended with it."""
        result = view.result
        partial = self._partial[result.worker]
        ended = []
        for slot, job in enumerate(result.previous):
            if job is None or result.lost[slot]:
                partial[slot] = _PartialEpisode()
                continue
            partial[slot].actions.append(result.labels[slot])
            partial[slot].rewards.append(float(result.rewards[slot]))
            partial[slot].person.append(bool(result.person[slot]))
            if result.ended[slot]:
                ended.append(self._outcome(result, slot, job, partial[slot]))
                partial[slot] = _PartialEpisode()
        return ended

    def _outcome(
        self, result: StepResult, slot: int, job: Job, partial: _PartialEpisode
    ) -> Outcome:
        success = bool(result.success[slot])
        actions = np.stack(partial.actions)
        episode = self._episode(job, success, partial) if self._images else None
        latents = self._latent_episode(partial) if self._latents else None
        person = np.array(partial.person)
        return Outcome(job, success, actions, episode, latents, person)

    def _latent_episode(self, partial: _PartialEpisode) -> LatentEpisode:
        return LatentEpisode.of_steps(
            Features.cat(partial.latents),
            self._scaled(torch.from_numpy(np.stack(partial.actions))),
            torch.tensor(partial.rewards),
            execute=self._execute,
            gamma=self._gamma,
        )

    def _episode(self, job: Job, success: bool, partial: _PartialEpisode) -> Episode:
        source = "rl" if self._policy_hash else "expert"
        made = Provenance(self._suite, job.task, job.seed, source, job.noise, self._policy_hash)
        images = np.stack(partial.images)
        actions = np.stack(partial.actions)
        rewards = np.array(partial.rewards, np.float32)
        states = np.stack(partial.states)
        return Episode(images, actions, rewards, job.instruction, success, made, states)


def _as_it_is(actions: Tensor) -> Tensor:
    return actions


def _one(features: Features | None, place: int) -> Features:
    """Return one latent of a batch, on the CPU."""
    assert features is not None
    return features[place : place + 1].to("cpu")


def endless_jobs(task: str, seed0: int, *, step: int = 1) -> Iterator[Job]:
    """Yield episodes of one task for ever, with seeds `seed0, seed0 + step, ...`."""
    return (Job(task, seed) for seed in count(seed0, step))


def in_order(
    outcomes: Iterable[Outcome], jobs: Iterable[Job], given_up: Collection[Job] = ()
) -> Iterator[Outcome]:
    """Yield the outcomes in the order of their jobs, whichever worker was faster.

    Those of `given_up`, which may still grow, never come.
    """
    early: dict[Job, Outcome] = {}
    awaited = iter(jobs)
    job = next(awaited, None)
    for outcome in outcomes:
        early[outcome.job] = outcome
        while job in early or job in given_up:
            if job in early:
                yield early.pop(job)
            job = next(awaited, None)
    yield from early.values()  # what came before the last one was given up
