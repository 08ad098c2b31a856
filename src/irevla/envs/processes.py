"""Worker processes: how one is started, told and waited for, and who goes on to the next stage."""

import json
import mmap
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any

from irevla.envs.worker import SharedBuffers
from irevla.errors import UserError

START_TIMEOUT = 120.0  # seconds for a worker to import its simulator: longer than a step may take
CLOSE_TIMEOUT = 2.0  # seconds for all workers to leave by themselves
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "LP_NUM_THREADS": "0",
}

_resting: list["WorkerProcess"] | None = None  # within `workers_outlive_stages`; None: nobody rests


class Lost(Exception):
    """A worker died, hung or reported an exception; the text says which."""


class WorkerProcess:
    """One worker process, its pipe and its buffers."""

    def __init__(self, kind: dict[str, Any]) -> None:
        self.kind = kind
        size = kind["buffers"]
        # The file has no name: nothing is left, whatever happens.
        with tempfile.TemporaryFile(dir=memory_folder()) as file:
            file.truncate(SharedBuffers.nbytes(**size))
            self.buffers = SharedBuffers.on(mmap.mmap(file.fileno(), 0), **size)
            self._pipe, child = Pipe()
            with child:
                self._popen = spawn("irevla.envs.worker", child.fileno(), file.fileno())

    def greet(self, greeting: dict[str, Any], *, timeout: float) -> None:
        """Say what the next commands are about; each is to be answered within `timeout` seconds."""
        self._timeout = timeout
        self._greeted = False
        self._moves_arm = greeting["authorization"] is not None
        self.tell(greeting)

    def tell(self, message: dict[str, Any]) -> None:
        """Send one message. If nobody listens any more, `wait` will find out."""
        with suppress(OSError):
            self._pipe.send_bytes(json.dumps(message).encode())

    def wait(self, *, at_most: float = float("inf")) -> None:
        """Return when the last command is done.

        Raises `Lost`, or the `UserError` that an environment raised.
        """
        if not self._greeted:
            self._answer(min(START_TIMEOUT, at_most))
            self._greeted = True
        self._answer(min(self._timeout, at_most))

    def _answer(self, timeout: float) -> None:
        if not self._pipe.poll(timeout):
            raise Lost(f"gave no answer for {timeout:g} s")
        try:
            answer = json.loads(self._pipe.recv_bytes())
        except (EOFError, OSError) as error:
            with suppress(subprocess.TimeoutExpired):
                self._popen.wait(1.0)
            raise Lost(f"died (exit status {self._popen.returncode})") from error
        if answer.get("user"):
            raise UserError(answer["error"])
        if answer:
            raise Lost("raised an exception:\n" + answer["error"])

    def hang_up(self) -> None:
        """The worker exits by itself when it reads the end of its pipe."""
        self._pipe.close()

    def end(self, timeout: float = 0.0) -> None:
        """Wait for the process to exit; after `timeout` seconds it is killed."""
        self.hang_up()
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout)
        if self._moves_arm and self.alive:  # at a prompt, say: an arm is let go in order
            self._popen.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._popen.wait(CLOSE_TIMEOUT)
        self._popen.kill()
        with suppress(subprocess.TimeoutExpired):  # stuck in the kernel: it is as good as gone
            self._popen.wait(CLOSE_TIMEOUT)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._popen.poll() is None


def memory_folder() -> str | None:
    """Return where files are memory; None where there is no such folder."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def spawn(module: str, pipe: int, memory: int, *arguments: str) -> subprocess.Popen[bytes]:
    """Run `module` in a fresh interpreter with our process id, two file descriptors and
    `arguments`.

    Not multiprocessing's spawn: that unpickles, and runs the caller's script a second time.
    """
    # A suite may lie anywhere that we can import.
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    command = [sys.executable, "-P", "-m", module, str(os.getpid()), str(pipe), str(memory)]
    return subprocess.Popen(
        [*command, *arguments],
        stdin=subprocess.DEVNULL,
        pass_fds=(pipe, memory),
        env={**os.environ, **ONE_THREAD, "PYTHONPATH": path},
        process_group=0,  # Ctrl-C in the terminal does not reach it, not even while Python starts
    )


# --- who goes on to the next stage


@contextmanager
def workers_outlive_stages() -> Iterator[None]:
    """Keep workers that have nothing to do, with all that they have compiled, for whoever comes
    next.

    Not those of a real arm. At the end all of them leave.
    """
    global _resting
    outer = _resting
    _resting = outer if outer is not None else []
    try:
        yield
    finally:
        if outer is None:
            resting = _resting
            _resting = None
            dismiss(resting)


def let_go() -> None:
    """Let all who rest leave, where what comes next needs other tasks than they have compiled."""
    if _resting:
        resting = list(_resting)
        _resting.clear()
        dismiss(resting)


def hire(greeting: dict[str, Any], *, timeout: float) -> WorkerProcess:
    """Return a worker that rests, if it is of that suite and size, or a new one; it is greeted."""
    kind = {name: greeting[name] for name in ("suite", "buffers")}
    fit = [process for process in _resting or () if process.kind == kind and process.alive]
    process = fit[-1] if fit else WorkerProcess(kind)
    if fit and _resting:
        _resting.remove(process)
    process.greet(greeting, timeout=timeout)
    return process


def rest(process: WorkerProcess, *, busy: bool) -> bool:
    """Return whether a worker rests now; else it must be dismissed.

    A `busy` one may finish its command first.
    """
    if _resting is None:
        return False
    try:
        if busy:
            process.wait(at_most=CLOSE_TIMEOUT)
    except (Lost, UserError):
        return False
    _resting.append(process)
    return True


def dismiss(processes: Sequence[WorkerProcess]) -> None:
    """End workers; those that do not leave within seconds are killed."""
    for process in processes:
        process.hang_up()
    deadline = time.monotonic() + CLOSE_TIMEOUT
    for process in processes:
        process.end(max(0.0, deadline - time.monotonic()))
