"""Episodes that a person took part in, kept as demonstrations: `irevla collect panda
--demonstrations DIR` imports them."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from irevla.errors import UserError
from irevla.tasks import Task


class Recorder:
    """One episode after another. Those that succeed and that a person took part in are written to
    `folder`."""

    def __init__(self, task: Task, folder: Path | None) -> None:
        self._task = task
        self._folder = folder
        self.begin()

    def begin(self) -> None:
        """Begin a new episode."""
        self._images: list[np.ndarray] = []
        self._actions: list[np.ndarray] = []
        self._helped = False  # a person took part

    def add(
        self,
        image: UInt8[np.ndarray, "S S 3"],
        action: Float32[np.ndarray, " A"],
        *,
        person: bool,
    ) -> None:
        """Keep what was seen, and what was then done."""
        self._images.append(image)
        self._actions.append(action)
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
            )
        aside.rename(path)


def recordings(
    path: Path, tasks: Sequence[str], *, size: int
) -> Iterator[tuple[str, UInt8[np.ndarray, "T S S 3"], Float32[np.ndarray, "T A"]]]:
    """Yield the episodes of `tasks` in a folder, or in one file: task, images, actions.

    Raises `UserError` for what cannot be read, and for images of another size.
    """
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    for file in files:
        task, images, actions = _read(file)
        if task not in tasks:
            continue
        if images.shape[1] != size:
            raise UserError(
                f"{file} has images of {images.shape[1]} pixels: --env.image-size {images.shape[1]}"
            )
        yield task, images, actions.astype(np.float32)


def _read(file: Path) -> tuple[str, np.ndarray, np.ndarray]:
    try:
        with np.load(file, allow_pickle=False) as found:
            return str(found["task"]), found["pictures"], found["actions"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{file} is no recording of a person at the arm: {error}") from error
