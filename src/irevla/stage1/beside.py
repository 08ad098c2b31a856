"""Actor and learner apart, as on a real arm: acting never waits for learning (section V-D; SERL).

The learner has a process of its own: in a thread, each step of an update could hold Python's lock
while a decision is due. Episodes reach it through the buffers on disk. It hands the newest actor
over through a piece of anonymous memory, which the actor looks at before each decision and never
waits for, and says over a pipe, in JSON, how it fares; it writes the checkpoints. "finish" over the
pipe: do what is owed, save, leave. "stop": save and leave.
"""

import json
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from irevla.data.replay import reopen
from irevla.envs.vector import memory_folder, spawn
from irevla.envs.worker import outlive_nobody
from irevla.errors import UserError
from irevla.learners.sac import SAC
from irevla.models.files import NAMES, WEIGHTS, parse
from irevla.models.heads import ActionHead
from irevla.models.policy import VLAPolicy
from irevla.models.soft import SoftActor
from irevla.runs.checkpoint import Checkpoints
from irevla.runs.run import Run, read_config
from irevla.runs.stage import folder
from irevla.setting import device
from irevla.stage1.learner import Learner, means
from irevla.turn import Turn
from irevla.types import Features

HANDOVER = 5  # updates between two handovers of the actor
REPORT = 20  # updates between two reports
IDLE = 0.05  # seconds between two looks at the buffer while nothing is owed
NICE = 5  # on a busy machine the actor goes first
LEAVE = 60.0  # seconds that a learner has to save and leave
HEADER = 16  # bytes before the weights: a number that grows, and their checksum


class Handover:
    """The actor's weights in shared memory: one writes, one reads, nobody waits. A torn read shows
    in its checksum."""

    def __init__(self, memory: mmap.mmap, actor: SoftActor) -> None:
        self._actor, self._seen = actor, 0
        self._header = np.frombuffer(memory, np.uint64, 2)
        self._weights = np.frombuffer(memory, np.float32, offset=HEADER)

    @staticmethod
    def nbytes(actor: SoftActor) -> int:
        """The memory that it takes."""
        return HEADER + 4 * sum(parameter.numel() for parameter in actor.parameters())

    def give(self) -> None:
        """Write the actor's weights."""
        weights = parameters_to_vector(self._actor.parameters()).detach().cpu().numpy()
        self._weights[:] = weights
        self._header[1] = zlib.crc32(weights.tobytes())
        self._header[0] += 1

    def take(self) -> bool:
        """Let the actor have the newest weights, if they are new and whole; whether it has."""
        number, checksum = self._header.tolist()
        if number == self._seen:
            return False
        weights = self._weights.copy()
        if zlib.crc32(weights.tobytes()) != checksum:
            return False  # they are being written: at the next decision
        parameters = list(self._actor.parameters())
        ends = np.cumsum([parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, np.split(weights, ends[:-1]), strict=True):
            parameter.data.copy_(torch.from_numpy(part).view_as(parameter))
        self._seen = number
        return True


class Beside:
    """The actor's side. The learner goes on from the newest checkpoint, which is made here where
    there is none."""

    def __init__(self, run: Run, policy: VLAPolicy, turn: Turn, learner: Learner) -> None:
        self._run, self._policy, self._learner = run, policy, learner
        if run.checkpoints.newest(folder(learner.stage)) is None:
            learner.save()
        self._actor = learner.sac.actor
        self._ready = False
        self._rate, self._due = run.config.sac.rate, 0.0  # when the next decision may be sent
        self._generator = torch.Generator().manual_seed(
            run.config.seed + 1
        )  # the learner has its own noise
        with tempfile.TemporaryFile(dir=memory_folder()) as file:
            file.truncate(Handover.nbytes(self._actor))
            self._handover = Handover(mmap.mmap(file.fileno(), 0), self._actor)
            self._pipe, theirs = Pipe()
            with theirs:
                self._popen = spawn(
                    __name__,
                    theirs.fileno(),
                    file.fileno(),
                    str(run.directory.absolute()),
                    turn.name,
                )

    def act(self, features: Features) -> Float[Tensor, "B A"]:
        """Actions of the newest actor, with exploration noise; a simulator is held back to the
        rate."""
        self._handover.take()
        actions = self._actor.act(features, generator=self._generator)
        if self._rate:
            time.sleep(max(0.0, self._due - time.perf_counter()))
            self._due = time.perf_counter() + len(actions) / self._rate
        return actions

    def catch_up(self) -> dict[str, float]:
        """What the learner has said since the last call. At first it waits until the learner stands
        ready; later for nothing."""
        self._learner.count()
        history: list[Mapping[str, float]] = []
        while not self._ready or self._pipe.poll():
            self._hear(history)
        return means(history)

    def finish(self) -> None:
        """Wait until the learner has done what it owes; then the policy has what it learnt."""
        self._tell("finish")
        with suppress(EOFError):
            while True:
                self._hear([])
        self._leave()
        found = self._run.checkpoints.newest(folder(self._learner.stage))
        assert found is not None, "the learner left without a checkpoint"
        self._policy.load_files(found[1])
        self._learner.progress.updates = found[1]["progress.json"]["updates"]

    def _hear(self, history: list[Mapping[str, float]]) -> None:
        """One report; EOFError where the learner has left as it was told."""
        try:
            said = json.loads(self._pipe.recv_bytes())
        except (EOFError, OSError) as error:
            if self._popen.wait(LEAVE) == 0:
                raise EOFError from error
            raise RuntimeError(
                f"the learner died (exit status {self._popen.returncode})"
            ) from error
        if "error" in said:
            raise UserError(said["error"])
        self._ready = True
        self._learner.progress.updates = said.pop("updates")
        history.append(said)

    def _tell(self, word: str) -> None:
        with suppress(OSError):  # it has died: `_hear` finds out
            self._pipe.send_bytes(json.dumps(word).encode())

    def _leave(self) -> None:
        try:
            self._popen.wait(LEAVE)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        self._pipe.close()

    def __enter__(self) -> "Beside":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._pipe.closed:
            self._tell("stop")
            self._leave()


# --- the learner's process


@dataclass(frozen=True)
class _Place:
    checkpoints: Checkpoints


class _Carried:
    """A policy without its VLM: the files it was saved in, and a head that learns."""

    def __init__(self, files: Mapping[str, Any], head: ActionHead) -> None:
        self._files, self._head = files, head
        self.load_files(files)

    def files(self) -> dict[str, Any]:
        """Those that the policy was saved in, with the head as it is now."""
        head = {f"action_head.{name}": value for name, value in self._head.state_dict().items()}
        mine = {name: value for name, value in self._files.items() if name in NAMES}
        return {**mine, WEIGHTS: {**self._files[WEIGHTS], **head}}

    def load_files(self, files: Mapping[str, Any]) -> None:
        """Take the head's weights."""
        weights = files[WEIGHTS].items()
        prefix = "action_head."
        self._head.load_state_dict(
            {name.removeprefix(prefix): v for name, v in weights if name.startswith(prefix)}
        )


def restore(directory: Path, name: str) -> Learner:
    """The learner of the turn called `name`, of the run in `directory`, from its newest
    checkpoint."""
    config, stage = read_config(directory), f"rl:{name}"
    checkpoints = Checkpoints(directory / "checkpoints")
    found = checkpoints.newest(folder(stage))
    assert found is not None, "the actor saves one before it starts a learner"
    files = found[1]
    what = parse(files)
    demonstrations, online = (
        reopen(directory / "latents" / folder(name) / n) for n in ("demonstrations", "online")
    )
    head = ActionHead(
        width=online.spec.width,
        groups=what.model.head_groups,
        hidden=what.model.head_hidden,
        action_dim=what.action_dim,
    ).to(device(config.device))
    carried = _Carried(files, head)
    sac = SAC(head, config.sac, generator=torch.Generator().manual_seed(config.seed))
    learner = Learner(
        _Place(checkpoints), carried, stage, sac=sac, demonstrations=demonstrations, online=online
    )
    learner.resume()
    return learner


def learn_until_told(learner: Learner, pipe: Connection, handover: Handover) -> str:
    """Do what is owed for all that comes to the online buffer, until the actor's side says a word:
    that word.

    Raises EOFError where it is gone.
    """
    history: list[Mapping[str, float]] = []
    while not pipe.poll():
        learner.count()
        if learner.owed > 0:
            history = update(learner, pipe, handover, history)
        else:
            pipe.poll(IDLE)
    word: str = json.loads(pipe.recv_bytes())
    return word


def update(
    learner: Learner, pipe: Connection, handover: Handover, history: list[Mapping[str, float]]
) -> list[Mapping[str, float]]:
    """One update, handed over and reported where it is time; what is still to be reported."""
    history = [*history, learner.update()]
    updates = learner.progress.updates
    if updates % HANDOVER == 0:
        handover.give()
    if updates % REPORT == 0:
        pipe.send_bytes(json.dumps({"updates": updates, **means(history)}).encode())
        return []
    return history


def _serve(pipe: Connection, memory: int, directory: Path, name: str) -> None:
    try:
        learner = restore(directory, name)
        handover = Handover(mmap.mmap(memory, 0), learner.sac.actor)
        handover.give()
        pipe.send_bytes(json.dumps({"updates": learner.progress.updates}).encode())
        if learn_until_told(learner, pipe, handover) == "finish":
            learner.catch_up()
        learner.save()
    except (EOFError, ConnectionError):
        pass  # the actor's side is gone; what was saved is saved
    except UserError as error:
        pipe.send_bytes(json.dumps({"error": str(error)}).encode())


def main() -> None:
    """`python -m irevla.stage1.beside PARENT_PID PIPE_FD MEMORY_FD DIRECTORY TURN`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the actor's side decides
    os.dup2(2, 1)
    os.nice(NICE)
    torch.set_num_threads(1)
    parent, pipe, memory = map(int, sys.argv[1:4])
    threading.Thread(target=outlive_nobody, args=(parent,), daemon=True).start()
    _serve(Connection(pipe), memory, Path(sys.argv[4]), sys.argv[5])


if __name__ == "__main__":
    main()
