"""SAC acting here and learning on another machine: acting never waits for it (section V-D).

A thread, the courier, brings what is played to the share and takes from there the newest head, each
by its sha256. So a decision neither waits for the share nor meets half a head; while the learner
is silent, or out of reach, the arm goes on with the head that it has.
"""

import logging
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from irevla.compute import engine
from irevla.data.replay import LatentSpec, reopen
from irevla.errors import UserError
from irevla.learners.optim import Means
from irevla.models.files import WEIGHTS
from irevla.models.policy import VLAPolicy
from irevla.runs.run import Run
from irevla.stages.contract import save
from irevla.stages.elsewhere import engine_of, log_of, start_engine
from irevla.stages.job import submit
from irevla.stages.learner import SACLearner
from irevla.stages.sac_job import Learnt, Played, SACFolder, SACJob
from irevla.storage.checkpoint import series_name
from irevla.storage.disk import cache_dir
from irevla.storage.share import Damaged, Outage, Share
from irevla.tasks import Stage
from irevla.types import Features

TRAINER = "irevla.stages.sac_trainer"
POLL = 0.5  # seconds between two exchanges with the share
SILENT = 120.0  # seconds without a word of the learner after which that is said
MOST_LOSSES = 3  # learners that may be lost in one stage
STORES = ("demonstrations", "online")

_log = logging.getLogger(__name__)


def submit_sac(run: Run, policy: VLAPolicy, stage: Stage, latents: LatentSpec) -> SACFolder:
    """Write SAC's job down, of the `policy` as the stage begins; return its folder.

    Raises `UserError` where the share cannot be written to.
    """
    config = run.config
    share = Share(config.compute.share or str(cache_dir("share")))
    begun = next(iter(run.journal))["time"]
    job = SACJob(config.sac, run.draws(stage), latents, config.device, config.threads, begun)
    return SACFolder(share, submit(share, job, policy.files()), SACJob.of_text)


class RemoteLearner:
    """The actor's side of SAC whose learner an engine has started elsewhere."""

    def __init__(
        self, run: Run, policy: VLAPolicy, stage: Stage, learner: SACLearner, folder: SACFolder
    ) -> None:
        self._run = run
        self._policy = policy
        self._stage = stage
        self._folder = folder
        self._head = learner.sac.actor.head
        self._actor = learner.sac.actor
        self.updates = learner.updates
        self.moved = learner.moved  # until `finish`
        if run.checkpoints.newest(stage.folder) is None:
            save(run.checkpoints, policy, stage, learner)
        self._give_if_missing(self.updates)
        self._courier = Courier(run, stage, folder, learner)
        self._stack = ExitStack()
        self._losses = 0
        self._left_at: int | None = None  # which exchange was under way when the learner left

    def act(
        self, features: Features, *, noise: Float[Tensor, "B nA"], chance: Float[Tensor, "B ..."]
    ) -> Float[Tensor, "B nA"]:
        """Return actions of the newest actor, with exploration noise, as `SoftActor.act`."""
        with suppress(IndexError):
            self._head.load_state_dict(self._courier.heads.pop())
        return self._actor.act(features, noise=noise, chance=chance)

    def settle(self) -> dict[str, float]:
        """It has a clock of its own, and is not waited for."""
        return {}

    def learn(self) -> dict[str, float]:
        """Return what the learner has said since the last call.

        At first it waits until the learner stands ready; later for nothing. One that has died is
        replaced.
        """
        while not self._courier.heard:
            self._look_after()
            time.sleep(POLL)
        self._look_after()
        self.updates = max(self.updates, self._courier.updates)
        means = Means()
        with suppress(IndexError):
            while True:
                means.add(self._courier.metrics.popleft())
        return means.take()

    def finish(self) -> None:
        """Wait until the learner has made the pending updates; then the policy has what it
        learnt."""
        self._courier.finish.set()
        while not self._courier.done.is_set():
            self._look_after()
            if self._courier.outage.seconds > SILENT:
                raise UserError(
                    f"the share {self._folder.share.place} cannot be reached from here for "
                    f"{SILENT:g} s, while all that is left is to take what was learnt: give the "
                    "same command again"
                )
            time.sleep(POLL)
        self._courier.stop()
        found = self._run.checkpoints.newest(self._stage.folder)
        assert found is not None, "the courier keeps the last checkpoint before it is done"
        _, files = found
        self._policy.load_files(files)
        self.updates = files["learner.json"]["updates"]
        self.moved = files["learner.json"]["moved"]
        self._folder.drop()

    def _give_if_missing(self, updates: int) -> None:
        """Let the learner begin with the run's newest checkpoint, unless a whole one is there, of
        so many updates or more."""
        with suppress(Damaged):
            progress = self._folder.progress()
            self._folder.load(progress.files)
            if progress.updates >= updates:
                return
        found = self._run.checkpoints.newest(self._stage.folder)
        assert found is not None, "there is one since the beginning"
        _, own = found
        self._folder.publish(own["learner.json"]["updates"], [], own)

    def _look_after(self) -> None:
        """See that there is a learner, and say what it cannot do."""
        if self._courier.fault:
            raise UserError(self._courier.fault)
        status = self._engine.poll()
        if status is None or (status == 0 and not self._left_damage()):
            return
        log = log_of(self._run, self._stage)
        if said := engine.last_word(log):
            raise UserError(said)
        self._losses += 1
        if self._losses > MOST_LOSSES:
            raise UserError(
                f"the learner that {engine_of(self._run.config, self._stage)} started was lost "
                f"{self._losses} times ({log} has what it said); the same command goes on from its "
                "newest checkpoint"
            )
        _log.warning("the learner was lost; another goes on from its newest checkpoint")
        log.replace(log.with_suffix(f".lost-{self._losses}.log"))  # what it said last
        self._give_if_missing(0)
        self._start()

    def _left_damage(self) -> bool:
        """Return whether a learner that has left in order did not leave all behind: two exchanges
        since then have not brought it."""
        courier = self._courier
        if self._left_at is None:
            self._left_at = courier.exchanges
        return courier.misses and courier.exchanges >= self._left_at + 2

    def _start(self) -> None:
        self._left_at = None
        self._stack.close()
        job = [self._folder.share.place, self._folder.name]
        started = start_engine(self._run, self._stage, TRAINER, job)
        self._engine: subprocess.Popen[bytes] = self._stack.enter_context(started)

    def __enter__(self) -> "RemoteLearner":
        self._folder.say_played(Played())  # nor that it is over, as one that was stopped has said
        self._start()
        self._courier.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._courier.stop()
        self._stack.close()


class Courier(threading.Thread):
    """Brings episodes to the share, and takes heads and checkpoints from there."""

    def __init__(self, run: Run, stage: Stage, folder: SACFolder, learner: SACLearner) -> None:
        super().__init__(daemon=True)
        self.heads: deque[dict[str, Tensor]] = deque(maxlen=1)  # the newest, if it is new
        self.metrics: deque[dict[str, float]] = deque()
        self.updates = learner.updates
        self.heard = False  # whether the learner has ever said a word
        self.finish = threading.Event()  # set: nothing more will be played
        self.done = threading.Event()  # set: the last checkpoint is in the run
        self.exchanges = 0  # so far, whatever came of them
        self.misses = False  # whether what came last was damaged
        self.fault = ""  # why it or the learner cannot go on
        self._run_of = run
        self._stage = stage
        self._folder = folder
        self._shapes = _shapes(learner.sac.actor.head.state_dict())
        newest = run.checkpoints.newest(stage.folder)
        assert newest is not None, "there is one since the beginning"
        self._weights = _shapes(newest[1][WEIGHTS])
        # Buffers of its own: those of the stage grow meanwhile, in another thread.
        latents = run.directory / "latents" / stage.target
        self._stores = {name: reopen(latents / name) for name in STORES}
        self._names: dict[str, list[str]] = {name: [] for name in STORES}
        self._said: Played | None = None
        self._last: Learnt | None = None  # its last word
        with suppress(UserError):
            self._last = folder.learnt()  # what a learner before said is no word of this one
        self._checkpoint = learner.updates  # those in the newest that is in the run
        self._over = threading.Event()
        self.outage = Outage()  # of the share, seen from here

    def stop(self) -> None:
        """Make it leave after the exchange that it is at."""
        self._over.set()
        if self.is_alive():
            self.join()

    def run(self) -> None:
        """Exchange until told to stop; what cannot be done now is tried again."""
        word = time.monotonic()  # when the learner last said one
        while not self.done.is_set():
            try:
                with self.outage.told():
                    if self._exchange():
                        word = time.monotonic()
            except UserError as error:
                self.misses |= isinstance(error, Damaged)
            except Exception as error:  # a thread that dies silently would leave the arm alone
                self.fault = f"{type(error).__name__}: {error}"
                raise
            if time.monotonic() - word > SILENT:
                _log.warning("the learner has said nothing for %g s; acting goes on", SILENT)
                word = time.monotonic()
            self.exchanges += 1
            if self._over.wait(POLL):
                return

    def _exchange(self) -> bool:
        """Bring what is new, and take what is new; return whether there was any."""
        self._bring()
        self.fault = self._folder.failure()
        learnt = self._folder.learnt()
        if learnt is None or learnt == self._last:
            return False
        head = self._folder.actor(learnt)
        if _shapes(head) != self._shapes:
            raise Damaged(f"the head of update {learnt.updates} is of another policy")
        self._take_checkpoint()
        if learnt.over and self._checkpoint < learnt.updates:
            raise Damaged(f"the checkpoint of update {learnt.updates} is not there")
        self.heads.append(head)
        self.metrics.append(dict(learnt.metrics))
        self.updates = learnt.updates
        self.heard = True
        self.misses = False
        self._last = learnt
        if learnt.over and self._is_all(learnt):
            self.done.set()
        return True

    def _is_all(self, learnt: Learnt) -> bool:
        return self.finish.is_set() and (learnt.demonstrations, learnt.online) == tuple(
            len(self._names[name]) for name in STORES
        )

    def _bring(self) -> None:
        """Bring the episodes that the share lacks, and say which there are."""
        over = self.finish.is_set()  # before looking: what came until then is all there is
        if self._said is not None and self._folder.lacks(self._said):
            self._names = {name: [] for name in STORES}  # one was damaged: all of them once more
        for name, store in self._stores.items():
            store.refresh()
            for index in range(len(self._names[name]), len(store.episodes)):
                self._names[name].append(self._folder.put_episode(store.read(index)))
        shown, online = (self._names[name] for name in STORES)
        played = Played(tuple(shown), tuple(online), over)
        if played != self._said or played != self._folder.played():
            self._folder.say_played(played)
            self._said = played

    def _take_checkpoint(self) -> None:
        """Keep the job's newest checkpoint as one of the run."""
        progress = self._folder.progress()
        if progress.updates <= self._checkpoint:
            return
        files: dict[str, Any] = self._folder.load(progress.files)
        if files.get("learner.json", {}).get("updates") != progress.updates:
            raise Damaged(f"the checkpoint of update {progress.updates} is another")
        if _shapes(files.get(WEIGHTS, {})) != self._weights:
            raise Damaged(f"the checkpoint of update {progress.updates} is of another policy")
        self._run_of.checkpoints.save(series_name(self._stage.folder, progress.updates), files)
        self._checkpoint = progress.updates


def _shapes(head: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in head.items()}
