"""Episodes that a person took part in, kept as demonstrations: `irevla collect panda
--demonstrations DIR` imports them."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from irevla.config import EnvConfig
from irevla.errors import UserError
from irevla.tasks import Task


@dataclass(frozen=True)
class Recording:
    """An episode that a person took part in."""

    task: str
    images: UInt8[np.ndarray, "T H W 3"]
    actions: Float32[np.ndarray, "T A"]
    state: Float32[np.ndarray, "T S"]  # nothing (S is 0) where the policy is not told


class Recorder:
    """One episode after another. Those that succeed and that a person took part in are written to
    `folder`, with the names of the `cameras` whose views are in the images."""

    def __init__(self, task: Task, folder: Path | None, *, cameras: Sequence[str] = ()) -> None:
        self._task = task
        self._folder = folder
        self._cameras = cameras
        self.begin()

    def begin(self) -> None:
        """Begin a new episode."""
        self._images: list[np.ndarray] = []
        self._actions: list[np.ndarray] = []
        self._states: list[np.ndarray] = []
        self._helped = False  # a person took part

    def add(
        self,
        image: UInt8[np.ndarray, "H W 3"],
        action: Float32[np.ndarray, " A"],
        *,
        person: bool,
        state: Float32[np.ndarray, " S"],
    ) -> None:
        """Keep what was seen, what the robot said of itself, and what was then done."""
        self._images.append(image)
        self._actions.append(action)
        self._states.append(state)
        self._helped |= person

    @property
    def gripper(self) -> float:
        """The gripper in the last action: positive where the fingers are shut."""
        return float(self._actions[-1][6]) if self._actions else -1.0

    def end(self, *, success: bool) -> None:
        """Write the episode, aside first, so that no half of one is ever found."""
        if not (success and self._helped and self._folder):
            return
        self._folder.mkdir(exist_ok=True)
        path = self._folder / f"{self._task.name}-{time.time_ns()}.npz"
        aside = path.with_suffix(".part")
        with aside.open("wb") as file:
            np.savez_compressed(
                file,
                task=self._task.name,
                pictures=np.stack(self._images),  # so they are called in recordings that exist
                actions=np.stack(self._actions),
                state=np.stack(self._states),
                cameras=np.array(self._cameras, dtype=str),
            )
        aside.rename(path)


def recordings(path: Path, tasks: Sequence[str], env: EnvConfig) -> Iterator[Recording]:
    """Yield the episodes of `tasks` in a folder, or in one file, as a policy of `env` sees them.

    Raises `UserError` for what cannot be read, for images of another size or of other cameras, and
    where a policy is to be told what was not recorded.
    """
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    for file in files:
        found = _read(file)
        if str(found["task"]) in tasks:
            yield _recording(file, found, env)


def _recording(file: Path, found: Mapping[str, np.ndarray], env: EnvConfig) -> Recording:
    images = found["pictures"]
    width = images.shape[2]
    if width != env.image_size:
        raise UserError(f"{file} has images of {width} pixels: --env.image-size {width}")
    cameras = tuple(map(str, found.get("cameras", ())))
    if cameras != tuple(env.cameras):
        seen = " ".join(cameras)
        remedy = f"--env.cameras {seen}" if cameras else "leave --env.cameras out"
        raise UserError(f"{file} shows {seen or 'both cameras in one image'}: {remedy}")
    state = np.zeros((len(images), 0), np.float32)
    if env.state:
        if "state" not in found or not np.isfinite(found["state"]).all():
            raise UserError(f"{file} does not say what the robot's state was: --env.no-state")
        state = found["state"]
    return Recording(str(found["task"]), images, found["actions"].astype(np.float32), state)


def _read(file: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(file, allow_pickle=False) as found:
            names = {"task", "pictures", "actions", "state", "cameras"}
            read = {name: found[name] for name in names & set(found.files)}
            read["task"], read["pictures"], read["actions"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{file} is no recording of a person at the arm: {error}") from error
    return read
