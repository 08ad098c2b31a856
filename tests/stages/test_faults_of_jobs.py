"""A job of stage 2 on which each fault is inflicted fifty times, at moments drawn from a seed:
before any operation on the share, a file being half written among them.

The trainer is in this process and has learnt already: it reads and writes what
`irevla.stages.trainer` does, in turn with the run, which takes it.
"""

import hashlib
import os
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from subprocess import Popen
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

from irevla.compute import engine
from irevla.config import ComputeConfig, MixtureConfig
from irevla.data.mixture import Mixture
from irevla.data.shared_frames import get_frames
from irevla.errors import UserError
from irevla.learners.sft import SFT as Learner
from irevla.models.policy import VLAPolicy, build_policy
from irevla.runs.run import Run
from irevla.stages import elsewhere
from irevla.stages.contract import resume
from irevla.stages.elsewhere import Results, learn_elsewhere
from irevla.stages.fit import fit
from irevla.stages.job import Job, JobFolder
from irevla.storage.checkpoint import Checkpoints
from irevla.storage.journal import Journal
from irevla.storage.metrics import Metrics
from irevla.storage.share import Share
from irevla.types import tensors_hash
from stage_two import CONFIG, FEW, STAGE
from storms import NEVER, Killed, Storm, damage, drop, fill, kill, nothing
from two_ranks import MODEL, frames

pytestmark = pytest.mark.timeout(600)  # seconds each on a quiet core, minutes on a busy one

TIMES = 50
LAST = 4  # steps of the stage
STEPS = replace(FEW, steps=LAST)
FRAMES = frames(0, episodes=4)
States = dict[int, dict[str, Any]]


@pytest.fixture(scope="module")
def states() -> States:
    """The files of a checkpoint after 0, 2 and 4 steps."""
    torch.manual_seed(0)
    policy, learner = fresh()
    made: States = {0: files_of(policy, learner)}

    def point(metrics: Any, validated: bool) -> None:
        made[learner.updates] = files_of(policy, learner)

    mixture = Mixture(FRAMES, None, MixtureConfig(validation=0.2), seed=3)
    fit(learner, mixture, point=point, advance=lambda done, note: None)
    assert sorted(made) == [0, 2, LAST]
    return made


def fresh(files: dict[str, Any] | None = None) -> tuple[VLAPolicy, Learner]:
    policy = build_policy(MODEL, action_dim=2, image_size=16)
    if files is not None:
        policy.load_files(files)
    return policy, Learner(policy, STEPS, parts="all", seed=3, words=("wug",))


def files_of(policy: VLAPolicy, learner: Learner) -> dict[str, Any]:
    files = {**policy.files(), **learner.state()}
    return {
        name: {key: value.clone() for key, value in content.items()}
        if name.endswith("safetensors")
        else content
        for name, content in files.items()
    }


class World:
    """A run, a share, and what goes wrong there."""

    def __init__(self, root: Path, states: States, patch: pytest.MonkeyPatch) -> None:
        self.states = states
        self.hashes = {
            step: tensors_hash(files["model.safetensors"]) for step, files in states.items()
        }
        self.place = root / "share"
        self.out = root / "run"
        compute = ComputeConfig(stage2="torchrun", share=str(self.place))
        self.config = replace(CONFIG, model=MODEL, sl=STEPS, compute=compute)
        self.storms: dict[str, tuple[int, Callable[[], None], dict[str, int]]] = {}
        self.seen = {"here": 0, "there": 0}  # operations on the share by the last command
        self.struck = False
        self.taken = 0  # the newest checkpoint that the run has
        self.told: list[str] = []  # what commands ended with
        self.meanwhile: Callable[[], None] = nothing  # beside the trainer
        patch.setattr(os, "fsync", lambda descriptor: None)  # no power fails here
        patch.setattr(elsewhere, "POLL", 0.0)
        patch.setattr(elsewhere, "Share", lambda place: self.share("here"))
        patch.setattr(engine, "started", self._started)
        patch.setattr(Results, "take", self._watched(Results.take))

    def share(self, side: str) -> Share:
        share = Share(str(self.place))
        at, happen, how = self.storms.get(side, (NEVER, nothing, {}))
        self._storms[side] = share._fs = Storm(share._fs, at, happen, **how)
        return share

    def command(self) -> bool:
        """Give the command once; return whether the stage is done."""
        self._storms: dict[str, Storm] = {}
        with Metrics(self.out / "metrics.jsonl") as metrics:
            journal = Journal(self.out / "journal.jsonl")
            checkpoints = Checkpoints(self.out / "checkpoints")
            run = Run(self.out, self.config, journal, metrics, checkpoints)
            self.policy, learner = fresh(self.states[0])
            try:
                self._learn(run, learner)
                resume(checkpoints, self.policy, STAGE, learner, silent=True)  # as the stage does
            except UserError as error:
                self.told.append(str(error))
            except Killed:
                self.told.append("killed")
            else:
                self.told.append("")
            found = run.checkpoints.newest(STAGE.folder)
            kept = found[1]["learner.json"]["updates"] if found else 0
            assert kept >= self.taken, "what had come is lost"
            self.taken = kept
        self.seen = {side: storm.seen for side, storm in self._storms.items()}
        self.struck |= any(storm.struck for storm in self._storms.values())
        return not self.told[-1]

    def _learn(self, run: Run, learner: Learner) -> None:
        learn_elsewhere(
            run, self.policy, learner, STAGE, "all", title="", expert=FRAMES, online=None
        )

    def _watched(self, take: Callable[[Results], None]) -> Callable[[Results], None]:
        def watched(results: Results) -> None:
            before = tensors_hash(self.policy.state_dict()), results.updates
            try:
                take(results)
            finally:
                found = tensors_hash(self.policy.state_dict()), results.updates
                whole = found == (self.hashes[results.updates], results.updates)
                assert found == before or whole, "half of it was installed"

        return watched

    @contextmanager
    def _started(
        self, settings: Sequence[str], module: str, job: Sequence[str], *, log: Path
    ) -> Iterator[Any]:
        log.write_text("")
        trainer = self._train(job[1], log)
        yield MagicMock(spec=Popen, poll=lambda: next(trainer, -9))

    def _train(self, name: str, log: Path) -> Iterator[None]:
        """Go on a little at each look, as a process does."""
        try:
            for _ in self.train(JobFolder(self.share("there"), name, Job.of_text)):
                yield
        except UserError as error:
            log.write_text(f"{engine.REFUSED}{error}\n")
        except Killed:
            pass

    def train(self, folder: JobFolder[Job]) -> Iterator[None]:
        """As `trainer.train`, to whom the steps are known."""
        with folder.failing():
            begun = folder.load(folder.job.policy)
            assert tensors_hash(begun["model.safetensors"]) == self.hashes[0]
            get_frames(folder.share, folder.job.expert, keep=False)
            progress = folder.progress()
            updates = 0
            if progress.updates:
                files = folder.load(progress.files)
                updates = files["learner.json"]["updates"]
                assert tensors_hash(files["model.safetensors"]) == self.hashes[updates]
            rows = [row for row in progress.rows if row["step"] <= updates]
            for step in range(updates + 1, LAST + 1):
                rows.append({"step": step, "loss": 1.0 / step})
                if step % 2:
                    folder.note(progress, rows)
                else:
                    progress = folder.publish(step, rows, self.states[step])
                self.meanwhile()
                yield

    def ends_well(self, *, within: int = 1) -> None:
        """Give the command until the stage is done, so many times at most; then all is as if
        nothing had happened."""
        self.storms = {}
        for _ in range(within):
            if self.command():
                break
        assert self.told[-1] == "", self.told
        assert self.struck, "nothing went wrong"
        assert tensors_hash(self.policy.state_dict()) == self.hashes[LAST]
        assert self.taken == LAST
        assert not list((self.place / "jobs").iterdir())

    def nothing_half(self) -> None:
        """What has the name of its content is that, whatever was broken off."""
        for path in self.place.rglob("*"):
            if re.fullmatch("[0-9a-f]{64}", path.name) and path.is_file():
                assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name


@pytest.fixture(scope="module")
def operations(states: States, tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """How many operations on the share each side makes where nothing goes wrong."""
    found: dict[str, int] = {}
    for way, how in ((" writing", {"writes": True}), ("", {})):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("IREVLA_CACHE", str(tmp_path_factory.mktemp("cache")))
            world = World(tmp_path_factory.mktemp("calm"), states, patch)
            world.storms = {"there": (NEVER, nothing, how)}
            assert world.command()
            found |= {f"{side}{way}": seen for side, seen in world.seen.items()}
    return found


@pytest.fixture
def worlds(
    states: States, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Iterator[tuple[World, Random]]]:
    """Fifty of them, and what each draws from."""
    monkeypatch.setenv("IREVLA_CACHE", str(tmp_path / "cache"))

    def all_of_them() -> Generator[tuple[World, Random], None, None]:
        for number in range(TIMES):
            with pytest.MonkeyPatch.context() as patch:
                yield World(tmp_path / str(number), states, patch), Random(number)

    made = all_of_them()
    yield made
    made.close()


Worlds = Iterator[tuple[World, Random]]
Operations = dict[str, int]


def test_the_trainer_is_killed(worlds: Worlds, operations: Operations) -> None:
    for world, luck in worlds:
        world.storms = {"there": (luck.randrange(operations["there"]), kill, {})}
        assert world.command() or "the same command goes on from there" in world.told[-1]
        world.nothing_half()
        world.ends_well()


def test_the_run_is_killed_and_so_results_arrive_twice(
    worlds: Worlds, operations: Operations
) -> None:
    for world, luck in worlds:
        world.storms = {"here": (luck.randrange(operations["here"]), kill, {})}
        world.command()
        assert world.told == ["killed"]
        world.nothing_half()
        world.ends_well()


@pytest.mark.parametrize("side", ["here", "there"])
def test_the_connection_drops(worlds: Worlds, operations: Operations, side: str) -> None:
    """Of the run, in the middle of an upload among others, or of the trainer."""
    for world, luck in worlds:
        world.storms = {side: (luck.randrange(operations[side]), drop, {"times": NEVER})}
        assert world.command() or "reset by peer" in world.told[-1]
        world.nothing_half()
        world.ends_well()


def test_the_disk_there_is_full(worlds: Worlds, operations: Operations) -> None:
    for world, luck in worlds:
        how = {"times": NEVER, "writes": True}
        world.storms = {"there": (luck.randrange(operations["there writing"]), fill, how)}
        assert world.command() or "No space left on device; make room and" in world.told[-1]
        world.nothing_half()
        world.ends_well()


def test_a_file_there_becomes_another(worlds: Worlds, operations: Operations) -> None:
    """A bit of it, its end, or all of it: of images, weights, what is said of them. Half of the
    times whoever is at the share dies then, so that others begin from what is left."""
    for world, luck in worlds:
        side = luck.choice(("here", "there"))

        def happen(world: World = world, luck: Random = luck) -> None:
            damage(world.place, luck)
            if luck.random() < 0.5:
                kill()

        world.storms = {side: (luck.randrange(1, operations[side]), happen, {})}
        world.command()
        world.ends_well(within=3)


def test_another_trainer_has_the_same_job(worlds: Worlds, operations: Operations) -> None:
    """One that was believed dead, say: what both say is one result, whoever is killed when."""
    for world, luck in worlds:
        looks = iter(range(LAST))
        when = luck.randrange(LAST)
        other = partial(_other_trainer, world, luck.randrange(operations["there"]))
        world.meanwhile = lambda looks=looks, when=when, other=other: (
            other() if next(looks, -1) == when else None
        )
        world.ends_well()


def _other_trainer(world: World, at: int) -> None:
    """Be one until killed."""
    (job,) = (world.place / "jobs").iterdir()
    share = Share(str(world.place))
    share._fs = Storm(share._fs, at, kill)
    world.struck = True
    with suppress(Killed, UserError):
        for _ in world.train(JobFolder(share, job.name, Job.of_text)):
            pass
