"""Demonstrations and harvest: the right number, in an order that does not depend on which worker
was faster."""

from dataclasses import replace
from pathlib import Path
from unittest.mock import create_autospec

import numpy as np
import pytest

from irevla.compute.device import seeded
from irevla.config import Config, EnvConfig, ExpertConfig, ModelConfig
from irevla.data.dataset_files import read_info
from irevla.data.episodes import EpisodeStore, Frames
from irevla.envs.suite import load_suite
from irevla.envs.vector import Job
from irevla.errors import UserError
from irevla.models.policy import VLAPolicy, build_policy
from irevla.rollout.demonstrations import (
    REPLAYED,
    collect_expert,
    in_turn,
    open_store,
    recorded_demonstrations,
    replayed_demonstrations,
)
from irevla.rollout.episodes import Outcome, in_order
from irevla.runs.run import open_run
from irevla.stages.harvest import run_harvest
from irevla.stages.start import expert_dataset
from irevla.tasks import Purpose, Stage, first_seed

POINTMASS = load_suite("pointmass")
ENV = EnvConfig(image_size=32, horizon=12, workers=2, envs_per_worker=2)
MODEL = ModelConfig(vlm="tiny-random", width=32, layers=1, head_groups=4, head_hidden=16)
TASKS = ("left-disc", "right-disc")


def collect(root: Path, config: ExpertConfig) -> list[tuple[str, int, float]]:
    store = collect_expert(POINTMASS, TASKS, config, env=ENV, seed=3, root=root)
    return [
        (info.provenance.task, info.provenance.seed, info.provenance.noise)
        for info in store.episodes
    ]


def test_demonstrations_are_counted_and_half_of_them_noisy(tmp_path: Path) -> None:
    got = collect(tmp_path, ExpertConfig(episodes=6, noise=0.2))
    first = first_seed(Purpose.EXPERT, 3)
    assert (
        [task for task, _, _ in got].count("left-disc")
        == [task for task, _, _ in got].count("right-disc")
        == 6
    )
    assert sorted(noise for _, _, noise in got) == [0.0] * 6 + [0.2] * 6
    assert all(first <= seed < first + 6 * 20 for _, seed, _ in got)


def test_an_interrupted_collection_ends_with_the_same_episodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("irevla.rollout.demonstrations.FLUSH", 4)
    whole = collect(tmp_path / "whole", ExpertConfig(episodes=6))
    broken = open_store(POINTMASS, ENV, tmp_path / "broken")
    broken.extend(list(open_store(POINTMASS, ENV, tmp_path / "whole"))[:4])
    assert collect(tmp_path / "broken", ExpertConfig(episodes=6)) == whole


def test_an_expert_that_cannot_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("irevla.rollout.demonstrations.ATTEMPTS", 1)
    with pytest.raises(UserError, match="left-disc 0 of 2"):
        collect_expert(
            POINTMASS,
            ("left-disc",),
            ExpertConfig(episodes=2),
            env=EnvConfig(image_size=32, horizon=1),
            seed=0,
            root=tmp_path,
        )


def test_a_collection_that_fails_at_once_binds_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise UserError("there is no table")

    root = tmp_path / "demos"
    with monkeypatch.context() as patched:
        patched.setattr("irevla.rollout.demonstrations.play_expert", refuse)
        with pytest.raises(UserError, match="no table"):
            collect(root, ExpertConfig(episodes=1))
        assert not root.exists()
    collect(root, ExpertConfig(episodes=1))
    with monkeypatch.context() as patched:
        patched.setattr("irevla.rollout.demonstrations.play_expert", refuse)
        with pytest.raises(UserError, match="no table"):
            collect(root, ExpertConfig(episodes=2))
    assert len(EpisodeStore(root)) == len(TASKS)


@pytest.mark.parametrize(
    ("tasks", "env"), [(("nix",), ENV), (TASKS, replace(ENV, cameras=("front",)))]
)
def test_nothing_is_collected_of_what_there_is_not(
    tasks: tuple[str, ...], env: EnvConfig, tmp_path: Path
) -> None:
    root = tmp_path / "demos"
    with pytest.raises(UserError):
        collect_expert(POINTMASS, tasks, ExpertConfig(), env=env, seed=0, root=root)
    assert not root.exists()


def test_in_order() -> None:
    jobs = [Job("t", seed) for seed in range(4)]
    outcomes = [Outcome(jobs[index], True, np.zeros((1, 2), np.float32)) for index in (2, 0, 1, 3)]
    assert [outcome.job.seed for outcome in in_order(outcomes, jobs)] == [0, 1, 2, 3]


def harvest(run_at: Path, stage: Stage, config: Config, *, store: EpisodeStore) -> dict[str, int]:
    """Do one harvest in a run of its own; return what its journal says of it."""
    with open_run(run_at, config) as run:
        run_harvest(run, _policy(), stage, suite=POINTMASS, online=store)
        facts = run.journal.done(stage.name)
    assert facts is not None
    return {name: facts[name] for name in ("tried", "decisions", "kept")}


def _policy() -> VLAPolicy:
    with seeded(0):
        return build_policy(MODEL, action_dim=2, image_size=32)


def test_some_demonstrations_of_each_task_for_blind_replay() -> None:
    found = replayed_demonstrations(POINTMASS, TASKS, env=ENV, seed=0)
    assert set(found) == set(TASKS) and {len(outcomes) for outcomes in found.values()} == {REPLAYED}
    assert all(outcome.success for outcomes in found.values() for outcome in outcomes)
    assert len({outcome.job.seed for outcome in found["left-disc"]}) == REPLAYED


def test_an_instruction_is_the_tasks_however_it_is_written() -> None:
    """Tasks of a YAML file may differ in a capital and a full stop: what is recorded of one is
    replayed in the other."""
    task = replace(POINTMASS.tasks[0], instruction="Reach it.")
    numbers = np.array([0, 0, 1])
    frames = Frames(
        images=np.zeros((3, 8, 8, 3), np.uint8),
        actions=np.eye(3, dtype=np.float32),
        instruction=numbers,
        task=numbers,
        episode=numbers,
        instructions=("reach it", "go home"),
        tasks=("reach", "go"),
    )
    expert = create_autospec(EpisodeStore, instance=True)
    expert.read.return_value = frames
    found = recorded_demonstrations(replace(POINTMASS, tasks=(task,)), [task.name], expert)
    (actions,) = found[task.name]
    np.testing.assert_array_equal(actions, frames.actions[:2])


@pytest.mark.parametrize(("repeat", "fps"), [(1, 20), (2, 10), (4, 5)])
def test_a_dataset_has_the_rate_at_which_it_was_collected(
    repeat: int, fps: int, tmp_path: Path
) -> None:
    """Whatever was held how long, info.json said 10 a second."""
    open_store(POINTMASS, replace(ENV, action_repeat=repeat), tmp_path / "data")
    assert read_info(tmp_path / "data").fps == fps


CHANGED = {
    "smaller": lambda actions: 0.1 * actions,
    "negated": lambda actions: -actions,
    "in another order": lambda actions: actions[:, ::-1].copy(),
}


@pytest.mark.parametrize("how", CHANGED)
def test_actions_of_another_kind_are_noticed_before_training(how: str, tmp_path: Path) -> None:
    """They trained without a word, and solved nothing."""
    collect(tmp_path / "data", ExpertConfig(episodes=6))
    right = open_store(POINTMASS, ENV, tmp_path / "data")
    wrong = open_store(POINTMASS, ENV, tmp_path / "wrong")
    wrong.extend([replace(each, actions=CHANGED[how](each.actions)) for each in right])
    config = Config(suite="pointmass", expert_tasks=TASKS, env=ENV)
    for name in ("data", "wrong"):
        expert = ExpertConfig(dataset=str(tmp_path / name))
        with open_run(tmp_path / f"run {name}", replace(config, expert=expert)) as run:
            if name == "data":
                assert len(expert_dataset(run, POINTMASS, POINTMASS.task_lists(config))) == 12
            else:
                with pytest.raises(UserError, match=r"of 4 demonstrations .* played again"):
                    expert_dataset(run, POINTMASS, POINTMASS.task_lists(config))


def test_actions_beyond_the_suites_range_are_refused(tmp_path: Path) -> None:
    collect(tmp_path / "data", ExpertConfig(episodes=2))
    right = open_store(POINTMASS, ENV, tmp_path / "data")
    large = open_store(POINTMASS, ENV, tmp_path / "large")
    large.extend([replace(each, actions=3 * each.actions) for each in right])
    with pytest.raises(UserError, match=r"an action of 3, and all suites take -1\.\.1"):
        large.read()


def test_tasks_that_undo_each_other_are_taken_in_turn() -> None:
    counts = {"a": 3, "x": 2, "b": 2}
    jobs = [Job(task, seed) for task, count in counts.items() for seed in range(count)]
    pair = {"a": "b", "b": "a"}
    order = [(job.task, job.seed) for job in in_turn(jobs, lambda task: pair.get(task, ""))]
    assert order == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("x", 0), ("x", 1)]
    assert in_turn(jobs, lambda task: "") == jobs
