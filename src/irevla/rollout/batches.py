"""Rollouts for PPO, each going on where the last one stopped: episodes cross from one to the
next."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from irevla.data.buffers import RolloutBatch
from irevla.envs.vector import Job, VectorEnv
from irevla.rollout.serve import Choice, Server, View
from irevla.types import Features, Observation

CRITIC_BATCH = 512  # latents that the critic reads at once

Critic = Callable[[Features], Float[Tensor, " B"]]


@dataclass(frozen=True)
class Finished:
    """One training episode, played to its end."""

    job: Job
    success: bool
    length: int  # decisions


@dataclass(frozen=True)
class RolloutStats:
    """What one rollout came to."""

    decisions: int
    finished: tuple[Finished, ...]  # the episodes that ended, in order
    dropped: int  # partial episodes lost with their worker
    env_seconds: float  # spent waiting for environments
    encode_seconds: float  # spent in the VLM

    @property
    def successes(self) -> list[bool]:
        """Which of the finished episodes succeeded."""
        return [episode.success for episode in self.finished]

    def metrics(self) -> dict[str, float]:
        """Return what is logged of it; only what is known, as no episode may have ended."""
        known: dict[str, float] = {}
        if self.finished:
            known["success"] = float(np.mean(self.successes))
            known["length"] = float(np.mean([episode.length for episode in self.finished]))
        return known | {
            "episodes": float(len(self.finished)),
            "dropped": float(self.dropped),
            "env_seconds": self.env_seconds,
            "encode_seconds": self.encode_seconds,
        }


@dataclass(frozen=True)
class Final:
    """The true last observations of episodes that the horizon cut off, encoded together."""

    where: Int[Tensor, " k"]  # the steps that they followed, at `t * B + b`
    features: Features

    def to(self, device: torch.device | str) -> "Final":
        """Return the same on another device."""
        return Final(self.where.to(device), self.features.to(device))


@dataclass(frozen=True)
class Columns:
    """`T` decisions in each of `B` environments, time-major, that no critic has judged yet."""

    features: Features  # (T+1)*B: of what was seen before each action, and after the last ones
    actions: Float[Tensor, "T B A"]  # as sampled
    log_probs: Float[Tensor, "T B"]
    rewards: Float[Tensor, "T B"]
    terminated: Bool[Tensor, "T B"]
    truncated: Bool[Tensor, "T B"]
    valid: Bool[Tensor, "T B"]
    finals: tuple[Final, ...]
    observations: Observation | None = None  # T*B, where the encoder is live

    def judged(self, critic: Critic) -> RolloutBatch:
        """Return them with the critic's values."""
        steps, columns = self.rewards.shape
        features = self.features
        device = features.tokens.device
        starts = range(0, len(features), CRITIC_BATCH)
        parts = [critic(features[start : start + CRITIC_BATCH].float()).float() for start in starts]
        values = torch.cat(parts).view(steps + 1, -1)
        terminated = self.terminated.to(device)
        valid = self.valid.to(device)
        next_values = self._next_values(values, critic)
        return RolloutBatch(
            features=features[: steps * columns],
            actions=self.actions,
            log_probs=self.log_probs,
            values=values[:-1],
            next_values=next_values.masked_fill(terminated | ~valid, 0.0),
            rewards=self.rewards.to(device),
            terminated=terminated,
            truncated=self.truncated.to(device),
            valid=valid,
            observations=self.observations,
        )

    def _next_values(
        self, values: Float[Tensor, "T_plus_1 B"], critic: Critic
    ) -> Float[Tensor, "T B"]:
        """V of each step's true next observation: of a cut-off episode's last, not the next's
        first."""
        next_values = values[1:].reshape(-1).clone()
        for final in self.finals:
            next_values[final.where.to(values.device)] = critic(final.features.float()).float()
        return next_values.view(len(values) - 1, -1)

    @staticmethod
    def join(parts: Sequence["Columns"]) -> "Columns":
        """Return the environments of all parts side by side, in the order of the parts.

        Their observations are left out.
        """
        if len(parts) == 1:
            return parts[0]

        def beside(name: str) -> Tensor:
            return torch.cat([getattr(part, name) for part in parts], 1)

        width = sum(part.rewards.shape[1] for part in parts)
        finals: list[Final] = []
        first = 0
        for part in parts:
            own = part.rewards.shape[1]
            for final in part.finals:
                where = final.where // own * width + first + final.where % own
                finals.append(Final(where, final.features))
            first += own
        return Columns(
            features=_beside([(part.features, part.rewards.shape[1]) for part in parts]),
            actions=beside("actions"),
            log_probs=beside("log_probs"),
            rewards=beside("rewards"),
            terminated=beside("terminated"),
            truncated=beside("truncated"),
            valid=beside("valid"),
            finals=tuple(finals),
        )


def _beside(parts: Sequence[tuple[Features, int]]) -> Features:
    """Return time-major latents of so many environments each as those of all of them."""
    whole = Features.cat([features for features, _ in parts])
    rows: list[Tensor] = []
    first = 0
    for features, columns in parts:
        rows.append(torch.arange(first, first + len(features)).view(-1, columns))
        first += len(features)
    return whole[torch.cat(rows, 1).flatten().to(whole.tokens.device)]


class RolloutRecorder:
    """The columns of one rollout. Workers answer in turn, so lists over (t, worker) are
    time-major."""

    needs_final = True

    def __init__(self, vec: VectorEnv) -> None:
        self._n = vec.n
        self._columns = vec.workers * vec.n
        self.restart()

    def restart(self) -> None:
        """Begin a new rollout."""
        self._seen: list[View] = []  # before each step
        self._choices: list[Choice] = []
        self._results: list[View] = []  # after each step
        self._began = [0] * self._columns  # step of this rollout at which the episode began
        self._invalid: list[tuple[slice, int]] = []  # (steps, column) of episodes that were lost
        self.finished: list[Finished] = []

    def chose(self, view: View, choice: Choice) -> None:
        """Note what was seen, and what was chosen."""
        self._seen.append(view)
        self._choices.append(choice)

    def brought(self, view: View) -> list[Finished]:
        """Note what came of the last choice; the episodes wait in `finished`."""
        result = view.result
        assert result.playing.all(), "a rollout needs endless jobs"
        if result.previous == (None,) * self._n:
            return []  # the first observation of all: there was no step
        t = len(self._results) * self._n // self._columns
        self._results.append(view)
        before = self._seen[len(self._results) - 1].result
        for slot, job in enumerate(result.previous):
            column = result.worker * self._n + slot
            if result.lost[slot]:
                self._invalid.append((slice(self._began[column], t + 1), column))
            elif result.ended[slot]:
                assert job is not None
                length = int(before.step[slot]) + 1
                self.finished.append(Finished(job, bool(result.success[slot]), length))
            if result.lost[slot] or result.ended[slot]:
                self._began[column] = t + 1
        return []

    def columns(self, views: list[View], *, keep_observations: bool) -> Columns:
        """Return everything; `views` are what is seen after the last step."""
        shape = (len(self._choices) * self._n // self._columns, self._columns)
        valid = torch.ones(shape, dtype=torch.bool)
        for when, column in self._invalid:
            valid[when, column] = False
        actions = [choice.actions for choice in self._choices if choice.actions is not None]
        log_probs = [choice.log_probs for choice in self._choices if choice.log_probs is not None]
        return Columns(
            features=Features.cat([_latents(view) for view in (*self._seen, *views)]),
            actions=torch.cat(actions).view(*shape, -1),
            log_probs=torch.cat(log_probs).view(shape),
            rewards=self._join("rewards", shape),
            terminated=self._join("terminated", shape),
            truncated=self._join("truncated", shape),
            valid=valid,
            finals=tuple(self._finals()),
            observations=self._observations() if keep_observations else None,
        )

    def _join(self, name: str, shape: tuple[int, int]) -> Tensor:
        column = np.concatenate([getattr(view.result, name) for view in self._results])
        return torch.from_numpy(column).view(shape)

    def _finals(self) -> Iterator[Final]:
        for index, view in enumerate(self._results):
            if view.final_features is not None and len(view.final_features):
                cut_off = index * self._n + np.flatnonzero(view.result.cut_off)
                yield Final(torch.from_numpy(cut_off), view.final_features)

    def _observations(self) -> Observation:
        return Observation.cat([view.result.observation() for view in self._seen])


def _latents(view: View) -> Features:
    assert view.features is not None
    return view.features


class Collector:
    """Gathers rollouts for PPO.

    Every observation is encoded once: the last one of a rollout is the first of the next, and so is
    its latent. With a `live` encoder, whose latents change between rollouts, that one is encoded
    afresh.
    """

    def __init__(self, server: Server[Finished], *, live: bool = False) -> None:
        assert isinstance(server.recorder, RolloutRecorder)
        self._server = server
        self._recorder = server.recorder
        self._live = live

    @torch.no_grad()
    def collect(self, critic: Critic, steps: int) -> tuple[RolloutBatch, RolloutStats]:
        """Return `steps` decisions in each environment. Raises what `VectorEnv.recv` raises."""
        columns, stats = self.play(steps)
        return columns.judged(critic), stats

    @torch.no_grad()
    def play(self, steps: int) -> tuple[Columns, RolloutStats]:
        """Return the same without a critic's values."""
        server = self._server
        env_seconds = server.env_seconds
        encode_seconds = server.encode_seconds
        dropped = server.vec.dropped
        self._recorder.restart()
        if self._live:
            server.look_again()
        for _ in server.serve(steps):
            pass
        columns = self._recorder.columns(server.views(), keep_observations=self._live)
        stats = RolloutStats(
            decisions=columns.valid.numel(),
            finished=tuple(self._recorder.finished),
            dropped=server.vec.dropped - dropped,
            env_seconds=server.env_seconds - env_seconds,
            encode_seconds=server.encode_seconds - encode_seconds,
        )
        return columns, stats
