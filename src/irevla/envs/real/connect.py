"""From settings to an arm in its cell. The only module that knows the drivers, which it gives to
`SafeArm`."""

import atexit
import functools
import importlib
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from irevla.envs.real.arm import Clock, SafeArm, WallClock
from irevla.envs.real.cameras import Camera, open_camera
from irevla.envs.real.driver import Driver
from irevla.envs.real.judge import Classifier, ClassifierJudge, Judge, PersonJudge
from irevla.envs.real.latch import Latch
from irevla.envs.real.person import Keys, Person, SpaceMouse
from irevla.envs.real.pose import Pose
from irevla.envs.real.settings import Settings, read_settings
from irevla.envs.real.suite import LEARNING, POLICY
from irevla.errors import UserError


@dataclass
class Cell:
    """An arm and what stands around it."""

    arm: SafeArm
    home: Pose
    front: Camera
    wrist: Camera
    person: Person
    judge: Judge
    clock: Clock = field(default_factory=WallClock)
    demonstrations: Path | None = None  # where episodes go that a person took part in
    player: Any = None  # the environment whose episode is under way

    def close(self) -> None:
        """Hold the arm and let everything go."""
        self.arm.close()
        self.front.close()
        self.wrist.close()
        self.person.close()


def open_arm(settings: Settings) -> SafeArm:
    """The arm alone, watched. Raises `UserError` where none answers, or another process moves
    it."""
    latch = Latch(settings.latch)
    try:
        driver = _driver(settings)
    except UserError:
        latch.close()
        raise
    arm = SafeArm(
        driver,
        settings.limits,
        latch=latch,
        dry_run=settings.dry_run,
        expected=settings.policy,
        announce=_announce,
    )
    arm.start_watchdog()
    return arm


def open_cell(settings: Settings) -> Cell:
    """Everything that the settings name. Raises `UserError` where something is missing; nothing
    stays open then."""
    arm = open_arm(settings)
    opened: list[Any] = [arm]
    try:
        person = (Keys if settings.person == "keys" else SpaceMouse)(settings.keys, arm.stop)
        opened.append(person)
        for name in ("front", "wrist"):
            opened.append(open_camera(name, getattr(settings, name)))
        judge: Judge = PersonJudge(person)
        if settings.judge == "classifier":
            judge = ClassifierJudge(_classifier(settings.path.parent / settings.classifier), person)
    except UserError:
        for thing in opened:
            thing.close()
        raise
    if POLICY in os.environ:
        who, learning, _ = os.environ[POLICY].partition(LEARNING)
        arm.authorise(who, learning=bool(learning))
    folder = settings.path.with_suffix(".demonstrations")
    return Cell(arm, settings.home, opened[2], opened[3], person, judge, demonstrations=folder)


@functools.cache
def cell_of(path: Path) -> Cell:
    """The cell of this process: there is one arm, and all environments share it."""
    cell = open_cell(read_settings(path))
    atexit.register(
        cell.close
    )  # a process that is killed leaves its mark, and the next one begins stopped
    return cell


def _driver(settings: Settings) -> Driver:
    if settings.driver == "serl":
        from irevla.envs.real.drivers.serl import SerlDriver

        return SerlDriver(settings.host, timeout=settings.timeout)
    try:
        from irevla.envs.real.drivers.franka import FrankyDriver

        return FrankyDriver(
            settings.host,
            limits=settings.limits,
            dynamics=settings.dynamics,
            realtime=settings.realtime,
            force=settings.force,
        )
    except ImportError as error:
        raise UserError(
            f"the driver 'franka' needs the package {error.name!r}: pip install 'irevla[franka]'"
        ) from error


def _classifier(path: Path) -> Classifier:
    """By name, for environments stand below models: only here does an arm's worker load torch."""
    made: Classifier = importlib.import_module("irevla.classifier").Classifier(path)
    return made


def _announce(text: str) -> None:
    print(f"irevla: {text}", file=sys.stderr, flush=True)
