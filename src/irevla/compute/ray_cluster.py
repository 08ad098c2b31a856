"""The engine Ray: processes on the nodes of a cluster, started and, where one is lost, started anew
by Ray Train. Beside `ray_actors` the only file that imports Ray.

What Ray sends to them is the name of a module and two texts. Their results do not come back through
Ray: see `stages.job`.
"""

import importlib
import logging
import os
import socket
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from tempfile import TemporaryDirectory
from typing import Any

from irevla.compute.engine import REFUSED
from irevla.compute.processes import outlive_nobody
from irevla.errors import UserError

MOST_SAID = 400  # characters of an error of Ray
RESTARTS = 3  # of all processes, after one was lost
WAIT = 20.0  # seconds for a cluster to answer
SETTINGS = 4  # the type of the first frame of either side in HTTP/2, without content here:
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, SETTINGS, 0, 0, 0, 0, 0])
START = 600  # seconds for its processes to start: a busy node needs minutes to import torch


def main() -> None:
    """`python -m irevla.compute.ray_cluster PARENT_PID PROCESSES ADDRESS RESOURCE DEVICE MODULE
    ARGUMENT ...`."""
    parent, processes, address, resource, device, module, *arguments = sys.argv[1:]
    threading.Thread(target=outlive_nobody, args=(int(parent),), daemon=True).start()
    from ray.train import TrainingFailedError

    try:
        connect(address)
        each = shares(int(processes), resource, device)
    except UserError as error:
        print(f"{REFUSED}{error}", file=sys.stderr)
        sys.exit(2)
    settings = {"module": module, "arguments": arguments}
    try:
        with TemporaryDirectory() as notes:  # Ray Train's own; ours are in the share
            _train(settings, int(processes), each, notes)
    except TrainingFailedError as error:
        traceback.print_exception(error)
        for reason in _reasons(error):
            print(f"{REFUSED}{reason}", file=sys.stderr)
        sys.exit(2)


def connect(address: str, *, asked: str = "compute.ray_address", quietly: bool = False) -> None:
    """Join the cluster at `address`, which the setting `asked` names.

    Raises `UserError` where none answers. `quietly`: what its processes print is not printed here.
    """
    import ray

    try:
        named = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
        if ":" in named:  # Ray itself would try for minutes
            _check_answer(named)
        level = logging.ERROR if quietly else logging.INFO
        ray.init(address=address, log_to_driver=not quietly, logging_level=level)
    except (OSError, ValueError) as error:
        raise UserError(
            f"no Ray cluster answers at {asked} {address!r} ({_line(error)}): start one with `ray "
            "start --head`, or name another; where one asks for a token, let RAY_AUTH_MODE be "
            "token here as well (docs/scale-out.md, a closed cluster)"
        ) from error
    except (RuntimeError, ray.exceptions.RayError) as error:
        raise UserError(
            f"the Ray cluster at {asked} {address!r} does not let us in ({_line(error)}): let Ray "
            "and Python be the same there and here, and where it asks for a token, let "
            "RAY_AUTH_MODE be token here as well (docs/scale-out.md, a closed cluster)"
        ) from error


def _check_answer(address: str) -> None:
    """Raise `OSError` or `ValueError` where nothing at `address` speaks as Ray does, by HTTP/2."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    with socket.create_connection((host, int(port)), WAIT) as link:
        if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
            return
        link.sendall(GREETING)
        with link.makefile("rb") as answer:
            frame = answer.read(9)
    if len(frame) < 9 or frame[3] != SETTINGS:
        raise ValueError("what answers there is no Ray")


def _line(error: Exception) -> str:
    """Return what an error says in one line, and its end where that is long."""
    said = " ".join(str(error).split()) or type(error).__name__
    return said if len(said) < MOST_SAID else "... " + said[-MOST_SAID:]


def shares(
    number: int,
    resource: str,
    device: str,
    *,
    cpus: int = 1,
    what: str = "processes",
    lower: str = "compute.processes",
) -> dict[str, float]:
    """Return what each of `number` processes takes of its node.

    Raises `UserError` where the cluster has less, or its nodes have not room for all.
    """
    import ray

    there = ray.cluster_resources()
    each: dict[str, float] = {resource: 1.0} if resource else {}
    if device != "cpu" and (device != "auto" or there.get("GPU")):
        each["GPU"] = 1.0
    each["CPU"] = float(cpus)
    for name, amount in each.items():
        if there.get(name, 0) < amount * number:
            wanted = "one" if amount == 1 else f"{amount:g}"
            raise UserError(
                f"the Ray cluster has {there.get(name, 0):g} of {name!r}, and {number} {what} need "
                f"{wanted} each: add nodes, or lower {lower}"
            )
    room = room_for(each, [node["Resources"] for node in ray.nodes() if node["Alive"]])
    if room < number:
        asked = ", ".join(f"{amount:g} of {name!r}" for name, amount in each.items())
        raise UserError(
            f"the nodes of the Ray cluster have room for {room} of {number} {what}, each with "
            f"{asked} of one node: add nodes, or lower {lower}"
        )
    return each


def check_together(*groups: tuple[int, Mapping[str, float]]) -> None:
    """Raise `UserError` where the cluster cannot hold so many of each group at once."""
    import ray

    there = ray.cluster_resources()
    for name in sorted({name for _, each in groups for name in each}):
        wanted = sum(number * each.get(name, 0.0) for number, each in groups)
        if there.get(name, 0.0) < wanted:
            raise UserError(
                f"those who play and those who learn are on the Ray cluster at once, and need "
                f"{wanted:g} of {name!r} together, where it has {there.get(name, 0.0):g}: add "
                "nodes, lower rollouts.actors or compute.processes, or leave compute.pipeline out"
            )


def room_for(each: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> int:
    """Return how many processes that take `each` the `nodes` hold: one is on one node."""
    return sum(
        min(int(node.get(name, 0) // amount) for name, amount in each.items()) for node in nodes
    )


def _train(settings: dict[str, Any], processes: int, each: dict[str, float], notes: str) -> None:
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(START))
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    # By default Ray waits without an end for nodes that are gone.
    limits = ("max_failures", "controller_failure_limit", "max_preemption_failures")
    failures: dict[str, Any] = dict.fromkeys(limits, RESTARTS)
    TorchTrainer(
        _work,
        train_loop_config=settings,
        scaling_config=ScalingConfig(
            num_workers=processes, use_gpu="GPU" in each, resources_per_worker=each
        ),
        run_config=RunConfig(storage_path=notes, failure_config=FailureConfig(**failures)),
    ).fit()


def _reasons(error: Any) -> list[str]:
    """Return what processes have said that a user can mend."""
    failures = getattr(error, "worker_failures", {}).values()
    causes = [getattr(each, "cause", each) for each in failures]
    return [str(cause) for cause in causes if isinstance(cause, UserError)]


def _work(settings: dict[str, Any]) -> None:
    """Be one of the processes: Ray has made the process group by now."""
    import torch
    from ray.train.torch import get_device

    if get_device().type == "cuda":
        torch.cuda.set_device(get_device())
    importlib.import_module(settings["module"]).run(settings["arguments"])


if __name__ == "__main__":
    main()
