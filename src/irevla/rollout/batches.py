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
    """The decisions of `B` environments that no critic has judged yet: row t has the t-th of each.

    Where a policy looks at each step that is step t; else some may have made fewer than `T`.
    """

    features: Features  # N + B: of what was seen before each decision, and after the last ones
    places: Int[Tensor, "T_plus_1 B"]  # where in these each decision is, and what came after it
    listed: Int[Tensor, "T B"]  # where each decision is; cells without one have the first one's
    actions: Float[Tensor, "T B A"]  # as sampled
    log_probs: Float[Tensor, "T B"]
    rewards: Float[Tensor, "T B"]  # of a decision's steps, discounted to its beginning
    terminated: Bool[Tensor, "T B"]
    truncated: Bool[Tensor, "T B"]
    valid: Bool[Tensor, "T B"]
    steps: Int[Tensor, "T B"]  # that each decision took
    finals: tuple[Final, ...]
    observations: Observation | None = None  # T*B, where the encoder is live

    @property
    def dense(self) -> bool:
        """Whether each step is a decision."""
        return bool((self.steps == 1).all())

    def judged(self, critic: Critic) -> RolloutBatch:
        """Return them with the critic's values."""
        features = self.features
        device = features.tokens.device
        starts = range(0, len(features), CRITIC_BATCH)
        parts = [critic(features[start : start + CRITIC_BATCH].float()).float() for start in starts]
        values = torch.cat(parts)[self.places.to(device)]
        terminated = self.terminated.to(device)
        valid = self.valid.to(device)
        next_values = self._next_values(values, critic)
        return RolloutBatch(
            # What is large is not copied where that need not be.
            features=features[in_order(self.listed.to(device), dense=self.dense)],
            actions=self.actions,
            log_probs=self.log_probs,
            values=values[:-1],
            next_values=next_values.masked_fill(terminated | ~valid, 0.0),
            rewards=self.rewards.to(device),
            terminated=terminated,
            truncated=self.truncated.to(device),
            valid=valid,
            steps=self.steps.to(device),
            observations=self.observations,
        )

    def _next_values(
        self, values: Float[Tensor, "T_plus_1 B"], critic: Critic
    ) -> Float[Tensor, "T B"]:
        """V of each decision's true next observation: of a cut-off episode's last, not the next's
        first."""
        next_values = values[1:].reshape(-1).clone()
        for final in self.finals:
            next_values[final.where.to(values.device)] = critic(final.features.float()).float()
        return next_values.view(len(values) - 1, -1)

    @staticmethod
    def join(parts: Sequence["Columns"]) -> "Columns":
        """Return the environments of all parts side by side, in the order of the parts.

        Their observations are left out. Several parts must be of policies that look at each step.
        """
        if len(parts) == 1:
            return parts[0]
        assert all(part.dense for part in parts)

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
        rows = len(parts[0].rewards)
        places = torch.arange((rows + 1) * width).view(rows + 1, width)
        return Columns(
            features=_beside([(part.features, part.rewards.shape[1]) for part in parts]),
            places=places,
            listed=places[:-1],
            actions=beside("actions"),
            log_probs=beside("log_probs"),
            rewards=beside("rewards"),
            terminated=beside("terminated"),
            truncated=beside("truncated"),
            valid=beside("valid"),
            steps=beside("steps"),
            finals=tuple(finals),
        )


def in_order(listed: Int[Tensor, "T B"], *, dense: bool) -> slice | Int[Tensor, " N"]:
    """Return where the decisions of a table are in their list, cell by cell."""
    return slice(listed.numel()) if dense else listed.flatten()


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

    def columns(self, views: list[View], *, keep_observations: bool) -> Columns:
        """Return everything; `views` are what is seen after the last step."""
        table = DecisionTable(self._joined([view.asked.playing for view in self._seen]))
        looks = [view.features for view in (*self._seen, *views)]
        features = Features.cat([latents for latents in looks if latents is not None])
        device = features.tokens.device
        actions = [choice.drawn for choice in self._choices if choice.drawn is not None]
        log_probs = [choice.log_probs for choice in self._choices if choice.log_probs is not None]
        cells = torch.from_numpy(table.listed)
        order = in_order(cells, dense=table.dense)
        rewards = table.discounted(self._of_steps("rewards"), self._gamma)
        return Columns(
            features=features,
            places=torch.from_numpy(table.places),
            listed=cells,
            actions=torch.cat(actions)[cells.to(device)],
            log_probs=torch.cat(log_probs)[cells.to(device)],
            rewards=torch.from_numpy(rewards),
            terminated=torch.from_numpy(table.any(self._of_steps("terminated"))),
            truncated=torch.from_numpy(table.any(self._of_steps("truncated"))),
            valid=torch.from_numpy(table.used & ~table.any(self._is_invalid())),
            steps=torch.from_numpy(table.count()),
            finals=tuple(self._finals(table)),
            observations=self._observations(order) if keep_observations else None,
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

    def _finals(self, table: DecisionTable) -> Iterator[Final]:
        for index, view in enumerate(self._results):
            if view.final_features is not None and len(view.final_features):
                step, first = divmod(index * self._n, self._columns)
                columns = first + np.flatnonzero(view.result.cut_off)
                where = table.row[step, columns] * self._columns + columns
                yield Final(torch.from_numpy(where), view.final_features)

    def _observations(self, order: slice | Int[Tensor, " N"]) -> Observation:
        seen = Observation.cat([view.asked.observation() for view in self._seen])
        return seen[order if isinstance(order, slice) else order.tolist()]


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
            decisions=steps * server.vec.workers * server.vec.n,
            finished=tuple(self._recorder.finished),
            dropped=server.vec.dropped - dropped,
            env_seconds=server.env_seconds - env_seconds,
            encode_seconds=server.encode_seconds - encode_seconds,
        )
        return columns, stats
