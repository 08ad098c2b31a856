"""The engines that start processes elsewhere: torchrun on this machine, Ray on a cluster.

Each is a process of its own, which ends with this one. What it and its processes print goes to a
file.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

REFUSED = "irevla: "  # how a line begins in which an engine says what it cannot do
LEAVE = 20.0  # seconds that an engine has to end its processes


def torchrun(processes: int) -> list[str]:
    """Return what starts so many processes on this machine, each with a GPU of its own if any."""
    return ["irevla.compute.torchrun", str(processes)]


def ray(processes: int, *, address: str, resource: str, device: str) -> list[str]:
    """Return what starts so many processes on the cluster at `address`.

    Each takes one of `resource`, where that is not empty, and a GPU, unless `device` is "cpu".
    """
    return ["irevla.compute.ray_cluster", str(processes), address, resource, device]


def last_word(log: Path) -> str:
    """Return what an engine has last said that it cannot do; nothing where it has said nothing."""
    lines = log.read_text(errors="replace").splitlines()
    said = [line for line in lines if line.startswith(REFUSED)]
    return said[-1].removeprefix(REFUSED) if said else ""


@contextmanager
def started(
    engine: Sequence[str], module: str, arguments: Sequence[str], *, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Let an engine run `module` with `arguments`; yield its process. Afterwards it is ended."""
    kind, *settings = engine
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    own = [sys.executable, "-P", "-m", kind, str(os.getpid())]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*own, *settings, module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env={**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
            start_new_session=True,  # Ctrl-C is for this process, which then ends the engine
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(LEAVE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
