"""Rollouts for PPO, each going on where the last one stopped: episodes cross from one to the
next."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from irevla.data.buffers import RolloutBatch
from irevla.envs.vector import Job, VectorEnv
from irevla.rollout.serve import Choice, Server, View
from irevla.rollout.table import DecisionTable
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

    decisions: int  # steps, of which a chunk has several
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


class RolloutRecorder:
    """The decisions of one rollout. Workers answer in turn, so lists over (t, worker) are
    time-major. Rewards of the steps of a chunk are discounted by `gamma` to its beginning."""

    needs_final = True

    def __init__(self, vec: VectorEnv, *, gamma: float = 1.0) -> None:
        self._n = vec.n
        self._gamma = gamma
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

    def batch(self, views: list[View], critic: Critic, *, keep_observations: bool) -> RolloutBatch:
        """Return everything, with the critic's values; `views` are what is seen after the last
        step."""
        table = DecisionTable(self._joined([view.asked.playing for view in self._seen]))
        looks = [view.features for view in (*self._seen, *views)]
        features = Features.cat([latents for latents in looks if latents is not None])
        device = features.tokens.device
        places = torch.from_numpy(table.places).to(device)
        values = self._values(features, critic)[places]
        valid = torch.from_numpy(table.used & ~table.any(self._is_invalid())).to(device)
        terminated = torch.from_numpy(table.any(self._of_steps("terminated"))).to(device)
        truncated = torch.from_numpy(table.any(self._of_steps("truncated"))).to(device)
        rewards = table.discounted(self._of_steps("rewards"), self._gamma)
        next_values = self._next_values(values, table, critic)
        actions = [choice.drawn for choice in self._choices if choice.drawn is not None]
        log_probs = [choice.log_probs for choice in self._choices if choice.log_probs is not None]
        cells = torch.from_numpy(table.listed).to(device)
        # What is large is not copied where that need not be.
        in_order = slice(cells.numel()) if table.dense else cells.flatten()
        return RolloutBatch(
            features=features[in_order],
            actions=torch.cat(actions)[cells],
            log_probs=torch.cat(log_probs)[cells],
            values=values[:-1],
            next_values=next_values.masked_fill(terminated | ~valid, 0.0),
            rewards=torch.from_numpy(rewards).to(device),
            terminated=terminated,
            truncated=truncated,
            valid=valid,
            steps=torch.from_numpy(table.count()).to(device),
            observations=self._observations(in_order) if keep_observations else None,
        )

    def _joined(self, columns: list[np.ndarray]) -> np.ndarray:
        """Return what workers have said in turn as one array, `T C`."""
        return np.concatenate(columns).reshape(-1, self._columns)

    def _of_steps(self, name: str) -> np.ndarray:
        return self._joined([getattr(view.result, name) for view in self._results])

    def _is_invalid(self) -> Bool[np.ndarray, "T C"]:
        """Return which steps are of episodes that were lost."""
        invalid = np.zeros_like(self._of_steps("lost"))
        for when, column in self._invalid:
            invalid[when, column] = True
        return invalid

    def _values(self, features: Features, critic: Critic) -> Float[Tensor, " N"]:
        starts = range(0, len(features), CRITIC_BATCH)
        parts = [critic(features[start : start + CRITIC_BATCH].float()).float() for start in starts]
        return torch.cat(parts)

    def _next_values(
        self, values: Float[Tensor, "T_plus_1 C"], table: DecisionTable, critic: Critic
    ) -> Float[Tensor, "T C"]:
        """V of the true observation after each decision: of a cut-off episode's last, not the
        next's first."""
        next_values = values[1:].clone()
        for index, view in enumerate(self._results):
            if view.final_features is not None and len(view.final_features):
                step, first = divmod(index * self._n, self._columns)
                columns = first + np.flatnonzero(view.result.cut_off)
                rows = torch.from_numpy(table.row[step, columns])
                final = critic(view.final_features.float()).float()
                next_values[rows, torch.from_numpy(columns)] = final
        return next_values

    def _observations(self, in_order: slice | Int64[Tensor, " N"]) -> Observation:
        seen = Observation.cat([view.asked.observation() for view in self._seen])
        return seen[in_order if isinstance(in_order, slice) else in_order.tolist()]


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
        """Return the decisions of `steps` steps in each environment. Raises what `VectorEnv.recv`
        raises."""
        server = self._server
        env_seconds = server.env_seconds
        encode_seconds = server.encode_seconds
        dropped = server.vec.dropped
        self._recorder.restart()
        if self._live:
            server.look_again()
        for _ in server.serve(steps):
            pass
        batch = self._recorder.batch(server.views(), critic, keep_observations=self._live)
        stats = RolloutStats(
            decisions=steps * server.vec.workers * server.vec.n,
            finished=tuple(self._recorder.finished),
            dropped=server.vec.dropped - dropped,
            env_seconds=server.env_seconds - env_seconds,
            encode_seconds=server.encode_seconds - encode_seconds,
        )
        return batch, stats
