"""Objects of ours that live in processes of a Ray cluster, and answer messages. Beside
`ray_cluster` the only file that imports Ray.

What Ray pickles of ours are the name of a class, bytes and texts: what the bytes say is for those
who send and read them (`storage.message`).
"""

import importlib
import logging
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Protocol, runtime_checkable

from irevla.compute.ray_cluster import connect, shares
from irevla.errors import UserError

PART = 96_000  # bytes: up to 100 kB travel with a call, what is larger takes ways of its own
PARTS = 8  # of an answer
MOST_PARTS = 16  # of a message: one that is larger goes in one piece
LONGEST = 4 * 3600.0  # seconds for any answer: a driver that hangs says that it is alive
START = 600.0  # seconds for an actor to start: a busy node needs minutes to import torch


class Lost(Exception):
    """An actor or its node died, hung or failed; the text says which."""


@runtime_checkable
class Answering(Protocol):
    """What lives there: made without arguments, where it is asked for by "MODULE:CLASS"."""

    def answer(self, message: bytes) -> bytes:
        """Return what to say to a message."""
        ...


class Host:
    """An actor of Ray around one such object. `alive` is answered while it is busy, too."""

    def __init__(self, kind: str) -> None:
        module, _, name = kind.partition(":")
        self._guest: Answering = getattr(importlib.import_module(module), name)()

    def answer(self, *message: bytes) -> tuple[str | bytes, ...]:
        """Return "ok" and the answer in `PARTS`, "user" and what a user can mend, or "fault" and a
        traceback. The message comes in parts, too."""
        kind, content = self._answer(b"".join(message))
        size = -(-len(content) // PARTS)
        return kind, *(content[size * part : size * (part + 1)] for part in range(PARTS))

    def _answer(self, message: bytes) -> tuple[str, bytes]:
        try:
            return "ok", self._guest.answer(message)
        except UserError as error:
            return "user", str(error).encode()
        except Exception:  # noqa: BLE001  # told there, where somebody can act on it
            return "fault", traceback.format_exc().encode()

    def alive(self) -> None:
        """Answer, if the process can."""


@contextmanager
def joined(address: str, *, asked: str) -> Iterator[None]:
    """Be part of the cluster at `address`, which the setting `asked` names, for a while.

    A program that is part of one already stays in it. Raises `UserError` where none answers.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    connect(address, asked=asked, quietly=True)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def own_cluster(*, cpus: int, path: str) -> Iterator[None]:
    """Be a cluster of this machine alone for a while, which believes that it has so many CPUs.

    Its processes find modules in `path` as this one does.
    """
    import ray

    ray.init(
        num_cpus=cpus,
        _node_ip_address="127.0.0.1",
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": {"PYTHONPATH": path}},
    )
    try:
        yield
    finally:
        ray.shutdown()


def actor_shares(number: int, resource: str, device: str, *, cpus: int) -> dict[str, float]:
    """Return what each actor takes of its node. Raises `UserError` where the cluster has less."""
    return shares(number, resource, device, cpus=cpus, what="actors", lower="rollouts.actors")


class RayActors:
    """`number` processes on the cluster at `address`, each with an object of `kind`; the setting
    `asked` names the address.

    Each takes `cpus` of its node, one of `resource` if that is not empty and, unless `device` is
    "cpu", a GPU. An actor that does not even say that it is alive within `patience` seconds is
    lost. Raises `UserError` where there is no such cluster, or too little of it.
    """

    def __init__(
        self,
        kind: str,
        *,
        number: int,
        address: str,
        asked: str,
        resource: str,
        cpus: int,
        device: str,
        patience: float,
    ) -> None:
        import ray

        self._kind = kind
        self._patience = patience
        self._up: set[int] = set()  # those that have answered
        self._asked: dict[int, float] = {}  # when each was last asked
        self._life = ExitStack()
        self._life.enter_context(joined(address, asked=asked))
        with self._life:
            each = actor_shares(number, resource, device, cpus=cpus)
            gpus = each.pop("GPU", 0)
            self._made = ray.remote(concurrency_groups={"alive": 1})(Host).options(
                num_cpus=each.pop("CPU"), num_gpus=gpus, resources=each, max_restarts=0
            )
            self._actors = [self._new() for _ in range(number)]
            self._life = self._life.pop_all()  # until `close`

    def __len__(self) -> int:
        return len(self._actors)

    def _new(self) -> Any:
        return self._made.remote(self._kind)

    def ask(self, index: int, message: bytes) -> Any:
        """Send a message to an actor; return what `answer` takes. It answers them in order."""
        size = PART if len(message) <= MOST_PARTS * PART else len(message)
        parts = [message[start : start + size] for start in range(0, len(message), size)]
        self._asked[index] = time.monotonic()
        return self._actors[index].answer.options(num_returns=1 + PARTS).remote(*parts)

    def answer(self, index: int, asked: Any, *, most: float = LONGEST) -> bytes:
        """Wait for an answer to what was asked last, `most` seconds after which even an actor that
        is alive counts as lost. Raises `Lost`, or the `UserError` that the object raised."""
        import ray

        try:
            while not ray.wait(asked[:1], timeout=self._patience)[0]:
                self._check_alive(index)
                if self._waited(index) >= most:
                    raise Lost(f"is alive, but gave no answer for {self._waited(index):.0f} s")
            kind, *parts = ray.get(asked)
        except (ray.exceptions.RayError, ConnectionError) as error:  # the second: of a client
            self._check_here()
            raise Lost(f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}") from error
        self._up.add(index)
        content = b"".join(parts)
        if kind == "user":
            raise UserError(content.decode())
        if kind != "ok":
            raise Lost("raised an exception:\n" + content.decode())
        return content

    def _waited(self, index: int) -> float:
        return time.monotonic() - self._asked[index]

    def _check_alive(self, index: int) -> None:
        import ray

        self._check_here()
        patience = self._patience if index in self._up else START
        alive = self._actors[index].alive.options(concurrency_group="alive").remote()
        if not ray.wait([alive], timeout=patience)[0]:
            raise Lost(f"gave no answer for {patience:g} s")
        ray.get(alive)  # raises what has become of it

    def _check_here(self) -> None:
        """Raise `UserError` where this machine is no part of the cluster any more: nobody that it
        could start would answer."""
        import ray

        try:
            here = ray.get_runtime_context().get_node_id()
            left = not any(node["NodeID"] == here and node["Alive"] for node in ray.nodes())
        except ConnectionError as error:
            raise UserError(
                f"the link to the Ray cluster is gone ({error}): give the same command again"
            ) from error
        if left:
            raise UserError(
                "this machine is no node of the Ray cluster any more: `ray start` it again, and "
                "give the same command again"
            )

    def ready(self, asked: Mapping[int, Any]) -> Sequence[int]:
        """Return the actors, of those asked, that have an answer or are lost; wait for one."""
        import ray

        while True:
            done, _ = ray.wait([each[0] for each in asked.values()], timeout=self._patience)
            found = [index for index, each in asked.items() if each[0] in done]
            found = found or [index for index in asked if self._is_lost(index)]
            if found:
                return found

    def _is_lost(self, index: int) -> bool:
        import ray

        if self._waited(index) >= LONGEST:
            return True
        try:
            self._check_alive(index)
        except (Lost, ray.exceptions.RayError, ConnectionError):
            return True
        return False

    def replace(self, index: int) -> None:
        """End an actor, if it still is, and start another in its place. Raises `Lost` where that
        cannot be."""
        import ray

        try:
            ray.kill(self._actors[index])
            self._up.discard(index)
            self._actors[index] = self._new()
        except (ray.exceptions.RayError, ConnectionError) as error:
            raise Lost(f"{type(error).__name__}: {error}") from error

    def close(self) -> None:
        """End all actors."""
        import ray

        with suppress(ConnectionError):  # a client's: its actors leave with it
            for actor in self._actors:
                ray.kill(actor)
        self._actors = []
        self._life.close()
