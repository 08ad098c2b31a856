"""A LeRobotDataset (v3, v2.1, v2.0) that anybody wrote: what is in it, without its images."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64

from irevla.data import dataset_files as files
from irevla.data.dataset_files import REMEDY, V3, VERSIONS_2, Camera, Row, VideoPlace
from irevla.data.dataset_files_v2 import V2
from irevla.errors import UserError
from irevla.tasks import plain

SAME_RATE = 0.05  # how far two rates may be apart, as a share: datasets have whole ones


def same_rate(one: int | float, other: int | float) -> bool:
    """Whether two rates are one."""
    return math.isclose(one, other, rel_tol=SAME_RATE)


@dataclass(frozen=True)
class RecordedEpisode:
    """One episode without its images."""

    index: int
    start: int  # of its frames in the whole dataset
    length: int  # frames
    data: Path  # its data file
    instruction: str
    success: bool | None  # None: not recorded
    videos: Mapping[str, VideoPlace]  # by the camera's key

    @property
    def frames(self) -> slice:
        """Its frames in the whole dataset."""
        return slice(self.start, self.start + self.length)


class Dataset:
    """The LeRobotDataset under `root`: v3, or v2.1 and v2.0, which are read as they are.

    Raises `UserError` where it is none, is of another version, or its files are missing, damaged or
    do not fit together.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        info = files.read_info(root)
        self._layout = V2 if info.version in VERSIONS_2 else V3
        rows = files.in_order(root, self._layout.rows(root, info))
        # Whatever info.json lists: a failure that is recorded is no demonstration.
        recorded = info.has_success or any(
            files.SUCCESS in files.columns_of(path) for path in self._data_files(rows)
        )
        self.info = replace(info, has_success=recorded)
        self._check_length(rows)
        numbers = [files.read_numbers(path, self.info) for path in self._data_files(rows)]
        common = [name for name in numbers[0] if all(name in part for part in numbers)]
        columns = {name: np.concatenate([part[name] for part in numbers]) for name in common}
        self._check_order(rows, columns)
        self._check_times(rows, columns.get(files.TIME))
        self._check_videos(rows)
        instructions = self._layout.instructions(root)
        self.actions: Float32[np.ndarray, "N A"] = columns["action"]  # as recorded
        self.episodes = tuple(self._episode(row, columns, instructions) for row in rows)

    def __len__(self) -> int:
        return len(self.episodes)

    @cached_property
    def state(self) -> Float32[np.ndarray, "N S"] | None:
        """What the robot says of itself in each frame; None: no vector of it is recorded.

        Raises `UserError` where it is damaged, which is nobody's business who does not ask.
        """
        if not self.info.state_dim:
            return None
        paths = dict.fromkeys(episode.data for episode in self.episodes)
        return np.concatenate([files.read_state(path, self.info) for path in paths])

    @cached_property
    def by_instruction(self) -> dict[str, list[RecordedEpisode]]:
        """The episodes of each instruction, in order of appearance; it is told as it is written
        first, and however else it is written (case, spaces, full stop) the episodes are its own."""
        found: dict[str, list[RecordedEpisode]] = {}
        for episode in self.episodes:
            found.setdefault(plain(episode.instruction), []).append(episode)
        return {episodes[0].instruction: episodes for episodes in found.values()}

    def hash(self, camera: Camera) -> str:
        """Return the sha256 over the contents of all files, as `camera` saw it.

        Reads all of them. Raises `UserError` for one that cannot be read.
        """
        digest = hashlib.sha256()
        for path in self._files(camera):
            try:
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
            except OSError as error:
                raise UserError(f"{path} cannot be read: {error.strerror}; {REMEDY}") from error
        return digest.hexdigest()

    def _files(self, camera: Camera) -> list[Path]:
        """Return all files that say what the dataset is, as `camera` saw it, each once."""
        found = self._layout.settings(self.root)
        found += dict.fromkeys(episode.data for episode in self.episodes)
        if camera.kind == "video":
            found += dict.fromkeys(episode.videos[camera.key].path for episode in self.episodes)
        return found

    def _data_files(self, rows: Sequence[Row]) -> list[Path]:
        """Return each file once, in the order of its frames: that of names ends at 1000 files."""
        return list(dict.fromkeys(row.data for row in rows))

    def _check_length(self, rows: Sequence[Row]) -> None:
        """Raise `UserError` unless all agree on how many frames there are, before they are read."""
        found = sum(files.count_rows(path) for path in self._data_files(rows))
        promised = sum(row.length for row in rows)
        if not found == promised == self.info.frames:
            raise UserError(
                f"dataset {self.root}: its data files have {found} frames, its episodes {promised} "
                f"and info.json says {self.info.frames}; {REMEDY}"
            )

    def _check_order(self, rows: Sequence[Row], columns: Mapping[str, np.ndarray]) -> None:
        """Raise `UserError` unless frames lie in the order of `rows`, one episode after another."""
        lengths = [row.length for row in rows]
        owners = np.repeat([row.index for row in rows], lengths)
        starts = np.cumsum([0, *lengths[:-1]]).tolist()
        in_order = np.array_equal(columns["index"], np.arange(len(owners)))
        as_stated = [row.start for row in rows] == starts
        if not (in_order and as_stated and np.array_equal(columns["episode_index"], owners)):
            raise UserError(
                f"dataset {self.root}: the frames in data/ are not those that meta/episodes tells "
                f"of; {REMEDY}"
            )

    def _check_times(self, rows: Sequence[Row], times: Float64[np.ndarray, " N"] | None) -> None:
        """Raise `UserError` where recorded times say that the rate is another one: decisions are
        counted by it, and images of videos found. Since when they count is nobody's business."""
        fps = self.info.fps
        for row in rows if times is not None else ():
            assert times is not None
            own = times[row.start : row.start + row.length]
            if row.length < 2 or not np.isfinite(own).all():
                continue
            step = float(np.median(np.diff(own)))
            late = own - np.arange(row.length) / fps  # in a video, whose own time is meant
            lost = bool(row.videos) and float(np.abs(late).max()) > 0.5 / fps
            if step <= 0 or not same_rate(1 / step, float(fps)) or lost:
                raise UserError(
                    f"dataset {self.root}: episode {row.index} has a frame each {step:.4g} s, and "
                    f"at {fps} frames a second (fps in info.json) that is {1 / fps:.4g} s; its "
                    f"last one is {late[-1]:.4g} s late: mend fps, or name another dataset"
                )

    def _check_videos(self, rows: Sequence[Row]) -> None:
        """Raise `UserError` where two episodes have the same images of a video."""
        for camera in self.info.cameras if rows[0].videos else ():
            if camera.kind != "video":
                continue
            places: dict[Path, list[tuple[float, Row]]] = {}
            for row in rows:
                place = row.videos[camera.key]
                places.setdefault(place.path, []).append((place.start, row))
            for path, found in places.items():
                found.sort(key=lambda each: each[0])
                for (start, row), (after, following) in pairwise(found):
                    if start + (row.length - 0.5) / self.info.fps > after:
                        raise UserError(
                            f"dataset {self.root}: episodes {row.index} and {following.index} "
                            f"overlap in {path} (from_timestamp {start:.4g} and {after:.4g} s); "
                            f"{REMEDY}"
                        )

    def _episode(
        self, row: Row, columns: Mapping[str, np.ndarray], instructions: Mapping[int, str]
    ) -> RecordedEpisode:
        frames = slice(row.start, row.start + row.length)
        tasks = np.unique(columns["task_index"][frames]).tolist()
        if len(tasks) != 1 or tasks[0] not in instructions:
            raise UserError(
                f"dataset {self.root}: episode {row.index} has the tasks {tasks}, and irevla "
                "takes one an episode, with an instruction in meta/; split it, or name another "
                "dataset"
            )
        recorded = columns.get(files.SUCCESS)
        return RecordedEpisode(
            index=row.index,
            start=row.start,
            length=row.length,
            data=row.data,
            instruction=instructions[tasks[0]],
            success=None if recorded is None else bool(recorded[frames].any()),
            videos=row.videos,
        )
