"""Who collects PPO's rollouts: environments of this process, or actors on a cluster.

Both give the same bits where they play the same episodes: one actor plays those of here, and `N`
play every `N`-th each, side by side in the batch.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch

from irevla.config import EnvConfig, RolloutsConfig
from irevla.data.buffers import RolloutBatch
from irevla.envs.suite import Authorization, Suite
from irevla.envs.vector import Job, VectorEnv, lost_note
from irevla.models.policy import VLAPolicy
from irevla.rollout.actors import GaussianActor
from irevla.rollout.batches import Collector, Columns, Critic, RolloutRecorder, RolloutStats
from irevla.rollout.encoder import encoder_of
from irevla.rollout.episodes import endless_jobs
from irevla.rollout.exploration import PinkNoise
from irevla.rollout.fleet import Fleet, command, head_message, hired
from irevla.rollout.serve import Server
from irevla.rollout.wire import jobs_of_json, rollout_of_files
from irevla.storage.checkpoint import Files

EPISODES = "episodes.json"  # of a checkpoint: what is under way here
VIEWS = "views.safetensors"  # the latents of what was seen last
ACTORS = "actors.json"  # what is under way in each actor


@dataclass(frozen=True)
class Practice:
    """What is played."""

    suite: Suite
    env: EnvConfig
    task: str
    first: int  # seed of the first episode; the next ones follow it
    explore: int  # seed of the exploration noise
    gamma: float  # discount a step, of rewards inside a chunk of actions


@runtime_checkable
class Rollouts(Protocol):
    """Rollouts, each going on where the last one stopped."""

    def collect(self, critic: Critic, steps: int) -> tuple[RolloutBatch, RolloutStats]:
        """Return `steps` decisions in each environment."""
        ...

    def state(self) -> dict[str, Any]:
        """Return the episodes under way, as files of a checkpoint."""
        ...

    @property
    def lost_note(self) -> dict[str, str]:
        """What a journal should say of episodes that were given up."""
        ...


@contextmanager
def open_rollouts(
    config: RolloutsConfig,
    policy: VLAPolicy,
    practice: Practice,
    *,
    live: bool,
    acting: Authorization,
    files: Files,
) -> Iterator[Rollouts]:
    """Yield rollouts of `policy` as it is at each call. They go on from a checkpoint's `files`.

    A `live` encoder's latents change between rollouts. Raises `UserError` where there is no such
    cluster as `config` asks for.
    """
    if config.backend == "ray":
        with hired(config, workers=practice.env.workers) as fleet:
            yield RemoteRollouts(fleet, policy, practice, files)
        return
    state = files.get(EPISODES)
    if ACTORS in files:  # others have played so far
        state = {"handed_out": _handed_out(files), "workers": []}
    jobs = endless_jobs(practice.task, practice.first)
    with (
        encoder_of(config, policy, stored=True),
        VectorEnv(practice.suite, practice.env, jobs, authorization=acting, state=state) as vec,
    ):
        noise = PinkNoise(practice.explore, decisions=practice.env.horizon, execute=policy.execute)
        actor = GaussianActor(policy, noise, kept=not live)
        server = Server(vec, actor, RolloutRecorder(vec, gamma=practice.gamma))
        if vec.resumed:
            server.resume(dict(files))
        yield LocalRollouts(Collector(server, live=live), server)


def _handed_out(files: Files) -> int:
    """Return how many seeds have been used, by whomever, up to a checkpoint."""
    if ACTORS in files:
        books = files[ACTORS]["episodes"]
        furthest = max(book["handed_out"] for book in books)
        return int(files[ACTORS]["before"] + len(books) * furthest)
    return int(files[EPISODES]["handed_out"]) if EPISODES in files else 0


class LocalRollouts:
    """Those of this process's environments."""

    def __init__(self, collector: Collector, server: Server[Any]) -> None:
        self._collector = collector
        self._server = server

    def collect(self, critic: Critic, steps: int) -> tuple[RolloutBatch, RolloutStats]:
        """Return `steps` decisions in each environment. Raises what `VectorEnv.recv` raises."""
        return self._collector.collect(critic, steps)

    def state(self) -> dict[str, Any]:
        """Return the episodes under way, as files of a checkpoint."""
        return self._server.state()

    @property
    def lost_note(self) -> dict[str, str]:
        """What a journal should say of episodes that were given up."""
        return self._server.vec.lost_note


class RemoteRollouts:
    """Those of actors on a cluster. Actor `i` of `N` plays every `N`-th episode, from the `i`-th.

    With each rollout comes what is under way; so what takes the place of a lost actor takes the
    actions of the partial episodes again, and plays the same rollout.
    """

    def __init__(self, fleet: Fleet, policy: VLAPolicy, practice: Practice, files: Files) -> None:
        self._fleet = fleet
        self._policy = policy
        self._practice = practice
        self._dropped = 0
        self._given_up: list[list[Job]] = [[] for _ in range(len(fleet))]
        self._under_way: list[Files] = [{} for _ in range(len(fleet))]
        self._before = _handed_out(files)  # seeds that were used by others
        if ACTORS in files and len(files[ACTORS]["episodes"]) == len(fleet):
            self._before = files[ACTORS]["before"]
            self._under_way = _apart(files)
        fleet.install(policy)
        fleet.tell_all([self._opening(index) for index in range(len(fleet))])

    def _opening(self, index: int) -> Files:
        practice = self._practice
        return command(
            "rollouts",
            self._under_way[index],
            suite=practice.suite.source or practice.suite.name,
            env=asdict(practice.env),
            task=practice.task,
            first=practice.first + self._before + index,
            step=len(self._fleet),
            explore=practice.explore,
        )

    @torch.no_grad()
    def collect(self, critic: Critic, steps: int) -> tuple[RolloutBatch, RolloutStats]:
        """Return `steps` decisions in each environment of each actor, with the policy's head as it
        is now. Raises `UserError` as `Fleet.tell_all` does."""
        dropped = self._dropped
        message = head_message(self._policy, "collect", steps=steps)
        answers = self._fleet.tell_all([message] * len(self._fleet), restore=self._restore)
        parts = []
        for index, answer in enumerate(answers):
            parts.append(rollout_of_files(answer))
            self._under_way[index] = {name: answer[name] for name in (EPISODES, VIEWS)}
            self._given_up[index] = jobs_of_json(answer["told.json"]["given_up"])
        stats = _total([stats for _, stats in parts])
        stats = replace(stats, dropped=stats.dropped + self._dropped - dropped)
        device = self._policy.device
        columns = Columns.join([_on(columns, device) for columns, _ in parts])
        return columns.judged(critic), stats

    def _restore(self, index: int) -> list[Files]:
        self._dropped += self._practice.env.workers * self._practice.env.envs_per_worker
        return [self._opening(index)]

    def state(self) -> dict[str, Any]:
        """Return the episodes under way, as files of a checkpoint."""
        books = [files[EPISODES] for files in self._under_way]
        views = {
            f"{index}/{name}": latents
            for index, files in enumerate(self._under_way)
            for name, latents in files[VIEWS].items()
        }
        return {ACTORS: {"before": self._before, "episodes": books}, VIEWS: views}

    @property
    def lost_note(self) -> dict[str, str]:
        """What a journal should say of episodes that were given up."""
        return lost_note([job for jobs in self._given_up for job in jobs])


def _apart(files: Files) -> list[Files]:
    """Return the files of each actor, of a checkpoint of all."""
    found: list[Files] = []
    for index, book in enumerate(files[ACTORS]["episodes"]):
        mine = f"{index}/"
        views: Mapping[str, Any] = {
            name.removeprefix(mine): latents
            for name, latents in files[VIEWS].items()
            if name.startswith(mine)
        }
        found.append({EPISODES: book, VIEWS: views})
    return found


def _on(columns: Columns, device: torch.device) -> Columns:
    return replace(
        columns,
        features=columns.features.to(device),
        actions=columns.actions.to(device),
        log_probs=columns.log_probs.to(device),
        finals=tuple(final.to(device) for final in columns.finals),
    )


def _total(parts: Sequence[RolloutStats]) -> RolloutStats:
    """Return what the rollouts of all actors came to; seconds are those of one, on average."""
    return RolloutStats(
        decisions=sum(part.decisions for part in parts),
        finished=tuple(each for part in parts for each in part.finished),
        dropped=sum(part.dropped for part in parts),
        env_seconds=sum(part.env_seconds for part in parts) / len(parts),
        encode_seconds=sum(part.encode_seconds for part in parts) / len(parts),
    )
