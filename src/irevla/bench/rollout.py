"""What drawing and stepping cost: decisions/s of collecting PPO's data, ours against the stock
Meta-World environment.

Both sides are the same loop: the same workers, policy, task and physics. Only the picture differs:
ours is drawn by the light model, theirs by Meta-World's own `render_mode="rgb_array"` with its
stock camera and scene settings.
"""

import time
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from jaxtyping import UInt8

from irevla.config import EnvConfig, ModelConfig
from irevla.envs.metaworld import METAWORLD, MetaWorldEnv
from irevla.envs.vector import VectorEnv
from irevla.models.build import build_policy
from irevla.models.heads import CriticHead
from irevla.rollout import Collector, endless_jobs

TASK = "window-close"
STOCK_SUITE = "irevla.bench.rollout:STOCK"


class StockEnv(MetaWorldEnv):
    """The same task, drawn as Meta-World draws by itself."""

    def __init__(self, task: str, config: EnvConfig) -> None:
        super().__init__(task, config)
        from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

        size, inner = config.image_size, self._inner
        self._stock = MujocoRenderer(
            inner.model, inner.data, width=size, height=size, camera_name="corner2"
        )

    def picture(self, size: int) -> UInt8[np.ndarray, "size size 3"]:
        """What `render_mode="rgb_array"` gives."""
        image = self._stock.render("rgb_array")
        assert isinstance(image, np.ndarray) and image.shape == (size, size, 3)
        return image

    def close(self) -> None:
        """Free the GL context."""
        self._stock.close()  # type: ignore[no-untyped-call]


class Stock:
    """The suite of stock environments, for `load_suite`."""

    name = "metaworld-stock"
    tasks, action_dim, fps = METAWORLD.tasks, METAWORLD.action_dim, METAWORLD.fps

    def make(self, task: str, config: EnvConfig) -> gym.Env[Any, Any]:
        """A new environment of `task`."""
        return StockEnv(task, config)

    def render_settings(self, config: EnvConfig) -> Mapping[str, Any]:
        """Stock drawing; our physics settings."""
        return {**METAWORLD.render_settings(config), "drawing": "stock"}

    def check(self) -> None:
        """As for `metaworld`."""
        METAWORLD.check()


STOCK = Stock()


def run(*, seconds: float = 20.0) -> dict[str, Any]:
    """Collect for `seconds` on each side, after a short warm-up; "ratio" is ours over theirs, in
    decisions/s."""
    torch.set_num_threads(1)  # the other cores are the workers'
    config = EnvConfig()
    ours = _measure("metaworld", config, seconds=seconds, steps=32)
    theirs = _measure(
        STOCK_SUITE, config, seconds=seconds, steps=2
    )  # slow: short rollouts, so as to stop in time
    settings = {
        "task": TASK,
        "workers": config.workers,
        "environments": config.workers * config.envs_per_worker,
    }
    settings |= {
        "image_size": config.image_size,
        "action_repeat": config.action_repeat,
        "seconds": seconds,
    }
    return {
        "ratio": ours["decisions_per_s"] / theirs["decisions_per_s"],
        "ours": ours,
        "stock": theirs,
        "settings": settings,
    }


def _measure(suite: str, config: EnvConfig, *, seconds: float, steps: int) -> dict[str, float]:
    torch.manual_seed(0)
    policy = build_policy(
        ModelConfig(), action_dim=METAWORLD.action_dim, image_size=config.image_size
    ).eval()
    critic = CriticHead(
        width=policy.vlm.width, groups=policy.config.head_groups, hidden=policy.config.head_hidden
    )
    decisions, env_seconds, encode_seconds = 0, 0.0, 0.0
    with VectorEnv(suite, config, endless_jobs(TASK, 0)) as vec:
        collector = Collector(vec, generator=torch.Generator().manual_seed(0))
        collector.collect(policy, critic, 1)
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            _, stats = collector.collect(policy, critic, steps)
            decisions += stats.decisions
            env_seconds += stats.env_seconds
            encode_seconds += stats.encode_seconds
        elapsed = time.perf_counter() - start
    return {
        "decisions_per_s": decisions / elapsed,
        "decisions": decisions,
        "waiting_share": env_seconds / elapsed,
        "encoding_share": encode_seconds / elapsed,
    }
