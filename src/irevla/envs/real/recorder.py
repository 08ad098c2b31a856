"""Episodes that a person took part in, kept as demonstrations: `irevla collect panda
--demonstrations DIR` imports them."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from irevla.envs.base import Task
from irevla.errors import UserError


class Recorder:
    """One episode after another. Those that succeed and that a person took part in are written to
    `folder`."""

    def __init__(self, task: Task, folder: Path | None) -> None:
        self._task, self._folder = task, folder
        self.begin()

    def begin(self) -> None:
        """A new episode."""
        self._pictures: list[np.ndarray] = []
        self._actions: list[np.ndarray] = []
        self._person = False

    def add(
        self,
        picture: UInt8[np.ndarray, "S S 3"],
        action: Float32[np.ndarray, " A"],
        *,
        person: bool,
    ) -> None:
        """What was seen, and what was then done."""
        self._pictures.append(picture)
        self._actions.append(action)
        self._person |= person

    @property
    def grip(self) -> float:
        """The last action's: positive where the fingers are shut."""
        return float(self._actions[-1][6]) if self._actions else -1.0

    def end(self, *, success: bool) -> None:
        """Write the episode, aside first, so that no half of one is ever found."""
        if not (success and self._person and self._folder):
            return
        self._folder.mkdir(exist_ok=True)
        path = self._folder / f"{self._task.name}-{time.time_ns()}.npz"
        aside = path.with_suffix(".part")
        with aside.open("wb") as file:
            np.savez_compressed(
                file,
                task=self._task.name,
                pictures=np.stack(self._pictures),
                actions=np.stack(self._actions),
            )
        aside.rename(path)


def recordings(
    path: Path, tasks: Sequence[str], *, size: int
) -> Iterator[tuple[str, UInt8[np.ndarray, "T S S 3"], Float32[np.ndarray, "T A"]]]:
    """The episodes of `tasks` in a folder, or in one file: task, pictures, actions. Raises
    `UserError` for what cannot be read, and for pictures of another size."""
    for file in sorted(path.glob("*.npz")) if path.is_dir() else [path]:
        try:
            with np.load(file, allow_pickle=False) as found:
                task, pictures, actions = str(found["task"]), found["pictures"], found["actions"]
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{file} is no recording of a person at the arm: {error}") from error
        if task in tasks:
            if pictures.shape[1] != size:
                raise UserError(
                    f"{file} has pictures of {pictures.shape[1]} pixels: --env.image-size {pictures.shape[1]}"
                )
            yield task, pictures, actions.astype(np.float32)
