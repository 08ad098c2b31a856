"""What runs in a worker process: some environments, stepped on command. Started by `vector`;
without torch.

The protocol. Images, actions and flags lie in `SharedBuffers`, a piece of anonymous memory that
both sides see; JSON over a pipe says when. The driver sends a greeting (suite, settings, sizes, and
who may act on a real arm), then commands one at a time; another greeting may follow, with other
settings:

- `{"begin": [job or null, ...], "replay": [[action, ...], ...]}`: each slot starts its job, and
  takes the actions of its part of "replay" at once: an episode that was under way goes on where it
  was;
- `{"step": [deck, ...], "expert": bool}`: each playing slot takes a step with its action in the
  buffers (or the scripted expert's); a slot whose episode ends starts the job "on deck" at once, or
  falls idle where that is null.

Each is answered with `{}` once the buffers are up to date, or with `{"error": text, "user": bool}`,
after which the worker exits.
"""

import json
import math
import mmap
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from irevla.compute.processes import outlive_nobody
from irevla.config import EnvConfig
from irevla.envs.suite import Authorization, Suite, load_suite
from irevla.errors import UserError

BURSTS = 0.3  # share of the stretches of an episode that have noise, where it comes in bursts


@dataclass(frozen=True)
class Job:
    """One episode to play."""

    task: str
    seed: int
    noise: float = 0.0  # standard deviation of the noise on what is executed; labels stay clean
    burst: int = 0  # decisions that a burst of the same noise lasts; 0: fresh noise in each
    draw: bool = True  # False: images are blank and cost nothing
    instruction: str = field(default="", compare=False)  # "": the task's


@dataclass(frozen=True)
class SharedBuffers:
    """The arrays that driver and worker share, for `n` slots."""

    images: UInt8[np.ndarray, "n H W 3"]  # what each slot sees now
    final_images: UInt8[np.ndarray, "n H W 3"]  # the true last one, where the step ended an episode
    states: Float32[np.ndarray, "n S"]  # what each robot says of itself, with its image
    final_states: Float32[np.ndarray, "n S"]  # with the true last image
    actions: Float32[np.ndarray, "n A"]  # from the driver
    labels: Float32[np.ndarray, "n A"]  # what was meant, clean of noise; what an arm has done
    rewards: Float32[np.ndarray, " n"]
    terminated: Bool[np.ndarray, " n"]
    truncated: Bool[np.ndarray, " n"]
    success: Bool[np.ndarray, " n"]  # by the policy, or the expert, alone: not with a person's help
    person: Bool[np.ndarray, " n"]  # whether one took over from the policy
    active: Bool[np.ndarray, " n"]  # whose environment is at work now: the one that kills a worker

    @staticmethod
    def on(
        memory: mmap.mmap, *, n: int, image_size: int, action_dim: int, state_dim: int, cameras: int
    ) -> "SharedBuffers":
        """Return the buffers that lie in `memory` (of `nbytes`)."""
        offset = 0
        arrays = []
        for shape, dtype in _layout(n, image_size, action_dim, state_dim, cameras):
            count = math.prod(shape)
            arrays.append(np.frombuffer(memory, dtype, count, offset).reshape(shape))
            offset += _aligned(count * dtype.itemsize)
        return SharedBuffers(*arrays)

    @staticmethod
    def nbytes(*, n: int, image_size: int, action_dim: int, state_dim: int, cameras: int) -> int:
        """Return the memory that such buffers take."""
        layout = _layout(n, image_size, action_dim, state_dim, cameras)
        return sum(_aligned(math.prod(shape) * dtype.itemsize) for shape, dtype in layout)

    def clear_flags(self) -> None:
        """Forget the last step; the present images stay."""
        for each in fields(self)[5:-1]:
            getattr(self, each.name)[:] = 0


def _layout(
    n: int, size: int, action_dim: int, state_dim: int, cameras: int
) -> list[tuple[tuple[int, ...], np.dtype[Any]]]:
    image = ((n, cameras * size, size, 3), np.dtype(np.uint8))
    state = ((n, state_dim), np.dtype(np.float32))
    action = ((n, action_dim), np.dtype(np.float32))
    reward = ((n,), np.dtype(np.float32))
    flag = ((n,), np.dtype(np.bool_))
    return [image, image, state, state, action, action, reward, flag, flag, flag, flag, flag]


def _aligned(nbytes: int) -> int:
    return -(-nbytes // 64) * 64


class EnvPool:
    """The slots of one worker and their environments."""

    def __init__(self, suite: Suite, config: EnvConfig, buffers: SharedBuffers) -> None:
        n = len(buffers.images)
        self._suite = suite
        self._config = config
        self._buffers = buffers
        self._jobs: list[Job | None] = [None] * n
        self._envs: list[gym.Env[Any, Any] | None] = [None] * n
        self._noise = [Disturbance(Job("", 0))] * n
        self._helped = [False] * n  # a person took over from the policy in this episode
        self._idle: list[gym.Env[Any, Any]] = []  # of tasks that no slot plays now, oldest first

    def obey(self, command: dict[str, Any]) -> None:
        """Do what one message says (see the module's head)."""
        self._buffers.clear_flags()
        if "begin" in command:
            replay = command.get("replay") or [()] * len(self._jobs)
            for slot, job in enumerate(_jobs(command["begin"])):
                with self._at_work(slot):
                    self._begin(slot, job)
                    self._replay(slot, replay[slot])
        else:
            for slot, job in enumerate(_jobs(command["step"])):
                with self._at_work(slot):
                    if self._step(slot, expert=command["expert"]):
                        self._begin(slot, job)

    @contextmanager
    def _at_work(self, slot: int) -> Iterator[None]:
        """Say in the buffers whose environment is at work; where it fails, that stays there."""
        self._buffers.active[slot] = True
        yield
        self._buffers.active[slot] = False

    def close(self) -> None:
        """Close every environment."""
        for env in [*self._envs, *self._idle]:
            if env is not None:
                env.close()

    def _begin(self, slot: int, job: Job | None) -> None:
        self._jobs[slot] = job
        if job is None:
            self._buffers.images[slot] = 0
            return
        if job.noise and self._suite.real_arm is not None:
            raise UserError(f"{self._suite.name} moves a real arm, which noise would shake")
        env = self._env_for(slot, job.task)
        self._envs[slot] = env
        env.unwrapped.draw = job.draw  # type: ignore[attr-defined]
        self._noise[slot] = Disturbance(job)
        self._helped[slot] = False
        self._buffers.images[slot], info = env.reset(seed=job.seed)
        self._buffers.states[slot] = self._state(job, info)

    def _replay(self, slot: int, actions: Sequence[Sequence[float]]) -> None:
        """Take actions that were taken before; only the last image is drawn."""
        env = self._envs[slot]
        job = self._jobs[slot]
        if env is None or job is None:
            return
        for number, action in enumerate(actions, start=1):
            env.unwrapped.draw = job.draw and number == len(actions)  # type: ignore[attr-defined]
            self._buffers.actions[slot] = action
            self._step(slot, expert=False)
        env.unwrapped.draw = job.draw  # type: ignore[attr-defined]
        self._buffers.clear_flags()

    def _env_for(self, slot: int, task: str) -> gym.Env[Any, Any]:
        """Return an environment of that task: the slot's own, an idle one, or a new one.

        At most `n` idle ones are kept.
        """
        mine = self._envs[slot]
        if mine is not None:
            self._idle.append(mine)
        self._envs[slot] = None  # so that nothing is closed twice if the next lines raise
        found = None
        for env in reversed(self._idle):
            if env.unwrapped.task.name == task:  # type: ignore[attr-defined]
                found = env
                self._idle.remove(env)
                break
        while len(self._idle) > len(self._envs):
            self._idle.pop(0).close()
        return found if found is not None else self._suite.make(task, self._config)

    def _step(self, slot: int, *, expert: bool) -> bool:
        """Take one step in one slot; return whether an episode ended."""
        buffers = self._buffers
        env = self._envs[slot]
        job = self._jobs[slot]
        if env is None or job is None:
            return False
        clean = np.clip(buffers.actions[slot], -1, 1)
        if expert:
            clean = env.unwrapped.expert_action()  # type: ignore[attr-defined]
        action = np.clip(clean + self._noise[slot].sample(len(clean)), -1, 1)
        image, reward, terminated, truncated, info = env.step(action)
        if "success" not in info or not math.isfinite(reward):
            fault = "no info['success']" if "success" not in info else f"a reward of {reward}"
            raise UserError(
                f"the environment of {job.task}, seed {job.seed}, gives {fault} after a step: an "
                "environment must say both success and a finite reward"
            )
        person = not expert and info.get("person", False)  # who took over from a policy
        self._helped[slot] |= person
        disturbed = job.noise > 0 and not person
        buffers.labels[slot] = clean if disturbed else info.get("action", clean)
        buffers.person[slot] = person
        buffers.rewards[slot] = reward
        buffers.success[slot] = info["success"] and not self._helped[slot]
        buffers.terminated[slot] = terminated
        buffers.truncated[slot] = truncated
        ended = terminated or truncated
        seen = buffers.final_images if ended else buffers.images
        seen[slot] = image
        states = buffers.final_states if ended else buffers.states
        states[slot] = self._state(job, info)
        return ended

    def _state(self, job: Job, info: Mapping[str, Any]) -> np.ndarray:
        """Return what the policy is told of the robot. Raises `UserError` where it cannot be."""
        wanted = self._buffers.states.shape[1]
        state = np.asarray(info.get("state", ()) if wanted else (), np.float32)
        if state.shape != (wanted,) or not np.isfinite(state).all():
            raise UserError(
                f"the environment of {job.task}, seed {job.seed}, gives info['state'] = {state}, "
                f"and must give {wanted} finite numbers: mend it, or say --env.no-state"
            )
        return state


def _jobs(messages: Sequence[dict[str, Any] | None]) -> list[Job | None]:
    return [None if message is None else Job(**message) for message in messages]


class Disturbance:
    """What disturbs one episode, settled by the job's seed."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._random = np.random.default_rng([job.seed, 1])
        self._decisions = 0
        self._now: Float32[np.ndarray, " A"] | None = None

    def sample(self, dimensions: int) -> Float32[np.ndarray, " A"]:
        """Return the noise of the next decision."""
        burst = self._job.burst
        if self._now is None or burst == 0 or self._decisions % burst == 0:
            self._now = self._job.noise * self._random.standard_normal(dimensions, np.float32)
            if burst and self._random.random() > BURSTS:
                self._now = np.zeros_like(self._now)
        self._decisions += 1
        return self._now


def _serve(connection: Connection, memory: int) -> None:
    """Obey until the driver hangs up (EOFError) or something fails, which is reported."""
    pool = None
    try:
        while True:
            message = json.loads(connection.recv_bytes())
            if "suite" in message:
                if pool is not None:
                    pool.close()
                pool = _make_pool(message, memory)
            else:
                assert pool is not None, "a greeting comes first"
                pool.obey(message)
            connection.send_bytes(b"{}")
    except (EOFError, ConnectionError):
        pass  # the driver closed the pipe or is gone
    except UserError as error:
        _report(connection, str(error), user=True)
    except Exception:  # noqa: BLE001  # whatever an environment raises: the driver retries, or says it
        _report(connection, traceback.format_exc(), user=False)
    finally:
        if pool is not None:
            pool.close()


def _make_pool(greeting: dict[str, Any], memory: int) -> EnvPool:
    suite = load_suite(greeting["suite"])
    who = greeting["authorization"]
    suite.authorize(None if who is None else Authorization(**who))  # asked for by each greeting
    buffers = SharedBuffers.on(mmap.mmap(memory, 0), **greeting["buffers"])
    return EnvPool(suite, EnvConfig(**greeting["config"]), buffers)


def _report(connection: Connection, text: str, *, user: bool) -> None:
    connection.send_bytes(json.dumps({"error": text, "user": user}).encode())


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def main() -> None:
    """`python -m irevla.envs.worker PARENT_PID PIPE_FD MEMORY_FD`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the driver decides
    signal.signal(signal.SIGTERM, _leave)  # wherever it waits, what it holds is let go in order
    os.dup2(2, 1)  # what a simulator prints must not get into the output of a command
    parent, pipe, memory = map(int, sys.argv[1:])
    threading.Thread(target=outlive_nobody, args=(parent,), daemon=True).start()
    _serve(Connection(pipe), memory)
    signal.signal(
        signal.SIGTERM, signal.SIG_DFL
    )  # nothing is held; Python's end must not be cut off


if __name__ == "__main__":
    main()
