"""Many environments at once, in worker processes that may die: a lost worker is replaced and its
episodes start again.

Each worker has one thread and one GL context and steps several environments, its slots. The driver
(this module) hands out `Job`s, one episode each. Serve the workers in turn (`recv`, decide,
`send`): while one steps, the images of another are encoded.
"""

import logging
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import dropwhile, islice
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8

from irevla.config import EnvConfig
from irevla.envs.by_task import ByTask
from irevla.envs.processes import Lost, WorkerProcess, dismiss, hire, rest
from irevla.envs.suite import Authorization, Suite
from irevla.envs.worker import Job as Job
from irevla.envs.worker import SharedBuffers
from irevla.errors import UserError
from irevla.types import Observation

RAISED = "raised"  # how it is told that a worker was lost to an exception

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepResult:
    """What one worker's `n` slots look like after the last step. The arrays are copies.

    `images`, `states`, `jobs` and `step` are about the episode that each slot is in now: already
    the next one where an episode just ended. All the rest is about the step just taken, and zero
    after a reset.
    """

    worker: int
    images: UInt8[np.ndarray, "n H W 3"]
    states: Float32[np.ndarray, "n S"]  # what each robot says of itself, with its image
    jobs: tuple[Job | None, ...]  # None: idle, no jobs are left
    step: Int[np.ndarray, " n"]  # decisions taken so far in this episode
    previous: tuple[Job | None, ...]  # the job that the step belonged to; None: there was no step
    labels: Float32[np.ndarray, "n A"]  # what was meant, clean of noise; what an arm has done
    rewards: Float32[np.ndarray, " n"]
    terminated: Bool[np.ndarray, " n"]  # the episode ended in itself: no value beyond
    truncated: Bool[np.ndarray, " n"]  # the horizon ended it
    success: Bool[np.ndarray, " n"]  # by the policy, or the expert, alone: not with a person's help
    final_images: UInt8[np.ndarray, "n H W 3"]  # the true last ones, where an episode ended
    final_states: Float32[np.ndarray, "n S"]
    person: Bool[np.ndarray, " n"]  # whether one took over from the policy
    lost: Bool[np.ndarray, " n"]  # the worker died or hung: the episode was dropped, starts again

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
        """Where the horizon alone ended the episode: its last observation still has a value."""
        return np.asarray(self.truncated & ~self.terminated)

    def observation(self) -> Observation:
        """What the slots that are not idle see now, in their order."""
        return _observation(self.images, self.states, self.jobs, self.playing)

    def final_observation(self) -> Observation:
        """The true last observations of the episodes just cut off, in the order of their slots."""
        return _observation(self.final_images, self.final_states, self.previous, self.cut_off)


def _observation(
    images: UInt8[np.ndarray, "n H W 3"],
    states: Float32[np.ndarray, "n S"],
    jobs: Sequence[Job | None],
    slots: Bool[np.ndarray, " n"],
) -> Observation:
    """Return what `slots` show, each with the instruction of its job."""
    chosen = [job for job, wanted in zip(jobs, slots, strict=True) if wanted and job is not None]
    return Observation.of(images[slots], [job.instruction for job in chosen], states[slots])


class _WorkerState:
    """The driver's book about one worker: which episode each slot plays, and what comes next."""

    def __init__(self, worker: int, size: dict[str, int]) -> None:
        n = size["n"]
        self.worker = worker
        self.process: WorkerProcess | None = None  # None: it never had a job
        self.buffers = SharedBuffers.on(mmap.mmap(-1, SharedBuffers.nbytes(**size)), **size)
        self.jobs: list[Job | None] = [None] * n
        self.deck: list[Job | None] = [None] * n
        self.taken: list[list[list[float]]] = [[] for _ in range(n)]  # what was meant
        self.losses: list[list[str]] = [[] for _ in range(n)]  # why each slot's job was lost so far
        self.waiting = True  # a command is under way ...
        self.stepping = False  # ... which is a step, not the start of episodes

    @property
    def step(self) -> Int[np.ndarray, " n"]:
        return np.array([len(actions) for actions in self.taken])

    def begin(self, process: WorkerProcess) -> None:
        """Start all jobs in `process`, each where its actions so far have led it."""
        process.tell({"begin": _as_json(self.jobs), "replay": self.taken})
        self.process = process
        self.buffers = process.buffers
        self.waiting = True
        self.stepping = False

    def begin_again(self, process: WorkerProcess) -> None:
        """Start all jobs in a new process from their beginning."""
        self.taken = [[] for _ in self.jobs]
        self.begin(process)

    def playing(self) -> Bool[np.ndarray, " n"]:
        return np.array([job is not None for job in self.jobs])

    def begins_next(self, slot: int) -> bool:
        """Return whether the slot's episode has ended, and its worker is at the job on deck."""
        buffers = self.buffers
        ended = buffers.terminated[slot] | buffers.truncated[slot]
        return bool(self.stepping and buffers.active[slot] and ended)

    def count_step(self) -> list[int]:
        """Return, after a step, the slots whose episode ended; they are at the job on deck by
        now."""
        for slot in np.flatnonzero(self.playing()).tolist():
            self.taken[slot].append(self.buffers.labels[slot].tolist())
        ended = np.flatnonzero(self.buffers.terminated | self.buffers.truncated).tolist()
        for slot in ended:
            self.jobs[slot] = self.deck[slot]
            self.deck[slot] = None
            self.taken[slot] = []
            self.losses[slot] = []
        return list(ended)


class VectorEnv:
    """`config.workers` processes with `config.envs_per_worker` slots each, playing `jobs` to their
    end.

    A slot whose episode ends starts its next job in the same step; the job of a lost episode starts
    again in the same slot. With `state`, which `state()` returned, the episodes go on that were
    under way then: their actions are taken again, and `jobs` is the same as then. `by_task`: each
    worker keeps to tasks of its own as far as that goes, so that a task is made in one of them;
    jobs are then not played in their order. `authorization` says who may act on a real arm. Raises
    `UserError` for an unknown task, and whatever `UserError` an environment raises.
    """

    def __init__(
        self,
        suite: Suite,
        config: EnvConfig,
        jobs: Iterator[Job],
        *,
        by_task: bool = False,
        authorization: Authorization | None = None,
        state: dict[str, Any] | None = None,
        max_retries: int = 3,
    ) -> None:
        assert not (by_task and state), "what goes on is a beginning of the jobs, in their order"
        suite.check()
        suite.check_senses(config)
        self.suite = suite
        self.config = suite.env_config(config)
        self.workers = self.config.workers
        self.n = self.config.envs_per_worker
        self.action_dim = suite.action_dim
        self.dropped = 0  # partial episodes lost with their worker, so far
        self.given_up: list[Job] = []  # jobs that failed again and again
        self._begun = 0  # jobs so far
        self._logged: set[str] = set()  # why workers were lost
        self._max_retries = max_retries
        size = {
            "n": self.n,
            "image_size": config.image_size,
            "action_dim": self.action_dim,
            "state_dim": suite.state_dim(config),
            "cameras": max(1, len(config.cameras)),
        }
        self._greeting = {
            "suite": suite.source or suite.name,
            "config": asdict(self.config),
            "buffers": size,
            "authorization": None if authorization is None else asdict(authorization),
        }
        self._states = [_WorkerState(worker, size) for worker in range(self.workers)]
        self._alone = suite.real_arm is not None  # a person sees to it between two episodes
        self._jobs = jobs
        self._by_task = ByTask(jobs, self.workers) if by_task else None
        self._handed_out = 0
        self.resumed = state is not None and self._fits(state)  # episodes under way go on
        if state is not None:
            self._skip(state["handed_out"])
        if state is not None and self.resumed:
            self._resume(state)
        else:
            self._deal()

    def play(self, jobs: Iterator[Job]) -> None:
        """Play further jobs, once all that were there before have ended."""
        assert not any(state.playing().any() for state in self._states), "episodes are under way"
        assert self._by_task is None
        self._jobs = jobs
        self._handed_out = 0
        self._deal()

    def _deal(self) -> None:
        """Begin an episode in every slot."""
        for slot in range(self.n):  # few jobs are spread over all workers
            for state in self._states:
                state.jobs[slot] = self._next_job(state.worker)
        for state in self._states:
            state.waiting = True
            state.stepping = False
            if any(state.playing()) or state.process is not None:
                state.deck = [self._job_on_deck(state.worker) for _ in range(self.n)]
                state.begin_again(state.process or self._new_process())

    def deal_next(self) -> bool:
        """Begin the next job on a real arm, whose last episode has ended; return whether there is
        one.

        Elsewhere a job is on deck while another is played. Here the episode before it must have
        been told: a person is asked for the next one, and may leave instead.
        """
        job = self._next_job(0) if self._alone else None
        if job is None:
            return False
        (state,) = self._states
        state.jobs[0] = job
        state.begin_again(state.process or self._new_process())
        return True

    def _new_process(self) -> WorkerProcess:
        return hire(self._greeting, timeout=self.config.timeout)

    def state(self) -> dict[str, Any]:
        """Return what the episodes under way are, as JSON: jobs, and the actions taken in them.

        Only while no worker is at a step: after each `recv`, before the next `send`.
        """
        assert not any(state.waiting for state in self._states), "a worker is at a step"
        assert self._by_task is None
        workers = [
            {"jobs": _as_json(state.jobs), "deck": _as_json(state.deck), "taken": state.taken}
            for state in self._states
        ]
        return {"handed_out": self._handed_out, "workers": workers}

    def _fits(self, saved: dict[str, Any]) -> bool:
        """Return whether there were as many environments; else what was under way is lost."""
        return [len(book["jobs"]) for book in saved["workers"]] == [self.n] * self.workers

    def _skip(self, jobs: int) -> None:
        """Hand out no more what was handed out before."""
        for _ in islice(self._jobs, jobs):
            pass
        self._handed_out = jobs

    def _resume(self, saved: dict[str, Any]) -> None:
        for state, book in zip(self._states, saved["workers"], strict=True):
            state.jobs = [None if job is None else Job(**job) for job in book["jobs"]]
            state.deck = [None if job is None else Job(**job) for job in book["deck"]]
            state.taken = book["taken"]
            if any(state.playing()):
                state.begin(self._new_process())

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the workers that have work."""
        return tuple(state.process.pid for state in self._states if state.process is not None)

    def send(self, worker: int, actions: Float32[np.ndarray, "n A"] | None) -> None:
        """Let a worker step with `actions` (clipped to [-1, 1]; ignored where idle).

        None: the scripted expert's.
        """
        state = self._states[worker]
        assert not state.waiting, f"worker {worker} is still at its last step: recv first"
        state.waiting = state.stepping = True
        if actions is not None:
            if not np.isfinite(actions[state.playing()]).all():
                raise UserError(
                    "an action is not finite: the policy's weights are damaged; go on from an "
                    "earlier checkpoint, or train again with a lower learning rate"
                )
            state.buffers.actions[:] = actions
        if state.process is not None:
            state.process.tell({"step": _as_json(state.deck), "expert": actions is None})

    def recv(self, worker: int) -> StepResult:
        """Wait for a worker's step. A dead or hung worker is killed and replaced first.

        A job that has been lost more than `max_retries` times is given up, and the slot plays its
        next one. Raises `UserError` if an environment did, and where more jobs are given up than
        the share `config.lost_share`.
        """
        state = self._states[worker]
        assert state.waiting, f"worker {worker} has nothing to do: send first"
        previous = tuple(state.jobs) if state.stepping else (None,) * self.n
        lost = np.zeros(self.n, bool)
        while state.process is not None:
            try:
                state.process.wait()
                break
            except Lost as reason:
                lost |= state.playing()
                previous = tuple(state.jobs)
                self._replace(worker, str(reason))
        state.waiting = False
        for slot in state.count_step() if state.stepping else []:
            state.deck[slot] = self._job_on_deck(worker)
        return self._result(worker, previous, lost)

    def close(self) -> None:
        """End all workers; those that do not leave within seconds are killed. Safe to call
        again."""
        dismiss([state.process for state in self._states if state.process is not None])

    def __enter__(self) -> "VectorEnv":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for state in self._states if error is None and self.suite.real_arm is None else ():
            if state.process is not None and rest(state.process, busy=state.waiting):
                state.process = None
        self.close()

    def _job_on_deck(self, worker: int) -> Job | None:
        return None if self._alone else self._next_job(worker)

    def _next_job(self, worker: int) -> Job | None:
        job = self._by_task.next(worker) if self._by_task else next(self._jobs, None)
        if job is None:
            return None
        self._handed_out += 1
        self._begun += 1
        task = self.suite.task(job.task)  # a wrong name is told at once, not by a worker
        return replace(job, instruction=job.instruction or task.instruction)

    def _replace(self, worker: int, reason: str) -> None:
        state = self._states[worker]
        assert state.process is not None
        state.process.end()
        playing = state.playing()
        self.dropped += int(playing.sum())
        guilty = state.buffers.active & playing
        for slot in np.flatnonzero(guilty if guilty.any() else playing).tolist():
            state.losses[slot].append(_told(reason))
            if len(state.losses[slot]) > self._max_retries:
                self._give_up(state, slot)
        _log.warning(
            "worker %d %s; replaced, %d partial episodes start again",
            worker,
            _told(reason) if reason in self._logged else reason,  # a traceback once
            playing.sum(),
        )
        self._logged.add(reason)
        state.begin_again(self._new_process())

    def _give_up(self, state: _WorkerState, slot: int) -> None:
        """Let the slot play without the job that failed: its present one, or the one on deck.

        Raises `UserError` where too many are given up.
        """
        on_deck = state.begins_next(slot)
        job = state.deck[slot] if on_deck else state.jobs[slot]
        assert job is not None
        self.given_up.append(job)
        # Of all jobs where their number is known: by task, all hard ones may come first.
        jobs = self._begun if self._by_task is None else self._by_task.total
        if len(self.given_up) > self.config.lost_share * jobs:
            raise UserError(
                f"the environment of {job.task} ({self.suite.name}), seed {job.seed}, failed "
                f"{_failures(state.losses[slot])}"
            )
        if not on_deck:
            state.jobs[slot] = state.deck[slot]
        state.deck[slot] = self._job_on_deck(state.worker)
        state.losses[slot] = []

    @property
    def lost_note(self) -> dict[str, str]:
        """What a journal should say of the jobs that were given up: a "note", or nothing."""
        return lost_note(self.given_up)

    def _result(
        self, worker: int, previous: tuple[Job | None, ...], lost: Bool[np.ndarray, " n"]
    ) -> StepResult:
        state = self._states[worker]
        names = [each.name for each in fields(SharedBuffers)]
        names = [name for name in names if name not in ("actions", "active")]
        copies = {name: getattr(state.buffers, name).copy() for name in names}
        return StepResult(
            worker=worker,
            jobs=tuple(state.jobs),
            step=state.step,
            previous=previous,
            lost=lost,
            **copies,
        )


def _failures(losses: Sequence[str]) -> str:
    """Return how often an episode failed, why, and what to do: one that always raises the same
    would do so in every run, and is nothing to bear with."""
    last = losses[-1]
    if last.startswith(RAISED) and set(losses) == {last}:
        return f"{len(losses)} times, each time as the worker {last}; mend it"
    return (
        f"{len(losses)} times, at last: the worker {last}; mend it, or bear with more such "
        "episodes: --env.lost-share"
    )


def _told(reason: str) -> str:
    """Return why a worker was lost in one line: of an exception, not where it came from."""
    lines = reason.strip().splitlines()
    frames = [number for number, line in enumerate(lines) if line.startswith("  File ")]
    if not frames:
        return " ".join(lines)
    rest = dropwhile(lambda line: line.startswith("    "), lines[frames[-1] + 1 :])
    return f"{RAISED} {' '.join(' '.join(rest).split())[:400]}"


def lost_note(given_up: Sequence[Job]) -> dict[str, str]:
    """Return what a journal should say of jobs that were given up: a "note", or nothing."""
    if not given_up:
        return {}
    which = ", ".join(f"{job.task} seed {job.seed}" for job in given_up[:5])
    return {
        "note": f"{len(given_up)} episodes are missing, whose environment failed again "
        f"and again ({which})"
    }


def _as_json(jobs: list[Job | None]) -> list[dict[str, Any] | None]:
    return [None if job is None else vars(job) for job in jobs]
