"""The corpus on disk: shards of pictures with their questions, drawn by worker processes.

Shard `k` of a split is a function of (seed, split, k) alone, so what is missing is drawn and what
is there is kept. A shard is one safetensors file, pictures as a tensor and questions as JSON in its
header: whole or not there.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from irevla.errors import UserError
from irevla.pretraining.props import SCENES
from irevla.pretraining.questions import Question, questions
from irevla.runs.progress import bar

POSES = 32  # pictures of each appearance
TRAIN, EXAM = "train", "exam"  # splits; no appearance of one is in the other
VERSION = 2  # of what is drawn and asked: part of the shards' names; raise it when that changes


@dataclass(frozen=True)
class Corpus:
    """Pictures, and the questions about each."""

    images: UInt8[Tensor, "N H W 3"]
    questions: Sequence[Sequence[Question]]

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Drawing:
    """How a corpus is drawn."""

    image_size: int  # side of the square picture, pixels
    seed: int
    workers: int = 2  # processes
    appearances: int = 16  # in a shard, `POSES` pictures of each

    @property
    def shard(self) -> int:
        """Pictures of a shard."""
        return self.appearances * POSES


def corpus(root: Path, drawing: Drawing, *, split: str, pictures: int) -> Corpus:
    """The first `pictures` (rounded up to whole shards) of a split, drawn into `root` where they
    are missing.

    Raises `UserError` where Meta-World's models or a GL library are missing, or the disk is full.
    """
    shards = [_path(root, split, number) for number in range(-(-pictures // drawing.shard))]
    if not all(path.exists() for path in shards):
        _draw_missing(root, drawing, split, shards)
    parts = [_load(path) for path in shards]
    return Corpus(
        torch.cat([images for images, _ in parts]), [row for _, rows in parts for row in rows]
    )


def draw_shard(path: Path, drawing: Drawing, *, split: str, number: int) -> None:
    """Draw one shard and write it, wholly or not at all."""
    from irevla.pretraining.scenes import stage

    rng = np.random.default_rng([VERSION, drawing.seed, int(split == EXAM), number])
    weights = np.array([2.0 if scene.skills else 1.0 for scene in SCENES])
    images, asked = [], []
    for _ in range(drawing.appearances):
        scene = stage(SCENES[rng.choice(len(SCENES), p=weights / weights.sum())].name)
        scene.dress(rng)
        for _ in range(POSES):
            facts = scene.pose(rng)
            images.append(scene.picture(drawing.image_size))
            asked.append([[q.family, q.text, q.answer] for q in questions(facts, rng)])
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(
        {"images": torch.from_numpy(np.stack(images))},
        aside,
        metadata={"questions": json.dumps(asked)},
    )
    aside.replace(path)


def _path(root: Path, split: str, number: int) -> Path:
    return root / f"{split}-v{VERSION}-{number:05d}.safetensors"


def _load(path: Path) -> tuple[Tensor, list[list[Question]]]:
    try:
        with safe_open(path, "pt") as file:
            rows = json.loads(file.metadata()["questions"])
            return file.get_tensor("images"), [
                [Question(*question) for question in row] for row in rows
            ]
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{path} is damaged ({error}); delete it, and the same command draws it again"
        ) from error


def _draw_missing(root: Path, drawing: Drawing, split: str, shards: Sequence[Path]) -> None:
    """Workers are fresh interpreters, each with one thread and one GL context; they share the
    shards by number."""
    from irevla.envs.render import check_gl
    from irevla.pretraining.scenes import models_folder

    check_gl()
    models_folder()
    _make_folder(root)
    order = {"root": str(root), "drawing": asdict(drawing), "split": split, "shards": len(shards)}
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "irevla.pretraining.corpus",
                json.dumps({**order, "first": first}),
            ],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for first in range(drawing.workers)
    ]
    try:
        with bar(f"Corpus ({split}, shards of {drawing.shard} pictures)", len(shards)) as advance:
            while any(process.poll() is None for process in processes):
                advance(sum(path.exists() for path in shards), "")
                time.sleep(0.2)
    finally:
        for process in processes:
            process.terminate()
            process.wait()
    if any(process.returncode for process in processes):
        raise UserError(f"a worker could not draw its share of {root}: see its message above")


def _make_folder(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write to {root}: {error.strerror}; choose another --out"
        ) from error


def _work(root: str, drawing: Mapping[str, int], split: str, shards: int, first: int) -> None:
    """What one worker does: every so many shards, from `first` on, that are not there."""
    settings = Drawing(**drawing)
    for number in range(first, shards, settings.workers):
        path = _path(Path(root), split, number)
        if not path.exists():
            draw_shard(path, settings, split=split, number=number)


if __name__ == "__main__":
    _work(**json.loads(sys.argv[1]))
