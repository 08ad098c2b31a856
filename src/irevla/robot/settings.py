"""The settings of one arm: a YAML file that a person writes and names. `docs/real-robot.md`
explains it."""

import dataclasses
import math
import os
import re
import socket
import sys
import urllib.parse
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from irevla.errors import UserError, unknown
from irevla.robot.driver import FRANKA_HAND
from irevla.robot.limits import Limits
from irevla.robot.pose import Pose, turned
from irevla.storage.read import read_yaml

HZ = 10  # decisions per second
SERL_PORT = 5000  # of a robot server whose address names none
FILE = "IREVLA_ARM"  # environment variable: the path of the file
DRIVERS = ("franka", "serl")
CAMERAS = ("opencv", "realsense")
SUCCESS_DETECTORS = ("key", "classifier")
VIEWS = ("both", "front", "wrist")  # what a classifier sees: the policy's image, or of one camera
FINGERS = ("any", "shut", "open", "holding")  # as they must be where a classifier is believed
MOST_IMAGES = 50  # that it may have to agree on
DOWN = np.array([1.0, 0.0, 0.0, 0.0])  # quaternion, x y z w: the fingers point straight down
PIN = 8  # least digits of a policy's hash that say which it is
MOST = {"dynamics": 1.0, "force": 70.0, "timeout": 0.5}  # what these settings may be at most
MOST_VETO = 30.0  # s
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


@dataclass(frozen=True)
class DetectorSettings:
    """When a classifier is believed."""

    camera: str = "both"  # one of VIEWS: what it sees, in `irevla arm record` as well
    crop: Crop = WHOLE  # the part of that camera's image, as shares: left, top, right, bottom
    threshold: float = 0.5  # from -1 (failure) to 1 (success): what it must say more than ...
    images: int = 3  # ... of so many images in a row, a tenth of a second each
    fingers: str = "any"  # one of FINGERS: how they must be meanwhile; "holding" needs their width

    @property
    def view(self) -> dict[str, Any]:
        """What a classifier sees, as the folders of its images and itself say it."""
        return {"camera": self.camera, "crop": list(self.crop)}


@dataclass(frozen=True)
class Settings:
    """What the file says."""

    path: Path
    driver: str
    host: str  # franka: the arm's address; serl: http://HOST:PORT of its robot server
    limits: Limits
    home: Pose
    front: CameraSettings
    wrist: CameraSettings
    fingertips: Pose = field(default_factory=lambda: FRANKA_HAND)  # seen from the flange
    detector: DetectorSettings = field(default_factory=DetectorSettings)
    # sha256 of the only policy that may move the arm, or its beginning; empty: any, which is shown
    policy: str = ""
    dry_run: bool = True  # compute and log, send nothing
    success_detector: str = "key"  # what says that a task is done: a person's key, or a classifier
    classifier: str = ""  # the folder that `irevla classifier` wrote, relative to the file
    veto: float = 3.0  # s that a person has to take back that a task is done; 0: none
    dynamics: float = 0.1  # franka: share of the arm's limits of acceleration and jerk
    realtime: bool = True  # franka: demand a realtime kernel
    force: float = 20.0  # franka: of the fingers, N
    timeout: float = 0.1  # serl: s, of each request

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
    plain = _with_default(Settings)
    known = [*NEEDED, "limits", "fingertips", "detector", *plain]
    for name in found:
        if name not in known:
            raise unknown("setting", name, known)
    for name in NEEDED:
        if name not in found:
            raise UserError(f"{name!r} is missing")
    _one_of(found, "driver", DRIVERS)
    _one_of(found, "success_detector", SUCCESS_DETECTORS)
    values = {name: _as(found[name], kind, name) for name, kind in plain.items() if name in found}
    for name, most in MOST.items():
        if name in values and not 0 < values[name] <= most:
            raise UserError(f"{name} must be in (0, {most:g}], not {values[name]}")
    if not 0 <= values.get("veto", 0.0) <= MOST_VETO:
        raise UserError(f"veto must be from 0 to {MOST_VETO:g} s, not {values['veto']}")
    if "policy" in values and not re.fullmatch(rf"|[0-9a-f]{{{PIN},64}}", values["policy"]):
        raise UserError(
            f"policy must be the first {PIN} hexadecimal digits of a sha256, or more, not "
            f"{values['policy']!r}"
        )
    if values.get("success_detector") == "classifier" and not values.get("classifier"):
        raise UserError(
            "the success_detector 'classifier' needs 'classifier', the folder that `irevla "
            "classifier` wrote"
        )
    limits = _limits(found)
    cameras = _mapping(found["cameras"], "cameras")
    for name in cameras:
        if name not in ("front", "wrist"):
            raise unknown("camera", name, ("front", "wrist"))
    return Settings(
        path=path,
        driver=found["driver"],
        host=_as(found["host"], str, "host"),
        limits=limits,
        home=_home(_mapping(found["home"], "home"), limits),
        front=_camera(cameras, "front"),
        wrist=_camera(cameras, "wrist"),
        fingertips=_fingertips(found),
        detector=_detector(_mapping(found.get("detector") or {}, "detector")),
        **values,
    )


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
    workspace = _mapping(found["workspace"], "workspace")
    low = _triple(workspace.get("low"), "workspace.low")
    high = _triple(workspace.get("high"), "workspace.high")
    chosen = _mapping(found.get("limits") or {}, "limits")
    known = _with_default(Limits)
    for name in chosen:
        if name not in known:
            raise unknown("limit", name, known)
    values = {name: _as(value, known[name], name) for name, value in chosen.items()}
    return Limits(low, high, **values)


def _with_default(kind: type[Any]) -> dict[str, type[Any]]:
    """Return the fields of a dataclass that may be left out, with the types of their values."""
    return {
        field.name: type(field.default)
        for field in dataclasses.fields(kind)
        if field.default is not dataclasses.MISSING
    }


def _home(found: dict[str, Any], limits: Limits) -> Pose:
    position = _triple(found.get("position"), "home.position")
    yaw = _as(found.get("yaw", 0.0), float, "home.yaw")
    within = zip(limits.low, position, limits.high, strict=True)
    if not all(low <= x <= high for low, x, high in within):
        raise UserError(f"home.position {list(position)} is outside the workspace")
    return Pose(np.array(position), turned(DOWN, np.array([0.0, 0.0, yaw])))


def _fingertips(found: dict[str, Any]) -> Pose:
    if "fingertips" not in found:
        return FRANKA_HAND
    frame = _mapping(found["fingertips"], "fingertips")
    position = _triple(frame.get("position"), "fingertips.position")
    yaw = _as(frame.get("yaw", FRANKA_HAND.yaw), float, "fingertips.yaw")
    return Pose(np.array(position), turned(np.array([0.0, 0.0, 0.0, 1.0]), np.array([0, 0, yaw])))


def _detector(found: dict[str, Any]) -> DetectorSettings:
    plain = _with_default(DetectorSettings)
    for name in found:
        if name not in plain:
            raise unknown("setting of the detector", name, plain)
    _one_of(found, "camera", VIEWS)
    _one_of(found, "fingers", FINGERS)
    crop = _crop(found, "detector.crop")
    if crop != WHOLE and found.get("camera", "both") == "both":
        raise UserError("detector.crop is of one camera: name it as detector.camera")
    values = {
        name: _as(value, plain[name], f"detector.{name}")
        for name, value in found.items()
        if name != "crop"
    }
    detector = DetectorSettings(crop=crop, **values)
    if not -1 < detector.threshold < 1:
        raise UserError(f"detector.threshold must be in (-1, 1), not {detector.threshold}")
    if not 1 <= detector.images <= MOST_IMAGES:
        raise UserError(f"detector.images must be from 1 to {MOST_IMAGES}, not {detector.images}")
    return detector


def _crop(found: dict[str, Any], name: str) -> Crop:
    """Return the `crop` of some settings: shares of the image's width and height."""
    value = found.get("crop", list(WHOLE))
    if not (isinstance(value, list) and len(value) == 4):
        raise UserError(f"{name} must be [left, top, right, bottom] in [0, 1], not {value!r}")
    left, top, right, bottom = (_as(number, float, name) for number in value)
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise UserError(f"{name} must be [left, top, right, bottom] in [0, 1], not {value!r}")
    return left, top, right, bottom


def _camera(cameras: dict[str, Any], name: str) -> CameraSettings:
    found = _mapping(cameras.get(name), f"cameras.{name}")
    known = ("kind", "device", "upside_down")
    for key in found:
        if key not in known:
            raise unknown(f"setting of the {name} camera", key, known)
    _one_of(found, "kind", CAMERAS)
    upside_down = _as(found.get("upside_down", False), bool, f"cameras.{name}.upside_down")
    return CameraSettings(found.get("kind", "opencv"), str(found.get("device", "")), upside_down)


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{name} must be settings with names, not {value!r}")
    return value


def _one_of(found: dict[str, Any], name: str, known: tuple[str, ...]) -> None:
    if name in found and found[name] not in known:
        raise unknown(name, str(found[name]), known)


def _triple(value: Any, name: str) -> tuple[float, float, float]:
    if not (isinstance(value, list) and len(value) == 3):
        raise UserError(f"{name} must be three numbers [x, y, z] in m, not {value!r}")
    x, y, z = (_as(number, float, name) for number in value)
    return x, y, z


def _as(value: Any, kind: type, name: str) -> Any:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if kind is float and whole and abs(value) <= sys.float_info.max:
        value = float(value)
    if kind is str and whole:
        value = str(value)  # a policy's hash may begin with digits
    wrong = type(value) is not kind
    if wrong or (kind is float and not math.isfinite(value)):
        raise UserError(f"{name} must be a {kind.__name__}, not {value!r}")
    return value
