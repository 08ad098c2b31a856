"""Stage 2 by torchrun: one process or two give the weights that this one gives."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from irevla.config import LoRAConfig, ModelConfig
from irevla.errors import UserError
from irevla.models.policy import VLAPolicy
from stage_two import CONFIG, ExactStageTwo, StageTwo, assert_same_weights

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PATIENCE = 100.0  # seconds
LONG = replace(
    CONFIG,
    model=replace(CONFIG.model, dtype="float32"),
    sl=replace(CONFIG.sl, steps=150, batch=7, validate_every=25),  # parts of unlike size
)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IREVLA_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def want(tmp_path_factory: pytest.TempPathFactory) -> VLAPolicy:
    torch.set_num_threads(1)
    return ExactStageTwo(tmp_path_factory.mktemp("inline"), LONG).learn("inline")


def test_one_process_gives_the_same_bits(tmp_path: Path, want: VLAPolicy) -> None:
    assert ExactStageTwo(tmp_path, LONG).learn("torchrun").hash() == want.hash()


def test_two_processes_give_the_same_weights(tmp_path: Path, want: VLAPolicy) -> None:
    stage = ExactStageTwo(tmp_path, LONG)
    assert_same_weights(stage.learn("torchrun", processes=2), want)
    assert [row["step"] for row in stage.curves()] == [25, 50, 75, 100, 125, 150]


@pytest.mark.parametrize("family", ["llava", "blip2-opt"])
def test_a_large_vlm_of_which_each_has_a_part_learns_the_same(tmp_path: Path, family: str) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    from vlm_families import save

    vlm = str(save(family, tmp_path / "vlm"))
    model = ModelConfig(vlm=vlm, lora=LoRAConfig(rank=4), head_groups=4, head_hidden=8)
    config = replace(LONG, model=model, sl=replace(LONG.sl, steps=12, validate_every=4))
    shared = StageTwo(tmp_path / "shared", config)
    policy = shared.learn("torchrun", processes=2, shard=True)
    whole = StageTwo(tmp_path / "whole", config).learn("inline")
    for name, content in whole.files().items():
        if name.endswith(".safetensors"):
            found = policy.files()[name]
            assert found.keys() == content.keys()
            learnt = [key for key in content if "score.0.bias" not in key]
            gaps = {key: float((content[key] - found[key]).abs().max()) for key in learnt}
            assert max(gaps.values()) < 1e-5, gaps


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_ends_all_and_another_number_goes_on(
    tmp_path: Path, want: VLAPolicy, rank: int
) -> None:
    stage = ExactStageTwo(tmp_path, LONG)
    killer = threading.Thread(target=_kill_a_rank, args=(stage, rank))
    killer.start()
    with pytest.raises(UserError, match=r"^sl:left-disc-new: .* the same command goes on from th"):
        stage.learn("torchrun", processes=2)
    killer.join()
    assert not list(_ranks(stage.place))
    assert_same_weights(stage.learn("torchrun", processes=3), want)


def _kill_a_rank(stage: StageTwo, rank: int) -> None:
    """As soon as the first checkpoint has come back."""
    deadline = time.monotonic() + PATIENCE
    while not list(stage.out.glob("checkpoints/sl-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    pids = sorted(_ranks(stage.place))
    if len(pids) == 2:
        os.kill(pids[rank], signal.SIGKILL)


def _ranks(place: Path) -> Iterator[int]:
    """The processes that compute a job of the share `place`."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        is_rank = "trainer_in_float64" in words and "irevla.compute.torchrun" not in words
        if is_rank and any(str(place) in word for word in words):
            yield int(path.name)


SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from irevla.cli import main
from stage_two import ExactStageTwo
from test_several_processes import LONG
stage = ExactStageTwo(Path(sys.argv[1]), LONG)
main.COMMANDS = {"learn": lambda _: stage.learn("torchrun", processes=2)}
sys.exit(main.main(["learn"]))
"""


def test_ctrl_c_ends_all_ranks_in_one_line(tmp_path: Path, want: VLAPolicy) -> None:
    here = Path(__file__).parent
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(here), str(here.parent)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    stage = ExactStageTwo(tmp_path, LONG)
    deadline = time.monotonic() + PATIENCE
    while not list(stage.out.glob("checkpoints/sl-*")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "irevla: stopped; the same command goes on from here"
    assert "Traceback" not in said
    assert not list(_ranks(stage.place))
    assert_same_weights(stage.learn("inline"), want)
