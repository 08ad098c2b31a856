"""Stage 2 elsewhere while stage 1 goes on here: the order of events, what begins from what, and the
same bits after any stop."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from subprocess import Popen
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

from irevla.algorithm import run_algorithm
from irevla.compute import engine
from irevla.compute.ranks import ALONE
from irevla.config import (
    AugmentConfig,
    ComputeConfig,
    Config,
    EnvConfig,
    EvalConfig,
    ExpertConfig,
    HarvestConfig,
    ModelConfig,
    PPOConfig,
    SFTConfig,
)
from irevla.envs.suite import load_suite
from irevla.errors import UserError
from irevla.learners.ppo import PPO
from irevla.learners.sft import SFT
from irevla.rollout.demonstrations import collect_expert
from irevla.runs.run import Run, open_run
from irevla.stages import trainer
from irevla.storage import checkpoint
from irevla.storage.journal import Journal
from irevla.types import tensors_hash

SUITE = load_suite("pointmass")
SUPERVISED = SFTConfig(steps=6, batch=8, validate_every=2, warmup=1, augment=AugmentConfig(shift=0))
TASKS = ("left-disc-new", "right-square-new", "left-disc")
CONFIG = Config(
    suite="pointmass",
    device="cpu",
    threads=1,
    expert_tasks=("left-disc", "right-disc"),
    rl_tasks=TASKS,
    unseen_tasks=("left-square-orange",),
    env=EnvConfig(image_size=32, horizon=12, workers=1, envs_per_worker=4),
    expert=ExpertConfig(episodes=6),
    model=ModelConfig(vlm="tiny-random", width=32, layers=1, head_groups=4, head_hidden=16),
    sft=replace(SUPERVISED, steps=40, lr=3e-3),
    ppo=PPOConfig(steps=64, rollout=16, minibatch=32, warmup=0, checkpoint_every=1),
    harvest=HarvestConfig(episodes=2, attempts=40, noise=0.5),
    sl=SUPERVISED,
    eval=EvalConfig(episodes=1, interim=1, videos=False),
)


class Stopped(BaseException):
    pass


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The engine: it computes a job in this process, as soon as it is started."""
    jobs: list[str] = []

    @contextmanager
    def started(settings: Any, module: str, job: Sequence[str], *, log: Path) -> Iterator[Any]:
        jobs.append(job[1])
        log.write_text("")
        trainer.run(job)
        yield MagicMock(spec=Popen, poll=lambda: 0)

    @contextmanager
    def joined(device: str) -> Iterator[Any]:
        yield ALONE, torch.device(device)

    monkeypatch.setattr(engine, "started", started)
    monkeypatch.setattr(trainer, "joined", joined)
    return jobs


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    root = tmp_path_factory.mktemp("expert") / "expert"
    collect_expert(SUITE, CONFIG.expert_tasks, CONFIG.expert, env=CONFIG.env, seed=0, root=root)
    return replace(CONFIG, expert=replace(CONFIG.expert, dataset=str(root)))


def pipelined(config: Config, folder: Path, *, on: bool = True) -> Config:
    compute = ComputeConfig(stage2="torchrun", pipeline=on, share=str(folder / "share"))
    return replace(config, compute=compute)


def run(folder: Path, config: Config) -> None:
    with open_run(folder / "run", config) as opened:
        run_algorithm(opened)


def events(folder: Path) -> list[str]:
    return [record["event"] for record in Journal(folder / "run" / "journal.jsonl")]


def weights(folder: Path, name: str) -> str:
    files = checkpoint.load(folder / "run" / "checkpoints" / name)
    return tensors_hash(files["model.safetensors"])


def rows(folder: Path) -> list[dict[str, Any]]:
    found = []
    for record in Journal(folder / "run" / "journal.jsonl"):
        if record["event"].startswith("evaluated"):
            found += [{**row, "seconds": 0} for row in record["rows"]]
    return found


def test_stage_2_of_a_task_is_taken_after_stage_1_of_the_next(
    config: Config, tmp_path: Path, elsewhere: list[str]
) -> None:
    run(tmp_path, pipelined(config, tmp_path))
    kinds = ("rl:", "harvest:", "begun ", "sl:")
    order = [event for event in events(tmp_path) if event.startswith(kinds)]
    one, two, three = TASKS
    assert order == [
        f"rl:{one}", f"harvest:{one}", f"begun sl:{one}",
        f"rl:{two}", f"harvest:{two}", f"sl:{one}", f"begun sl:{two}",
        f"rl:{three}", f"harvest:{three}", f"sl:{two}", f"begun sl:{three}", f"sl:{three}",
    ]  # fmt: skip
    journal = Journal(tmp_path / "run" / "journal.jsonl")
    begun = [journal.done(f"begun sl:{task}") or {} for task in TASKS]
    assert [each["weights"] for each in begun] == [f"rl:{one}", f"sl:{one}", f"sl:{two}"]
    assert [each["next_stage_1"] for each in begun] == [f"rl:{one}", f"sl:{one}", ""]
    assert 0 < begun[0]["episodes"] < begun[1]["episodes"] < begun[2]["episodes"]
    assert len(elsewhere) == len(set(elsewhere)) == 3
    stages = [row["stage"] for row in rows(tmp_path)]
    assert {f"sl:{task}" for task in TASKS} < set(stages)


@pytest.mark.slow
def test_the_first_stage_2_is_that_of_algorithm_1(config: Config, tmp_path: Path) -> None:
    first = replace(config, rl_tasks=TASKS[:2])
    for name, on in (("strict", False), ("pipeline", True)):
        run(tmp_path / name, pipelined(first, tmp_path / name, on=on))
    names = ["rl-left-disc-new", "sl-left-disc-new", "rl-right-square-new", "sl-right-square-new"]
    strict, overlapped = (
        [weights(tmp_path / way, name) for name in names] for way in ("strict", "pipeline")
    )
    assert strict[:2] == overlapped[:2]
    assert strict[2] != overlapped[2] and strict[3] != overlapped[3]


@pytest.mark.slow
def test_stopped_at_any_event_it_ends_with_the_same_bits(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = replace(config, rl_tasks=TASKS[:2])
    run(tmp_path / "whole", pipelined(two, tmp_path / "whole"))
    append = Journal.append
    stopped = set()

    def stopping(self: Journal, event: str, **fields: Any) -> None:
        append(self, event, **fields)
        if event not in stopped:
            stopped.add(event)
            raise Stopped

    settings = pipelined(two, tmp_path / "parts")
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", stopping)
        for _ in range(40):
            try:
                run(tmp_path / "parts", settings)
                break
            except Stopped:
                continue
    assert len(stopped) > 10
    assert events(tmp_path / "parts") == events(tmp_path / "whole")
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    last = f"sl-{TASKS[1]}"
    assert weights(tmp_path / "parts", last) == weights(tmp_path / "whole", last)


@pytest.mark.slow
def test_killed_on_both_sides_stage_1_goes_on_from_the_weights_that_it_began_from(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stage 2 came to by then is taken up by stage 2, and by nobody else."""
    two = replace(config, rl_tasks=TASKS[:2])
    run(tmp_path / "whole", pipelined(two, tmp_path / "whole"))
    learn = SFT.update
    explore = PPO.update

    def dying(self: SFT, batch: Any) -> dict[str, float]:
        if self.updates == 3:
            raise Stopped
        return learn(self, batch)

    @contextmanager
    def partly(settings: Any, module: str, job: Sequence[str], *, log: Path) -> Iterator[Any]:
        log.write_text("")
        with monkeypatch.context() as patch, suppress(Stopped):
            patch.setattr(SFT, "update", dying)
            trainer.run(job)
        yield MagicMock(spec=Popen, poll=lambda: -9)

    def stopping(self: PPO, batch: Any) -> dict[str, float]:
        if (tmp_path / "parts/run/checkpoints" / f"rl-{TASKS[0]}").exists():
            raise Stopped
        return explore(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "started", partly)
        patch.setattr(PPO, "update", stopping)
        with pytest.raises(Stopped):
            run(tmp_path / "parts", pipelined(two, tmp_path / "parts"))
    run(tmp_path / "parts", pipelined(two, tmp_path / "parts"))
    for name in (f"rl-{TASKS[1]}", f"sl-{TASKS[0]}", f"sl-{TASKS[1]}"):
        assert weights(tmp_path / "parts", name) == weights(tmp_path / "whole", name), name


def test_what_goes_wrong_elsewhere_costs_nothing_here(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stage 1 of the next task goes on with the old weights, and what it did is kept."""
    two = pipelined(replace(config, rl_tasks=TASKS[:2]), tmp_path)

    @contextmanager
    def dead(settings: Any, module: str, job: Sequence[str], *, log: Path) -> Iterator[Any]:
        log.write_text("")
        yield MagicMock(spec=Popen, poll=lambda: -9)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "started", dead)
        with pytest.raises(UserError, match=r"sl:left-disc-new: the processes that torchrun start"):
            run(tmp_path, two)
    assert f"rl:{TASKS[1]}" in events(tmp_path) and f"sl:{TASKS[0]}" not in events(tmp_path)
    before = weights(tmp_path, f"rl-{TASKS[1]}")
    run(tmp_path, two)
    assert weights(tmp_path, f"rl-{TASKS[1]}") == before
    assert events(tmp_path).count(f"rl:{TASKS[1]}") == 1


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"compute": ComputeConfig}, "choose torchrun or ray as compute.stage2"),
        ({"method": "ppo-full"}, "overlaps stages 1 and 2, and method ppo-full has not both"),
        ({"method": "more-sft"}, "overlaps stages 1 and 2, and method more-sft has not both"),
    ],
)
def test_where_nothing_overlaps_it_is_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        if "compute" in settings:
            ComputeConfig(pipeline=True)
        Config(compute=ComputeConfig(stage2="torchrun", pipeline=True), **settings)


def test_a_run_cannot_go_over_to_a_pipeline(config: Config, tmp_path: Path) -> None:
    with open_run(tmp_path / "run", pipelined(config, tmp_path, on=False)) as opened:
        assert isinstance(opened, Run)
    with (
        pytest.raises(UserError, match=r"other settings \(compute.pipeline"),
        open_run(tmp_path / "run", pipelined(config, tmp_path)),
    ):
        pass
