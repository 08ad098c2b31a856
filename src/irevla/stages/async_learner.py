"""Actor and learner apart, as on a real arm: acting never waits for learning (section V-D; SERL).

The learner has a process of its own: in a thread (`InStepLearner`, for simulators) each step of an
update could hold Python's lock while a decision is due. Episodes reach it through the buffers on
disk. It publishes the newest actor through a piece of anonymous memory, which the actor looks at
before each decision and never waits for, and says over a pipe, in JSON, how it fares; it writes the
checkpoints. "finish" over the pipe: make the pending updates, save, leave. "stop": save and leave.
"""

import json
import logging
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import threading
import zlib
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from irevla.compute.device import find_device
from irevla.compute.processes import outlive_nobody
from irevla.data.replay import reopen
from irevla.envs.processes import memory_folder, spawn
from irevla.errors import UserError
from irevla.learners.optim import Means
from irevla.models.policy import VLAPolicy
from irevla.models.sac_actor import SoftActor
from irevla.runs.run import Run, read_config
from irevla.stages.contract import save
from irevla.stages.learner import SACLearner
from irevla.stages.learning import Learning
from irevla.storage.checkpoint import Checkpoints
from irevla.tasks import Stage, draw_seed
from irevla.types import Features

PUBLISH = 5  # updates between two publications of the actor
REPORT = 20  # updates between two reports
SAVE = 500  # updates between two checkpoints
IDLE = 0.05  # seconds between two looks at the buffer while nothing is pending
NICE = 5  # on a busy machine the actor goes first
LEAVE = 60.0  # seconds that a learner has to save and leave
PATIENCE = 120.0  # seconds without a word after which a learner that should speak is replaced
MOST_LOSSES = 3  # learners that may be lost in one stage
HEADER = 16  # bytes before the weights: a number that grows, and their checksum


_log = logging.getLogger(__name__)


class _Lost(Exception):
    """The learner died, or says nothing any more; the text says which."""


class SharedWeights:
    """The actor's weights in shared memory: one writes, one reads, nobody waits.

    A torn read shows in the checksum.
    """

    def __init__(self, memory: mmap.mmap, actor: SoftActor) -> None:
        self._actor = actor
        self._seen = 0
        self._header = np.frombuffer(memory, np.uint64, 2)
        self._weights = np.frombuffer(memory, np.float32, offset=HEADER)

    @staticmethod
    def nbytes(actor: SoftActor) -> int:
        """Return the memory that it takes."""
        return HEADER + 4 * sum(parameter.numel() for parameter in actor.parameters())

    def publish(self) -> None:
        """Write the actor's weights."""
        weights = parameters_to_vector(self._actor.parameters()).detach().cpu().numpy()
        self._weights[:] = weights
        self._header[1] = zlib.crc32(weights.tobytes())
        self._header[0] += 1

    def read(self) -> bool:
        """Let the actor have the newest weights, if they are new and whole; return whether it
        has."""
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


class AsyncLearner:
    """The actor's side. The learner goes on from the newest checkpoint, made here where there is
    none."""

    def __init__(self, run: Run, policy: VLAPolicy, stage: Stage, learner: SACLearner) -> None:
        self._run = run
        self._policy = policy
        self._stage = stage
        self.updates = learner.updates
        self.moved = learner.moved  # until `finish`
        if run.checkpoints.newest(stage.folder) is None:
            save(run.checkpoints, policy, stage, learner)
        self._actor = learner.sac.actor
        self._losses = 0  # learners that died or fell silent
        self._start()

    def _start(self) -> None:
        """Start a learner, which goes on from the newest checkpoint."""
        self._ready = False
        with tempfile.TemporaryFile(dir=memory_folder()) as file:
            file.truncate(SharedWeights.nbytes(self._actor))
            self._weights = SharedWeights(mmap.mmap(file.fileno(), 0), self._actor)
            self._pipe, child = Pipe()
            directory = str(self._run.directory.absolute())
            arguments = (child.fileno(), file.fileno(), directory, self._stage.name)
            with child:
                self._popen = spawn(__name__, *arguments)

    def act(
        self, features: Features, *, noise: Float[Tensor, "B nA"], chance: Float[Tensor, "B ..."]
    ) -> Float[Tensor, "B nA"]:
        """Return actions of the newest actor, with exploration noise, as `SoftActor.act`."""
        self._weights.read()
        return self._actor.act(features, noise=noise, chance=chance)

    def settle(self) -> dict[str, float]:
        """It has a clock of its own, and is not waited for."""
        return {}

    def learn(self) -> dict[str, float]:
        """Return what the learner has said since the last call.

        At first it waits until the learner stands ready; later for nothing. One that has died is
        replaced.
        """
        means = Means()
        while not self._ready or self._pipe.poll():
            try:
                self._hear(means)
            except _Lost as reason:
                self._replace(str(reason))
        return means.take()

    def finish(self) -> None:
        """Wait until the learner has made the pending updates; then the policy has what it
        learnt."""
        self._tell("finish")
        left = False
        while not left:
            try:
                self._hear(Means())
            except EOFError:
                left = True
            except _Lost as reason:
                self._replace(str(reason))
                self._tell("finish")
        self._leave()
        found = self._run.checkpoints.newest(self._stage.folder)
        assert found is not None, "the learner left without a checkpoint"
        _, files = found
        self._policy.load_files(files)
        self.updates = files["learner.json"]["updates"]
        self.moved = files["learner.json"]["moved"]

    def _hear(self, means: Means) -> None:
        """Take one report; raise EOFError where the learner has left as it was told.

        Raises `_Lost` where it has died, or says nothing any more.
        """
        if not self._pipe.poll(PATIENCE):
            raise _Lost(f"said nothing for {PATIENCE:g} s")
        try:
            said = json.loads(self._pipe.recv_bytes())
        except (EOFError, OSError) as error:
            if self._left() == 0:
                raise EOFError from error
            raise _Lost(f"died (exit status {self._popen.returncode})") from error
        if "error" in said:
            raise UserError(said["error"])
        self._ready = True
        self.updates = said.pop("updates")
        means.add(said)

    def _left(self) -> int | None:
        """Return the exit status of a learner that has hung up; None where it does not exit."""
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(LEAVE)
        return self._popen.returncode

    def _replace(self, reason: str) -> None:
        """Start another learner in the place of one that was lost: it loses what it had not
        saved."""
        self._losses += 1
        self._popen.kill()
        self._popen.wait()
        self._pipe.close()
        if self._losses > MOST_LOSSES:
            raise RuntimeError(f"the learner was lost {self._losses} times; the last one {reason}")
        _log.warning("the learner %s; another goes on from its newest checkpoint", reason)
        self._start()

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

    def __enter__(self) -> "AsyncLearner":
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


class LearnerProcess:
    """SAC in a process of its own: the run in `directory`, from its newest checkpoint of
    `stage`."""

    def __init__(self, directory: Path, stage: Stage) -> None:
        config = read_config(directory)
        self._checkpoints = Checkpoints(directory / "checkpoints")
        self._stage = stage
        found = self._checkpoints.newest(stage.folder)
        assert found is not None, "the actor saves one before it starts a learner"
        _, files = found
        latents = directory / "latents" / stage.target
        learning = Learning(
            files,
            config.sac,
            seed=draw_seed(config.seed, stage.name),
            device=find_device(config.device),
            demonstrations=reopen(latents / "demonstrations"),
            online=reopen(latents / "online"),
        )
        self._policy, self.learner = learning.policy, learning.learner

    def learn_until_told(self, pipe: Connection, weights: SharedWeights) -> str:
        """Make the pending updates for all that comes to the online buffer until the actor's side
        says a word; return it.

        Raises EOFError where that side is gone.
        """
        means = Means()
        while not pipe.poll():
            self._refresh()
            if self.learner.pending_updates <= 0:
                pipe.poll(IDLE)
                continue
            self._update(pipe, weights, means)
        word: str = json.loads(pipe.recv_bytes())
        return word

    def finish(self, pipe: Connection, weights: SharedWeights) -> None:
        """Make all updates that are still pending."""
        self._refresh()
        means = Means()
        while self.learner.pending_updates > 0:
            self._update(pipe, weights, means)

    def _refresh(self) -> None:
        """Take up what was played, and what a person showed meanwhile."""
        for store in self.learner.stores:
            store.refresh()
        self.learner.take_up_all()

    def _update(self, pipe: Connection, weights: SharedWeights, means: Means) -> None:
        """Make one update; publish, report and save where it is time."""
        means.add(self.learner.update())
        updates = self.learner.updates
        if updates % PUBLISH == 0:
            weights.publish()
        if updates % REPORT == 0:
            pipe.send_bytes(json.dumps({"updates": updates, **means.take()}).encode())
        if updates % SAVE == 0:
            self.save()

    def save(self) -> None:
        """Write a checkpoint to go on from."""
        save(self._checkpoints, self._policy, self._stage, self.learner)


def _serve(pipe: Connection, memory: int, directory: Path, name: str) -> None:
    try:
        process = LearnerProcess(directory, Stage.parse(name))
        weights = SharedWeights(mmap.mmap(memory, 0), process.learner.sac.actor)
        weights.publish()
        pipe.send_bytes(json.dumps({"updates": process.learner.updates}).encode())
        if process.learn_until_told(pipe, weights) == "finish":
            process.finish(pipe, weights)
        process.save()
    except (EOFError, ConnectionError):
        pass  # the actor's side is gone; what was saved is saved
    except UserError as error:
        pipe.send_bytes(json.dumps({"error": str(error)}).encode())


def main() -> None:
    """`python -m irevla.stages.async_learner PARENT_PID PIPE_FD MEMORY_FD DIRECTORY STAGE`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the actor's side decides
    os.dup2(2, 1)
    os.nice(NICE)
    torch.set_num_threads(1)
    parent, pipe, memory = map(int, sys.argv[1:4])
    threading.Thread(target=outlive_nobody, args=(parent,), daemon=True).start()
    _serve(Connection(pipe), memory, Path(sys.argv[4]), sys.argv[5])


if __name__ == "__main__":
    main()
