"""Many environments at once, in worker processes that may die: a lost worker is replaced and its
episodes start again.

Each worker has one thread and one GL context and steps several environments, its slots. The driver
(this module) hands out `Job`s, one episode each. Serve the workers in turn (`recv`, decide,
`send`): while one steps, the pictures of another are encoded.
"""

import json
import logging
import mmap
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from multiprocessing.connection import Pipe
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8

from irevla.config import EnvConfig
from irevla.envs.base import find_task, load_suite
from irevla.envs.worker import Board
from irevla.envs.worker import Job as Job
from irevla.errors import UserError

START_TIMEOUT = 120.0  # seconds for a worker to import its simulator: longer than a step may take
CLOSE_TIMEOUT = 2.0  # seconds for all workers to leave by themselves
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "LP_NUM_THREADS": "0",
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Slots:
    """What one worker's `n` slots look like after the last step. The arrays are copies.

    `images`, `jobs` and `step` are about the episode that each slot is in now: already the next one
    where an episode just ended. All the rest is about the step just taken, and zero after the first
    reset.
    """

    worker: int
    images: UInt8[np.ndarray, "n H W 3"]
    jobs: tuple[Job | None, ...]  # None: idle, no jobs are left
    step: Int[np.ndarray, " n"]  # decisions taken so far in this episode
    previous: tuple[Job | None, ...]  # the job that the step belonged to; None: there was no step
    labels: Float32[
        np.ndarray, "n A"
    ]  # what was meant: clean of noise; a person's where one took over
    rewards: Float32[np.ndarray, " n"]
    terminated: Bool[np.ndarray, " n"]  # the episode ended in itself: no value beyond
    truncated: Bool[np.ndarray, " n"]  # the horizon ended it
    success: Bool[
        np.ndarray, " n"
    ]  # by the policy, or the expert, alone: with a person's help it is none
    final_images: UInt8[np.ndarray, "n H W 3"]  # the true last observation, where an episode ended
    lost: Bool[
        np.ndarray, " n"
    ]  # the worker died or hung: the episode was dropped and starts again

    @property
    def playing(self) -> Bool[np.ndarray, " n"]:
        """Which slots are not idle."""
        return np.array([job is not None for job in self.jobs])

    @property
    def ended(self) -> Bool[np.ndarray, " n"]:
        """Where the step just taken was an episode's last."""
        return np.asarray(self.terminated | self.truncated)

    @property
    def cut_off(self) -> Bool[np.ndarray, " n"]:
        """Where the horizon alone ended the episode: `final_images` shows an observation that still
        has a value."""
        return np.asarray(self.truncated & ~self.terminated)


class _Lost(Exception):
    """A worker died, hung or reported an exception; the text says which."""


class _Process:
    """One worker process, its pipe and its board."""

    def __init__(self, suite: str, config: EnvConfig, action_dim: int) -> None:
        self._started = False
        self._timeout = config.timeout
        size = {
            "n": config.envs_per_worker,
            "image_size": config.image_size,
            "action_dim": action_dim,
        }
        with tempfile.TemporaryFile(
            dir=memory_folder()
        ) as file:  # has no name: nothing is left, whatever happens
            file.truncate(Board.nbytes(**size))
            self.board = Board.on(mmap.mmap(file.fileno(), 0), **size)
            self._pipe, theirs = Pipe()
            with theirs:
                self._popen = spawn("irevla.envs.worker", theirs.fileno(), file.fileno())
        self.tell({"suite": suite, "config": asdict(config), "board": size})

    def tell(self, message: dict[str, Any]) -> None:
        """Send one message. If nobody listens any more, `wait` will find out."""
        with suppress(OSError):
            self._pipe.send_bytes(json.dumps(message).encode())

    def wait(self) -> None:
        """Until the last command is done. Raises `_Lost`, or the `UserError` that an environment
        raised."""
        if not self._started:
            self._answer(START_TIMEOUT)
            self._started = True
        self._answer(self._timeout)

    def _answer(self, timeout: float) -> None:
        if not self._pipe.poll(timeout):
            raise _Lost(f"gave no answer for {timeout:g} s")
        try:
            answer = json.loads(self._pipe.recv_bytes())
        except (EOFError, OSError) as error:
            with suppress(subprocess.TimeoutExpired):
                self._popen.wait(1.0)
            raise _Lost(f"died (exit status {self._popen.returncode})") from error
        if answer.get("user"):
            raise UserError(answer["error"])
        if answer:
            raise _Lost("raised an exception:\n" + answer["error"])

    def hang_up(self) -> None:
        """The worker exits by itself when it reads the end of its pipe."""
        self._pipe.close()

    def end(self, timeout: float = 0.0) -> None:
        """Wait for the process to exit; after `timeout` seconds it is killed."""
        self.hang_up()
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout)
        self._popen.kill()
        with suppress(subprocess.TimeoutExpired):  # stuck in the kernel: it is as good as gone
            self._popen.wait(CLOSE_TIMEOUT)

    @property
    def pid(self) -> int:
        return self._popen.pid


def memory_folder() -> str | None:
    """Where files are memory; None where there is no such folder."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def spawn(module: str, pipe: int, memory: int, *arguments: str) -> subprocess.Popen[bytes]:
    """A fresh interpreter that runs `module` with our process id, two file descriptors and
    `arguments`. Not multiprocessing's spawn: that unpickles, and runs the caller's script a second
    time."""
    path = os.pathsep.join(
        entry or str(Path.cwd()) for entry in sys.path
    )  # a suite may lie anywhere that we can import
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, str(os.getpid()), str(pipe), str(memory), *arguments],
        stdin=subprocess.DEVNULL,
        pass_fds=(pipe, memory),
        env={**os.environ, **ONE_THREAD, "PYTHONPATH": path},
        process_group=0,  # Ctrl-C in the terminal does not reach it, not even while Python starts
    )


class _Crew:
    """The driver's book about one worker: which episode each slot plays, and what comes next."""

    def __init__(self, config: EnvConfig, action_dim: int) -> None:
        n = config.envs_per_worker
        size = {"n": n, "image_size": config.image_size, "action_dim": action_dim}
        self.process: _Process | None = None  # None: it never had a job
        self.board = Board.on(mmap.mmap(-1, Board.nbytes(**size)), **size)
        self.jobs: list[Job | None] = [None] * n
        self.deck: list[Job | None] = [None] * n
        self.step = np.zeros(n, np.int64)
        self.losses = np.zeros(n, np.int64)  # of each slot's present job
        self.waiting = True  # a command is under way ...
        self.stepping = False  # ... which is a step, not the start of episodes

    def start(self, process: _Process) -> None:
        """All jobs from their beginning, in a new process."""
        process.tell({"begin": _as_json(self.jobs)})
        self.process, self.board = process, process.board
        self.step[:] = 0
        self.waiting, self.stepping = True, False

    def playing(self) -> Bool[np.ndarray, " n"]:
        return np.array([job is not None for job in self.jobs])

    def count_step(self) -> list[int]:
        """After a step: the slots whose episode ended; they have moved on to the job on deck."""
        self.step += self.playing()
        ended = np.flatnonzero(self.board.terminated | self.board.truncated).tolist()
        for slot in ended:
            self.jobs[slot], self.deck[slot] = self.deck[slot], None
            self.step[slot] = self.losses[slot] = 0
        return list(ended)


class VectorEnv:
    """`config.workers` processes with `config.envs_per_worker` slots each, playing `jobs` until
    there are no more.

    A slot whose episode ends starts its next job in the same step; the job of a lost episode starts
    again in the same slot. Raises `UserError` for an unknown suite or task, and whatever
    `UserError` an environment raises.
    """

    def __init__(
        self, suite: str, config: EnvConfig, jobs: Iterator[Job], *, max_retries: int = 3
    ) -> None:
        self.suite = load_suite(suite)
        self.suite.check()
        self.workers, self.n, self.action_dim = (
            config.workers,
            config.envs_per_worker,
            self.suite.action_dim,
        )
        self.dropped = 0  # partial episodes lost with their worker, so far
        self._name, self._config, self._max_retries = suite, config, max_retries
        self._source = jobs
        self._crews = [_Crew(config, self.action_dim) for _ in range(self.workers)]
        for slot in range(self.n):  # few jobs are spread over all workers
            for crew in self._crews:
                crew.jobs[slot] = self._next_job()
        for crew in self._crews:
            if any(crew.playing()):
                crew.deck = [self._next_job() for _ in range(self.n)]
                crew.start(_Process(suite, config, self.action_dim))

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the workers that have work."""
        return tuple(crew.process.pid for crew in self._crews if crew.process is not None)

    def instructions(self, jobs: Sequence[Job | None]) -> tuple[str, ...]:
        """What the policy is told to do in each; empty where there is no job."""
        return tuple(
            "" if job is None else find_task(self.suite, job.task).instruction for job in jobs
        )

    def send(self, worker: int, actions: Float32[np.ndarray, "n A"] | None) -> None:
        """Let a worker step; `actions` (clipped to [-1, 1]; ignored where idle) or, if None, the
        scripted expert's."""
        crew = self._crews[worker]
        assert not crew.waiting, f"worker {worker} is still at its last step: recv first"
        crew.waiting = crew.stepping = True
        if actions is not None:
            assert np.isfinite(actions[crew.playing()]).all(), "an action is not finite"
            crew.board.actions[:] = actions
        if crew.process is not None:
            crew.process.tell({"step": _as_json(crew.deck), "expert": actions is None})

    def recv(self, worker: int) -> Slots:
        """Wait for a worker's step. A dead or hung worker is killed and replaced first.

        Raises `UserError` if an environment did, and `RuntimeError` with the last failure's text
        when one job has been lost more than `max_retries` times.
        """
        crew = self._crews[worker]
        assert crew.waiting, f"worker {worker} has nothing to do: send first"
        previous = tuple(crew.jobs) if crew.stepping else (None,) * self.n
        lost = np.zeros(self.n, bool)
        while crew.process is not None:
            try:
                crew.process.wait()
                break
            except _Lost as reason:
                lost |= crew.playing()
                previous = tuple(crew.jobs)
                self._replace(worker, str(reason))
        crew.waiting = False
        for slot in crew.count_step() if crew.stepping else []:
            crew.deck[slot] = self._next_job()
        return self._slots(worker, previous, lost)

    def close(self) -> None:
        """End all workers; those that do not leave within seconds are killed. Safe to call
        again."""
        processes = [crew.process for crew in self._crews if crew.process is not None]
        for process in processes:
            process.hang_up()
        deadline = time.monotonic() + CLOSE_TIMEOUT
        for process in processes:
            process.end(max(0.0, deadline - time.monotonic()))

    def __enter__(self) -> "VectorEnv":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _next_job(self) -> Job | None:
        job = next(self._source, None)
        if job is not None:
            find_task(self.suite, job.task)  # a wrong name is told at once, not by a worker
        return job

    def _replace(self, worker: int, reason: str) -> None:
        crew = self._crews[worker]
        assert crew.process is not None
        crew.process.end()
        playing = crew.playing()
        self.dropped += int(playing.sum())
        crew.losses += playing
        if crew.losses.max() > self._max_retries:
            job = crew.jobs[int(crew.losses.argmax())]
            raise RuntimeError(
                f"{job} was lost {crew.losses.max()} times in a row; the last worker {reason}"
            )
        _log.warning(
            "worker %d %s; replaced, %d partial episodes start again", worker, reason, playing.sum()
        )
        crew.start(_Process(self._name, self._config, self.action_dim))

    def _slots(
        self, worker: int, previous: tuple[Job | None, ...], lost: Bool[np.ndarray, " n"]
    ) -> Slots:
        crew = self._crews[worker]
        board = {
            field.name: getattr(crew.board, field.name).copy()
            for field in fields(Board)
            if field.name != "actions"
        }
        return Slots(
            worker=worker,
            jobs=tuple(crew.jobs),
            step=crew.step.copy(),
            previous=previous,
            lost=lost,
            **board,
        )


def _as_json(jobs: list[Job | None]) -> list[dict[str, Any] | None]:
    return [None if job is None else asdict(job) for job in jobs]
