"""The corpus on disk: shards of images with their questions, rendered by worker processes.

Shard `k` of a split is a function of (seed, split, k) alone, so what is missing is rendered and
what is there is kept. A shard is one safetensors file, images as a tensor and questions as JSON in
its header: whole or not there.
"""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from irevla.errors import UserError
from irevla.pretraining.objects import SCENES
from irevla.pretraining.questions import Question, questions
from irevla.progress import bar
from irevla.storage.disk import writing

POSES = 32  # images of each appearance
TRAIN = "train"  # the splits: no appearance of one is in the other
EXAM = "exam"
VERSION = 2  # of what is rendered and asked: part of the shards' names; raise it when that changes


@dataclass(frozen=True)
class Corpus:
    """Images, and the questions about each."""

    images: UInt8[Tensor, "N H W 3"]
    questions: Sequence[Sequence[Question]]

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class RenderSettings:
    """How a corpus is rendered."""

    image_size: int  # side of the square image, pixels
    seed: int
    workers: int = 2  # processes
    appearances: int = 16  # in a shard, `POSES` images of each

    @property
    def shard(self) -> int:
        """Images of a shard."""
        return self.appearances * POSES


def corpus(root: Path, settings: RenderSettings, *, split: str, images: int) -> Corpus:
    """Return the first `images` (rounded up to whole shards) of a split.

    They are rendered into `root` where they are missing.

    Raises `UserError` where Meta-World's models or a GL library are missing, or the disk is full.
    """
    count = math.ceil(images / settings.shard)
    shards = [_path(root, split, number) for number in range(count)]
    if not all(path.exists() for path in shards):
        _render_missing(root, settings, split, shards)
    parts = [_load(path) for path in shards]
    return Corpus(
        images=torch.cat([part.images for part in parts]),
        questions=[asked for part in parts for asked in part.questions],
    )


def render_shard(path: Path, settings: RenderSettings, *, split: str, number: int) -> None:
    """Render one shard and write it, wholly or not at all."""
    from irevla.pretraining.scenes import load_scene

    rng = np.random.default_rng([VERSION, settings.seed, int(split == EXAM), number])
    weights = np.array([2.0 if scene.skills else 1.0 for scene in SCENES])
    images = []
    asked = []
    for _ in range(settings.appearances):
        file = SCENES[rng.choice(len(SCENES), p=weights / weights.sum())]
        scene = load_scene(file.name)
        scene.dress(rng)
        for _ in range(POSES):
            facts = scene.pose(rng)
            images.append(scene.image(settings.image_size))
            asked.append([[q.family, q.text, q.answer] for q in questions(facts, rng)])
    tensors = {"images": torch.from_numpy(np.stack(images))}
    with writing(path) as aside:
        save_file(tensors, aside, metadata={"questions": json.dumps(asked)})


def _path(root: Path, split: str, number: int) -> Path:
    return root / f"{split}-v{VERSION}-{number:05d}.safetensors"


def _load(path: Path) -> Corpus:
    try:
        with safe_open(path, "pt") as file:
            rows = json.loads(file.metadata()["questions"])
            images = file.get_tensor("images")
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{path} is damaged ({error}); delete it, and the same command renders it again"
        ) from error
    return Corpus(images, [[Question(*question) for question in row] for row in rows])


def _render_missing(
    root: Path, settings: RenderSettings, split: str, shards: Sequence[Path]
) -> None:
    """Render the shards that are missing.

    Workers are fresh interpreters, each with one thread and one GL context; they share the shards
    by number.
    """
    from irevla.envs.render import check_gl
    from irevla.pretraining.scenes import models_folder

    check_gl()
    models_folder()
    _make_folder(root)
    order = {"root": str(root), "settings": asdict(settings), "split": split, "shards": len(shards)}
    processes = [_worker({**order, "first": first}) for first in range(settings.workers)]
    try:
        with bar(f"Corpus ({split}, shards of {settings.shard} images)", len(shards)) as advance:
            while any(process.poll() is None for process in processes):
                advance(sum(path.exists() for path in shards), "")
                time.sleep(0.2)
    finally:
        for process in processes:
            process.terminate()
            process.wait()
    if any(process.returncode for process in processes):
        raise UserError(f"a worker could not render its share of {root}: see its message above")


def _worker(order: Mapping[str, Any]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "irevla.pretraining.corpus", json.dumps(order)]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})


def _make_folder(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write to {root}: {error.strerror}; choose another --out"
        ) from error


def _work(root: str, settings: Mapping[str, int], split: str, shards: int, first: int) -> None:
    """Do what one worker does: render every so many shards, from `first` on, that are not there."""
    chosen = RenderSettings(**settings)
    for number in range(first, shards, chosen.workers):
        path = _path(Path(root), split, number)
        if not path.exists():
            render_shard(path, chosen, split=split, number=number)


if __name__ == "__main__":
    _work(**json.loads(sys.argv[1]))
