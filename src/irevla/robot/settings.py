"""The settings of one arm: a YAML file that a person writes and names. `docs/real-robot.md`
explains it."""

import os
import re
import socket
import urllib.parse
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from irevla.envs.panda.tasks import SPECS
from irevla.errors import UserError, unknown
from irevla.robot.driver import FRANKA_HAND
from irevla.robot.home import Home
from irevla.robot.limits import Limits
from irevla.robot.pose import Pose, turned
from irevla.robot.values import (
    as_kind,
    group_of,
    mapping,
    one_of,
    triple,
    with_default,
    within,
)
from irevla.storage.read import read_yaml
from irevla.tasks import Category, Task, described

HZ = 10  # decisions per second
SERL_PORT = 5000  # of a robot server whose address names none
FILE = "IREVLA_ARM"  # environment variable: the path of the file
DRIVERS = ("franka", "serl")
CAMERAS = ("opencv", "realsense")
TELEOPS = ("keys", "gamepad")  # what a person drives with, the keys always
SUCCESS_DETECTORS = ("key", "classifier")
TRAJECTORY, IMPEDANCE = MOTIONS = ("trajectory", "impedance")  # how franky's arm follows targets
POLICY_CAMERAS = ("front", "wrist")  # which every cell has: panda-sim's
BOTH = "both"  # what a classifier sees: those two in one image; else one camera, by its name
FINGERS = ("any", "shut", "open", "holding")  # as they must be where a classifier is believed
MOST_IMAGES = 50  # that it may have to agree on
DOWN = np.array([1.0, 0.0, 0.0, 0.0])  # quaternion, x y z w: the fingers point straight down
CAMERA_NAME = re.compile("[a-z][a-z0-9_]*")
PIN = 8  # least digits of a policy's hash that say which it is
MOST = {"dynamics": 1.0, "force": 70.0, "timeout": 0.5}  # what these settings may be at most
MOST_VETO = 30.0  # s
MOST_COST = 0.2  # of a success, which is worth 1
MOST_SPREAD = 0.2  # m
MOST_TURN = 1.6  # rad
SIMULATED = tuple(spec.task for spec in SPECS.values())  # panda-sim's: what they name is laid out
GROUPS = (
    *("limits", "fingertips", "detector", "tasks", "homes", "undoes", "collision", "compliance"),
)
NEEDED = ("driver", "host", "workspace", "home", "cameras")
RENAMED = {"judge": "success_detector"}  # settings of files that were written for version 0.1


Crop = tuple[float, float, float, float]
WHOLE: Crop = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class CameraSettings:
    """Where images come from."""

    kind: str  # one of CAMERAS
    device: str  # opencv: an index, a path or an address; realsense: a serial number, or empty
    upside_down: bool = False
    crop: Crop = WHOLE  # the part that is used, as shares: left, top, right, bottom
    exposure: float = 0.0  # in the device's own unit (RealSense: 1e-6 s); 0: by itself


@dataclass(frozen=True)
class DetectorSettings:
    """When a classifier is believed."""

    camera: str = BOTH  # or a camera: what it sees, in `irevla arm record` as well
    crop: Crop = WHOLE  # the part of that camera's image, as shares: left, top, right, bottom
    threshold: float = 0.5  # from -1 (failure) to 1 (success): what it must say more than ...
    images: int = 3  # ... of so many images in a row, a tenth of a second each
    fingers: str = "any"  # one of FINGERS: how they must be meanwhile; "holding" needs their width

    @property
    def view(self) -> dict[str, Any]:
        """What a classifier sees, as the folders of its images and itself say it."""
        return {"camera": self.camera, "crop": list(self.crop)}


@dataclass(frozen=True)
class TaskSettings:
    """A task of one's own."""

    category: str = ""  # one of `Category`
    instruction: str = ""
    note: str = ""  # what differs from the expert task, for people


@dataclass(frozen=True)
class Collision:
    """What stops an arm by its own reflex. Franky's own values."""

    torque: float = 20.0  # Nm, of each joint
    force: float = 30.0  # N and Nm, upon the hand

    def __post_init__(self) -> None:
        within("collision.torque", self.torque, 5, 40, " Nm")
        within("collision.force", self.force, 5, 60, " N")


@dataclass(frozen=True)
class Compliance:
    """How hard the arm is pulled to where it should be. The values are those of SERL's controller.

    Softer, it stays further behind: below a `stiffness` of 500 it may not reach its start. SERL's
    server, and franky's `impedance`, pull with stiffness times clip at most: 20 N, 60 at the most
    that may be set.
    """

    motion: str = TRAJECTORY  # franka: one of MOTIONS

    stiffness: float = 2000.0  # N/m
    turn_stiffness: float = 150.0  # Nm/rad
    clip: float = 0.01  # m, the largest distance that is pulled over ...
    turn_clip: float = 0.05  # ... and rad

    def __post_init__(self) -> None:
        within("compliance.stiffness", self.stiffness, 100, 3000, " N/m")
        within("compliance.turn_stiffness", self.turn_stiffness, 5, 300, " Nm/rad")
        within("compliance.clip", self.clip, 0.001, 0.02, " m")
        within("compliance.turn_clip", self.turn_clip, 0.005, 0.1, " rad")


@dataclass(frozen=True)
class Settings:
    """What the file says."""

    path: Path
    driver: str
    host: str  # franka: the arm's address; serl: http://HOST:PORT of its robot server
    limits: Limits
    home: Home
    cameras: dict[str, CameraSettings]  # by name: POLICY_CAMERAS, and others
    fingertips: Pose = field(default_factory=lambda: FRANKA_HAND)  # seen from the flange
    detector: DetectorSettings = field(default_factory=DetectorSettings)
    tasks: tuple[Task, ...] = SIMULATED
    homes: dict[str, Home] = field(default_factory=dict)  # of tasks that start elsewhere
    partners: dict[str, str] = field(default_factory=dict)  # tasks that undo each other, both ways
    collision: Collision = field(default_factory=Collision)  # franka
    compliance: Compliance | None = None  # None: as the arm, or its server, is
    # sha256 of the only policy that may move the arm, or its beginning; empty: any, which is shown
    policy: str = ""
    dry_run: bool = True  # compute and log, send nothing
    teleop: str = "keys"  # one of TELEOPS
    teleop_scale: float = 1.0  # share of a full action of a key that is held, a stick at its end
    success_detector: str = "key"  # what says that a task is done: a person's key, or a classifier
    classifier: str = ""  # the folder that `irevla classifier` wrote, relative to the file
    veto: float = 3.0  # s that a person has to take back that a task is done; 0: none
    dynamics: float = 0.1  # franka: share of the arm's limits of acceleration and jerk
    homing: bool = True  # franka: the fingers find their ends once a session, after `r`
    gripper_cost: float = 0.02  # taken from the reward where the policy turns the fingers round
    realtime: bool = True  # franka: demand a realtime kernel
    force: float = 20.0  # franka: of the fingers, N
    timeout: float = 0.1  # serl: s, of each request
    view: str = "127.0.0.1:8017"  # where `irevla arm view` serves its page

    @property
    def folder(self) -> Path:
        """Where the lock of the arm lies, and why it is stopped: one place for each arm, whatever
        file names it."""
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        return Path(state) / "irevla" / _arm_name(self.driver, self.host)

    @property
    def keys(self) -> Path:
        """The socket on which `irevla arm keys` speaks."""
        return self.folder / "keys"

    @property
    def live_view(self) -> Path:
        """The socket on which `irevla arm view` listens."""
        return self.folder / "view"

    @property
    def page(self) -> tuple[str, int]:
        """The host and port of its page."""
        host, _, port = self.view.rpartition(":")
        return host, int(port)

    @property
    def flights(self) -> Path:
        """Where each session leaves what the arm was told and said."""
        return self.folder / "flights"


def _arm_name(driver: str, host: str) -> str:
    """Return one name for all ways to write an arm's address."""
    address = urllib.parse.urlsplit(host if "//" in host else f"//{host}")
    name = address.hostname or host
    with suppress(OSError):  # unknown: no driver will find it either
        name = socket.gethostbyname(name)
    port = f"-{address.port or SERL_PORT}" if driver == "serl" else ""
    return re.sub(r"[^\w.-]", "-", f"{driver}-{name}{port}")


def settings_path() -> Path:
    """Return the file that the environment names. Raises `UserError` where it names none."""
    if FILE not in os.environ:
        raise UserError(
            "which arm? Write its settings (docs/real-robot.md) and name them: export "
            f"{FILE}=arm.yaml"
        )
    return Path(os.environ[FILE])


def read_settings(path: Path) -> Settings:
    """Return the settings in `path`. Raises `UserError` for whatever is wrong with them."""
    found = read_yaml(path, remedy="docs/real-robot.md says what belongs in it")
    try:
        return _settings(found, path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _settings(found: dict[str, Any], path: Path) -> Settings:
    found = _renamed(found)
    plain = {name: kind for name, kind in with_default(Settings).items() if name not in GROUPS}
    known = [*NEEDED, *GROUPS, *plain]
    for name in found:
        if name not in known:
            raise unknown("setting", name, known)
    for name in NEEDED:
        if name not in found:
            raise UserError(f"{name!r} is missing")
    one_of(found, "driver", DRIVERS)
    one_of(found, "teleop", TELEOPS)
    one_of(found, "success_detector", SUCCESS_DETECTORS)
    values = {
        name: as_kind(found[name], kind, name) for name, kind in plain.items() if name in found
    }
    for name, most in MOST.items():
        if name in values and not 0 < values[name] <= most:
            raise UserError(f"{name} must be in (0, {most:g}], not {values[name]}")
    within("teleop_scale", values.get("teleop_scale", 1.0), 0.05, 1)
    within("veto", values.get("veto", 0.0), 0, MOST_VETO, " s")
    within("gripper_cost", values.get("gripper_cost", 0.0), 0, MOST_COST)
    if "policy" in values and not re.fullmatch(rf"|[0-9a-f]{{{PIN},64}}", values["policy"]):
        raise UserError(
            f"policy must be the first {PIN} hexadecimal digits of a sha256, or more, not "
            f"{values['policy']!r}"
        )
    if not _is_address(values.get("view", Settings.view)):
        raise UserError(f"view must be HOST:PORT, as {Settings.view}, not {values['view']!r}")
    if values.get("success_detector") == "classifier" and not values.get("classifier"):
        raise UserError(
            "the success_detector 'classifier' needs 'classifier', the folder that `irevla "
            "classifier` wrote"
        )
    limits = _limits(found)
    tasks = _tasks(mapping(found.get("tasks") or {}, "tasks"))
    names = [task.name for task in tasks]
    cameras = _cameras(mapping(found["cameras"], "cameras"))
    return Settings(
        path=path,
        driver=found["driver"],
        host=as_kind(found["host"], str, "host"),
        limits=limits,
        home=_home(found["home"], limits),
        tasks=tasks,
        homes=_homes(mapping(found.get("homes") or {}, "homes"), limits, names),
        partners=_partners(mapping(found.get("undoes") or {}, "undoes"), names),
        cameras=cameras,
        fingertips=_fingertips(found),
        detector=_detector(mapping(found.get("detector") or {}, "detector"), tuple(cameras)),
        collision=_group(Collision, found, "collision", "franka"),
        compliance=_compliance(found),
        **values,
    )


def _is_address(text: str) -> bool:
    found = re.fullmatch(r"[\w.-]+:(\d{1,5})", text)
    return found is not None and 0 < int(found.group(1)) < 2**16


def _renamed(found: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a file of version 0.1 as they are called now.

    Such a file also said how a person takes over: by keys, the only way that is left.
    """
    renamed = {RENAMED.get(name, name): value for name, value in found.items()}
    person = renamed.pop("person", "keys")
    if person != "keys":
        raise UserError(
            f"person: {person} is not supported any more, people take over with `irevla arm "
            "keys`: take `person` out"
        )
    return renamed


def _limits(found: dict[str, Any]) -> Limits:
    workspace = mapping(found["workspace"], "workspace")
    low = triple(workspace.get("low"), "workspace.low")
    high = triple(workspace.get("high"), "workspace.high")
    chosen = mapping(found.get("limits") or {}, "limits")
    known = with_default(Limits)
    for name in chosen:
        if name not in known:
            raise unknown("limit", name, known)
    values = {name: as_kind(value, known[name], name) for name, value in chosen.items()}
    return Limits(low, high, **values)


def _home(found: Any, limits: Limits, name: str = "home") -> Home:
    found = mapping(found, name)
    known = ("position", "yaw", "spread", "turn")
    for key in found:
        if key not in known:
            raise unknown(f"setting of {name}", key, known)
    position = triple(found.get("position"), f"{name}.position")
    yaw, spread, turn = (
        as_kind(found.get(key, 0.0), float, f"{name}.{key}") for key in ("yaw", "spread", "turn")
    )
    inside = zip(limits.low, position, limits.high, strict=True)
    if not all(low <= x <= high for low, x, high in inside):
        raise UserError(f"{name}.position {list(position)} is outside the workspace")
    within(f"{name}.spread", spread, 0, MOST_SPREAD, " m")
    within(f"{name}.turn", turn, 0, MOST_TURN, " rad")
    return Home(np.array(position), turned(DOWN, np.array([0.0, 0.0, yaw])), spread, turn)


def _tasks(found: dict[str, Any]) -> tuple[Task, ...]:
    """Return a person's own tasks, or else those of the simulated arm."""
    tasks = []
    for name, content in found.items():
        where = f"tasks.{name}"
        own = group_of(TaskSettings, mapping(content, where), where)
        tasks.append(described(str(name), own.category, own.instruction, own.note, where=where))
    if tasks and not any(task.category is Category.EXPERT for task in tasks):
        raise UserError("no task of tasks is of the category 'expert': demonstrations are of those")
    return tuple(tasks) or SIMULATED


def _homes(found: dict[str, Any], limits: Limits, tasks: list[str]) -> dict[str, Home]:
    for task in found:
        if task not in tasks:
            raise unknown("task of homes", str(task), tasks)
    return {task: _home(home, limits, f"homes.{task}") for task, home in found.items()}


def _partners(found: dict[str, Any], tasks: list[str]) -> dict[str, str]:
    """Return the other task of each that has one: where one succeeds, the other begins."""
    partners: dict[str, str] = {}
    for back, forward in found.items():
        for task in (back, forward):
            if task not in tasks:
                raise unknown("task of undoes", str(task), tasks)
            if task in partners or back == forward:
                raise UserError(f"undoes: {task} must be in one pair, with another task")
        partners |= {back: forward, forward: back}
    return partners


def _fingertips(found: dict[str, Any]) -> Pose:
    if "fingertips" not in found:
        return FRANKA_HAND
    frame = mapping(found["fingertips"], "fingertips")
    position = triple(frame.get("position"), "fingertips.position")
    yaw = as_kind(frame.get("yaw", FRANKA_HAND.yaw), float, "fingertips.yaw")
    return Pose(np.array(position), turned(np.array([0.0, 0.0, 0.0, 1.0]), np.array([0, 0, yaw])))


def _group(kind: type[Any], found: dict[str, Any], name: str, driver: str = "") -> Any:
    if driver and name in found and found["driver"] != driver:
        raise UserError(f"{name} is for the driver {driver!r}: take it out")
    return group_of(kind, mapping(found.get(name) or {}, name), name)


def _compliance(found: dict[str, Any]) -> Compliance | None:
    """Return it; None where the arm, or its server, stays as it is. Nothing is taken and then left
    unused."""
    if "compliance" not in found:
        return None
    chosen = mapping(found["compliance"] or {}, "compliance")
    one_of(chosen, "motion", MOTIONS)
    if found["driver"] == "serl" and "motion" in chosen:
        raise UserError("compliance.motion is for the driver 'franka': take it out")
    springs = found["driver"] == "serl" or chosen.get("motion") == IMPEDANCE
    for name in ("clip", "turn_clip"):
        if name in chosen and not springs:
            raise UserError(f"compliance.{name} needs motion: {IMPEDANCE}, or the driver 'serl'")
    compliance: Compliance = group_of(Compliance, chosen, "compliance")
    return compliance


def _detector(found: dict[str, Any], cameras: tuple[str, ...]) -> DetectorSettings:
    one_of(found, "camera", (BOTH, *cameras))
    one_of(found, "fingers", FINGERS)
    crop = _crop(found, "detector.crop")
    if crop != WHOLE and found.get("camera", BOTH) == BOTH:
        raise UserError("detector.crop is of one camera: name it as detector.camera")
    plain = {name: value for name, value in found.items() if name != "crop"}
    detector: DetectorSettings = group_of(DetectorSettings, plain, "detector")
    within("detector.threshold", detector.threshold, -0.99, 0.99)
    within("detector.images", detector.images, 1, MOST_IMAGES)
    return replace(detector, crop=crop)


def _crop(found: dict[str, Any], name: str) -> Crop:
    """Return the `crop` of some settings: shares of the image's width and height."""
    value = found.get("crop", list(WHOLE))
    if not (isinstance(value, list) and len(value) == 4):
        raise UserError(f"{name} must be [left, top, right, bottom] in [0, 1], not {value!r}")
    left, top, right, bottom = (as_kind(number, float, name) for number in value)
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise UserError(f"{name} must be [left, top, right, bottom] in [0, 1], not {value!r}")
    return left, top, right, bottom


def _cameras(found: dict[str, Any]) -> dict[str, CameraSettings]:
    for name in found:
        if not CAMERA_NAME.fullmatch(str(name)) or name == BOTH:
            raise UserError(
                f"cameras must have names of small letters, digits and _, and none {BOTH!r}, "
                f"not {name!r}"
            )
    names = dict.fromkeys((*POLICY_CAMERAS, *found))  # in this order, each once
    return {name: _camera(found.get(name), name) for name in names}


def _camera(chosen: Any, name: str) -> CameraSettings:
    found = mapping(chosen, f"cameras.{name}")
    named = f"cameras.{name}"
    known = ("kind", "device", "upside_down", "crop", "exposure")
    for key in found:
        if key not in known:
            raise unknown(f"setting of the {name} camera", key, known)
    one_of(found, "kind", CAMERAS)
    return CameraSettings(
        found.get("kind", "opencv"),
        str(found.get("device", "")),
        upside_down=as_kind(found.get("upside_down", False), bool, f"{named}.upside_down"),
        crop=_crop(found, f"{named}.crop"),
        exposure=as_kind(found.get("exposure", 0.0), float, f"{named}.exposure"),
    )
