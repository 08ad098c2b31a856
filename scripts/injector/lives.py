"""Runs of `irevla` in processes that are killed, and what such a process leaves behind.

They are forked from a server that has imported everything and computed nothing (`forkserver`): it
has one thread, so that a fork is safe, and a life begins within milliseconds.
"""

import dataclasses
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from irevla.config import Config

IMPORTED = [
    "irevla.algorithm",
    "irevla.cli.main",
    "irevla.evaluation.plots",
    "irevla.evaluation.report",
    "irevla.evaluation.saved",
    "irevla.robot.settings",
    "jinja2",
    "matplotlib.pyplot",
    "tyro",
]
ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ARROW_NUM_THREADS")
SOON = 3.0  # seconds in which all processes of a killed one are gone
LONGEST = 120.0  # seconds that a life may take: what is still there then hangs
DOTS = 20  # per inch of plots that nobody looks at
PRESET = "pointmass"  # whose settings are replaced by those of the attack
LEFT = ("checkpoints/*/*.safetensors", "expert/**/*", "online/**/*")
LEFTOVERS = (".new", ".old", ".trash", ".staging")


def server() -> ForkServerContext:
    """Return what makes processes."""
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    os.environ.setdefault("MPLBACKEND", "agg")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context


class Life:
    """One process, in a session of its own, that calls `function(*arguments)`.

    What it and its workers say goes to `said`.
    """

    def __init__(self, said: Path, function: Callable[..., None], *arguments: Any) -> None:
        self.said = said
        self._said_before = said.stat().st_size if said.exists() else 0
        self._process = server().Process(target=_begin, args=(said, function, arguments))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def ended(self, seconds: float) -> bool:
        """Wait so long at most; return whether it has ended by itself."""
        self._process.join(seconds)
        return self._process.exitcode is not None

    @property
    def code(self) -> int | None:
        """The exit code."""
        return self._process.exitcode

    def kill(self, *, session: bool) -> None:
        """Send SIGKILL to its process group or, as a power cut would, to all of its session."""
        victims = [pid for pid in running() if session and session_of(pid) == self.pid]
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:  # it has no session yet
            self._process.kill()
        for pid in victims:
            send(pid, signal.SIGKILL)
        self._process.join()

    def text(self) -> str:
        """Return what it said."""
        return self.said.read_bytes()[self._said_before :].decode(errors="replace")

    def leavers(self) -> list[str]:
        """Return the command lines of workers and learners that are still there."""
        return [line for pid in running() if (line := command_line(pid)) and self._owns(line)]

    def _owns(self, line: str) -> bool:
        words = line.split()
        return "-m" in words and words[words.index("-m") + 1 :][1:2] == [str(self.pid)]


def _begin(said: Path, function: Callable[..., None], arguments: Sequence[Any]) -> None:
    os.setsid()
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    function(*arguments)


def irevla(words: Sequence[str], config: Config) -> int:
    """Call the command line with the toy preset's settings replaced by `config`."""
    import torch

    import irevla.evaluation.plots
    from irevla.cli.main import main
    from irevla.presets import PRESETS

    torch.set_num_threads(1)
    irevla.evaluation.plots.DPI = DOTS
    PRESETS[PRESET] = ("under attack", config)
    try:
        code = main(words)
    except Exception:  # noqa: BLE001  # what the command line lets out is what is looked for
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    return code


def irevla_and_exit(words: Sequence[str], config: Config) -> None:
    """The same, as a whole life."""
    sys.exit(irevla(words, config))


def undisturbed(said: Path, words: Sequence[str], config: Config) -> None:
    """Run a command to its end."""
    life = Life(said, irevla_and_exit, words, config)
    if not life.ended(LONGEST):
        life.kill(session=True)
    if life.code != 0:
        raise RuntimeError(f"irevla {' '.join(words)} ended with {life.code}:\n{life.text()}")


# --- processes


def running() -> list[int]:
    """Return the ids of all processes."""
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def command_line(pid: int) -> str:
    """Return what a process was started with; empty where it is gone, or a zombie."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def session_of(pid: int) -> int:
    """Return the session of a process, 0 where it is gone."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def send(pid: int, what: signal.Signals) -> None:
    """Send a signal, if the process is still there."""
    try:
        os.kill(pid, what)
    except ProcessLookupError:
        return


def orphans(lives: Sequence[Life]) -> list[str]:
    """Return the processes that dead lives have left, after `SOON` seconds at most."""
    deadline = time.monotonic() + SOON
    while True:
        found = [line for life in lives for line in life.leavers()]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


# --- files


def left(root: Path) -> dict[str, bytes]:
    """Return all that must not depend on what stopped a run: weights and episodes."""
    paths = [path for pattern in LEFT for path in sorted(root.glob(pattern)) if path.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def differences(found: dict[str, bytes], wanted: dict[str, bytes]) -> str:
    """Say which files differ; empty where none does."""
    names = sorted(found.keys() | wanted.keys())
    return ", ".join(name for name in names if found.get(name) != wanted.get(name))


def leftovers(root: Path) -> list[str]:
    """Return files and folders that are of no use after the end."""
    return [str(p.relative_to(root)) for p in root.rglob(".*") if p.name.endswith(LEFTOVERS)]


def counts(root: Path) -> list[tuple[Any, ...]]:
    """Return the successes that results.json tells, by stage and task; none without it."""
    path = root / "results.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    return [(row["stage"], row["task"], row["successes"], row["env_steps"]) for row in rows]


def changed(config: Config, **groups: dict[str, Any]) -> Config:
    """Return settings in which `groups` has other values: `changed(config, ppo={"steps": 1})`."""
    new = {
        name: dataclasses.replace(getattr(config, name), **values)
        for name, values in groups.items()
    }
    return dataclasses.replace(config, **new)
