"""Stages 0 and 2 on the toy suite: resumed, logged, kept."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from irevla.config import (
    AugmentConfig,
    Config,
    EnvConfig,
    ExpertConfig,
    MixtureConfig,
    ModelConfig,
    SFTConfig,
)
from irevla.data.episodes import EpisodeStore, Frames
from irevla.data.mixture import Batch
from irevla.envs.suite import load_suite
from irevla.errors import UserError
from irevla.learners.sft import SFT as Learner
from irevla.models.policy import VLAPolicy
from irevla.rollout.demonstrations import collect_expert
from irevla.runs.run import Run, open_run
from irevla.stages.start import new_policy
from irevla.stages.supervised import run_supervised
from irevla.storage.metrics import read_metrics
from irevla.tasks import SFT, Stage
from irevla.types import Observation

POINTMASS = load_suite("pointmass")
SUPERVISED = SFTConfig(
    steps=60, batch=16, warmup=5, validate_every=20, augment=AugmentConfig(shift=1)
)
CONFIG = Config(
    suite="pointmass",
    threads=1,
    expert_tasks=("left-disc", "right-disc"),
    env=EnvConfig(image_size=32, horizon=25, workers=1, envs_per_worker=4),
    model=ModelConfig(vlm="tiny-random", width=32, layers=1, head_groups=4, head_hidden=16),
    sft=SUPERVISED,
    sl=SUPERVISED,
    mixture=MixtureConfig(validation=0.2),
)


@pytest.fixture(scope="module")
def expert(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return collect_expert(
        POINTMASS,
        CONFIG.expert_tasks,
        ExpertConfig(episodes=5),
        env=CONFIG.env,
        seed=0,
        root=tmp_path_factory.mktemp("expert") / "expert",
    )


def learn(
    directory: Path, expert: EpisodeStore, stage: Stage = SFT, config: Config = CONFIG
) -> VLAPolicy:
    with open_run(directory, config) as run:
        run.journal.append("begun")  # as a run has, by then
        policy = new_policy(run, POINTMASS, SFT)
        return run_supervised(run, policy, stage, "all", suite=POINTMASS, expert=expert)


@contextmanager
def watched(update: Callable[[Learner, Batch], None]) -> Iterator[None]:
    """Call `update` before each step of any learner."""
    with pytest.MonkeyPatch.context() as patch:
        original = Learner.update

        def watching(self: Learner, batch: Batch) -> dict[str, float]:
            update(self, batch)
            return original(self, batch)

        patch.setattr(Learner, "update", watching)
        yield


class Crash(Exception):
    pass


@pytest.mark.parametrize("crash", [5, 20, 33, 59])
def test_interrupted_anywhere_it_ends_with_the_same_bits(
    expert: EpisodeStore, tmp_path: Path, crash: int
) -> None:
    want = learn(tmp_path / "whole", expert)

    def fail(learner: Learner, batch: Batch) -> None:
        if learner.updates == crash:
            raise Crash

    with watched(fail), pytest.raises(Crash):
        learn(tmp_path / "halves", expert)
    torch.rand(17)  # whatever torch's own generator did in between
    begun: list[int] = []
    with watched(lambda learner, batch: begun.append(learner.updates)):
        got = learn(tmp_path / "halves", expert)
    assert begun[0] == crash // 20 * 20
    assert got.hash() == want.hash()
    curves = [
        [{**row, "time": 0.0} for row in read_metrics(tmp_path / name / "metrics.jsonl")]
        for name in ("whole", "halves")
    ]
    assert curves[0] == curves[1]


def test_points_are_logged_and_held_out_episodes_looked_at(
    expert: EpisodeStore, tmp_path: Path
) -> None:
    learn(tmp_path, expert)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [20, 40, 50, 60]
    assert [row["step"] for row in rows if "validation" in row] == [20, 40, 60]
    assert all({"loss", "lr", "grad_norm"} <= row.keys() for row in rows)
    assert rows[-1]["validation"] == pytest.approx(rows[-1]["validation_expert"])


def test_checkpoints_are_made_where_it_validates_and_the_last_weights_are_kept(
    expert: EpisodeStore, tmp_path: Path
) -> None:
    saved: list[str] = []

    def look(learner: Learner, batch: Batch) -> None:
        root = tmp_path / "checkpoints"
        names = sorted(path.name for path in root.iterdir()) if root.exists() else []
        saved.append(" ".join(names))

    with watched(look):
        policy = learn(tmp_path, expert)
    changes = [
        names for names, before in zip(saved[1:], saved[:-1], strict=True) if names != before
    ]
    assert changes == ["sft-000020", "sft-000020 sft-000040"]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["sft"]
    kept = VLAPolicy.from_pretrained(tmp_path / "checkpoints" / "sft")
    assert kept.hash() == policy.hash()
    assert not policy.training


def test_a_stage_that_is_done_is_not_repeated(expert: EpisodeStore, tmp_path: Path) -> None:
    policy = learn(tmp_path, expert)
    with watched(lambda learner, batch: pytest.fail("a step was made")):
        again = learn(tmp_path, expert)
    assert again.hash() == policy.hash()


def test_where_no_gradient_is_finite_it_says_so(
    expert: EpisodeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = expert.read()
    frames = replace(frames, actions=np.full_like(frames.actions, np.nan))

    def read(self: EpisodeStore) -> Frames:
        return frames

    monkeypatch.setattr(EpisodeStore, "read", read)
    with pytest.raises(UserError, match="no gradient was finite"):
        learn(tmp_path, expert, config=replace(CONFIG, sft=replace(SUPERVISED, steps=3)))


def test_where_every_gradient_is_exactly_zero_it_says_so(
    expert: EpisodeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mean = VLAPolicy.mean
    monkeypatch.setattr(VLAPolicy, "mean", lambda self, features: 0 * mean(self, features) + 0.5)
    few = replace(CONFIG, sft=replace(SUPERVISED, steps=3))
    for _ in range(2):  # and again where it is taken up
        with pytest.raises(
            UserError, match=r"^sft: nothing was learnt, for every .* in 3 updates;"
        ):
            learn(tmp_path, expert, config=few)


# --- What is drawn


def drawn(run: Run, expert: EpisodeStore, stage: Stage) -> tuple[list[Any], list[Any]]:
    """The batches of three steps of a stage, and what augmentation makes of them."""
    batches: list[Any] = []
    augmented: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        original = VLAPolicy.encode

        def encode(self: VLAPolicy, observation: Observation) -> Any:
            if self.training:
                augmented.append(observation.images.tolist())
            return original(self, observation)

        patch.setattr(VLAPolicy, "encode", encode)
        with watched(lambda learner, batch: batches.append(batch.observation.images.tolist())):
            policy = new_policy(run, POINTMASS, SFT)
            run_supervised(run, policy, stage, "all", suite=POINTMASS, expert=expert)
    return batches, augmented


def test_no_two_stages_share_draws_and_one_draws_the_same_again(
    expert: EpisodeStore, tmp_path: Path
) -> None:
    few = replace(SUPERVISED, steps=3, validate_every=3)
    config = replace(CONFIG, sl=few, mixture=MixtureConfig(validation=0.0))
    stages = [Stage("sl", "left-disc-new"), Stage("sl", "left-disc-new", 2), Stage("sl", "other")]
    with open_run(tmp_path / "a", config) as run:
        first = [drawn(run, expert, stage) for stage in stages]
    with open_run(tmp_path / "b", config) as run:
        again = [drawn(run, expert, stage) for stage in reversed(stages)]
    assert first == again[::-1]
    for kind in range(2):
        everything = [str(step) for stage in first for step in stage[kind]]
        assert len(set(everything)) == len(everything) == 9
