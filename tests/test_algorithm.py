"""Algorithm 1 on the toy suite: all of it, every method, interrupted and resumed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from irevla.algorithm import run_algorithm
from irevla.config import (
    METHODS,
    Config,
    EnvConfig,
    EvalConfig,
    ExpertConfig,
    HarvestConfig,
    ModelConfig,
    PPOConfig,
    SFTConfig,
)
from irevla.data.episodes import EpisodeStore
from irevla.errors import UserError
from irevla.evaluation.report import write_report
from irevla.models.policy import VLAPolicy
from irevla.presets import to_dict
from irevla.runs.run import open_run
from irevla.seeds import SHARE, Purpose, first_seed
from irevla.types import weights_hash

SUPERVISED = SFTConfig(steps=12, batch=16, shift=0, validate_every=4, warmup=2)
TINY = Config(
    suite="pointmass",
    expert_tasks=("left-disc", "right-disc"),
    rl_tasks=("left-disc-new",),
    unseen_tasks=("left-square-orange",),
    env=EnvConfig(image_size=32, horizon=12, workers=2, envs_per_worker=2),
    expert=ExpertConfig(episodes=6),
    model=ModelConfig(width=32, layers=1, head_groups=4, head_hidden=16),
    sft=SUPERVISED,
    ppo=PPOConfig(steps=128, rollout=16, minibatch=32, warmup=1, checkpoint_every=1),
    harvest=HarvestConfig(episodes=2, attempts=8),
    sl=SUPERVISED,
    eval=EvalConfig(episodes=2, interim=1, videos=False),
)


def run(directory: Path, config: Config) -> list[dict[str, object]]:
    with open_run(directory, config) as opened:
        run_algorithm(opened)
        return opened.rows()


def stages(rows: list[dict[str, object]]) -> list[object]:
    return list(dict.fromkeys(row["stage"] for row in rows))


def test_everything_is_there_in_the_end(tmp_path: Path) -> None:
    rows = run(tmp_path / "run", replace(TINY, eval=EvalConfig(episodes=2, interim=1)))
    assert stages(rows) == ["baseline", "sft", "rl:left-disc-new", "sl:left-disc-new"]
    assert {row["task"] for row in rows if row["stage"] == "sl:left-disc-new"} == {
        "left-disc", "right-disc", "left-disc-new", "left-square-orange",
    }  # fmt: skip
    saved = json.loads((tmp_path / "run" / "results.json").read_text())
    assert saved["rows"] == rows and saved["config"] == to_dict(TINY) | {"eval": saved["config"]["eval"]}
    assert len(EpisodeStore(tmp_path / "run" / "expert")) == 12
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name[0] != ".") == [
        "rl-left-disc-new", "sft", "sl-left-disc-new",
    ]  # fmt: skip
    page = write_report(tmp_path / "run").read_text()
    assert "left-disc-new" in page and "<video" in page


def test_the_same_call_again_changes_nothing(tmp_path: Path) -> None:
    first = run(tmp_path / "run", TINY)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "checkpoints").rglob("*")}
    assert run(tmp_path / "run", TINY) == first
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "checkpoints").rglob("*")}


@pytest.mark.parametrize("method", sorted(METHODS))
def test_who_learns_in_which_stage(method: str, tmp_path: Path) -> None:
    """The VLM's weights change exactly in the stages in which the method trains it."""
    rows = run(tmp_path, replace(TINY, method=method))
    row = METHODS[method]
    names = [
        name for name in ("sft", "rl-left-disc-new", "sl-left-disc-new") if (tmp_path / "checkpoints" / name).exists()
    ]
    expected = ["sft"] * row.sft + ["rl-left-disc-new"] * (row.rl != "none") + ["sl-left-disc-new"] * (row.sl != "none")
    assert names == expected
    vlms = [weights_hash(VLAPolicy.from_pretrained(tmp_path / "checkpoints" / name).vlm) for name in names]
    if row.sft and row.rl != "none":
        assert (vlms[0] != vlms[1]) == (row.rl == "all")
    if row.rl != "none" and row.sl != "none":
        assert (vlms[1] != vlms[2]) == (row.sl == "all")
    assert stages(rows)[:2] == ["baseline", "sft"]


def test_a_policy_one_already_has(tmp_path: Path) -> None:
    run(tmp_path / "first", replace(TINY, method="sft"))
    config = replace(TINY, from_checkpoint=str(tmp_path / "first"))
    rows = run(tmp_path / "second", config)
    assert not (tmp_path / "second" / "checkpoints" / "sft").exists()
    assert stages(rows)[-1] == "sl:left-disc-new"


def test_a_policy_that_does_not_fit(tmp_path: Path) -> None:
    run(tmp_path / "first", replace(TINY, method="sft"))
    config = replace(TINY, from_checkpoint=str(tmp_path / "first"), env=replace(TINY.env, image_size=48))
    with pytest.raises(UserError, match="32 pixels"):
        run(tmp_path / "second", config)


def test_evaluation_seeds_never_touch_training() -> None:
    blocks = [range(first_seed(purpose, 0), first_seed(purpose, 999) + SHARE) for purpose in Purpose]
    for index, block in enumerate(blocks):
        assert all(block.stop <= other.start or other.stop <= block.start for other in blocks[index + 1 :])


KILLED = """
import sys, json
from pathlib import Path
from irevla.presets import from_dict
from irevla.algorithm import run_algorithm
from irevla.runs.run import open_run
import torch
torch.set_num_threads(1)
with open_run(Path(sys.argv[1]), from_dict(json.loads(sys.argv[2]))) as run:
    run_algorithm(run)
"""


def test_killed_at_random_moments_and_resumed(tmp_path: Path) -> None:
    """kill -9, again and again: the same files in the end, and the supervised stage's weights to the bit."""
    config = replace(TINY, threads=1, sft=replace(SUPERVISED, steps=60, validate_every=10))
    whole = tmp_path / "whole"
    run(whole, config)
    broken, luck, kills = tmp_path / "broken", random.Random(0), 0
    argv = [sys.executable, "-c", KILLED, str(broken), json.dumps(to_dict(config))]
    for _ in range(12):
        process = subprocess.Popen(argv, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
        try:
            _, errors = process.communicate(timeout=2.5 + 3.5 * luck.random())
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
            continue
        assert process.returncode == 0, errors.decode()
        break
    else:
        run(broken, config)
    assert kills >= 2
    files = [{str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()} for root in (whole, broken)]
    ours = [
        {name for name in names if name.startswith(("checkpoints", "results", "journal", "expert/meta"))}
        for names in files
    ]
    assert ours[0] == ours[1]
    hashes = [VLAPolicy.from_pretrained(root / "checkpoints" / "sft").hash() for root in (whole, broken)]
    assert hashes[0] == hashes[1]
    events = [
        [json.loads(line)["event"] for line in (root / "journal.jsonl").read_text().splitlines()]
        for root in (whole, broken)
    ]
    assert events[0] == events[1]


def test_ctrl_c_stops_cleanly(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "irevla.cli", "run", "pointmass", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "expert").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on from here" in errors.decode() and "Traceback" not in errors.decode()
