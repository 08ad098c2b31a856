"""The files of a LeRobotDataset v3 that anybody wrote, read as a stranger's; those that v2 has in
another place: `dataset_files_v2`.

No name of a file leads out of the dataset's folder, columns are cast or refused, and no code of the
dataset is run.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Bool, Float32, Float64

from irevla.data.dataset_paths import PATHS_2, PATHS_3, Paths, read_paths
from irevla.data.lerobot import (
    CHUNK,
    INFO_PATH,
    STATE,
    TASKS_PATH,
    VERSION,
    instruction_column,
    read_as,
)
from irevla.errors import UserError
from irevla.storage.read import mapping, read_json, shaped

SUCCESS = "next.success"
TIME = "timestamp"  # s since the episode's first frame
REMEDY = "bring it from where it came again, or name another dataset"
MOST_DIMENSIONS = 4096
MOST_RATE = 1000  # frames per second
MOST_SECONDS = 1e7  # of a video: four months

VERSIONS_2 = ("v2.0", "v2.1")


@dataclass(frozen=True)
class Camera:
    """Where the images of one camera are: in the data files, or in videos."""

    key: str  # "observation.images.front"
    kind: Literal["image", "video"]
    shape: tuple[int, ...]  # as info.json states it, for people; what is decoded counts

    @property
    def name(self) -> str:
        """The last part of the key: what people call it."""
        return self.key.rpartition(".")[2]


@dataclass(frozen=True)
class VideoPlace:
    """Where in a video an episode begins."""

    path: Path
    start: float  # s


@dataclass(frozen=True)
class Row:
    """What meta/ says of one episode."""

    index: int
    start: int  # of its frames in the whole dataset
    length: int  # frames
    data: Path  # its data file
    videos: Mapping[str, VideoPlace]  # by the camera's key


@dataclass(frozen=True)
class Info:
    """What meta/info.json says."""

    version: str
    paths: Paths  # of its files
    chunk: int  # episodes of a folder, in v2
    fps: int  # frames per second
    frames: int
    cameras: tuple[Camera, ...]
    action_names: tuple[str, ...]  # one for each dimension
    has_success: bool
    robot: str  # empty: not said
    state_dim: int  # numbers of "observation.state"; 0: it is no vector, or not there


def read_info(root: Path) -> Info:
    """Return what meta/info.json says. Raises `UserError` where it is of no LeRobotDataset that is
    read here."""
    path = root / INFO_PATH
    if not path.exists():
        raise UserError(f"{root} is no LeRobotDataset: it has no {INFO_PATH}; name another folder")
    content = read_json(path, remedy=REMEDY)
    with shaped(path, remedy=REMEDY):
        version = mapping(content, "info.json").get("codebase_version")
        if version not in (VERSION, *VERSIONS_2):
            raise UserError(
                f"{root} is a LeRobotDataset {version}, and irevla reads {VERSION}, "
                f"{' and '.join(VERSIONS_2)}: convert it with LeRobot first"
            )
        features = {key: mapping(each, key) for key, each in content["features"].items()}
        if "action" not in features:
            raise UserError(
                f"{root} has no feature 'action', but {', '.join(sorted(features)) or 'none'}: "
                "rename what is done, or name another dataset"
            )
        fps = whole(content["fps"], "fps")
        if not 0 < fps <= MOST_RATE:
            raise ValueError(f"{fps} frames a second")
        chunk = int(content.get("chunks_size", CHUNK))
        if chunk < 1:
            raise ValueError(f"{chunk} files in a folder")
        return Info(
            version=str(version),
            paths=read_paths(content, PATHS_3 if version == VERSION else PATHS_2),
            chunk=chunk,
            fps=fps,
            frames=whole(content["total_frames"], "total_frames"),
            cameras=tuple(_cameras(features)),
            action_names=_action_names(features["action"]),
            has_success=SUCCESS in features,
            robot=str(content.get("robot_type") or ""),
            state_dim=_state_dim(features.get(STATE, {})),
        )


def whole(value: Any, what: str) -> int:
    """Return a whole number. Raises `TypeError`, for `shaped`, for anything else: rounded, a rate
    of 29.97 would pair images with the actions of others."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise TypeError(f"{what} is {value!r}, and must be a whole number")
    return int(value)


def _cameras(features: Mapping[str, Mapping[str, Any]]) -> Iterator[Camera]:
    for key, feature in features.items():
        if feature["dtype"] in ("image", "video") and not _is_depth(feature):
            # The key is the name of a folder: of none above videos/, and of nothing hidden.
            if not key or key[0] == "." or set(key) & set("/\\\0"):
                raise ValueError(f"a camera called {key!r}")
            yield Camera(key, feature["dtype"], _stated_shape(feature))


def _stated_shape(feature: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape that info.json states; () where it states none, or what is no shape."""
    shape = feature.get("shape")
    if not isinstance(shape, list) or not all(type(size) is int for size in shape):
        return ()
    return tuple(shape)


def _is_depth(feature: Mapping[str, Any]) -> bool:
    groups = [mapping(feature.get(name) or {}, name) for name in ("info", "video_info")]
    return any(group.get("video.is_depth_map") or group.get("is_depth_map") for group in groups)


def _action_names(feature: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what info.json calls the dimensions of an action; their numbers where it does not."""
    (dimensions,) = map(int, feature["shape"])
    if not 0 < dimensions <= MOST_DIMENSIONS:
        raise ValueError(f"actions of {dimensions} dimensions")
    names = feature.get("names")
    if isinstance(names, dict) and len(names) == 1:  # {"motors": [...]}
        (names,) = names.values()
    if isinstance(names, list) and len(names) == dimensions:
        return tuple(map(str, names))
    return tuple(map(str, range(dimensions)))


def _state_dim(feature: Mapping[str, Any]) -> int:
    """Return how many numbers the robot says of itself; 0 where that is no vector, which is no
    fault of a dataset of which nobody asks it."""
    shape = _stated_shape(feature)
    if len(shape) != 1:
        return 0
    if not 0 <= shape[0] <= MOST_DIMENSIONS:
        raise ValueError(f"a state of {shape[0]} numbers")
    return shape[0]


# --- Places


def _data_file(root: Path, info: Info, row: Mapping[str, Any]) -> Path:
    """Return the data file of an episode."""
    return root / info.paths.data.format(**_numbers(row, "data"))


def _video_place(root: Path, info: Info, row: Mapping[str, Any], camera: Camera) -> VideoPlace:
    """Return where `camera` recorded an episode."""
    group = f"videos/{camera.key}"
    path = root / info.paths.video.format(video_key=camera.key, **_numbers(row, group))
    start = float(row[f"{group}/from_timestamp"])
    if not 0 <= start < MOST_SECONDS:  # NaN is not
        raise ValueError(f"episode {row['episode_index']} begins at {start} s of {path.name}")
    return VideoPlace(path, start)


def _numbers(row: Mapping[str, Any], group: str) -> dict[str, int]:
    return {name: row[f"{group}/{name}"] for name in ("chunk_index", "file_index")}


def _episode_files(root: Path) -> list[Path]:
    """Return the files of meta/episodes, in order."""
    return sorted((root / "meta/episodes").glob("chunk-*/file-*.parquet"))


def settings_files(root: Path) -> list[Path]:
    """Return the files of meta/ that say what the dataset is."""
    return [root / INFO_PATH, root / TASKS_PATH, *_episode_files(root)]


# --- Parquet


def read_rows(root: Path, info: Info) -> list[Row]:
    """Return what meta/episodes says of each episode. Raises `UserError`."""
    videos = [camera for camera in info.cameras if camera.kind == "video"]
    rows: list[Row] = []
    for path in _episode_files(root):
        found = _read_rows(path, videos)
        with shaped(path, remedy=REMEDY):
            rows += [
                Row(
                    index=row["episode_index"],
                    start=row["dataset_from_index"],
                    length=row["length"],
                    data=_data_file(root, info, row),
                    videos={each.key: _video_place(root, info, row, each) for each in videos},
                )
                for row in found
            ]
    return rows


def _read_rows(path: Path, videos: Sequence[Camera]) -> list[dict[str, Any]]:
    integers = ["episode_index", "length", "dataset_from_index"]
    integers += ["data/chunk_index", "data/file_index"]
    types = dict.fromkeys(integers, pa.int64())
    for camera in videos:
        types[f"videos/{camera.key}/chunk_index"] = pa.int64()
        types[f"videos/{camera.key}/file_index"] = pa.int64()
        types[f"videos/{camera.key}/from_timestamp"] = pa.float64()
    table = read_table(path, list(types))
    with shaped(path, remedy=REMEDY):
        rows: list[dict[str, Any]] = read_as(table, types).to_pylist()
        return rows


def in_order(root: Path, rows: Sequence[Row]) -> list[Row]:
    """Return the episodes in order. Raises `UserError` where there are none, or an empty one."""
    if not rows:
        raise UserError(f"dataset {root} has no episodes; {REMEDY}")
    for row in rows:
        if row.length < 1:
            raise UserError(
                f"dataset {root}: episode {row.index} is empty; take it out with LeRobot's "
                "lerobot-edit-dataset, or name another dataset"
            )
    return sorted(rows, key=lambda row: row.index)


def read_instructions(root: Path) -> dict[int, str]:
    """Return the instruction of each task_index."""
    path = root / TASKS_PATH
    table = read_table(path)
    with shaped(path, remedy=REMEDY):
        name = instruction_column(table)
        typed = read_as(table, {"task_index": pa.int64(), name: pa.string()})
        return once(zip(typed["task_index"].to_pylist(), typed[name].to_pylist(), strict=True))


def once(instructions: Iterable[tuple[int, str]]) -> dict[int, str]:
    """Return the instruction of each task_index. Raises `ValueError` where one is told twice."""
    told: dict[int, str] = {}
    for index, instruction in instructions:
        if told.setdefault(index, instruction) != instruction:
            raise ValueError(f"task_index {index} has two instructions")
    return told


def count_rows(path: Path) -> int:
    """Return how many frames a data file has, by its foot alone. Raises `UserError`."""
    with _readable(path):
        return int(pq.read_metadata(path.absolute()).num_rows)


def columns_of(path: Path) -> list[str]:
    """Return the names of a data file's columns. Raises `UserError`."""
    with _readable(path):
        return list(pq.read_schema(path.absolute()).names)


def read_numbers(path: Path, info: Info) -> dict[str, np.ndarray]:
    """Return the numbers of each frame of a data file: where it belongs, its time in its episode
    (where that is recorded), and its action. Raises `UserError`."""
    types = dict.fromkeys(("index", "episode_index", "task_index"), pa.int64())
    success = [SUCCESS] if info.has_success else []
    time = [TIME] if TIME in columns_of(path) else []
    table = read_table(path, [*types, *success, *time, "action"])
    with shaped(path, remedy=REMEDY):
        typed = read_as(table, types)
        numbers = {name: np.asarray(typed[name].combine_chunks()) for name in types}
        if success:
            numbers[SUCCESS] = _yes_or_no(table[SUCCESS])
        if time:
            numbers[TIME] = _seconds(table[TIME])
        actions = _vectors(table["action"], "action", len(info.action_names))
        return {**numbers, "action": actions}


def read_state(path: Path, info: Info) -> Float32[np.ndarray, "N S"]:
    """Return what the robot says of itself in each frame of a data file. Raises `UserError`."""
    table = read_table(path, [STATE])
    with shaped(path, remedy=REMEDY):
        return _vectors(table[STATE], STATE, info.state_dim)


def _yes_or_no(column: pa.ChunkedArray) -> Bool[np.ndarray, " N"]:
    """Return what was recorded as true or false, or as 1 or 0. Raises what `shaped` understands:
    a score is neither."""
    array = _flat(column)
    if array.null_count:
        raise ValueError(f"{SUCCESS} has gaps")
    values = np.asarray(array.cast(pa.float64()))
    if not np.isin(values, (0.0, 1.0)).all():
        raise ValueError(f"{SUCCESS} is neither true nor false, but {values.max()}")
    return np.asarray(values == 1.0)


def _flat(column: pa.ChunkedArray) -> pa.Array:
    """Return a column of numbers, each of which may be in a list of its own."""
    array = column.combine_chunks()
    if pa.types.is_nested(array.type) and len(array.flatten()) == len(array):
        return array.flatten()
    return array


def _seconds(column: pa.ChunkedArray) -> Float64[np.ndarray, " N"]:
    """Return recorded times; NaN where they are no numbers, so that nothing hangs on them."""
    array = _flat(column)
    if pa.types.is_floating(array.type) or pa.types.is_integer(array.type):
        return np.asarray(array.cast(pa.float64()).fill_null(float("nan")), np.float64)
    return np.full(len(column), np.nan)


def _vectors(column: pa.ChunkedArray, name: str, dimensions: int) -> Float32[np.ndarray, "N A"]:
    """Return a column of vectors as float32; a number that is too large for one is its largest.

    Raises what `shaped` understands for what is none.
    """
    array = column.combine_chunks()
    if pa.types.is_nested(array.type):
        lengths = pc.unique(pc.list_value_length(array)).to_pylist()
        if lengths not in ([], [dimensions]):  # a gap has no length
            raise ValueError(f"{name} has {lengths} dimensions, not {dimensions}")
        array = array.flatten()
    if array.null_count or not (
        pa.types.is_floating(array.type) or pa.types.is_integer(array.type)
    ):
        raise TypeError(f"{name} is {array.type}, with {array.null_count} gaps")
    exact = np.asarray(array, np.float64)
    # Not the infinity that a cast would make of it: that is something else to look for.
    largest = float(np.finfo(np.float32).max)
    finite = np.where(np.isfinite(exact), exact.clip(-largest, largest), exact)
    return finite.astype(np.float32).reshape(len(column), dimensions)


def check_column(path: Path, name: str) -> None:
    """Raise `UserError` where a data file lacks a column."""
    _check_name(path, name, columns_of(path))


def _check_name(path: Path, name: str, names: Sequence[str]) -> None:
    if name not in names:
        raise UserError(f"{path} has no column {name!r}; {REMEDY}")


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Return all columns of a parquet file, or some. Raises `UserError`, which names a column that
    is not there."""
    names = columns_of(path) if columns else ()
    for name in columns or ():
        _check_name(path, name, names)
    with _readable(path):
        # A relative path with a colon would be taken for an address.
        return pq.read_table(path.absolute(), columns=columns, partitioning=None)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say in one line that the parquet file `path` is missing or broken."""
    if not path.is_file():  # a pipe would be waited for
        raise UserError(f"{path} is missing; {REMEDY}")
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is broken or cannot be read; {REMEDY}") from error


@dataclass(frozen=True)
class Layout:
    """How a version of the format says what is where."""

    rows: Callable[[Path, Info], list[Row]]
    instructions: Callable[[Path], dict[int, str]]  # of each task_index
    settings: Callable[[Path], list[Path]]  # files of meta/


V3 = Layout(read_rows, read_instructions, settings_files)
