"""What runs in a worker process: some environments, stepped on command. Started by `vector`;
without torch.

The protocol. Pictures, actions and flags lie in a `Board`, a piece of anonymous memory that both
sides see; JSON over a pipe says when. The driver sends a greeting (suite, sizes), then commands one
at a time:

- `{"begin": [job or null, ...]}`: each slot starts its job;
- `{"step": [deck, ...], "expert": bool}`: each playing slot takes a step with its action on the
  board (or the scripted expert's); a slot whose episode ends starts the job "on deck" at once, or
  falls idle where that is null.

Each is answered with `{}` once the board is up to date, or with `{"error": text, "user": bool}`,
after which the worker exits.
"""

import json
import math
import mmap
import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass, fields
from multiprocessing.connection import Connection
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from irevla.config import EnvConfig
from irevla.envs.base import Suite, load_suite
from irevla.errors import UserError

BURSTS = 0.3  # share of the stretches of an episode that have noise, where it comes in bursts


@dataclass(frozen=True)
class Job:
    """One episode to play."""

    task: str
    seed: int
    noise: float = 0.0  # standard deviation of the noise on what is executed; labels stay clean
    # 0: fresh noise in every decision; else it comes in bursts of so many, the same throughout each
    burst: int = 0
    draw: bool = True  # False: pictures are blank and cost nothing


@dataclass(frozen=True)
class Board:
    """The arrays that driver and worker share, for `n` slots."""

    images: UInt8[np.ndarray, "n H W 3"]  # what each slot sees now
    final_images: UInt8[
        np.ndarray, "n H W 3"
    ]  # the true last observation, where the step ended an episode
    actions: Float32[np.ndarray, "n A"]  # from the driver
    labels: Float32[
        np.ndarray, "n A"
    ]  # what was meant: clean of noise; a person's where one took over
    rewards: Float32[np.ndarray, " n"]
    terminated: Bool[np.ndarray, " n"]
    truncated: Bool[np.ndarray, " n"]
    success: Bool[
        np.ndarray, " n"
    ]  # by the policy, or the expert, alone: with a person's help it is none

    @staticmethod
    def on(memory: mmap.mmap, *, n: int, image_size: int, action_dim: int) -> "Board":
        """The board that lies in `memory` (of `nbytes`)."""
        offset, arrays = 0, []
        for shape, dtype in _layout(n, image_size, action_dim):
            count = math.prod(shape)
            arrays.append(np.frombuffer(memory, dtype, count, offset).reshape(shape))
            offset += _aligned(count * dtype.itemsize)
        return Board(*arrays)

    @staticmethod
    def nbytes(*, n: int, image_size: int, action_dim: int) -> int:
        """The memory that such a board takes."""
        return sum(
            _aligned(math.prod(shape) * dtype.itemsize)
            for shape, dtype in _layout(n, image_size, action_dim)
        )

    def clear_flags(self) -> None:
        """Forget the last step; the present pictures stay."""
        for field in fields(self)[3:]:
            getattr(self, field.name)[:] = 0


def _layout(n: int, size: int, action_dim: int) -> list[tuple[tuple[int, ...], np.dtype[Any]]]:
    picture, action = (
        ((n, size, size, 3), np.dtype(np.uint8)),
        ((n, action_dim), np.dtype(np.float32)),
    )
    return [
        picture,
        picture,
        action,
        action,
        ((n,), np.dtype(np.float32)),
        *[((n,), np.dtype(np.bool_))] * 3,
    ]


def _aligned(nbytes: int) -> int:
    return -(-nbytes // 64) * 64


class _Stage:
    """The slots of one worker and their environments."""

    def __init__(self, suite: Suite, config: EnvConfig, board: Board) -> None:
        self._suite, self._config, self._board = suite, config, board
        n = len(board.images)
        self._jobs: list[Job | None] = [None] * n
        self._envs: list[gym.Env[Any, Any] | None] = [None] * n
        self._noise = [Disturbance(Job("", 0))] * n
        self._helped = [False] * n  # a person took over from the policy in this episode
        self._idle: list[
            gym.Env[Any, Any]
        ] = []  # environments of tasks that no slot plays now, the oldest first

    def obey(self, command: dict[str, Any]) -> None:
        """Do what one message says (see the module's head)."""
        jobs = [job and Job(**job) for job in command.get("begin") or command["step"]]
        self._board.clear_flags()
        for slot, job in enumerate(jobs):
            if "begin" in command or self._step(slot, expert=command["expert"]):
                self._begin(slot, job)

    def close(self) -> None:
        """Close every environment."""
        for env in [*self._envs, *self._idle]:
            if env is not None:
                env.close()

    def _begin(self, slot: int, job: Job | None) -> None:
        self._jobs[slot] = job
        if job is None:
            self._board.images[slot] = 0
            return
        env = self._envs[slot] = self._cast(slot, job.task)
        env.unwrapped.draw = job.draw  # type: ignore[attr-defined]
        self._noise[slot], self._helped[slot] = Disturbance(job), False
        self._board.images[slot], _ = env.reset(seed=job.seed)

    def _cast(self, slot: int, task: str) -> gym.Env[Any, Any]:
        """An environment of that task: the slot's own, an idle one, or a new one. At most `n` idle
        ones are kept."""
        mine = self._envs[slot]
        if mine is not None:
            self._idle.append(mine)
        found = next((env for env in reversed(self._idle) if env.unwrapped.task.name == task), None)  # type: ignore[attr-defined]
        if found is not None:
            self._idle.remove(found)
        self._envs[slot] = None  # so that nothing is closed twice if the next lines raise
        while len(self._idle) > len(self._envs):
            self._idle.pop(0).close()
        return found if found is not None else self._suite.make(task, self._config)

    def _step(self, slot: int, *, expert: bool) -> bool:
        """One step of one slot; whether an episode ended."""
        board, env, job = self._board, self._envs[slot], self._jobs[slot]
        if env is None or job is None:
            return False
        clean = env.unwrapped.expert_action() if expert else np.clip(board.actions[slot], -1, 1)  # type: ignore[attr-defined]
        action = np.clip(clean + self._noise[slot].draw(len(clean)), -1, 1)
        image, reward, terminated, truncated, info = env.step(action)
        person = not expert and info.get("person", False)  # who took over from a policy
        self._helped[slot] |= person
        disturbed = job.noise > 0 and not person
        board.labels[slot] = clean if expert or disturbed else info.get("action", clean)
        board.rewards[slot], board.success[slot] = (
            reward,
            info["success"] and not self._helped[slot],
        )
        board.terminated[slot], board.truncated[slot] = terminated, truncated
        ended = terminated or truncated
        (board.final_images if ended else board.images)[slot] = image
        return ended


class Disturbance:
    """What disturbs one episode, settled by the job's seed."""

    def __init__(self, job: Job) -> None:
        self._job, self._random, self._decisions = job, np.random.default_rng([job.seed, 1]), 0
        self._now: Float32[np.ndarray, " A"] | None = None

    def draw(self, dimensions: int) -> Float32[np.ndarray, " A"]:
        """The noise of the next decision."""
        if self._now is None or self._job.burst == 0 or self._decisions % self._job.burst == 0:
            self._now = self._job.noise * self._random.standard_normal(dimensions, np.float32)
            if self._job.burst and self._random.random() > BURSTS:
                self._now = np.zeros_like(self._now)
        self._decisions += 1
        return self._now


def _serve(connection: Connection, memory: int) -> None:
    """Obey until the driver hangs up (EOFError) or something fails, which is reported."""
    stage = None
    try:
        hello = json.loads(connection.recv_bytes())
        config = EnvConfig(**hello["config"])
        stage = _Stage(
            load_suite(hello["suite"]), config, Board.on(mmap.mmap(memory, 0), **hello["board"])
        )
        while True:
            connection.send_bytes(b"{}")
            stage.obey(json.loads(connection.recv_bytes()))
    except (EOFError, ConnectionError):
        pass  # the driver closed the pipe or is gone
    except UserError as error:
        _report(connection, str(error), user=True)
    except Exception:  # noqa: BLE001  # whatever an environment raises: the driver retries, and says it if that fails
        _report(connection, traceback.format_exc(), user=False)
    finally:
        if stage is not None:
            stage.close()


def _report(connection: Connection, text: str, *, user: bool) -> None:
    connection.send_bytes(json.dumps({"error": text, "user": user}).encode())


def outlive_nobody(parent: int) -> None:
    """Exit with the driver, even when it was killed while an environment hangs and nobody reads the
    pipe."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def main() -> None:
    """`python -m irevla.envs.worker PARENT_PID PIPE_FD MEMORY_FD`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the driver decides
    os.dup2(2, 1)  # what a simulator prints must not get into the output of a command
    parent, pipe, memory = map(int, sys.argv[1:])
    threading.Thread(target=outlive_nobody, args=(parent,), daemon=True).start()
    _serve(Connection(pipe), memory)


if __name__ == "__main__":
    main()
