"""Datasets that the real LeRobot 0.6.1 wrote (scripts/record_lerobot.py), ways to spoil them, and
one to write another."""

import io
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from irevla.data.camera import decode
from irevla.data.dataset import Dataset
from irevla.evaluation.video import write_video

RECORDED = Path(__file__).parent / "lerobot"
VIDEOS = RECORDED / "videos"  # 4 episodes at 30 Hz, two cameras; the last one failed
IMAGES = RECORDED / "images"  # the same at 10 Hz, one camera; success is not recorded
FRAMES = (8, 9, 10, 8)  # of each episode
INSTRUCTIONS = {"left": "reach the left disc", "right": "reach the right disc"}
DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
FRONT = "videos/observation.images.front/chunk-000/file-000.mp4"


def copied(source: Path, to: Path) -> Path:
    """A copy that may be spoilt."""
    return Path(shutil.copytree(source, to))


def edit_info(root: Path, **changes: Any) -> None:
    path = root / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_table(path: Path, edit: Callable[[pa.Table], pa.Table]) -> None:
    table = pq.read_table(path, partitioning=None)
    pq.write_table(edit(table), path)


def set_column(path: Path, name: str, values: list[Any]) -> None:
    """Give a column of a parquet file other values of the same type."""

    def changed(table: pa.Table) -> pa.Table:
        place = table.column_names.index(name)
        return table.set_column(place, name, pa.array(values, table[name].type))

    edit_table(path, changed)


def get_column(path: Path, name: str) -> list[Any]:
    return list(pq.read_table(path, partitioning=None)[name].to_pylist())


def set_action(root: Path, frame: int, action: list[float]) -> None:
    actions = get_column(root / DATA, "action")
    actions[frame] = action
    set_column(root / DATA, "action", actions)


def split_data(root: Path, at: int) -> None:
    """Move the frames of episode `at` and those after it to a second data file."""
    table = pq.read_table(root / DATA, partitioning=None)
    first = sum(FRAMES[:at])
    pq.write_table(table.slice(0, first), root / DATA)
    pq.write_table(table.slice(first), root / "data/chunk-000/file-001.parquet")
    set_column(root / EPISODES, "data/file_index", [int(n >= at) for n in range(len(FRAMES))])


def write_second_task(root: Path, instruction: str, first: int) -> None:
    """Give the episodes from number `first` on, of a dataset of `record`, another instruction."""
    numbers = [int(number >= first) for number in get_column(root / DATA, "episode_index")]
    set_column(root / DATA, "task_index", numbers)
    tasks = get_column(root / "meta/tasks.parquet", "task")
    rows = [{"task_index": n, "task": text} for n, text in enumerate([*tasks, instruction])]
    pq.write_table(pa.Table.from_pylist(rows), root / "meta/tasks.parquet")


def shown(episode: int, frame: int) -> tuple[int, int]:
    """Red and green of a frame's image."""
    return 40 * episode, 10 * frame


def all_frames(episodes: tuple[int, ...], stride: int) -> list[tuple[int, int]]:
    """(episode, frame) of every decision."""
    return [(number, frame) for number in episodes for frame in range(0, FRAMES[number], stride)]


def colours(images: np.ndarray) -> np.ndarray:
    """Red and green in the middle of each image."""
    middle = images.shape[1] // 2
    return np.asarray(images[:, middle, middle, :2].astype(int))


def as_v21(source: Path, to: Path, *, chunk: int = 1000) -> Path:
    """Write a dataset anew as LeRobot 0.3 did, v2.1: `chunk` episodes a folder, a file each."""
    dataset = Dataset(source)
    table = pq.read_table(source / DATA, partitioning=None)
    for number, episode in enumerate(dataset.episodes):
        name = f"chunk-{number // chunk:03d}/{{}}episode_{number:06d}"
        path = to / "data" / f"{name.format('')}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.slice(episode.start, episode.length), path)
        for camera in dataset.info.cameras:
            if camera.kind == "video":
                frames = np.zeros((episode.length, 48, 48, 3), np.uint8)
                decode(dataset, camera, [episode], 1, frames, lambda done: None)
                film = to / "videos" / f"{name.format(camera.key + '/')}.mp4"
                write_video(film, frames[:, 8:40], fps=dataset.info.fps)  # 32 x 48 of the square
    instructions = list(dataset.by_instruction)
    episodes = [
        {"episode_index": each.index, "tasks": [each.instruction], "length": each.length}
        for each in dataset.episodes
    ]
    numbers = {
        each.instruction: int(table["task_index"][each.start].as_py()) for each in dataset.episodes
    }
    tasks = [{"task_index": numbers[text], "task": text} for text in instructions]
    (to / "meta").mkdir()
    for file, lines in {"episodes": episodes, "tasks": tasks}.items():
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (to / "meta" / f"{file}.jsonl").write_text(text)
    info = json.loads((source / "meta/info.json").read_text())
    info |= {"codebase_version": "v2.1", "chunks_size": chunk, "total_chunks": 1}
    info["data_path"] = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    video = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    info["video_path"] = video
    (to / "meta/info.json").write_text(json.dumps(info))
    return to


def record(
    root: Path, episodes: Sequence[tuple[np.ndarray, np.ndarray]], *, instruction: str, fps: int
) -> None:
    """Write a dataset of (images, actions), with as little as the format asks for."""
    height, width, _ = episodes[0][0].shape[1:]
    features = {
        "observation.images.front": {"dtype": "image", "shape": [height, width, 3]},
        "action": {"dtype": "float32", "shape": [episodes[0][1].shape[1]]},
    }
    rows: list[dict[str, Any]] = []
    frames: list[dict[str, Any]] = []
    for number, (images, actions) in enumerate(episodes):
        place = {"data/chunk_index": 0, "data/file_index": 0, "dataset_from_index": len(frames)}
        rows.append({"episode_index": number, "length": len(actions), **place})
        for image, action in zip(images, actions, strict=True):
            own = {"index": len(frames), "episode_index": number, "task_index": 0}
            content = {"observation.images.front": _png(image), "action": action.tolist()}
            frames.append({**own, **content})
    info = {"codebase_version": "v3.0", "fps": fps, "total_frames": len(frames)}
    tasks = [{"task_index": 0, "task": instruction}]
    for name, content in {DATA: frames, EPISODES: rows, "meta/tasks.parquet": tasks}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(content), root / name)
    (root / "meta/info.json").write_text(json.dumps({**info, "features": features}))


def _png(image: np.ndarray) -> dict[str, Any]:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}
