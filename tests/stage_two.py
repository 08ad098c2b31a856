"""Stage 2 of a tiny run, computed here or by others."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from irevla.config import (
    AugmentConfig,
    ComputeConfig,
    Config,
    EnvConfig,
    ModelConfig,
    SFTConfig,
)
from irevla.envs.suite import load_suite
from irevla.models.policy import VLAPolicy
from irevla.rollout.demonstrations import open_store
from irevla.runs.run import open_run
from irevla.stages import elsewhere
from irevla.stages.start import new_policy
from irevla.stages.supervised import run_supervised
from irevla.storage.metrics import read_metrics
from irevla.tasks import SFT, Stage
from irevla.types import Episode, Provenance
from trainer_in_float64 import float64

POINTMASS = load_suite("pointmass")
FEW = SFTConfig(steps=8, batch=6, warmup=1, validate_every=2, augment=AugmentConfig(words=0.5))
CONFIG = Config(
    suite="pointmass",
    device="cpu",
    threads=1,
    expert_tasks=("left-disc",),
    rl_tasks=("left-disc-new",),
    env=EnvConfig(image_size=16, horizon=12),
    model=ModelConfig(vlm="tiny-random", width=16, layers=1, head_groups=4, head_hidden=8),
    sft=FEW,
    sl=FEW,
)
STAGE = Stage("sl", "left-disc-new")


class StageTwo:
    """A run whose stage 2 others compute: in this process, one after the other."""

    def __init__(self, root: Path, config: Config = CONFIG) -> None:
        self.root = root
        self.config = config
        self.out = root / "run"
        self.place = root / "share"
        self.calls = 0  # how often trainers were started
        self.steps: list[int] = []  # that were taken, by whomever
        self.killed_at = -1  # before this step a trainer is killed
        self.meanwhile: Callable[[], None] = lambda: None  # done once a trainer has ended
        stores = []
        for name in ("expert", "online"):
            store = open_store(POINTMASS, config.env, root / name, kind=name)
            if not len(store):
                store.extend([episode(seed) for seed in range(6)])
            stores.append(store)
        self.expert, self.online = stores

    @property
    def job(self) -> Path:
        (folder,) = (self.place / "jobs").iterdir()
        return folder

    def learn(self, backend: str = "torchrun", **compute: Any) -> VLAPolicy:
        if backend != "inline":
            compute["share"] = str(self.place)
        config = replace(self.config, compute=ComputeConfig(stage2=backend, **compute))
        with open_run(self.out, config) as run:
            if run.journal.done("begun") is None:
                run.journal.append("begun")  # as a run has, by then
            policy = new_policy(run, POINTMASS, SFT, self.expert)
            stores = {"expert": self.expert, "online": self.online}
            return run_supervised(run, policy, STAGE, "all", suite=POINTMASS, **stores)

    def curves(self) -> list[dict[str, Any]]:
        return [{**row, "time": 0.0} for row in read_metrics(self.out / "metrics.jsonl")]

    def checkpoints(self) -> list[str]:
        root = self.out / "checkpoints"
        return sorted(path.name for path in root.iterdir()) if root.exists() else []


class ExactStageTwo(StageTwo):
    """In float64, here and in all processes: how many there are changes nothing but rounding."""

    def learn(self, backend: str = "torchrun", **compute: Any) -> VLAPolicy:
        with float64(), patch.object(elsewhere, "TRAINER", "trainer_in_float64"):
            return super().learn(backend, **compute)


def assert_same_weights(policy: VLAPolicy, want: VLAPolicy) -> None:
    """But for the rounding of float64, 1e-16, and what Adam makes of it, 5e-13 in 600 steps."""
    found = policy.state_dict()
    for name, value in want.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-11, msg=name)


def episode(seed: int) -> Episode:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (5, 16, 16, 3), generator=generator, dtype=torch.uint8)
    actions = torch.rand(5, 2, generator=generator) * 2 - 1
    made = Provenance("pointmass", "left-disc", seed, "rl", policy="0" * 64)
    rewards = torch.ones(5)
    return Episode(images.numpy(), actions.numpy(), rewards.numpy(), "reach it", True, made)
