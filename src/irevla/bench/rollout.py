"""What rendering and stepping cost: decisions/s of collecting PPO's data, ours against the stock
Meta-World environment.

Both sides are the same loop: the same workers, policy, task and physics. Only the image differs:
ours is rendered by the light model, theirs by Meta-World's own `render_mode="rgb_array"` with its
stock camera and scene settings.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from jaxtyping import UInt8

from irevla.compute.device import threads
from irevla.config import EnvConfig, ModelConfig
from irevla.envs.metaworld.env import MetaWorldEnv
from irevla.envs.metaworld.suite import METAWORLD
from irevla.envs.suite import Suite, load_suite
from irevla.envs.vector import VectorEnv
from irevla.models.heads import CriticHead
from irevla.models.policy import build_policy
from irevla.rollout.actors import GaussianActor
from irevla.rollout.batches import Collector, RolloutRecorder
from irevla.rollout.episodes import endless_jobs
from irevla.rollout.exploration import PinkNoise
from irevla.rollout.serve import Server

TASK = "window-close"
STOCK_SUITE = "irevla.bench.rollout:STOCK"


class StockEnv(MetaWorldEnv):
    """The same task, rendered as Meta-World renders by itself."""

    def __init__(self, task: str, config: EnvConfig) -> None:
        super().__init__(task, config)
        from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

        self._stock = MujocoRenderer(
            self._inner.model,
            self._inner.data,
            width=config.image_size,
            height=config.image_size,
            camera_name="corner2",
        )

    def picture(self, size: int) -> UInt8[np.ndarray, "size size 3"]:
        """Return what `render_mode="rgb_array"` gives."""
        self._inner.take()
        image = self._stock.render("rgb_array")
        assert isinstance(image, np.ndarray) and image.shape == (size, size, 3)
        return image

    def close(self) -> None:
        """Free the GL context."""
        self._stock.close()  # type: ignore[no-untyped-call]


def _make(task: str, config: EnvConfig) -> gym.Env[Any, Any]:
    return StockEnv(task, config)


def _render_settings(config: EnvConfig) -> Mapping[str, Any]:
    """Return ours, but for the rendering: the physics is the same."""
    return {**METAWORLD.render_settings(config), "drawing": "stock"}


STOCK = replace(METAWORLD, name="metaworld-stock", make=_make, render_settings=_render_settings)
"""The suite of stock environments, for `load_suite`."""


def run(*, seconds: float = 20.0, batch: int = 0) -> dict[str, Any]:
    """Collect for `seconds` on each side, after a short warm-up, with `batch` environments in each
    worker (0: as many as by default).

    "ratio" is ours over theirs, in decisions/s.
    """
    config = EnvConfig()
    config = replace(config, envs_per_worker=batch or config.envs_per_worker)
    with threads(1):  # the other cores are the workers'
        ours = _measure(load_suite("metaworld"), config, seconds=seconds, steps=32)
        # slow: short rollouts, so as to stop in time
        theirs = _measure(load_suite(STOCK_SUITE), config, seconds=seconds, steps=2)
    settings = {
        "task": TASK,
        "workers": config.workers,
        "environments": config.workers * config.envs_per_worker,
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


def _measure(suite: Suite, config: EnvConfig, *, seconds: float, steps: int) -> dict[str, float]:
    torch.manual_seed(0)
    policy = build_policy(
        ModelConfig(), action_dim=suite.action_dim, image_size=config.image_size
    ).eval()
    critic = CriticHead(
        width=policy.vlm.width, groups=policy.config.head_groups, hidden=policy.config.head_hidden
    )
    actor = GaussianActor(policy, PinkNoise(0, decisions=config.horizon))
    decisions = 0
    env_seconds = 0.0
    encode_seconds = 0.0
    with VectorEnv(suite, config, endless_jobs(TASK, 0)) as vec:
        collector = Collector(Server(vec, actor, RolloutRecorder(vec)))
        collector.collect(critic, 1)
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            _, stats = collector.collect(critic, steps)
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
