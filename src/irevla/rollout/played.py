"""Who plays the episodes of a policy without exploration noise: environments of this process, or
actors on a cluster.

An episode depends on its seed and on the policy, whoever plays it: see docs/scale-out.md for where
that holds to the bit.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Protocol, cast, runtime_checkable

from irevla.config import EnvConfig, RolloutsConfig
from irevla.envs.suite import Authorization, Suite
from irevla.envs.vector import Job, VectorEnv, lost_note
from irevla.models.policy import VLAPolicy
from irevla.rollout.encoder import encoder_of
from irevla.rollout.episodes import EpisodeRecorder, Outcome
from irevla.rollout.fleet import Fleet, command, hired
from irevla.rollout.serve import Actor, Server
from irevla.rollout.wire import jobs_of_json, jobs_to_json, outcome_of_files
from irevla.storage.checkpoint import Files
from irevla.storage.message import pack
from irevla.types import Policy


@runtime_checkable
class Episodes(Protocol):
    """Episodes that are played as they are asked for, in the order in which they end."""

    def __iter__(self) -> Iterator[Outcome]: ...

    @property
    def given_up(self) -> Collection[Job]:
        """Jobs whose environment failed again and again, so far: the same list that grows."""
        ...

    @property
    def facts(self) -> dict[str, Any]:
        """What a journal should say of what was lost."""
        ...


@contextmanager
def open_episodes(
    config: RolloutsConfig,
    actor: Actor,
    policy: Policy,
    suite: Suite,
    env: EnvConfig,
    jobs: Sequence[Job],
    *,
    images: bool = False,
    by_task: bool = False,
) -> Iterator[Episodes]:
    """Yield the episodes of `policy`, which `actor` plays here. Leave whenever you have enough.

    `by_task`: see `VectorEnv`; actors on a cluster play their shares in their order.
    """
    acting = policy.hash()
    if config.backend == "ray":
        with hired(config, workers=env.workers) as fleet:
            opening = {"suite": suite.source or suite.name, "env": asdict(env), "images": images}
            fleet.install(cast(VLAPolicy, policy))
            yield RemoteEpisodes(fleet, jobs, opening | {"policy": acting})
        return
    who = Authorization(acting)
    with (
        encoder_of(config, cast(VLAPolicy, policy)),
        VectorEnv(suite, env, iter(jobs), by_task=by_task, authorization=who) as vec,
    ):
        yield LocalEpisodes(vec, actor, EpisodeRecorder(vec, policy_hash=acting, images=images))


class LocalEpisodes:
    """Those that an actor plays in environments of this process."""

    def __init__(self, vec: VectorEnv, actor: Actor, recorder: EpisodeRecorder) -> None:
        self.given_up = vec.given_up
        self._vec = vec
        self._server = Server(vec, actor, recorder)

    def __iter__(self) -> Iterator[Outcome]:
        return self._server.serve()

    @property
    def facts(self) -> dict[str, Any]:
        """What a journal should say of what was lost."""
        return self._vec.lost_note


class RemoteEpisodes:
    """Those of actors on a cluster: actor `i` of `N` plays every `N`-th, from the `i`-th.

    What a lost actor had not brought yet is played by the one in its place.
    """

    def __init__(self, fleet: Fleet, jobs: Sequence[Job], opening: dict[str, Any]) -> None:
        self.given_up: list[Job] = []
        self._fleet = fleet
        self._left = [list(jobs[index :: len(fleet)]) for index in range(len(fleet))]
        self._opening = opening
        self._slots = opening["env"]["workers"] * opening["env"]["envs_per_worker"]
        self._dropped = 0

    def __iter__(self) -> Iterator[Outcome]:
        asking = pack(command("next"))
        busy = [index for index, left in enumerate(self._left) if left]
        self._fleet.tell_all([self._open(index) for index in range(len(self._left))])
        asked = {index: self._fleet.ask(index, asking) for index in busy}
        while asked:
            for index in self._fleet.ready(asked):
                answer = self._fleet.answer(
                    index, asked.pop(index), again=asking, restore=self._restore
                )
                told = answer["told.json"]
                self._drop(index, jobs_of_json(told["given_up"]))
                if told["over"]:
                    continue
                asked[index] = self._fleet.ask(index, asking)
                outcome = outcome_of_files(answer)
                self._left[index].remove(outcome.job)
                yield outcome

    def _open(self, index: int) -> Files:
        return command("episodes", jobs=jobs_to_json(self._left[index]), **self._opening)

    def _restore(self, index: int) -> list[Files]:
        self._dropped += min(self._slots, len(self._left[index]))
        return [self._open(index)]

    def _drop(self, index: int, given_up: Sequence[Job]) -> None:
        for job in given_up:
            if job in self._left[index]:
                self._left[index].remove(job)
                self.given_up.append(job)

    @property
    def facts(self) -> dict[str, Any]:
        """What a journal should say of what was lost."""
        lost = {"dropped": self._dropped} if self._dropped else {}
        return {**lost_note(self.given_up), **lost}
