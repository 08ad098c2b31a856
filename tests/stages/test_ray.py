"""Stage 2 on a Ray cluster of two nodes on this machine, "local" and "remote"."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from irevla.cli.main import main
from irevla.compute import engine
from irevla.errors import UserError
from irevla.models.policy import VLAPolicy
from irevla.storage.journal import Journal
from irevla.storage.read import read_json
from stage_two import CONFIG, ExactStageTwo, StageTwo, assert_same_weights

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
pytest.importorskip("ray")

PATIENCE = 500.0  # seconds: on a busy machine each process takes minutes to import torch
LONG = replace(
    CONFIG,
    model=replace(CONFIG.model, dtype="float32"),
    sl=replace(CONFIG.sl, steps=600, batch=7, validate_every=50),  # parts of unlike size
)
SHORT = """
--device cpu --threads 1 --model.dtype float32 --rl-tasks left-disc-new --eval.episodes 4
--eval.interim 0 --eval.no-videos --expert.episodes 6 --sft.steps 60 --sft.validate-every 20
--ppo.steps 512 --harvest.episodes 4 --harvest.attempts 8 --sl.steps 40 --sl.validate-every 20
--env.workers 1
"""


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IREVLA_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that is "local", and three nodes that are "remote"."""
    places = [Path(__file__).parents[2] / "src", Path(__file__).parents[1]]
    path = os.pathsep.join([*map(str, places), os.environ.get("PYTHONPATH", "")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        from ray.cluster_utils import Cluster

        made = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "resources": {"local": 2}}
        )
        for _ in range(3):
            made.add_node(num_cpus=2, resources={"remote": 2})
        yield made
        made.shutdown()


@pytest.fixture(scope="module")
def want(tmp_path_factory: pytest.TempPathFactory) -> VLAPolicy:
    torch.set_num_threads(1)
    return ExactStageTwo(tmp_path_factory.mktemp("inline"), LONG).learn("inline")


def test_a_run_whose_stage_2_is_remote_gives_the_result_of_one_that_is_not(
    cluster: Any, tmp_path: Path
) -> None:
    remote = f"--compute.stage2 ray --compute.ray-resource remote --compute.share {tmp_path}/share"
    ways = {"inline": "", "ray": f"{remote} --compute.ray-address {cluster.address}"}
    for name, more in ways.items():
        out = str(tmp_path / name)
        assert main(["run", "pointmass", "--out", out, *SHORT.split(), *more.split()]) == 0
    results = [_rows(tmp_path / name) for name in ways]
    stages = [Journal(tmp_path / name / "journal.jsonl").done("sl:left-disc-new") for name in ways]
    policies = [VLAPolicy.from_pretrained(tmp_path / name).hash() for name in ways]
    assert all(stages)
    assert results[0] == results[1]
    assert policies[0] == policies[1]
    assert (tmp_path / "ray" / "logs" / "sl-left-disc-new.log").exists()


def _rows(run: Path) -> list[dict[str, Any]]:
    """What was measured, but for how long it took."""
    rows = read_json(run / "results.json")["rows"]
    return [{**row, "seconds": 0.0} for row in rows]


@pytest.mark.parametrize("lost", ["process", "node"])
def test_one_that_is_lost_is_replaced_and_the_weights_are_the_same(
    cluster: Any, tmp_path: Path, want: VLAPolicy, lost: str
) -> None:
    stage = ExactStageTwo(tmp_path, LONG)
    hits: list[int] = []
    killer = threading.Thread(target=_hit, args=(cluster, stage, lost, hits))
    killer.start()
    policy = stage.learn("ray", processes=2, ray_address=cluster.address, ray_resource="remote")
    killer.join()
    assert hits and hits[0] < LONG.sl.steps
    assert_same_weights(policy, want)
    assert [row["step"] for row in stage.curves()] == list(range(50, 601, 50))


def _hit(cluster: Any, stage: StageTwo, lost: str, hits: list[int]) -> None:
    """Kill a process of the job, or its node, as soon as the first checkpoint has come back."""
    deadline = time.monotonic() + PATIENCE
    while not (found := sorted(stage.out.glob("checkpoints/sl-*"))):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    hits.append(int(found[-1].name.rpartition("-")[2]))
    if lost == "process":
        os.kill(max(_workers()), signal.SIGKILL)
    else:
        cluster.remove_node(sorted(cluster.worker_nodes, key=str)[0], allow_graceful=False)


def _workers() -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if b"RayTrainWorker" in (path / "cmdline").read_bytes():
                yield int(path.name)
        except OSError:
            continue


def test_what_a_cluster_has_not_is_said_in_one_line(cluster: Any, tmp_path: Path) -> None:
    stage = StageTwo(tmp_path, LONG)
    with pytest.raises(UserError, match="of 'remote', and 7 processes need one each: add nodes"):
        stage.learn("ray", processes=7, ray_address=cluster.address, ray_resource="remote")
    with pytest.raises(UserError, match=r"no Ray cluster answers at compute.ray_address '127.0.0"):
        stage.learn("ray", ray_address="127.0.0.1:9")


def test_a_share_that_a_node_does_not_see_is_said_in_one_line(cluster: Any, tmp_path: Path) -> None:
    nowhere = [str(tmp_path / "nowhere"), "0" * 64]
    settings = engine.ray(1, address=cluster.address, resource="remote", device="cpu")
    log = tmp_path / "log"
    with engine.started(settings, "irevla.stages.trainer", nowhere, log=log) as process:
        assert process.wait(PATIENCE) == 2
    assert "let compute.share name a place that all machines see" in engine.last_word(log)


def test_no_process_outlives_the_one_that_wants_its_work(cluster: Any, tmp_path: Path) -> None:
    before = set(_workers())
    settings = engine.ray(1, address=cluster.address, resource="remote", device="cpu")
    deadline = time.monotonic() + PATIENCE
    with engine.started(settings, "sleeps", [str(tmp_path)], log=tmp_path / "log") as process:
        while not list(tmp_path.glob("pid-*")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
    while set(_workers()) - before:
        assert time.monotonic() < deadline, "it is still there"
        time.sleep(0.1)
