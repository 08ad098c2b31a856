"""Algorithm 1 on the toy suite: all of it, every method, interrupted and resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from irevla.algorithm import run_algorithm
from irevla.config import (
    METHODS,
    MOST_ROUNDS,
    AugmentConfig,
    Config,
    EnvConfig,
    EvalConfig,
    ExpertConfig,
    HarvestConfig,
    ModelConfig,
    PPOConfig,
    SFTConfig,
)
from irevla.config_io import to_dict
from irevla.data.episodes import EpisodeStore
from irevla.envs.suite import load_suite
from irevla.evaluation.report import write_report
from irevla.evaluation.stats import read_results
from irevla.models.policy import VLAPolicy
from irevla.rollout.demonstrations import collect_expert
from irevla.runs.run import open_run
from irevla.storage.journal import Journal
from irevla.tasks import SHARE, Purpose, first_seed
from irevla.types import weights_hash

pytestmark = pytest.mark.usefixtures("coarse_plots")
SUPERVISED = SFTConfig(
    steps=12, batch=16, validate_every=4, warmup=2, augment=AugmentConfig(shift=0)
)
TINY = Config(
    suite="pointmass",
    threads=1,
    expert_tasks=("left-disc", "right-disc"),
    rl_tasks=("left-disc-new",),
    unseen_tasks=("left-square-orange",),
    env=EnvConfig(image_size=32, horizon=12, workers=1, envs_per_worker=4),
    expert=ExpertConfig(episodes=6),
    model=ModelConfig(vlm="tiny-random", width=32, layers=1, head_groups=4, head_hidden=16),
    sft=SUPERVISED,
    ppo=PPOConfig(steps=128, rollout=16, minibatch=32, warmup=1, checkpoint_every=1),
    harvest=HarvestConfig(episodes=2, attempts=8),
    sl=SUPERVISED,
    eval=EvalConfig(episodes=2, interim=1, videos=False),
)

ONCE = EvalConfig(episodes=1, interim=0, videos=False)


def run(directory: Path, config: Config) -> list[dict[str, object]]:
    with open_run(directory, config) as opened:
        run_algorithm(opened)
        return opened.rows()


@pytest.fixture(scope="module")
def demonstrated(tmp_path_factory: pytest.TempPathFactory) -> ExpertConfig:
    """Demonstrations, collected once."""
    root = tmp_path_factory.mktemp("demonstrations") / "expert"
    collect_expert(
        load_suite("pointmass"), TINY.expert_tasks, TINY.expert, env=TINY.env, seed=0, root=root
    )
    return replace(TINY.expert, dataset=str(root))


def stages(rows: list[dict[str, object]]) -> list[object]:
    return list(dict.fromkeys(row["stage"] for row in rows))


def test_everything_is_there_in_the_end(tmp_path: Path) -> None:
    config = replace(TINY, eval=EvalConfig(episodes=2, interim=1))
    rows = run(tmp_path / "run", config)
    assert stages(rows) == ["baseline", "sft", "rl:left-disc-new", "sl:left-disc-new"]
    assert {row["task"] for row in rows if row["stage"] == "sl:left-disc-new"} == {
        "left-disc", "right-disc", "left-disc-new", "left-square-orange",
    }  # fmt: skip
    saved = json.loads((tmp_path / "run" / "results.json").read_text())
    assert saved["rows"] == rows and saved["config"] == to_dict(TINY) | {
        "eval": saved["config"]["eval"]
    }
    assert len(EpisodeStore(tmp_path / "run" / "expert")) == 12
    assert sorted(
        path.name for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name[0] != "."
    ) == [
        "rl-left-disc-new",
        "sft",
        "sl-left-disc-new",
    ]
    page = write_report(tmp_path / "run").read_text()
    assert "left-disc-new" in page and "<video" in page

    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("[ce]*/**/*")}

    before = times()
    assert run(tmp_path / "run", config) == rows and times() == before, "the same call again"


def test_a_second_round_goes_on_from_the_first(demonstrated: ExpertConfig, tmp_path: Path) -> None:
    config = replace(
        TINY,
        rounds=2,
        harvest=HarvestConfig(episodes=2, attempts=60),
        expert=demonstrated,
        eval=EvalConfig(episodes=2, interim=1, videos=False),
    )
    rows = run(tmp_path, config)
    turns = ["left-disc-new", "left-disc-new@2"]
    assert stages(rows)[2:] == [f"{kind}:{turn}" for turn in turns for kind in ("rl", "sl")]
    seeds = {info.provenance.seed for info in EpisodeStore(tmp_path / "online").episodes}
    firsts = [first_seed(Purpose.HARVEST, 0, round=number) for number in (1, 2)]
    played = [
        {seed for seed in seeds if first <= seed < first + config.harvest.attempts}
        for first in firsts
    ]
    assert played[0] and played[1] and played[0] | played[1] == seeds
    files = [VLAPolicy.from_pretrained(tmp_path / "checkpoints" / name).vlm for name in (
        "sl-left-disc-new", "rl-left-disc-new@2", "sl-left-disc-new@2",
    )]  # fmt: skip
    hashes = [weights_hash(vlm) for vlm in files]
    assert hashes[0] == hashes[1] != hashes[2]
    assert "left-disc-new@2" in write_report(tmp_path).read_text()


@pytest.mark.parametrize("method", sorted(METHODS))
def test_who_learns_in_which_stage(method: str, demonstrated: ExpertConfig, tmp_path: Path) -> None:
    """The VLM's weights change exactly in the stages in which the method trains it."""
    ppo = replace(TINY.ppo, steps=512)  # until something succeeds: before that nothing moves
    rows = run(tmp_path, replace(TINY, method=method, expert=demonstrated, eval=ONCE, ppo=ppo))
    row = METHODS[method]
    names = [
        name
        for name in ("sft", "rl-left-disc-new", "sl-left-disc-new")
        if (tmp_path / "checkpoints" / name).exists()
    ]
    expected = (
        ["sft"] * row.sft
        + ["rl-left-disc-new"] * (row.rl != "none")
        + ["sl-left-disc-new"] * (row.sl != "none")
    )
    assert names == expected
    vlms = [
        weights_hash(VLAPolicy.from_pretrained(tmp_path / "checkpoints" / name).vlm)
        for name in names
    ]
    if row.sft and row.rl != "none":
        assert (vlms[0] != vlms[1]) == (row.rl == "all")
    if row.rl != "none" and row.sl != "none":
        assert (vlms[1] != vlms[2]) == (row.sl == "all")
    assert stages(rows)[:2] == ["baseline", "sft"]


def test_what_takes_the_place_of_stage_1(demonstrated: ExpertConfig, tmp_path: Path) -> None:
    def done(method: str) -> dict[str, Any]:
        run(tmp_path / method, replace(TINY, method=method, expert=demonstrated, eval=ONCE))
        return {record["event"]: record for record in Journal(tmp_path / method / "journal.jsonl")}

    harvest = done("self-imitation")["harvest:left-disc-new"]
    assert harvest["decisions"] >= TINY.ppo.steps, "as much time as stage 1 would have had"
    assert harvest["kept"] == len(EpisodeStore(tmp_path / "self-imitation" / "online"))
    assert "harvest:left-disc-new" not in done("more-sft")
    assert not len(EpisodeStore(tmp_path / "more-sft" / "online"))


def test_a_policy_one_already_has(uninterrupted: Path) -> None:
    rows = read_results(uninterrupted / "results.json").rows
    assert not (uninterrupted / "checkpoints" / "sft").exists()
    assert rows[-1].stage == "sl:left-disc-new"


def test_evaluation_seeds_never_touch_training() -> None:
    blocks = [
        range(first_seed(purpose, 0, round=number), first_seed(purpose, 999, round=number) + SHARE)
        for purpose in Purpose
        for number in range(1, MOST_ROUNDS + 1)
    ]
    assert max(block.stop for block in blocks) <= 2**32, "some simulators take no more"
    for index, block in enumerate(blocks):
        assert all(
            block.stop <= other.start or other.stop <= block.start for other in blocks[index + 1 :]
        )


LEFT = ("checkpoints/**/*", "expert/**/*", "online/**/*", "videos/*")


def left(root: Path) -> dict[str, bytes]:
    """All that a run leaves, byte for byte, but what says when and how long."""
    paths = [path for pattern in LEFT for path in sorted(root.glob(pattern)) if path.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def events(root: Path) -> list[str]:
    return [record["event"] for record in Journal(root / "journal.jsonl")]


def counts(root: Path) -> list[tuple[Any, ...]]:
    rows = json.loads((root / "results.json").read_text())["rows"]
    return [(row["stage"], row["task"], row["successes"], row["env_steps"]) for row in rows]


@pytest.fixture(scope="module")
def given(demonstrated: ExpertConfig, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """TINY, from a policy made once."""
    first = tmp_path_factory.mktemp("first") / "run"
    config = replace(TINY, expert=demonstrated, eval=ONCE)
    run(first, replace(config, method="sft"))
    return replace(config, from_checkpoint=str(first))


@pytest.fixture(scope="module")
def uninterrupted(given: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from that policy which nothing stopped."""
    torch.manual_seed(1)
    directory = tmp_path_factory.mktemp("uninterrupted")
    run(directory, given)
    return directory


@pytest.mark.parametrize("event", ["evaluated sft", "rl:left-disc-new", "harvest:left-disc-new"])
def test_stopped_between_two_stages_it_ends_with_the_same_bits(
    event: str,
    given: Config,
    uninterrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From a policy that is given: nothing may hang on what the process drew before."""
    append = Journal.append

    def stopped(self: Journal, event_now: str, **fields: Any) -> None:
        append(self, event_now, **fields)
        if event_now == event:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, given)
    torch.manual_seed(2)
    run(tmp_path, given)
    assert left(tmp_path) == left(uninterrupted)
    assert counts(tmp_path) == counts(uninterrupted)


def test_scratch_begins_anew_for_each_task(demonstrated: ExpertConfig, tmp_path: Path) -> None:
    """And harvests nothing, which nobody would read."""
    tasks = ("left-disc-new", "right-square-new")
    config = replace(TINY, method="scratch", expert=demonstrated, eval=ONCE, rl_tasks=tasks)
    run(tmp_path / "both", config)
    run(tmp_path / "second", replace(config, rl_tasks=tasks[1:]))
    names = [tmp_path / name / "checkpoints" / f"rl-{tasks[1]}" for name in ("both", "second")]
    assert len({VLAPolicy.from_pretrained(name).hash() for name in names}) == 1
    assert not [event for event in events(tmp_path / "both") if event.startswith("harvest")]


def test_ctrl_c_stops_cleanly(tmp_path: Path) -> None:
    # A shell that starts us in the background lets its children ignore Ctrl-C; a terminal does not.
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
    code += "from irevla.cli.main import main; sys.exit(main(sys.argv[1:]))"
    argv = [sys.executable, "-c", code, "run", "pointmass", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "expert").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (
        "the same command goes on from here" in errors.decode()
        and "Traceback" not in errors.decode()
    )
