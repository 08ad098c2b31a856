"""SAC's learner on another machine: what an engine starts there.

It takes up episodes from its share as they come, and writes there the head that it has. Whatever
becomes of it, the arm's side goes on acting with the last whole head.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from irevla.compute.device import find_device, threads
from irevla.compute.processes import obey
from irevla.data.replay import LatentReplay
from irevla.errors import UserError
from irevla.learners.optim import Means
from irevla.stages.learning import Learning
from irevla.stages.sac_job import Learnt, SACFolder, SACJob
from irevla.storage.disk import cache_dir
from irevla.storage.share import Damaged, Outage, Share

POLL = 0.5  # seconds between two exchanges with the share
SAVE = 500  # updates between two checkpoints
SILENCE = 10.0  # seconds without news after which it says again how far it is
PATIENCE = 120.0  # seconds that a share may be out of reach

T = TypeVar("T")


class Trainer:
    """SAC on what is played for the job of `folder`, from its newest checkpoint.

    The episodes lie below `scratch` meanwhile.
    """

    def __init__(self, folder: SACFolder, scratch: Path) -> None:
        self._folder = folder
        job = folder.job
        self._stores = {
            name: LatentReplay(scratch / name, job.latents) for name in ("demonstrations", "online")
        }
        progress = folder.progress()
        self._learning = Learning(
            folder.load(progress.files if progress.updates else job.policy),
            job.sac,
            seed=job.seed,
            device=find_device(job.device),
            **self._stores,
        )
        self._saved = progress.updates
        self._means = Means()
        self._over = False  # whether nothing more is played
        self._told: tuple[int, ...] = ()  # how far it last said that it is ...
        self._quiet = 0.0  # ... until when it need not say so again ...
        self._words = time.time_ns()  # grows with each word, those of learners before it included
        self._outage = Outage()

    def learn(self) -> None:
        """Make all updates for what is played until there is no more."""
        learner = self._learning.learner
        due = 0.0  # when the next exchange is
        while True:
            if time.monotonic() >= due:
                self._try(self._exchange)
                due = time.monotonic() + POLL
            if learner.pending_updates > 0:
                self._means.add(learner.update())
                if learner.updates - self._saved >= SAVE:
                    self._try(self._save)
            elif self._over:
                break
            else:
                time.sleep(max(0.0, due - time.monotonic()))
        patiently(self._save)
        patiently(lambda: self._say(over=True))

    def _exchange(self) -> None:
        """Take up what was played, and say what was learnt."""
        played = self._folder.played()
        try:
            for name, store in self._stores.items():
                for sha256 in getattr(played, name)[len(store.episodes) :]:
                    store.append(self._folder.get_episode(sha256))
        finally:  # where the share is lost in between: learn from what came
            self._learning.learner.take_up_all()
        self._over = played.over
        self._say()

    def _say(self, *, over: bool = False) -> None:
        shown, online = (len(store.episodes) for store in self._stores.values())
        far = self._learning.learner.updates, shown, online
        if not over and far == self._told and time.monotonic() < self._quiet:
            return
        self._words += 1
        learnt = Learnt(far[0], "", shown, online, over, self._means.take(), self._words)
        self._folder.say_learnt(learnt, self._learning.head.state_dict())
        self._told, self._quiet = far, time.monotonic() + SILENCE

    def _save(self) -> None:
        learner = self._learning.learner
        files = {**self._learning.policy.files(), **learner.state()}
        self._folder.publish(learner.updates, [], files)
        self._saved = learner.updates

    def _try(self, work: Callable[[], None]) -> None:
        """Do what needs the share; where that is out of reach, it is due again later.

        Raises `UserError` where it has been for minutes.
        """
        try:
            with self._outage.told():
                work()
        except UserError:
            if self._outage.seconds > PATIENCE:
                raise


def patiently(work: Callable[[], T]) -> T:
    """Do what needs the share; where that is out of reach, again and again, for minutes."""
    outage = Outage()
    while True:
        try:
            with outage.told():
                return work()
        except Damaged:
            raise
        except UserError:
            if outage.seconds > PATIENCE:
                raise
            time.sleep(POLL)


def run(arguments: Sequence[str]) -> None:
    """Be the learner of the job that `arguments` name: the share's place and the job's name.

    What a user can mend is written to the job, and raised.
    """
    place, name = arguments
    folder = SACFolder(Share(place), name, SACJob.of_text)
    scratch = cache_dir("learner")
    scratch.mkdir(parents=True, exist_ok=True)
    with folder.failing():
        job = patiently(lambda: folder.job)
        with threads(job.threads), TemporaryDirectory(dir=scratch) as below:
            patiently(lambda: Trainer(folder, Path(below))).learn()


def main() -> None:
    """`python -m irevla.stages.sac_trainer PLACE NAME`, as torchrun starts it."""
    obey(run)


if __name__ == "__main__":
    main()
