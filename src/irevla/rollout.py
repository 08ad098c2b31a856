"""Policy x environments -> episodes: for RL, evaluation, harvest and expert collection alike.

The workers of a `VectorEnv` are served in turn, so that the pictures of one are encoded while the
others step.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, UInt8
from torch import Tensor

from irevla.data.buffers import RolloutBatch
from irevla.envs.vector import Job, Slots, VectorEnv
from irevla.types import Episode, Features, Observation, Provenance

CRITIC_BATCH = 512  # latents that the critic reads at once


@runtime_checkable
class Policy(Protocol):
    """Whatever can choose actions for the slots of a worker."""

    def act(self, slots: Slots, instructions: tuple[str, ...]) -> Float32[np.ndarray, "n A"]:
        """One action for each slot (clipped to [-1, 1] by the environment); what it says for idle
        slots is ignored."""
        ...


@runtime_checkable
class LatentPolicy(Protocol):
    """A VLA policy in its two halves: the VLM, then the action head with its exploration noise."""

    @property
    def log_std(self) -> Float[Tensor, " A"]:
        """Logarithm of the standard deviation of the exploration noise."""
        ...

    def encode(self, images: UInt8[np.ndarray, "B H W 3"], instructions: Sequence[str]) -> Features:
        """The VLM's latents."""
        ...

    def mean(self, features: Features) -> Float[Tensor, "B A"]:
        """The action head's output."""
        ...

    def decide(self, features: Features, chance: Float[Tensor, " B"], /) -> Float[Tensor, "B A"]:
        """What is executed without exploration noise; `chance`, uniform in [0, 1), settles what has
        a probability."""
        ...


Critic = Callable[[Features], Float[Tensor, " B"]]


def endless_jobs(task: str, seed0: int) -> Iterator[Job]:
    """Episodes of one task for ever, with seeds `seed0, seed0 + 1, ...`."""
    return (Job(task, seed) for seed in count(seed0))


class Actor:
    """A VLA policy that acts: as it decides, or with exploration noise where a `generator` (on the
    CPU) is given."""

    def __init__(self, policy: LatentPolicy, *, generator: torch.Generator | None = None) -> None:
        self._policy, self._generator = policy, generator

    @torch.no_grad()
    def act(self, slots: Slots, instructions: tuple[str, ...]) -> Float32[np.ndarray, "n A"]:
        """Encodes the slots that are not idle, once each."""
        playing = np.flatnonzero(slots.playing)
        features = self._policy.encode(
            slots.images[playing], [instructions[slot] for slot in playing]
        )
        if self._generator is None:
            chosen = self._policy.decide(
                features, _chances(slots, playing).to(features.tokens.device)
            )
        else:
            chosen, _ = _sample(self._policy.mean(features), self._policy.log_std, self._generator)
        actions = np.zeros_like(slots.labels)
        actions[playing] = chosen.float().cpu().numpy()
        return actions


def _chances(slots: Slots, playing: Int[np.ndarray, " k"]) -> Float[Tensor, " k"]:
    """One number for each slot, uniform in [0, 1): settled by the episode's seed and the step,
    whoever decides when."""
    jobs = [(slots.jobs[slot], int(slots.step[slot])) for slot in playing]
    return torch.tensor(
        [np.random.default_rng([job.seed, 2, step]).random() for job, step in jobs if job]
    ).float()


class BlindReplay:
    """The baseline that sees nothing: demonstrations of each task, in turn from episode to episode,
    replayed open loop; the last action is held."""

    def __init__(self, demonstrations: Mapping[str, Sequence[Float32[np.ndarray, "_ A"]]]) -> None:
        self._demonstrations = demonstrations

    def act(self, slots: Slots, instructions: tuple[str, ...]) -> Float32[np.ndarray, "n A"]:
        """The demonstrated actions at each slot's step."""
        actions = np.zeros_like(slots.labels)
        for slot, job in enumerate(slots.jobs):
            if job is not None:
                shown = self._demonstrations[job.task]
                demonstration = shown[job.seed % len(shown)]
                actions[slot] = demonstration[min(int(slots.step[slot]), len(demonstration) - 1)]
        return actions


@dataclass(frozen=True)
class Outcome:
    """One episode, played to its end."""

    job: Job
    success: bool  # by the policy alone: with a person's help it is none
    length: int  # decisions
    episode: Episode | None = None  # only where pictures are kept


def play(
    vec: VectorEnv, policy: Policy | None, *, keep_images: bool = False, policy_hash: str = ""
) -> Iterator[Outcome]:
    """Play the jobs of a fresh `vec`, each once and to its end, in the order in which they end.

    Without a policy the scripted expert acts. The actions of the episodes are what was meant,
    without the job's noise, and a person's where one took over. To leave early, stop iterating and
    close `vec`. Raises what `VectorEnv.recv` raises.
    """
    source = "expert" if policy is None else "rl"
    tapes = [
        [Tape(vec.suite.name, source, policy_hash, keep_images) for _ in range(vec.n)]
        for _ in range(vec.workers)
    ]
    busy = list(range(vec.workers))
    while busy:
        for worker in tuple(busy):
            slots = vec.recv(worker)
            outcomes = [tape.finish_step(slots, slot) for slot, tape in enumerate(tapes[worker])]
            if slots.playing.any():
                instructions = vec.instructions(slots.jobs)
                actions = None if policy is None else policy.act(slots, instructions)
                vec.send(worker, actions)
                for slot, tape in enumerate(tapes[worker]):
                    tape.start_step(slots, slot, instructions[slot])
            else:
                busy.remove(worker)
            yield from (outcome for outcome in outcomes if outcome is not None)


class Tape:
    """The episode under way in one slot."""

    def __init__(self, suite: str, source: str, policy_hash: str, keep_images: bool) -> None:
        self._suite, self._source, self._policy_hash, self._keep_images = (
            suite,
            source,
            policy_hash,
            keep_images,
        )
        self._instruction = ""
        self._rewind()

    def _rewind(self) -> None:
        self._images: list[np.ndarray] = []
        self._actions: list[np.ndarray] = []
        self._rewards: list[float] = []

    def start_step(self, slots: Slots, slot: int, instruction: str) -> None:
        """What is seen now; what is done comes back with the step."""
        self._instruction = instruction
        if self._keep_images:
            self._images.append(slots.images[slot].copy())

    def finish_step(self, slots: Slots, slot: int) -> Outcome | None:
        """Note what the step brought; the outcome if it was the episode's last. What a lost worker
        left is dropped."""
        job = slots.previous[slot]
        if job is None or slots.lost[slot]:
            self._rewind()
            return None
        self._actions.append(slots.labels[slot])
        self._rewards.append(float(slots.rewards[slot]))
        if not slots.ended[slot]:
            return None
        outcome = self._outcome(slots, slot, job)
        self._rewind()
        return outcome

    def _outcome(self, slots: Slots, slot: int, job: Job) -> Outcome:
        success = bool(slots.success[slot])
        return Outcome(
            job,
            success,
            len(self._rewards),
            self._episode(job, success) if self._keep_images else None,
        )

    def _episode(self, job: Job, success: bool) -> Episode:
        return Episode(
            np.stack(self._images),
            np.stack(self._actions),
            np.array(self._rewards, np.float32),
            self._instruction,
            success,
            Provenance(self._suite, job.task, job.seed, self._source, job.noise, self._policy_hash),
        )


@dataclass(frozen=True)
class RolloutStats:
    """What one `Collector.collect` did."""

    decisions: int
    finished: tuple[Outcome, ...]  # the episodes that ended, in order
    dropped: int  # partial episodes lost with their worker
    env_seconds: float  # spent waiting for environments
    encode_seconds: float  # spent in the VLM

    @property
    def success_rate(self) -> float:
        """Of the finished episodes; NaN where none finished."""
        return (
            float(np.mean([outcome.success for outcome in self.finished]))
            if self.finished
            else float("nan")
        )


@dataclass(frozen=True)
class _View:
    """What a worker's slots show now, with its latents."""

    slots: Slots
    instructions: tuple[str, ...]
    features: Features
    final_features: (
        Features | None
    )  # of the true last observations of the episodes just truncated, in slot order


class Collector:
    """Gathers rollouts for PPO, each going on where the last one stopped: episodes cross from one
    to the next.

    Every observation is encoded once. The last observation of a rollout is the first of the next,
    and so is its latent; with `keep_observations` (a live encoder, whose latents change between
    rollouts) that one is encoded afresh. `generator` (on the CPU) draws the exploration noise.
    """

    def __init__(
        self, vec: VectorEnv, *, generator: torch.Generator, keep_observations: bool = False
    ) -> None:
        self._vec, self._generator, self._keep_observations = vec, generator, keep_observations
        self._views: list[_View] = []
        self._env_seconds = self._encode_seconds = 0.0

    @torch.no_grad()
    def collect(
        self, policy: LatentPolicy, critic: Critic, steps: int
    ) -> tuple[RolloutBatch, RolloutStats]:
        """`steps` decisions in each environment, a ~ N(mean(h), exp(log_std)). Raises what
        `VectorEnv.recv` raises."""
        self._env_seconds = self._encode_seconds = 0.0
        dropped = self._vec.dropped
        self._open(policy)
        log = _Log(steps, self._vec)
        for t in range(steps + 1):
            for worker in range(self._vec.workers):
                if t > 0:
                    before = self._views[worker]
                    self._views[worker] = self._look(policy, worker)
                    log.result(t - 1, before, self._views[worker])
                log.views.append(self._views[worker])
                if t < steps:
                    log.choices.append(self._act(policy, worker))
        stats = RolloutStats(
            steps * self._vec.workers * self._vec.n,
            tuple(log.finished),
            self._vec.dropped - dropped,
            self._env_seconds,
            self._encode_seconds,
        )
        return log.batch(critic, keep_observations=self._keep_observations), stats

    def _open(self, policy: LatentPolicy) -> None:
        """The first observation of this rollout."""
        if not self._views:
            self._views = [self._look(policy, worker) for worker in range(self._vec.workers)]
        elif self._keep_observations:
            self._views = [
                replace(view, features=self._encode(policy, view.slots.images, view.instructions))
                for view in self._views
            ]

    def _look(self, policy: LatentPolicy, worker: int) -> _View:
        """Wait for a worker and encode what it shows: the present pictures and, where truncated,
        the true last ones."""
        start = time.perf_counter()
        slots = self._vec.recv(worker)
        self._env_seconds += time.perf_counter() - start
        assert slots.playing.all(), "a Collector needs endless jobs"
        present, past = self._vec.instructions(slots.jobs), self._vec.instructions(slots.previous)
        cut = np.flatnonzero(slots.cut_off)
        if not len(cut):
            return _View(slots, present, self._encode(policy, slots.images, present), None)
        images = np.concatenate([slots.images, slots.final_images[cut]])
        features = self._encode(policy, images, (*present, *(past[slot] for slot in cut)))
        return _View(slots, present, features[: self._vec.n], features[self._vec.n :])

    def _encode(
        self, policy: LatentPolicy, images: np.ndarray, instructions: tuple[str, ...]
    ) -> Features:
        start = time.perf_counter()
        features = policy.encode(images, instructions)
        self._encode_seconds += time.perf_counter() - start
        return features

    def _act(self, policy: LatentPolicy, worker: int) -> tuple[Tensor, Tensor]:
        actions, log_probs = _sample(
            policy.mean(self._views[worker].features), policy.log_std, self._generator
        )
        self._vec.send(worker, actions.float().cpu().numpy())
        return actions, log_probs


class _Log:
    """The columns of one rollout. Workers answer in turn, so lists over (t, worker), joined, are
    time-major."""

    def __init__(self, steps: int, vec: VectorEnv) -> None:
        self._steps, self._n = steps, vec.n
        self.views: list[_View] = []  # before each step, and after the last
        self.choices: list[tuple[Tensor, Tensor]] = []  # actions and their log-probabilities
        self._results: list[_View] = []  # after each step
        self._valid = torch.ones(steps, vec.workers * vec.n, dtype=torch.bool)
        self._began = [0] * (
            vec.workers * vec.n
        )  # the step of this rollout at which each column's episode began
        self.finished: list[Outcome] = []

    def result(self, t: int, before: _View, after: _View) -> None:
        """What came of the choice at `t`."""
        self._results.append(after)
        slots = after.slots
        for slot, job in enumerate(slots.previous):
            column = slots.worker * self._n + slot
            if slots.lost[slot]:
                self._valid[self._began[column] : t + 1, column] = False
            elif slots.ended[slot]:
                assert job is not None
                self.finished.append(
                    Outcome(job, bool(slots.success[slot]), int(before.slots.step[slot]) + 1)
                )
            if slots.lost[slot] or slots.ended[slot]:
                self._began[column] = t + 1

    def batch(self, critic: Critic, *, keep_observations: bool) -> RolloutBatch:
        """Everything, with the critic's values."""
        features = Features.cat([view.features for view in self.views])
        device, samples = features.tokens.device, self._valid.numel()
        parts = [
            features[start : start + CRITIC_BATCH]
            for start in range(0, len(features), CRITIC_BATCH)
        ]
        values = torch.cat([critic(part).float() for part in parts]).view(self._steps + 1, -1)
        terminated, valid = self._join("terminated").to(device), self._valid.to(device)
        return RolloutBatch(
            features=features[:samples],
            actions=torch.cat([actions for actions, _ in self.choices]).view(*valid.shape, -1),
            log_probs=torch.cat([log_probs for _, log_probs in self.choices]).view(valid.shape),
            values=values[:-1],
            next_values=self._next_values(values, critic).masked_fill(terminated | ~valid, 0.0),
            rewards=self._join("rewards").to(device),
            terminated=terminated,
            truncated=self._join("truncated").to(device),
            valid=valid,
            observations=self._observations() if keep_observations else None,
        )

    def _join(self, name: str) -> Tensor:
        column = np.concatenate([getattr(view.slots, name) for view in self._results])
        return torch.from_numpy(column).view(self._valid.shape)

    def _next_values(
        self, values: Float[Tensor, "T_plus_1 B"], critic: Critic
    ) -> Float[Tensor, "T B"]:
        """V of each step's true next observation: where an episode was cut off, not the next
        episode's first."""
        next_values = values[1:].reshape(-1).clone()
        for index, view in enumerate(self._results):
            if view.final_features is not None:
                cut = index * self._n + np.flatnonzero(view.slots.cut_off)
                next_values[torch.from_numpy(cut)] = critic(view.final_features).float()
        return next_values.view(self._valid.shape)

    def _observations(self) -> Observation:
        views = self.views[: len(self.choices)]
        return Observation(
            np.concatenate([view.slots.images for view in views]),
            tuple(instruction for view in views for instruction in view.instructions),
        )


def _sample(
    mean: Float[Tensor, "B A"], log_std: Float[Tensor, " A"], generator: torch.Generator
) -> tuple[Float[Tensor, "B A"], Float[Tensor, " B"]]:
    """a ~ N(mean, exp(log_std)) and log pi(a), summed over the action's dimensions."""
    noise = torch.randn(mean.shape, generator=generator).to(
        mean.device
    )  # drawn on the CPU: the same on every device
    gaussian = torch.distributions.Normal(mean, log_std.exp())
    actions = mean + gaussian.stddev * noise
    return actions, gaussian.log_prob(actions).sum(-1)  # type: ignore[no-untyped-call]
