"""What a run leaves of its evaluations: films that are the evaluated episodes, and results.json."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import numpy as np
import pytest
import torch

import irevla
from irevla.algorithm import run_algorithm
from irevla.config import (
    AugmentConfig,
    Config,
    EnvConfig,
    EvalConfig,
    ExpertConfig,
    ModelConfig,
    SFTConfig,
)
from irevla.data.episodes import ExpertDataset
from irevla.envs.suite import load_suite
from irevla.evaluation import in_run
from irevla.evaluation.evaluate import Protocol, evaluate_policy
from irevla.evaluation.video import film
from irevla.models.policy import VLAPolicy, build_policy
from irevla.runs.run import open_run
from irevla.storage.journal import Journal
from irevla.tasks import Purpose, first_seed
from irevla.types import Features, Observation

pytestmark = pytest.mark.usefixtures("coarse_plots")
POINTMASS = load_suite("pointmass")
TASKS = tuple(task.name for task in POINTMASS.tasks)
CONFIG = Config(
    suite="pointmass",
    method="sft",
    threads=1,
    expert_tasks=("left-disc", "right-disc"),
    rl_tasks=("left-disc-new",),
    unseen_tasks=("left-square-orange",),
    env=EnvConfig(image_size=32, horizon=12, workers=1, envs_per_worker=4),
    expert=ExpertConfig(episodes=6),
    model=ModelConfig(vlm="tiny-random", width=32, layers=1, head_groups=4, head_hidden=16),
    sft=SFTConfig(
        steps=60, batch=16, validate_every=30, warmup=2, augment=AugmentConfig(shift=0, colour=0.0)
    ),
    eval=EvalConfig(episodes=1, interim=0),
)


def seeing_policy(*, gripper: bool) -> VLAPolicy:
    """Return a policy whose latents are the way to the left- or rightmost shape that it sees.

    With a discrete `gripper` the way up is the probability with which it closes.
    """
    policy = build_policy(CONFIG.model, action_dim=2, image_size=32)
    policy.discrete_gripper = gripper
    policy.encode = _see
    policy.mean = lambda features: features.tokens[:, 0].clamp(-1, 1)
    return policy


def _see(observation: Observation) -> Features:
    seen = zip(observation.images.numpy(), observation.instructions, strict=True)
    towards = [_towards(image, "left" in text) for image, text in seen]
    tokens = torch.tensor(towards, dtype=torch.float32)[:, None]
    return Features(tokens, torch.ones(len(towards), 1, dtype=torch.bool))


def _towards(image: np.ndarray, left: bool) -> tuple[float, float]:
    """Return the way in x (right) and y (up), in pixels, from the dot to the shape."""
    rows, columns = np.nonzero((image > 250).all(-1))
    saturated = image.max(-1).astype(int) - image.min(-1) > 90
    shape_rows, shape_columns = np.nonzero(saturated)
    middle = image.shape[1] / 2
    mine = (shape_columns < middle) == left
    if not len(rows) or not mine.any():
        return 0.0, 0.5
    across = shape_columns[mine].mean() - columns.mean()
    return float(across) / 2, float(rows.mean() - shape_rows[mine].mean()) / 2


@pytest.mark.parametrize("gripper", [False, True])
def test_a_film_is_the_evaluated_episode(gripper: bool) -> None:
    """For every task, with a gripper that is drawn, too; the filmed end is the evaluated one."""
    env = EnvConfig(image_size=32, horizon=6, workers=2, envs_per_worker=2)
    policy = seeing_policy(gripper=gripper)
    protocol = Protocol(POINTMASS, TASKS, env, 3, 0)
    evaluation = evaluate_policy(policy, protocol, method="irevla", stage="sft")
    first = evaluate_policy(policy, replace(protocol, episodes=1), method="irevla", stage="sft")
    seed = first_seed(Purpose.EVALUATION, 0)
    successes = {row.task: bool(row.successes) for row in first.rows}
    lengths = {row.task: row.env_steps for row in first.rows}
    for task in TASKS:
        actions = evaluation.first_actions[task]
        assert np.array_equal(actions, first.first_actions[task])
        stored = np.array(json.loads(json.dumps(actions.tolist())), np.float32)
        frames, success = film(POINTMASS, task, stored, env=env, seed=seed)
        assert success == successes[task]
        assert len(frames) == lengths[task] + 1
    assert set(successes.values()) == {True, False}
    if gripper:
        assert all(np.abs(a[:, -1]).min() == 1 for a in evaluation.first_actions.values())


def rows_after(root: Path, stage: str) -> dict[str, Mapping[str, Any]]:
    rows = json.loads((root / "results.json").read_text())["rows"]
    return {row["task"]: row for row in rows if row["stage"] == stage}


@pytest.mark.parametrize("learner", ["ppo", "sac"])
def test_the_films_of_a_run_end_as_it_says(learner: str, tmp_path: Path) -> None:
    """SAC's policies execute the gripper, the last dimension, as open or closed."""
    with open_run(tmp_path, replace(CONFIG, rl=learner)) as run:
        run_algorithm(run)
    index = json.loads((tmp_path / "videos" / "index.json").read_text())
    rows = rows_after(tmp_path, "sft")
    assert index.keys() == rows.keys()
    for task, clip in index.items():
        assert clip["success"] == bool(rows[task]["successes"])
        assert clip["stage"] == "sft"
    kept = json.loads((tmp_path / "videos" / "filmed.json").read_text())["actions"]
    drawn = {abs(action[-1]) for actions in kept.values() for action in actions}
    assert (drawn == {1.0}) == (learner == "sac")


def test_results_are_written_anew_from_the_journal(tmp_path: Path) -> None:
    config = replace(CONFIG, eval=replace(CONFIG.eval, videos=False))
    irevla.run(config, out=tmp_path)
    path = tmp_path / "results.json"
    rows = json.loads(path.read_text())["rows"]
    page = tmp_path / "report.html"
    path.unlink()
    page.unlink()
    irevla.run(config, out=tmp_path)
    assert json.loads(path.read_text())["rows"] == rows
    assert page.exists()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rows": rows[:2]}))
    irevla.run(config, out=tmp_path)
    assert json.loads(path.read_text())["rows"] == rows


def test_results_keep_the_commit_that_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command again, of a tree that is clean by then, does not make them clean."""
    with open_run(tmp_path, CONFIG) as run:
        assert isinstance(run.journal, Journal)
        for commit in ("3f2a91c04b7d-dirty", "58697ebc6f70"):
            run.journal.append(f"evaluated {commit}", rows=[], git=commit)
        monkeypatch.setattr("irevla.runs.run.git_commit", lambda: "d2afbd9a59d7")
        run.write_results()
    assert json.loads((tmp_path / "results.json").read_text())["git"] == "3f2a91c04b7d-dirty"


@pytest.mark.parametrize(
    ("scripted", "said"),
    [
        (True, "the scripted expert did not succeed once"),
        (False, "the demonstrations have no episode with its instruction"),
    ],
)
def test_why_a_task_has_no_blind_replay(
    scripted: bool, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_run, "replayed_demonstrations", lambda *args, **kwargs: {})
    monkeypatch.setattr(in_run, "recorded_demonstrations", lambda *args: {})
    suite = replace(POINTMASS, scripted_expert=scripted)
    with open_run(tmp_path, CONFIG) as run:
        expert = create_autospec(ExpertDataset, instance=True)
        in_run.baselines(run, suite, suite.task_lists(CONFIG), expert)
        record = run.journal.done("blind replay")
    assert record is not None and record["note"].endswith(f"left-square-orange: {said}")
