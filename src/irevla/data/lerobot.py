"""The LeRobotDataset v3 format, with pyarrow and Pillow alone: what the files hold, not when they
are written.

    meta/info.json                              features, totals, frame rate
    meta/irevla.json                            our own facts, which LeRobot does not know
    meta/stats.json                             min, max, mean, std of each feature
    meta/tasks.parquet                          task_index <-> instruction
    meta/episodes/chunk-000/file-000.parquet    a row per episode: place, statistics, provenance
                                                ("irevla/...")
    data/chunk-000/file-000.parquet             a row per frame

Pictures are PNGs inside the data files: the pixels come back exactly, and no video decoder is
needed. Images of several cameras lie one below the other in memory, each in a column of its own
here. Left out: videos.
"""

import hashlib
import io
import json
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import UInt8
from PIL import Image

from irevla.errors import UserError
from irevla.storage.read import Missing, read_bytes
from irevla.types import Episode, Provenance

VERSION = "v3.0"
CHUNK = 1000  # files in a folder
FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA_PATH = f"data/{FILE}"
EPISODES_PATH = f"meta/episodes/{FILE}"
INFO_PATH, STATS_PATH, TASKS_PATH = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
IMAGES = "observation.images."
IMAGE = f"{IMAGES}front"
STATE = "observation.state"
INSTRUCTION = ("task", "__index_level_0__")  # an index of pandas, with a name or without

Shape = tuple[int, int, int]
Stats = dict[
    str, np.ndarray
]  # min, max, mean, std (float64, in the feature's own shape) and count (int64[1])


def image_keys(cameras: Sequence[str]) -> list[str]:
    """Return the name of the column of each camera; without names there is one."""
    return [f"{IMAGES}{camera}" for camera in cameras] or [IMAGE]


def features(
    image_shape: Shape, action_dim: int, state_dim: int, cameras: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return the features of our datasets, as info.json has them, in the order of the columns."""
    keys = image_keys(cameras)
    height, width, channels = image_shape
    image = {
        "dtype": "image",
        "shape": [height // len(keys), width, channels],
        "names": ["height", "width", "channels"],
    }
    state = {STATE: {"dtype": "float32", "shape": [state_dim], "names": None}}
    return {
        **dict.fromkeys(keys, image),
        **(state if state_dim else {}),
        "action": {"dtype": "float32", "shape": [action_dim], "names": None},
        "next.reward": _scalar("float32"),
        "next.success": _scalar("bool"),
        "next.done": _scalar("bool"),
        "timestamp": _scalar("float32"),
        "frame_index": _scalar("int64"),
        "episode_index": _scalar("int64"),
        "index": _scalar("int64"),
        "task_index": _scalar("int64"),
    }


def _scalar(dtype: str) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [1], "names": None}


def file_path(pattern: str, number: int) -> str:
    """Return the path of the `number`th data or episode file."""
    return pattern.format(chunk_index=number // CHUNK, file_index=number % CHUNK)


@dataclass(frozen=True)
class EpisodeInfo:
    """What is known of a stored episode without reading its frames."""

    index: int
    length: int  # frames
    start: int  # index of its first frame in the whole dataset
    file: int  # number of the data file that holds it
    sha256: str  # of that data file
    instruction: str
    success: bool
    total_reward: float
    provenance: Provenance


# ----------------------------------------------------------------------------------------------
# images


def encode_pngs(images: UInt8[np.ndarray, "T H W 3"]) -> list[bytes]:
    """Return each image as a PNG.

    Pillow tries five filters on every row: twice as slow as no filter, and no smaller for rendered
    images.
    """
    frames, height, width, _ = images.shape
    # The byte in front of a row is its filter: 0, none.
    rows = np.zeros((frames, height, 1 + 3 * width), np.uint8)
    rows[:, :, 1:] = images.reshape(frames, height, -1)
    head = b"\x89PNG\r\n\x1a\n" + _chunk(
        b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    )
    return [
        head + _chunk(b"IDAT", zlib.compress(frame.tobytes(), 1)) + _chunk(b"IEND", b"")
        for frame in rows
    ]


def _chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def decode_pngs(pngs: Iterable[bytes], out: UInt8[np.ndarray, "T H W 3"], *, where: str) -> None:
    """Decode into `out`. Raises `UserError`, which begins with `where`, for a picture damaged or of
    another shape."""
    for frame, (png, target) in enumerate(zip(pngs, out, strict=True)):
        try:
            opened = Image.open(io.BytesIO(png))
            fits = opened.size == (target.shape[1], target.shape[0])  # before it is unpacked
            pixels = np.asarray(opened) if fits else np.empty(opened.size)
        # What Pillow raises for a broken PNG, and for one of a size that would fill the memory.
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(
                f"{where}: the picture of frame {frame} is corrupt; {RESTORE}"
            ) from error
        if pixels.shape != target.shape or pixels.dtype != target.dtype:
            raise UserError(
                f"{where}: the picture of frame {frame} is {pixels.shape}, not {target.shape}; "
                f"{RESTORE}"
            )
        target[...] = pixels


LARGEST = 8 << 30  # bytes of one data file: ours have some MB
RESTORE = "restore the file from a copy, or move the dataset away and collect it again"


# ----------------------------------------------------------------------------------------------
# statistics


def episode_stats(
    episode: Episode, columns: Mapping[str, np.ndarray], cameras: Sequence[str]
) -> dict[str, Stats]:
    """Return the statistics of one episode's features: of images per channel, pixels in 0..1."""
    keys = image_keys(cameras)
    images = zip(keys, views(episode.images, len(keys)), strict=True)
    return {key: _image_stats(each) for key, each in images} | {
        key: _column_stats(values) for key, values in columns.items()
    }


def views(images: UInt8[np.ndarray, "T H W 3"], cameras: int) -> list[np.ndarray]:
    """Return the images of each camera, which lie one below the other in `images`."""
    return np.split(images, cameras, axis=1)


def _column_stats(values: np.ndarray) -> Stats:
    table = values.reshape(len(values), -1).astype(np.float64)
    return {
        "min": table.min(0),
        "max": table.max(0),
        "mean": table.mean(0),
        "std": table.std(0),
        "count": np.array([len(table)]),
    }


def _image_stats(images: UInt8[np.ndarray, "T H W 3"]) -> Stats:
    """Return exact statistics, from a histogram of the 256 levels.

    That is ten times faster than converting all pixels to float64.
    """
    levels = np.arange(256) / 255
    counts = np.stack(
        [np.bincount(images[..., channel].ravel(), minlength=256) for channel in range(3)]
    )
    present = counts > 0
    share = counts / counts.sum(1, keepdims=True)
    mean = share @ levels
    std = np.sqrt((share * (levels - mean[:, None]) ** 2).sum(1))
    low = levels[present.argmax(1)]
    high = levels[255 - present[:, ::-1].argmax(1)]
    stats = {
        key: value.reshape(3, 1, 1)
        for key, value in (("min", low), ("max", high), ("mean", mean), ("std", std))
    }
    return stats | {"count": np.array([len(images)])}


def merge_stats(parts: Sequence[Mapping[str, Stats]]) -> dict[str, Stats]:
    """Return the statistics of all episodes together, from those of each."""
    return {key: _merge([part[key] for part in parts]) for key in parts[0]} if parts else {}


def _merge(parts: Sequence[Stats]) -> Stats:
    stacked = {key: np.stack([part[key] for part in parts]) for key in parts[0]}
    weight = (stacked["count"] / stacked["count"].sum()).reshape(
        -1, *[1] * (stacked["mean"].ndim - 1)
    )
    mean = (weight * stacked["mean"]).sum(0)
    spread = (weight * (stacked["std"] ** 2 + (stacked["mean"] - mean) ** 2)).sum(0)
    return {
        "min": stacked["min"].min(0),
        "max": stacked["max"].max(0),
        "mean": mean,
        "std": np.sqrt(spread),
        "count": stacked["count"].sum(0),
    }


# ----------------------------------------------------------------------------------------------
# tables


def episode_columns(
    episode: Episode, *, index: int, start: int, task_index: int, fps: int
) -> dict[str, np.ndarray]:
    """Every column of an episode's frames but the picture."""
    steps = np.arange(len(episode))
    last = steps == len(episode) - 1
    return {
        **({STATE: episode.state} if episode.state.shape[1] else {}),
        "action": episode.actions,
        "next.reward": episode.rewards,
        "next.success": last & episode.success,
        "next.done": last,
        "timestamp": (steps / fps).astype(np.float32),
        "frame_index": steps,
        "episode_index": np.full(len(episode), index),
        "index": start + steps,
        "task_index": np.full(len(episode), task_index),
    }


def data_table(
    episodes: Sequence[Episode],
    columns: Sequence[Mapping[str, np.ndarray]],
    schema: Mapping[str, dict[str, Any]],
) -> pa.Table:
    """Return the frames of `episodes` as the content of one data file."""
    keys = [key for key, feature in schema.items() if feature["dtype"] == "image"]
    paths = [f"frame-{frame:06d}.png" for episode in episodes for frame in range(len(episode))]
    arrays = []
    for camera in range(len(keys)):
        pngs = [
            png
            for episode in episodes
            for png in encode_pngs(views(episode.images, len(keys))[camera])
        ]
        arrays.append(
            pa.StructArray.from_arrays(
                [pa.array(pngs, pa.binary()), pa.array(paths)], names=["bytes", "path"]
            )
        )
    for key in list(schema)[len(keys) :]:
        values = np.concatenate([part[key] for part in columns])
        flat = pa.array(values.ravel(), _VALUES[schema[key]["dtype"]])
        size = schema[key]["shape"][0]
        arrays.append(flat if size == 1 else pa.FixedSizeListArray.from_arrays(flat, size))
    return pa.Table.from_arrays(arrays, names=list(schema)).replace_schema_metadata(
        _huggingface(schema)
    )


_VALUES = {"float32": pa.float32(), "int64": pa.int64(), "bool": pa.bool_()}


def _huggingface(schema: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    """Return what tells `datasets` which columns are images and which lists of fixed length.

    Without it lerobot cannot read the file.
    """
    types: dict[str, Any] = {}
    for key, feature in schema.items():
        value: dict[str, Any] = {"dtype": feature["dtype"], "_type": "Value"}
        fixed = {"feature": value, "length": feature["shape"][0], "_type": "List"}
        if feature["dtype"] == "image":
            types[key] = {"_type": "Image"}
        elif feature["shape"] == [1]:
            types[key] = value
        else:
            types[key] = fixed
    return {"huggingface": json.dumps({"info": {"features": types}})}


def tasks_table(instructions: Sequence[str]) -> pa.Table:
    """Return the content of meta/tasks.parquet.

    lerobot reads it with pandas and takes the instruction from the index: it is marked as one.
    """
    _, index = INSTRUCTION
    names: dict[str, Any] = {
        "name": None,
        "field_name": None,
        "pandas_type": "unicode",
        "numpy_type": "object",
    }
    columns: list[dict[str, Any]] = [
        {
            "name": "task_index",
            "field_name": "task_index",
            "pandas_type": "int64",
            "numpy_type": "int64",
        },
        {"name": None, "field_name": index, "pandas_type": "unicode", "numpy_type": "object"},
    ]
    pandas = {
        "index_columns": [index],
        "column_indexes": [names | {"metadata": {"encoding": "UTF-8"}}],
        "columns": [column | {"metadata": None} for column in columns],
        "pandas_version": "2.2.0",
    }
    numbers = pa.array(range(len(instructions)), pa.int64())
    table = pa.table({"task_index": numbers, index: pa.array(instructions, pa.string())})
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def read_tasks(table: pa.Table) -> list[str]:
    """Return the instructions of meta/tasks.parquet, in the order of their task_index."""
    name = instruction_column(table)
    typed = read_as(table, {"task_index": pa.int64(), name: pa.string()})
    by_index = dict(zip(typed["task_index"].to_pylist(), typed[name].to_pylist(), strict=True))
    return [by_index[index] for index in range(len(by_index))]


def instruction_column(table: pa.Table) -> str:
    """Return which column of meta/tasks.parquet has the instructions: one of LeRobot's names, or
    the only one beside task_index. Raises `ValueError` where that is not to be seen."""
    names = [name for name in table.column_names if name != "task_index"]
    known = [name for name in INSTRUCTION if name in names]
    if not known and len(names) != 1:
        raise ValueError(f"no column is called 'task', but {', '.join(names) or 'none'}")
    return (known or names)[0]


def episodes_table(infos: Sequence[EpisodeInfo], stats: Sequence[Mapping[str, Stats]]) -> pa.Table:
    """Return one file of meta/episodes. Its types are fixed, so that all files agree."""
    rows = [_episode_row(info, part) for info, part in zip(infos, stats, strict=True)]
    fields = [(key, _episode_type(key, rows[0][key])) for key in rows[0]]
    return pa.Table.from_pylist(rows, schema=pa.schema(fields))


def _episode_row(info: EpisodeInfo, stats: Mapping[str, Stats]) -> dict[str, Any]:
    chunk, file = divmod(info.file, CHUNK)
    source = info.provenance
    return {
        "episode_index": info.index,
        "tasks": [info.instruction],
        "length": info.length,
        "data/chunk_index": chunk,
        "data/file_index": file,
        "dataset_from_index": info.start,
        "dataset_to_index": info.start + info.length,
        "meta/episodes/chunk_index": chunk,
        "meta/episodes/file_index": file,
        "irevla/suite": source.suite,
        "irevla/task": source.task,
        "irevla/seed": source.seed,
        "irevla/source": source.source,
        "irevla/noise": float(source.noise),
        "irevla/policy": source.policy,
        "irevla/success": info.success,
        "irevla/return": info.total_reward,
        "irevla/data_sha256": info.sha256,
    } | {
        f"stats/{key}/{name}": value.tolist()
        for key, part in stats.items()
        for name, value in part.items()
    }


def _episode_type(key: str, value: Any) -> pa.DataType:
    if key == "tasks":
        return pa.list_(pa.string())
    if key.startswith("stats/"):
        return pa.list_(pa.int64()) if key.endswith("/count") else _nested(value)
    return {int: pa.int64(), str: pa.string(), float: pa.float64(), bool: pa.bool_()}[type(value)]


def _nested(value: Any) -> pa.DataType:
    return pa.list_(_nested(value[0])) if isinstance(value, list) else pa.float64()


ROW = {
    "episode_index": pa.int64(),
    "tasks": pa.list_(pa.string()),
    "length": pa.int64(),
    "data/chunk_index": pa.int64(),
    "data/file_index": pa.int64(),
    "dataset_from_index": pa.int64(),
    "irevla/suite": pa.string(),
    "irevla/task": pa.string(),
    "irevla/seed": pa.int64(),
    "irevla/source": pa.string(),
    "irevla/noise": pa.float64(),
    "irevla/policy": pa.string(),
    "irevla/success": pa.bool_(),
    "irevla/return": pa.float64(),
    "irevla/data_sha256": pa.string(),
}
"""What is read of a row of meta/episodes."""


def read_as(table: pa.Table, types: Mapping[str, pa.DataType]) -> pa.Table:
    """Return the columns that `types` names, as those types.

    Raises `KeyError`, `TypeError` or `ValueError` for one that is missing, has gaps, or is of
    another kind.
    """
    for name, kind in types.items():
        found = table[name].type
        if pa.types.is_string(kind) != (
            pa.types.is_string(found) or pa.types.is_large_string(found)
        ):
            raise TypeError(f"{name} is {found}, not {kind}")  # Arrow would make numbers of text
        if table[name].null_count:
            raise ValueError(f"{name} has gaps")
    return table.select(list(types)).cast(pa.schema(list(types.items())))


def read_episodes(table: pa.Table) -> list[EpisodeInfo]:
    """Return the rows of one file of meta/episodes."""
    return [
        EpisodeInfo(
            index=row["episode_index"],
            length=row["length"],
            start=row["dataset_from_index"],
            file=row["data/chunk_index"] * CHUNK + row["data/file_index"],
            sha256=row["irevla/data_sha256"],
            instruction=row["tasks"][0],
            success=row["irevla/success"],
            total_reward=row["irevla/return"],
            provenance=Provenance(
                **{
                    key: row[f"irevla/{key}"]
                    for key in ("suite", "task", "seed", "source", "noise", "policy")
                }
            ),
        )
        for row in read_as(table, ROW).to_pylist()
    ]


def count_rows(path: Path, *, where: str) -> int:
    """Return how many frames a data file has, by its foot alone.

    Raises `UserError` that begins with `where` for one that cannot be read.
    """
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{where}: the file is corrupt or cannot be read; {RESTORE}") from error


def read_stats(table: pa.Table) -> list[dict[str, Stats]]:
    """Return the statistics in the rows of one file of meta/episodes."""
    keys = [key for key in table.column_names if key.startswith("stats/")]
    parts: list[dict[str, Stats]] = []
    for row in table.select(keys).to_pylist():
        part: dict[str, Stats] = {}
        for key in keys:
            _, feature, name = key.split("/")
            part.setdefault(feature, {})[name] = np.asarray(row[key])
        parts.append(part)
    return parts


# ----------------------------------------------------------------------------------------------
# files


def info_json(
    schema: Mapping[str, dict[str, Any]],
    *,
    fps: int,
    episodes: int,
    frames: int,
    tasks: int,
) -> dict[str, Any]:
    """Return the content of meta/info.json."""
    return {
        "codebase_version": VERSION,
        "robot_type": None,
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": tasks,
        "chunks_size": CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": fps,
        "splits": {"train": f"0:{episodes}"},
        "data_path": DATA_PATH,
        "video_path": None,
        "features": dict(schema),
    }


def stats_json(stats: Mapping[str, Stats]) -> dict[str, Any]:
    """Return the content of meta/stats.json."""
    return {
        key: {name: value.tolist() for name, value in part.items()} for key, part in stats.items()
    }


def to_bytes(content: pa.Table | Mapping[str, Any]) -> bytes:
    """Return a file's bytes: parquet (with page checksums) for a table, JSON for a mapping."""
    if not isinstance(content, pa.Table):
        return json.dumps(content, indent=1).encode()
    sink = io.BytesIO()
    pq.write_table(
        content, sink, compression="snappy", use_dictionary=False, write_page_checksum=True
    )
    return sink.getvalue()


def read_table(
    path: Path, *, columns: list[str] | None = None, sha256: str = "", where: str = ""
) -> pa.Table:
    """Return the table in the parquet file `path`, once its bytes have the stated hash.

    Raises `UserError` that begins with `where` (default: the path) for a file that is missing,
    truncated or altered.
    """
    name = where or str(path)
    try:
        data = read_bytes(path, most=LARGEST, remedy=RESTORE)
        if sha256 and hashlib.sha256(data).hexdigest() != sha256:
            raise UserError(
                f"{name}: the file is corrupt, its sha256 is not what was written; {RESTORE}"
            )
        return pq.read_table(
            pa.BufferReader(data), columns=columns, page_checksum_verification=True
        )
    except Missing as error:
        raise UserError(f"{name}: the file is missing; {RESTORE}") from error
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{name}: the file is corrupt or cannot be read; {RESTORE}") from error
