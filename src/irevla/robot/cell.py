"""From settings to an arm in its cell, and who may move it in this process. The only module that
knows the drivers, which it gives to `SafeArm`."""

import atexit
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from irevla.envs.suite import Authorization
from irevla.errors import UserError
from irevla.robot.cameras import REOPENING, Camera, CameraError, open_camera, view_of
from irevla.robot.clock import Clock, WallClock
from irevla.robot.driver import Driver
from irevla.robot.flight import Flight
from irevla.robot.home import Home
from irevla.robot.live_view import LiveView, Seen
from irevla.robot.safe_arm import SafeArm
from irevla.robot.say import say
from irevla.robot.settings import SIMULATED, Settings, read_settings
from irevla.robot.stop_latch import Session
from irevla.robot.success import ClassifierDetector, KeyDetector, SuccessDetector
from irevla.robot.teleop import BEAT, SILENCE, KeyTeleop, Teleop
from irevla.robot.view import MISTAKES, check_view
from irevla.tasks import Task


@dataclass
class Cell:
    """An arm and what stands around it, without which the arm does not move."""

    arm: SafeArm
    home: Home
    cameras: Mapping[str, Camera]  # by name; what one does not show stops the arm
    teleop: Teleop
    success_detector: SuccessDetector
    clock: Clock = field(default_factory=WallClock)
    demonstrations: Path | None = None  # where episodes go that a person took part in
    tasks: tuple[Task, ...] = SIMULATED  # that it is laid out for
    homes: Mapping[str, Home] = field(default_factory=dict)  # of tasks that start elsewhere
    partners: Mapping[str, str] = field(default_factory=dict)  # tasks that undo each other
    homing: bool = False  # the fingers must find their ends before the first episode
    gripper_cost: float = 0.0  # of a decision that turns the fingers round
    veto: float = 0.0  # s that a person has to take back that a task is done
    player: Any = None  # the environment whose episode is under way
    live: LiveView | None = None  # for a person who watches
    shows: str = ""  # the task whose success the table shows; empty: nobody knows what it shows
    envs: set[Any] = field(default_factory=set)  # those that are open

    def __post_init__(self) -> None:
        self.arm.require(self.check_watched)

    def check_watched(self) -> None:
        """Raise `UserError` where nobody is at the keys, or a camera shows nothing of the present;
        that stops the arm as well."""
        if not self.teleop.present():
            raise UserError("nobody watches the arm: run `irevla arm keys` in a terminal beside it")
        try:
            self._look()
        except CameraError as error:
            self.arm.stop(str(error))
            raise

    def await_person(self) -> None:
        """Wait, with an arm that stands, for a sign of life, which comes now and then, and for
        cameras that open themselves again.

        Raises `UserError` where one does not come.
        """
        end = self.clock.now() + SILENCE
        while not self.teleop.present() and self.clock.now() < end:
            self.clock.sleep(BEAT / 3)
        end = self.clock.now() + REOPENING
        while not self._seen() and self.clock.now() < end:
            self.clock.sleep(BEAT / 3)
        self.check_watched()

    def watched(self) -> bool:
        """Whether somebody is at the keys, and all cameras show the present."""
        return self.teleop.present() and self._seen()

    def _look(self) -> None:
        for camera in self.cameras.values():
            camera.check()

    def _seen(self) -> bool:
        try:
            self._look()
        except CameraError:
            return False
        return True

    def show(self, seen: Seen) -> None:
        """Let whoever watches see what the policy sees from now on."""
        if self.live is not None:
            self.live.seen = seen

    def leave(self, env: Any) -> None:
        """Hold the arm, if `env` plays; with the last one goes whoever was authorised."""
        if self.player is env:
            self.player = None
            self.arm.hold()
        self.envs.discard(env)
        if not self.envs:
            self.arm.dismiss()

    def close(self) -> None:
        """Hold the arm and let everything go."""
        self.arm.close()
        if self.live is not None:
            self.live.close()
        for camera in self.cameras.values():
            camera.close()
        self.teleop.close()


def open_arm(settings: Settings) -> SafeArm:
    """Return the arm alone, watched; nobody may move it yet.

    Raises `UserError` where none answers, or another process moves it.
    """
    session = Session(settings.folder)
    try:
        driver = _driver(settings)
    except UserError:
        session.close()
        raise
    arm = SafeArm(
        driver,
        settings.limits,
        session=session,
        frame=settings.fingertips,
        dry_run=settings.dry_run,
        expected=settings.policy,
        announce=_announce,
        flight=_flight(settings),
    )
    arm.start_watchdog()
    return arm


def open_cell(settings: Settings, who: Authorization | None) -> Cell:
    """Return everything that the settings name, with an arm that `who` may move (None: nobody).

    Raises `UserError` where something is missing, and where the settings name another policy;
    nothing stays open then.
    """
    arm = open_arm(settings)
    opened: list[Any] = [arm]
    try:
        teleop = KeyTeleop(settings.keys, arm.stop, scale=settings.teleop_scale)
        opened.append(teleop)
        cameras: dict[str, Camera] = {}
        for name, chosen in settings.cameras.items():
            cameras[name] = open_camera(name, chosen)
            opened.append(cameras[name])
        success_detector = _success_detector(settings, teleop, arm, cameras)
        if who is not None:
            arm.authorize(who.policy, learning=who.learning)
    except UserError:
        for thing in opened:
            thing.close()
        raise
    # A dry run is no demonstration: nothing moved.
    folder = None if settings.dry_run else settings.path.with_suffix(".demonstrations")
    return Cell(
        arm,
        settings.home,
        cameras,
        teleop,
        success_detector,
        demonstrations=folder,
        tasks=settings.tasks,
        homes=settings.homes,
        partners=settings.partners,
        homing=settings.homing and settings.driver == "franka",
        gripper_cost=settings.gripper_cost,
        veto=settings.veto,
        live=LiveView(settings.live_view, cameras),
    )


# --- the cell of this process: there is one arm, and all environments share it


@dataclass
class _ThisProcess:
    who: Authorization | None = None  # may move the arm; None: nobody
    cells: dict[Path, Cell] = field(default_factory=dict)  # those that are open, by their settings


_this_process = _ThisProcess()


def authorize(who: Authorization | None) -> None:
    """Let `who` move the arm of this process: the one that is open, or that is opened later.

    None: nobody any more. Raises `UserError` where the settings of an open one name another policy.
    """
    for cell in _this_process.cells.values():
        if who is None:
            cell.arm.dismiss()
        else:
            cell.arm.authorize(who.policy, learning=who.learning)
    _this_process.who = who


def cell_of(path: Path) -> Cell:
    """Return the cell with the settings at `path`, opened at the first call."""
    cells = _this_process.cells
    if path not in cells:
        cells[path] = open_cell(read_settings(path), _this_process.who)
        # A process that is killed leaves its mark, and the next one begins stopped.
        atexit.register(cells[path].close)
    return cells[path]


def _success_detector(
    settings: Settings, teleop: Teleop, arm: SafeArm, cameras: Mapping[str, Camera]
) -> SuccessDetector:
    if settings.success_detector == "key":
        return KeyDetector(teleop)
    from irevla.robot.classifier import Classifier  # only here does an arm's worker load torch

    chosen = settings.detector
    path = settings.path.parent / settings.classifier
    check_view(path, chosen.view)
    classifier = Classifier(path, threshold=chosen.threshold)
    gates: dict[str, Callable[[], bool]] = {
        "any": lambda: True,
        "shut": lambda: arm.shut,
        "open": lambda: not arm.shut,
        "holding": arm.holding,
    }
    return ClassifierDetector(
        classifier,
        teleop,
        images=chosen.images,
        gate=gates[chosen.fingers],
        look=lambda: view_of(chosen, cameras, size=classifier.image_size),
        mistakes=path / MISTAKES,
    )


def _flight(settings: Settings) -> Flight:
    limits = vars(settings.limits)
    return Flight(settings.flights, _announce, settings=str(settings.path), limits=limits)


def _driver(settings: Settings) -> Driver:
    if settings.driver == "serl":
        from irevla.robot.drivers.serl import SerlDriver

        return SerlDriver(settings.host, timeout=settings.timeout, compliance=settings.compliance)
    try:
        from irevla.robot.drivers.franka import FrankyDriver

        return FrankyDriver(
            settings.host,
            limits=settings.limits,
            dynamics=settings.dynamics,
            realtime=settings.realtime,
            force=settings.force,
            collision=settings.collision,
            compliance=settings.compliance,
        )
    except ImportError as error:
        raise UserError(
            f"the driver 'franka' needs the package {error.name!r}: pip install 'irevla[franka]'"
        ) from error


def _announce(text: str) -> None:
    say(f"irevla: {text}")
