"""What LeRobotDataset v2.0 and v2.1 have in other places than v3: JSON lines, a file an episode.

meta/episodes.jsonl, meta/tasks.jsonl, data/chunk-000/episode_000000.parquet and
videos/chunk-000/CAMERA/episode_000000.mp4, each video from its episode's first frame on.
"""

from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

from irevla.data.dataset_files import REMEDY, Info, Layout, Row, VideoPlace, once, whole
from irevla.data.lerobot import INFO_PATH
from irevla.storage.read import mapping, parse_json, read_bytes, shaped

EPISODES, TASKS = "meta/episodes.jsonl", "meta/tasks.jsonl"


def read_rows(root: Path, info: Info) -> list[Row]:
    """Return what meta/episodes.jsonl says of each episode. Raises `UserError`."""
    path = root / EPISODES
    found = _read_lines(path)
    with shaped(path, remedy=REMEDY):
        lengths = {
            whole(each["episode_index"], "episode_index"): whole(each["length"], "length")
            for each in found
        }
        if len(lengths) < len(found):
            raise ValueError("an episode is told twice")
    numbers = sorted(lengths)
    starts = accumulate((lengths[number] for number in numbers), initial=0)
    return [
        _row(root, info, number, start=start, length=lengths[number])
        for number, start in zip(numbers, starts, strict=False)
    ]


def _row(root: Path, info: Info, number: int, *, start: int, length: int) -> Row:
    numbers = {"episode_chunk": number // info.chunk, "episode_index": number}
    videos = [camera.key for camera in info.cameras if camera.kind == "video"]
    files = {key: info.paths.video.format(video_key=key, **numbers) for key in videos}
    return Row(
        index=number,
        start=start,
        length=length,
        data=root / info.paths.data.format(**numbers),
        videos={key: VideoPlace(root / file, 0.0) for key, file in files.items()},
    )


def read_instructions(root: Path) -> dict[int, str]:
    """Return the instruction of each task_index. Raises `UserError`."""
    path = root / TASKS
    found = _read_lines(path)
    with shaped(path, remedy=REMEDY):
        return once(
            (whole(each["task_index"], "task_index"), _text(each["task"])) for each in found
        )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a task is {value!r}, and no text")
    return value


def settings_files(root: Path) -> list[Path]:
    """Return the files of meta/ that say what the dataset is."""
    return [root / INFO_PATH, root / TASKS, root / EPISODES]


def _read_lines(path: Path) -> list[Mapping[str, Any]]:
    lines = read_bytes(path, remedy=REMEDY).splitlines()
    found = [
        parse_json(line, f"{path}, line {number}", remedy=REMEDY)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    with shaped(path, remedy=REMEDY):
        return [mapping(each, "a line") for each in found]


V2 = Layout(read_rows, read_instructions, settings_files)
