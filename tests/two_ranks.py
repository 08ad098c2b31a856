"""A few supervised steps on made-up frames, in one process or as one of several."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from irevla.compute.ranks import ALONE, Ranks, joined
from irevla.config import AugmentConfig, MixtureConfig, ModelConfig, SFTConfig
from irevla.data.episodes import Frames
from irevla.data.mixture import Mixture
from irevla.learners.sft import SFT
from irevla.models.policy import build_policy
from irevla.stages.fit import fit
from irevla.storage.checkpoint import save

CONFIG = SFTConfig(  # five samples cannot be shared out evenly
    steps=4, batch=5, warmup=1, validate_every=2, augment=AugmentConfig(words=0.5)
)
MODEL = ModelConfig(
    vlm="tiny-random", width=16, layers=1, head_groups=4, head_hidden=8, dtype="float32"
)
NO_GRADIENT = "qkv.bias"
"""Of these the keys' third has a gradient of exactly zero: softmax does not see it. Adam makes
steps of the rounding errors that it comes out as."""


def frames(seed: int, episodes: int = 30) -> Frames:
    """Images of noise, and actions that depend on them."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (4 * episodes, 16, 16, 3), dtype=np.uint8)
    actions = np.stack([images[:, 0, 0, 0], images[:, 0, 0, 1]], 1).astype(np.float32) / 127.5 - 1
    episode = np.repeat(np.arange(episodes), 4)
    texts = ("go to the red disc", "go to the disc")
    return Frames(images, actions, episode % 2, episode % 2, episode, texts, ("red", "disc"))


def learnt(ranks: Ranks = ALONE) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """The points of the curves, and the weights."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    policy = build_policy(MODEL, action_dim=2, image_size=16)
    learner = SFT(policy, CONFIG, parts="all", seed=3, words=("wug", "dax"), ranks=ranks)
    mixture = Mixture(frames(0), frames(1), MixtureConfig(validation=0.2), seed=3)
    points: list[dict[str, float]] = []

    def point(metrics: Any, validated: bool) -> None:
        points.append(dict(metrics))

    fit(learner, mixture, point=point, advance=lambda done, note: None)
    return points, {name: value.clone() for name, value in policy.state_dict().items()}


def differences(some: dict[str, Tensor], others: dict[str, Tensor]) -> float:
    """The largest difference between two policies' weights that anything depends on."""
    assert some.keys() == others.keys()
    compared = [name for name in some if not name.endswith(NO_GRADIENT)]
    return max(float((some[name] - others[name]).abs().max()) for name in compared)


LOOPBACK = (
    "0100007F",  # 127.0.0.1, as /proc/net/tcp has it; in tcp6 the same, and ::1
    "0000000000000000FFFF00000100007F",
    "00000000000000000000000001000000",
)


def listening() -> list[str]:
    """Return where this process and torchrun listen, but for loopback."""
    folders = [Path(f"/proc/{process}/fd") for process in (os.getpid(), os.getppid())]
    mine = {
        str(each.readlink()) for folder in folders for each in folder.iterdir() if each.is_symlink()
    }
    found = []
    for table in ("tcp", "tcp6"):
        rows = [line.split() for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
        waits = [row for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in mine]
        found += [row[1] for row in waits if not row[1].startswith(LOOPBACK)]
    return found


def run(arguments: list[str]) -> None:
    with joined("cpu") as (ranks, _):
        assert ranks.size == 2
        heard = listening()
        assert not heard, f"the network can reach {heard}"
        points, weights = learnt(ranks)
        files = {"model.safetensors": weights, "points.json": points}
        save(Path(arguments[0]) / str(ranks.rank), files)


if __name__ == "__main__":
    run(sys.argv[1:])
