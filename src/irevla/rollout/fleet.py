"""The actors on a cluster that play for this process: started once, told, and replaced where one is
lost."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from irevla.compute.ray_actors import LONGEST, Lost, RayActors, actor_shares, joined
from irevla.compute.ray_cluster import check_together, shares
from irevla.config import METHODS, Config, RolloutsConfig
from irevla.envs.suite import Suite
from irevla.errors import UserError
from irevla.models.policy import VLAPolicy
from irevla.rollout.player import COMMAND, HEAD, SELF
from irevla.storage.checkpoint import Files
from irevla.storage.message import pack, unpack
from irevla.types import tensors_hash

MOST_LOSSES = 3  # of one actor in a row, without an answer between
ADDRESS = "rollouts.ray_address"  # the setting that names the cluster
INSTALL = 1800.0  # seconds for one in the place of a lost one to stand where that was
PATIENCE = 60.0  # seconds after which an actor that does not even say that it is alive is replaced

_log = logging.getLogger(__name__)

Restore = Callable[[int], Sequence[Files]]
"""What to tell the actor of that number, once it has the policy, so that it goes on where a lost
one was."""


class Fleet:
    """So many actors, all with the same policy."""

    def __init__(self, actors: RayActors, *, device: str) -> None:
        self._actors = actors
        self._device = device
        self._policy: VLAPolicy | None = None
        self._vlm = ""  # sha256 of what makes the latents there
        self.device_type = ""  # what it makes them on: "cpu" or "cuda"
        self._losses = [0] * len(actors)  # in a row

    def __len__(self) -> int:
        return len(self._actors)

    def install(self, policy: VLAPolicy) -> None:
        """Let all act by this policy: its head alone is sent where they have the rest."""
        self._policy = policy
        vlm = policy.vlm_hash()
        message = head_message(policy, "head") if vlm == self._vlm else self._whole()
        answer, *_ = self.tell_all([message] * len(self))
        self._vlm = vlm
        if "told.json" in answer:
            self.device_type = answer["told.json"]["device"]

    def _whole(self) -> Files:
        assert self._policy is not None
        return command("policy", self._policy.files(), device=self._device)

    def tell_all(
        self, messages: Sequence[Files], *, restore: Restore = lambda index: ()
    ) -> list[dict[str, Any]]:
        """Send each actor its message; return their answers. A lost one is replaced and told again.

        Raises `UserError` for what an actor says that a user can mend, and where one is lost again
        and again.
        """
        sent = [pack(message) for message in messages]
        asked = [self._actors.ask(index, message) for index, message in enumerate(sent)]
        return [
            self.answer(index, asked[index], again=sent[index], restore=restore)
            for index in range(len(sent))
        ]

    def ask(self, index: int, message: bytes) -> Any:
        """Send a packed message to one actor; return what `ready` and `answer` take."""
        return self._actors.ask(index, message)

    def ready(self, asked: Mapping[int, Any]) -> Sequence[int]:
        """Return those of the asked that have answered or are lost; wait for one."""
        return self._actors.ready(asked)

    def answer(
        self,
        index: int,
        asked: Any,
        *,
        again: bytes,
        restore: Restore = lambda index: (),
        most: float = LONGEST,
    ) -> dict[str, Any]:
        """Return an answer. An actor that was lost, or needs more than `most` seconds, is replaced,
        restored and told `again`."""
        while True:
            try:
                answer = unpack(self._actors.answer(index, asked, most=most))
                self._losses[index] = 0
                return answer
            except Lost as reason:
                self._replace(index, str(reason), restore)
                asked = self._actors.ask(index, again)

    def _replace(self, index: int, reason: str, restore: Restore) -> None:
        """Put another actor in the place of a lost one. Raises `UserError` for the fourth loss."""
        while True:
            self._losses[index] += 1
            if self._losses[index] > MOST_LOSSES:
                last = reason.strip().splitlines()[-1]
                raise UserError(
                    f"rollout actor {index} was lost {self._losses[index]} times in a row, at "
                    f"last: {last}; look at its node, and give the same command again, with "
                    "--rollouts.backend and --rollouts.encoder local if it is to go on here"
                )
            _log.warning("rollout actor %d was lost (%s); another is asked for", index, reason)
            try:
                self._actors.replace(index)
                for message in (self._whole(), *restore(index)):
                    asked = self._actors.ask(index, pack(message))
                    self._actors.answer(index, asked, most=INSTALL)
                return
            except Lost as error:
                reason = str(error)

    def close(self) -> None:
        """End all actors."""
        self._actors.close()


def command(do: str, files: Files | None = None, **settings: Any) -> dict[str, Any]:
    """Return a message for a `Player`."""
    return {COMMAND: {"do": do, **settings}, **(files or {})}


def head_message(policy: VLAPolicy, do: str, **settings: Any) -> dict[str, Any]:
    """Return one that carries the policy's head, and its sha256."""
    head = policy.head()
    return command(do, {HEAD: head}, head=tensors_hash(head), **settings)


# --- who goes on to the next stage

_resting: dict[tuple[RolloutsConfig, int], Fleet] | None = None  # None: nobody rests


@contextmanager
def fleet_outlives_stages() -> Iterator[None]:
    """Keep the actors, with their VLMs, for whoever comes next. At the end all of them leave."""
    global _resting
    outer = _resting
    _resting = outer if outer is not None else {}
    try:
        yield
    finally:
        if outer is None:
            let_go()
            _resting = None


def let_go() -> None:
    """Let the resting actors leave, as others need their CPUs and GPUs; the next stage that is
    played starts its own."""
    while _resting:
        _, fleet = _resting.popitem()
        fleet.close()


@contextmanager
def hired(config: RolloutsConfig, *, workers: int) -> Iterator[Fleet]:
    """Yield the actors that `config` asks for, each with CPUs for so many workers.

    Raises `UserError` where the cluster has not what they need.
    """
    kind = (config, workers)
    resting = _resting or {}
    fleet = resting.pop(kind, None) or _new_fleet(config, workers)
    try:
        yield fleet
    except BaseException:
        fleet.close()
        raise
    if _resting is None:
        fleet.close()
    else:
        _resting[kind] = fleet


def check_rollouts(suite: Suite, config: Config, *, execute: int) -> None:
    """Raise `UserError` where those on a cluster cannot play, or encode for, a policy that executes
    so many actions at once, before they are needed."""
    rollouts = config.rollouts
    if not rollouts.uses_ray:
        return
    if rollouts.backend == "ray" and execute > 1:
        raise UserError(
            "the actors of rollouts.backend ray ask the policy at each step: let it execute one "
            "action (--model.execute 1, of irevla eval --execute 1), or --rollouts.backend local"
        )
    if rollouts.backend == "ray" and suite.real_arm is not None:
        raise UserError(f"{suite.name} moves an arm, which is here: --rollouts.backend local")
    if find_spec("ray") is None:
        raise UserError("there is no Ray here: pip install 'irevla[ray]', or leave rollouts out")
    check_cluster(config, workers=config.env.workers if rollouts.backend == "ray" else 1)


def check_cluster(config: Config, *, workers: int) -> None:
    """Raise `UserError` where the cluster has not what the actors need, with what learns at the
    same time, before they are needed."""
    rollouts = config.rollouts
    compute = config.compute
    with joined(rollouts.ray_address, asked=ADDRESS):
        each = actor_shares(rollouts.actors, rollouts.ray_resource, rollouts.device, cpus=workers)
        beside = _learning_beside(config)
        if beside and _host(compute.ray_address) == _host(rollouts.ray_address):
            learner = shares(1, compute.ray_resource, config.device)
            check_together((rollouts.actors, each), (beside, learner))


def _learning_beside(config: Config) -> int:
    """Return how many processes on a cluster learn while these actors are at work.

    Actors that play have left before SAC's learner starts: its stage 1 is played here.
    """
    compute = config.compute
    by_sac = config.rl == "sac" and METHODS[config.method].rl != "none"
    stage_1 = by_sac and compute.stage1 == "ray" and config.rollouts.encoder == "ray"
    stage_2 = compute.pipeline and compute.stage2 == "ray"
    return int(stage_1) + (compute.processes if stage_2 else 0)


def _host(address: str) -> str:
    """Return the host of a cluster, which clients and nodes reach at other ports."""
    return address.rpartition("://")[2].rpartition(":")[0] or address


def _new_fleet(config: RolloutsConfig, workers: int) -> Fleet:
    actors = RayActors(
        SELF,
        number=config.actors,
        address=config.ray_address,
        asked=ADDRESS,
        resource=config.ray_resource,
        cpus=workers,
        device=config.device,
        patience=PATIENCE,
    )
    return Fleet(actors, device=config.device)
