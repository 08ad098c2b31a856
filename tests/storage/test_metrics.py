import json
import sys
from pathlib import Path

import pytest

from irevla.errors import UserError
from irevla.storage.metrics import Metrics, read_metrics


def curve(path: Path, stage: str, name: str) -> list[tuple[int, float]]:
    return [(row["step"], row[name]) for row in read_metrics(path) if row["stage"] == stage]


def test_points_come_back(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    with Metrics(path) as metrics:
        metrics.log("sft", 10, loss=0.5, lr=1e-3)
        metrics.log("rl:door", 1024, success=0.25)
        metrics.log("sft", 20, loss=0.4)
    assert curve(path, "sft", "loss") == [(10, 0.5), (20, 0.4)]
    assert curve(path, "rl:door", "success") == [(1024, 0.25)]
    assert all(row["time"] > 0 for row in read_metrics(path))


def test_what_a_resumed_stage_made_again_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with Metrics(path) as metrics:
        for step in (10, 20, 30, 40):
            metrics.log("sft", step, loss=float(step))
        metrics.log("rl:door", 5, success=0.0)
    with Metrics(
        path
    ) as metrics:  # resumed from the checkpoint of step 10, with other steps than before
        for step in (20, 35):
            metrics.log("sft", step, loss=-float(step))
    assert curve(path, "sft", "loss") == [(10, 10.0), (20, -20.0), (35, -35.0)]
    assert len(curve(path, "rl:door", "success")) == 1


def test_points_of_one_step_are_merged(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with Metrics(path) as metrics:
        metrics.log("sft", 10, loss=0.5)
        metrics.log("sft", 10, validation=0.6)
        metrics.log("sft", 10, loss=0.4)
    (row,) = read_metrics(path)
    assert (row["loss"], row["validation"]) == (0.4, 0.6)


def test_a_torn_line_and_not_a_number(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with Metrics(path) as metrics:
        metrics.log("sft", 10, loss=float("nan"))
    with path.open("a") as file:
        file.write('{"stage": "sft", "st')
    assert read_metrics(path)[0]["loss"] is None
    with Metrics(path) as metrics:
        metrics.log("sft", 20, loss=1.0)
    assert curve(path, "sft", "loss") == [(10, None), (20, 1.0)]
    assert (
        "NaN" not in path.read_text()
        and len([json.loads(line) for line in path.read_text().splitlines()]) == 2
    )


def test_tensorboard_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"irevla\[tensorboard\]"):
        Metrics(tmp_path / "metrics.jsonl", tensorboard=True)


@pytest.mark.filterwarnings("ignore")  # TensorBoard's own
def test_tensorboard_gets_the_points_too(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with Metrics(tmp_path / "metrics.jsonl", tensorboard=True) as metrics:
        metrics.log("sft", 10, loss=0.5)
    assert list((tmp_path / "tensorboard").glob("events*"))


@pytest.mark.parametrize("value", ['"often"', "[1]", "true", "{}"])
def test_a_value_that_is_no_number_is_told(tmp_path: Path, value: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"stage": "rl:task", "step": 1, "success": {value}}}\n')
    with pytest.raises(UserError, match="is damaged: a point of 'rl:task'"):
        read_metrics(path)
