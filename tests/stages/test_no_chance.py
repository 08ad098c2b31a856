"""Dropout is on in supervised learning's own steps and nowhere else: latents are kept, and what is
measured must not depend on chance."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from irevla.algorithm import run_algorithm
from irevla.config import (
    METHODS,
    AugmentConfig,
    Config,
    EnvConfig,
    EvalConfig,
    ExpertConfig,
    HarvestConfig,
    ModelConfig,
    PPOConfig,
    SACConfig,
    SFTConfig,
)
from irevla.data.mixture import Batch
from irevla.learners.sft import SFT
from irevla.models.policy import VLAPolicy
from irevla.runs.run import open_run
from irevla.storage.metrics import Metrics
from irevla.types import Features, Observation

SUPERVISED = SFTConfig(
    steps=4, batch=8, validate_every=2, warmup=1, augment=AugmentConfig(shift=0, colour=0.0)
)
CONFIG = Config(
    suite="pointmass",
    threads=1,
    expert_tasks=("left-disc",),
    rl_tasks=("left-disc-new",),
    env=EnvConfig(image_size=32, horizon=6, workers=1, envs_per_worker=4),
    expert=ExpertConfig(episodes=4),
    model=ModelConfig(vlm="tiny-random", width=32, layers=1, head_groups=4, head_hidden=16),
    sft=SUPERVISED,
    ppo=PPOConfig(steps=128, rollout=16, minibatch=32, warmup=1, checkpoint_every=1),
    sac=SACConfig(steps=60, demonstrations=1, attempts=300, gripper=False, batch=8, critics=2),
    harvest=HarvestConfig(episodes=1, attempts=8),
    sl=SUPERVISED,
    eval=EvalConfig(episodes=1, interim=1, videos=False),
)


class Watch:
    """Counts images that were encoded with every module at rest, and in steps of learning."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.at_rest = 0
        self.learning = 0
        self._in_step = False
        loss, encode, mean = SFT._loss, VLAPolicy.encode, VLAPolicy.mean

        def watched_loss(learner: SFT, batch: Batch, predict: Any) -> Any:
            self._in_step = learner.policy.training  # validation is no step
            try:
                return loss(learner, batch, predict)
            finally:
                self._in_step = False

        def watched_encode(policy: VLAPolicy, observation: Observation) -> Features:
            self._look(policy, len(observation))
            return encode(policy, observation)

        def watched_mean(policy: VLAPolicy, features: Features) -> Any:
            self._look(policy, 0)
            return mean(policy, features)

        patch.setattr(SFT, "_loss", watched_loss)
        patch.setattr(VLAPolicy, "encode", watched_encode)
        patch.setattr(VLAPolicy, "mean", watched_mean)

    def _look(self, policy: VLAPolicy, images: int) -> None:
        training = {module.training for module in policy.modules()}
        assert training == {self._in_step}
        self.learning += images * self._in_step
        self.at_rest += images * (not self._in_step)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    yield Watch(monkeypatch)


def play(directory: Path, config: Config) -> None:
    with open_run(directory, config) as run:
        run_algorithm(run)


def stops_at(patch: pytest.MonkeyPatch, stage: str, row: int) -> None:
    """Stop the run when the `row`th point of a stage's curve is logged."""
    log, seen = Metrics.log, [0]

    def stopping(self: Metrics, name: str, step: int, **metrics: float) -> None:
        seen[0] += name == stage
        if name == stage and seen[0] == row:
            raise KeyboardInterrupt
        log(self, name, step, **metrics)

    patch.setattr(Metrics, "log", stopping)


@pytest.mark.parametrize("method", ["irevla", "scratch"])
def test_stopped_in_every_stage_and_resumed(method: str, watch: Watch, tmp_path: Path) -> None:
    config = replace(CONFIG, method=method)
    row = METHODS[method]
    curves = ["sft"] * row.sft
    for task in config.rl_tasks:
        curves += [f"rl:{task}"] * (row.rl != "none") + [f"sl:{task}"] * (row.sl != "none")
    for curve in curves:
        with pytest.MonkeyPatch.context() as patch:
            stops_at(patch, curve, row=2)
            with pytest.raises(KeyboardInterrupt):
                play(tmp_path, config)
    play(tmp_path, config)
    assert watch.at_rest > 50
    assert bool(watch.learning) == row.sft


def test_by_sac_too(watch: Watch, tmp_path: Path) -> None:
    config = replace(CONFIG, rl="sac")
    config = replace(config, sft=replace(SUPERVISED, steps=120, validate_every=60))
    config = replace(config, env=replace(config.env, horizon=12))
    for curve in ("sft", "rl:left-disc-new", "sl:left-disc-new"):
        with pytest.MonkeyPatch.context() as patch:
            stops_at(patch, curve, row=2)
            with pytest.raises(KeyboardInterrupt):
                play(tmp_path, config)
    play(tmp_path, config)
    assert watch.at_rest > 50 and watch.learning > 0
