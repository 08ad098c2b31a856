"""What a person says of their gymnasium environment, in a YAML file (docs/your-data.md)."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from irevla.config_io import from_dict
from irevla.errors import UserError
from irevla.storage.read import read_yaml
from irevla.tasks import Category, Task, described

RENDER = "render()"  # for `image`: what the environment renders, not what it observes
RGB = "rgb_array"  # how it renders images to be seen by a policy, and opens no window
REWARD = "reward"  # for `success`: the episode terminates with a reward above 0
INFO = "info."  # for `success`: how the name of an entry of `info` begins
SLOWEST, FASTEST = 0.1, 10_000.0  # steps per second: what is beyond them is of another unit
OURS = {
    "id": "the file's own id says it",
    "max_episode_steps": "an episode ends after env.horizon decisions, so say --env.horizon",
    "disable_env_checker": "irevla looks at what it needs itself",
}
"""Keywords of gymnasium.make that are not for the file, and why."""


@dataclass(frozen=True)
class TaskSettings:
    """One task of the file."""

    category: str = ""  # expert, rl or unseen
    instruction: str = ""
    note: str = ""  # what differs from the expert task, for people
    make: dict[str, Any] = field(default_factory=dict)  # what differs from the file's `make`


@dataclass(frozen=True)
class GymSettings:
    """What the file says."""

    id: str = ""  # "PushT-v0", or "package:PushT-v0" where importing the package registers it
    make: dict[str, Any] = field(default_factory=dict)  # keywords of gymnasium.make
    image: str = ""  # "pixels.top": obs["pixels"]["top"]; "": all of it; or `RENDER`
    cameras: dict[str, Any] = field(default_factory=dict)  # name -> likewise, where --env.cameras
    state: str = ""  # likewise, what the robot says of itself: a vector; "": nothing
    success: str = ""  # "info.is_success", or `REWARD`
    expert: str = ""  # "module:function", which says what to do next: a scripted expert; "": none
    fps: float = 0.0  # steps per second; 0: the environment's own metadata["render_fps"]
    # The actions that a policy calls -1 and 1, numbers; empty: the environment's own bounds.
    low: list[Any] = field(default_factory=list)
    high: list[Any] = field(default_factory=list)
    tasks: dict[str, Any] = field(default_factory=dict)  # name -> `TaskSettings`

    def task_list(self) -> tuple[Task, ...]:
        """Return the tasks."""
        return tuple(
            described(name, each.category, each.instruction, each.note, where=f"tasks.{name}")
            for name, each in self.tasks.items()
        )

    def keywords(self, task: str) -> dict[str, Any]:
        """Return what gymnasium.make is given for a task."""
        rendered = {"render_mode": RGB} if RENDER in self.images else {}
        return {**rendered, **self.make, **self.tasks[task].make}

    @property
    def images(self) -> tuple[str, ...]:
        """Where all images are."""
        return (self.image, *self.cameras.values())

    def plain(self) -> dict[str, Any]:
        """Return all that changes images or dynamics as JSON has it, but for a state and cameras
        that nobody named."""
        told = {name: value for name, value in asdict(self).items() if name != "expert"}
        new = ("state", "cameras")
        return {name: value for name, value in told.items() if name not in new or value}


def read_settings(path: Path) -> GymSettings:
    """Return the settings in `path`.

    Raises `UserError` for an unknown one, one of another type, and one that is missing.
    """
    settings: GymSettings = from_dict(read_yaml(path), kind=GymSettings, where=f"{path}: ")
    for name in ("id", "success", "tasks"):
        if not getattr(settings, name):
            raise UserError(f"{path}: {name!r} is missing; docs/your-data.md shows what to write")
    if settings.success != REWARD and not re.fullmatch(rf"{re.escape(INFO)}.+", settings.success):
        raise UserError(
            f"{path}: 'success' is {settings.success!r}, and must be {REWARD!r} or what info calls "
            "it, as 'info.is_success'"
        )
    for name, place in settings.cameras.items():
        if not isinstance(place, str) or not re.fullmatch(r"\w+", str(name)):
            raise UserError(
                f"{path}: cameras must be names (letters, digits and _) and where their images "
                f"are, as 'wrist: pixels.wrist', not {name!r}: {place!r}"
            )
    for name in ("low", "high"):
        numbers = getattr(settings, name)
        if not all(type(value) in (int, float) and abs(value) < 1e30 for value in numbers):
            raise UserError(f"{path}: {name!r} must be a list of numbers, one for each dimension")
    if settings.fps and not SLOWEST <= settings.fps <= FASTEST:
        raise UserError(
            f"{path}: 'fps' is {settings.fps:g}, and must be {SLOWEST:g} to {FASTEST:,.0f} steps "
            "per second; leave it out where the environment says it itself"
        )
    _check_make(settings.make, f"{path}: make")
    tasks = {str(name): _task(path, str(name), each) for name, each in settings.tasks.items()}
    if not any(task.category == Category.EXPERT for task in tasks.values()):
        raise UserError(f"{path}: no task is of the category 'expert'; demonstrations are of those")
    return GymSettings(**{**vars(settings), "tasks": tasks})


def _task(path: Path, name: str, content: Any) -> TaskSettings:
    where = f"{path}: tasks.{name}"
    if not isinstance(content, Mapping):
        raise UserError(f"{where} must be a group with category and instruction, not {content!r}")
    task: TaskSettings = from_dict(content, kind=TaskSettings, where=f"{where}.")
    described(name, task.category, task.instruction, where=where)
    _check_make(task.make, f"{where}.make")
    return task


def _check_make(keywords: Mapping[str, Any], where: str) -> None:
    """Raise `UserError` for a keyword of gymnasium.make that irevla sets itself."""
    for name, reason in OURS.items():
        if name in keywords:
            raise UserError(f"{where} has {name}: {reason}; leave it out")
    mode = keywords.get("render_mode", RGB)
    if mode != RGB:
        raise UserError(
            f"{where} has render_mode {mode!r}, and a policy sees {RGB} alone: leave it out "
            f"(image: {RENDER} asks for what the environment renders)"
        )
