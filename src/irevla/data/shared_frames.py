"""The frames of D_e and D_RL in a share: the images of an episode a file, by its sha256.

So what is there already never travels again, whichever run or stage brought it.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from irevla.data.episodes import Frames
from irevla.data.frame_cache import cached
from irevla.storage.disk import cache_dir
from irevla.storage.mapped import mapped
from irevla.storage.read import shaped
from irevla.storage.share import Share

FOLDER = "episodes"
LARGEST = 1 << 44  # bytes of images: no store has as many


def put_frames(share: Share, frames: Frames) -> dict[str, Any]:
    """Bring what `share` lacks of `frames` there; return what they are, as JSON says it."""
    there = share.sizes(FOLDER)

    def put(array: np.ndarray) -> str:
        content = np.ascontiguousarray(array).tobytes()
        name = hashlib.sha256(content).hexdigest()
        if there.get(name) != len(content):
            share.put(FOLDER, content)
        return name

    told = frames.state.shape[1]
    state = {"state_dim": told, "state": put(frames.state.astype("<f4"))} if told else {}
    episodes = []
    for first, last in _stretches(frames):
        numbers = frames.instruction[first], frames.task[first], frames.episode[first]
        name = put(frames.images[first:last])
        episodes.append([name, last - first, *map(int, numbers)])
    return {
        "image_shape": list(frames.images.shape[1:]),
        "action_dim": frames.actions.shape[1],
        "actions": put(frames.actions.astype("<f4")),
        **state,
        "instructions": list(frames.instructions),
        "tasks": list(frames.tasks),
        "episodes": episodes,
    }


def get_frames(share: Share, reference: Mapping[str, Any], *, keep: bool) -> Frames:
    """Return the frames that `put_frames` described as `reference`.

    `keep`: the images stay where the next job on this machine finds them. Raises `UserError` where
    a file is damaged, or the reference is none.
    """
    with shaped("what a job says of its episodes"):
        names, *columns = zip(*reference["episodes"], strict=True)
        lengths, instruction, task, episode = (np.array(each, np.int64) for each in columns)
        instructions = tuple(map(str, reference["instructions"]))
        tasks = tuple(map(str, reference["tasks"]))
        shape = (int(lengths.sum()), *map(int, reference["image_shape"]))
        _check(shape, lengths, (instruction, len(instructions)), (task, len(tasks)))
        actions = _numbers(share, reference["actions"], shape[0], int(reference["action_dim"]))
        state = np.zeros((shape[0], 0), np.float32)
        if "state" in reference:
            state = _numbers(share, reference["state"], shape[0], int(reference["state_dim"]))

    fetch = share.get if keep else share.get_once

    def fill(images: np.ndarray) -> None:
        ends = np.cumsum(lengths)
        for name, length, end in zip(names, lengths, ends, strict=True):
            of_one = images[end - length : end]
            content = fetch(FOLDER, str(name), most=of_one.nbytes)
            of_one[:] = np.frombuffer(content, np.uint8).reshape(of_one.shape)

    if keep:
        images = cached(hashlib.sha256(json.dumps(reference).encode()).hexdigest(), shape, fill)
    else:
        images = mapped(shape, beside=cache_dir("frames"))
        fill(images)
    return Frames(
        images=images,
        actions=actions,
        state=state,
        instruction=np.repeat(instruction, lengths),
        task=np.repeat(task, lengths),
        episode=np.repeat(episode, lengths),
        instructions=instructions,
        tasks=tasks,
    )


def _numbers(share: Share, name: str, rows: int, columns: int) -> np.ndarray:
    """Return `rows` vectors of `columns` numbers."""
    content = share.get(FOLDER, name, most=min(4 * rows * columns, LARGEST))
    return np.frombuffer(content, "<f4").astype(np.float32).reshape(rows, columns)


def _stretches(frames: Frames) -> Iterator[tuple[int, int]]:
    """Yield where each episode begins and ends: its frames lie next to each other."""
    borders = np.flatnonzero(np.diff(frames.episode, prepend=-1, append=-1)).tolist()
    yield from pairwise(borders)


def _check(shape: tuple[int, ...], lengths: np.ndarray, *indices: tuple[np.ndarray, int]) -> None:
    """Raise `ValueError` where the numbers of a reference do not fit each other."""
    if len(shape) != 4 or min(*shape, *lengths) < 1 or shape[3] != 3 or prod(shape) > LARGEST:
        raise ValueError(f"images of shape {shape}")
    if any(index.min() < 0 or index.max() >= known for index, known in indices):
        raise ValueError("an episode of a task that it does not list")
