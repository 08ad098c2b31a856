"""The images of a recorded camera, decoded: PNG and JPEG in data files, or videos."""

import io
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import UInt8
from PIL import Image

from irevla.data.dataset import Dataset, RecordedEpisode
from irevla.data.dataset_files import REMEDY, Camera, check_column
from irevla.errors import UserError, unknown
from irevla.images import square
from irevla.storage.read import shaped

TOGETHER = 64  # images of a data file that are read at once
LARGEST = 8192  # pixels of a side: a small file can unpack to more than any memory
FORMATS = ("PNG", "JPEG")
BROKEN = (OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, struct.error)

Places = dict[int, list[int]]
"""Number of a frame in its file -> places of its image among those that are wanted."""

Unpack = Callable[[], UInt8[np.ndarray, "H W 3"]]
Frame = tuple[int, Unpack]
"""A frame's number in its file, and what unpacks its image: those that nobody wants are not."""


def find_camera(dataset: Dataset, name: str) -> Camera:
    """Return the camera called `name`, by its key or the last part of it; "": the only one.

    Raises `UserError` where there is none of that name, or a choice without a name.
    """
    cameras = dataset.info.cameras
    every = Counter(camera.name for camera in cameras)
    # Where two keys end alike, the last part says nothing.
    names = [camera.name if every[camera.name] == 1 else camera.key for camera in cameras]
    if not cameras:
        raise UserError(f"dataset {dataset.root} has no images; name one with a camera")
    if name:
        for camera, short in zip(cameras, names, strict=True):
            if name in (camera.key, short):
                return camera
        if name in every:
            alike = " or ".join(camera.key for camera in cameras if camera.name == name)
            raise UserError(f"dataset {dataset.root} has several cameras {name!r}: say {alike}")
        raise unknown(f"camera of {dataset.root}", name, names)
    if len(cameras) > 1:
        raise UserError(
            f"dataset {dataset.root} has {len(cameras)} cameras, and the policy sees one: choose "
            f"--expert.camera {' or '.join(names)}, or let it see several with --env.cameras"
        )
    return cameras[0]


def check_images(dataset: Dataset, camera: Camera) -> None:
    """Raise `UserError` where a file is missing or broken that has images; none is decoded."""
    if camera.kind == "image":
        for path in dict.fromkeys(episode.data for episode in dataset.episodes):
            check_column(path, camera.key)
        return
    try:
        import av  # noqa: F401  # an extra
    except ModuleNotFoundError as error:
        raise UserError(
            f"{dataset.root} has videos, which need PyAV: pip install 'irevla[report]'"
        ) from error
    for path in dict.fromkeys(episode.videos[camera.key].path for episode in dataset.episodes):
        for _ in _video_frames(path):
            break


def decode(
    dataset: Dataset,
    camera: Camera,
    episodes: Sequence[RecordedEpisode],
    stride: int,
    out: UInt8[np.ndarray, "N S S 3"],
    advance: Callable[[int], None],
) -> None:
    """Decode every `stride`-th frame of `episodes`, in their order, into squares.

    `advance` is told how many are done. Raises `UserError` for what is missing or damaged.
    """
    done = 0
    wanted = [(episode, range(0, episode.length, stride)) for episode in episodes]
    for chosen, unpack in _unpackers(dataset, camera, wanted):
        out[chosen] = square(unpack(), out.shape[2])
        done += len(chosen)
        advance(done)


def pick(
    dataset: Dataset, camera: Camera, wanted: Sequence[tuple[RecordedEpisode, Sequence[int]]]
) -> list[UInt8[np.ndarray, "_ _ 3"]]:
    """Return the images of some steps of some episodes, in that order, each in its own size.

    Every file is read once. Raises `UserError` for what is missing or damaged.
    """
    found: dict[int, UInt8[np.ndarray, "_ _ 3"]] = {}
    for chosen, unpack in _unpackers(dataset, camera, wanted):
        found |= dict.fromkeys(chosen, unpack())
    return [found[place] for place in sorted(found)]


def _unpackers(
    dataset: Dataset, camera: Camera, wanted: Sequence[tuple[RecordedEpisode, Sequence[int]]]
) -> Iterator[tuple[list[int], Unpack]]:
    """Yield, file by file, the places of each wanted image and what unpacks it."""
    for path, places in _by_file(dataset, camera, wanted).items():
        frames = _images(path, camera.key) if camera.kind == "image" else _video(dataset, path)
        yield from _wanted(path, frames, places)


def _by_file(
    dataset: Dataset, camera: Camera, wanted: Sequence[tuple[RecordedEpisode, Sequence[int]]]
) -> Mapping[Path, Places]:
    """Return which frames of which files are wanted, and where their images go."""
    firsts: dict[Path, int] = {}  # the first frame of each data file, in the whole dataset
    for episode in dataset.episodes:
        firsts.setdefault(episode.data, episode.start)
    files: dict[Path, Places] = {}
    place = 0
    for episode, steps in wanted:
        path = episode.data
        first = episode.start - firsts[path]
        if camera.kind == "video":
            path = episode.videos[camera.key].path
            first = round(episode.videos[camera.key].start * dataset.info.fps)
        for step in steps:
            files.setdefault(path, {}).setdefault(first + step, []).append(place)
            place += 1
    return files


def _wanted(
    path: Path, frames: Iterable[Frame], places: Places
) -> Iterator[tuple[list[int], Unpack]]:
    """Yield the places of each wanted image and what unpacks it.

    Raises `UserError` where one is not in the file.
    """
    left = dict(places)
    for number, unpack in frames:
        if number in left:
            yield left.pop(number), unpack
        if not left:
            return
    raise UserError(f"{path}: {len(left)} images are missing, first frame {min(left)}; {REMEDY}")


# --- Images in data files


def _images(path: Path, key: str) -> Iterator[Frame]:
    try:
        batches = pq.ParquetFile(path.absolute()).iter_batches(TOGETHER, columns=[key])
        number = 0
        for batch in batches:
            with shaped(path, remedy=REMEDY):
                packed = _packed(batch.column(0))
            for content in packed:
                yield number, _unpacker(content, f"{path}: the image of frame {number}")
                number += 1
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is broken or cannot be read; {REMEDY}") from error


def _packed(column: pa.Array) -> list[bytes | None]:
    """Return a column of images: each by itself, or in a group with its path, as LeRobot has it.

    Raises what `shaped` understands for what is neither.
    """
    found = column.field("bytes") if pa.types.is_struct(column.type) else column
    if not (pa.types.is_binary(found.type) or pa.types.is_large_binary(found.type)):
        raise TypeError(f"images are {found.type}, and must be PNG or JPEG")
    packed: list[bytes | None] = found.to_pylist()
    return packed


def _unpacker(content: bytes | None, where: str) -> Unpack:
    def unpack() -> UInt8[np.ndarray, "H W 3"]:
        if content is None:
            raise UserError(f"{where} is missing; {REMEDY}")
        try:
            opened = Image.open(io.BytesIO(content), formats=FORMATS)
            if max(opened.size) > LARGEST:
                raise UserError(f"{where} is {opened.size}, larger than {LARGEST}; {REMEDY}")
            if opened.mode[0] in "IF":  # 16 bits and more, which would come out white
                raise UserError(f"{where} has more than 8 bits a colour; convert it")
            return np.asarray(opened.convert("RGB"))
        except UserError:
            raise
        # What Pillow raises for a broken file, and for one of a size that would fill the memory.
        except (*BROKEN, Image.DecompressionBombError) as error:
            raise UserError(f"{where} is broken; {REMEDY}") from error

    return unpack


# --- Videos


def _video(dataset: Dataset, path: Path) -> Iterator[Frame]:
    """Yield the frames of a video by their time: numbers count from the time 0."""
    for seconds, image in _video_frames(path):
        yield round(seconds * dataset.info.fps), image


def _video_frames(path: Path) -> Iterator[tuple[float, Unpack]]:
    """Yield the time of each frame, s, and what unpacks its image. Raises `UserError`."""
    import av

    if not path.is_file():
        raise UserError(f"{path} is missing; {REMEDY}")
    try:
        with av.open(str(path.absolute()), metadata_errors="ignore") as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                if max(frame.width, frame.height) > LARGEST:
                    raise UserError(f"{path} is larger than {LARGEST} pixels; {REMEDY}")
                yield frame.time or 0.0, partial(frame.to_ndarray, format="rgb24")
    except (av.FFmpegError, IndexError) as error:  # IndexError: sound alone
        raise UserError(f"{path} is broken or no video; {REMEDY}") from error
