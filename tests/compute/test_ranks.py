"""Processes that learn together learn what one alone does."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from irevla.compute import engine
from irevla.compute.ranks import Part, Ranks
from irevla.storage.checkpoint import load
from two_ranks import differences, learnt

PATIENCE = 100.0  # seconds


@pytest.mark.parametrize(("size", "ranks"), [(5, 2), (7, 3), (4, 4), (64, 1)])
def test_the_parts_of_a_batch_are_all_of_it(size: int, ranks: int) -> None:
    parts = [Ranks(rank, ranks).part(size) for rank in range(ranks)]
    numbers = [number for part in parts for number in range(size)[part.rows]]
    assert numbers == list(range(size))
    lengths = [len(part) for part in parts]
    assert max(lengths) - min(lengths) <= 1
    assert sum(part.share for part in parts) == pytest.approx(1)
    assert Part.whole(size) == Ranks().part(size)


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    """Loss, gradient norm and validation of the whole batch, and the same weights on both."""
    log = tmp_path / "log"
    with engine.started(engine.torchrun(2), "two_ranks", [str(tmp_path)], log=log) as process:
        assert process.wait(PATIENCE) == 0, log.read_text()
    points, weights = learnt()
    first, second = (load(tmp_path / name) for name in "01")
    for both in (first, second):
        assert len(both["points.json"]) == len(points) == 2
        for here, there in zip(points, both["points.json"], strict=True):
            assert there == pytest.approx(here, rel=1e-5)
        assert differences(both["model.safetensors"], weights) < 1e-6
    for name, value in first["model.safetensors"].items():
        assert torch.equal(value, second["model.safetensors"][name])


def test_what_an_engine_refuses_is_known_from_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("noise\nirevla: there is no such node\nmore noise\n")
    assert engine.last_word(log) == "there is no such node"
    log.write_text("noise\n")
    assert engine.last_word(log) == ""


SUBMITTER = """
import signal, sys, time
from pathlib import Path
from irevla.compute import engine
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell's `&` started
with engine.started(engine.torchrun(2), "sleeps", sys.argv[1:], log=Path(sys.argv[1]) / "log"):
    time.sleep(1000)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_one_that_wants_its_work(tmp_path: Path, number: int) -> None:
    path = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", SUBMITTER, str(tmp_path)]
    submitter = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.DEVNULL
    )
    pids = _wait_for(tmp_path, 2)
    submitter.send_signal(number)
    submitter.wait(PATIENCE)
    deadline = time.monotonic() + 30
    while any(_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "they are still there"
        time.sleep(0.1)


def _wait_for(folder: Path, count: int) -> list[int]:
    deadline = time.monotonic() + PATIENCE
    while len(found := list(folder.glob("pid-*"))) < count:
        assert time.monotonic() < deadline, (folder / "log").read_text()
        time.sleep(0.1)
    return [int(path.name.removeprefix("pid-")) for path in found]


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
