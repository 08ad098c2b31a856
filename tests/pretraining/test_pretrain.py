import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from irevla.config import PretrainConfig
from irevla.errors import UserError
from irevla.models.vlm.pretrained import load_tiny
from irevla.pretraining import fit as module
from irevla.pretraining.corpus import (
    EXAM,
    POSES,
    TRAIN,
    Corpus,
    RenderSettings,
    corpus,
    render_shard,
)
from irevla.pretraining.exam import _chosen, examine
from irevla.pretraining.fit import fit, pretrain
from irevla.pretraining.questions import Question
from irevla.storage.checkpoint import Checkpoints
from irevla.storage.metrics import Metrics
from irevla.types import Observation, weights_hash

SMALL = PretrainConfig(
    width=32,
    layers=1,
    image_size=32,
    steps=12,
    batch=8,
    warmup=2,
    validate_every=4,
    device="cpu",
    threads=1,
)


def toy_corpus() -> Corpus:
    """Images of one colour each; the question is which."""
    colours = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200)}
    images = torch.stack(
        [torch.tensor(rgb, dtype=torch.uint8).expand(32, 32, 3) for rgb in colours.values()] * 5
    )
    asked = [
        [Question(family, "what color is it?", name) for family in ("colour", "caption", "motion")]
        for name in colours
    ]
    return Corpus(images, asked * 5)


def run(directory: Path, config: PretrainConfig, data: Corpus) -> torch.nn.Module:
    with Metrics(directory / "metrics.jsonl") as metrics:
        return fit(
            config,
            data,
            data,
            device=torch.device("cpu"),
            checkpoints=Checkpoints(directory / "checkpoints"),
            metrics=metrics,
        )


def test_it_learns_what_it_is_asked(tmp_path: Path) -> None:
    config = replace(SMALL, steps=160, validate_every=160, lr=3e-3)
    data = toy_corpus()
    model = run(tmp_path, config, data)
    grades = examine(model, data, limit=45)  # type: ignore[arg-type]
    blind = examine(model, data, limit=45, blind=True)  # type: ignore[arg-type]
    assert (
        grades["colour"].right == 1.0 and grades["all"].count == 45 and blind["colour"].right == 0.0
    )
    last = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()][-1]
    assert last["stage"] == "exam" and last["colour_right"] == 1.0


def test_killed_and_resumed_it_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = toy_corpus()
    whole = weights_hash(run(tmp_path / "whole", SMALL, data))
    update, calls = module._update, []

    def dies(*arguments: object, limit: float) -> float:
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return update(*arguments, limit=limit)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_update", dies)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", SMALL, data)
    monkeypatch.setattr(module, "_update", update)
    assert weights_hash(run(tmp_path / "killed", SMALL, data)) == whole


SETTINGS = RenderSettings(image_size=16, seed=0, workers=1, appearances=2)


def test_the_corpus_is_rendered_once_and_its_splits_differ(tmp_path: Path) -> None:
    train, exam = (corpus(tmp_path, SETTINGS, split=split, images=10) for split in (TRAIN, EXAM))
    [path] = tmp_path.glob("train-*")
    before = path.stat().st_mtime_ns
    again = corpus(tmp_path, SETTINGS, split=TRAIN, images=10)
    assert (
        len(train) == 2 * POSES
        and torch.equal(train.images, again.images)
        and train.questions == again.questions
    )
    assert path.stat().st_mtime_ns == before and len(train.questions[0]) > 5
    assert not torch.equal(train.images, exam.images)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="damaged"):
        corpus(tmp_path, SETTINGS, split=TRAIN, images=10)


def test_a_shard_is_a_function_of_seed_split_and_number(tmp_path: Path) -> None:
    for name in ("one", "two"):
        render_shard(tmp_path / name, SETTINGS, split=TRAIN, number=3)
    render_shard(tmp_path / "other", SETTINGS, split=TRAIN, number=4)
    one, two, other = ((tmp_path / name).read_bytes() for name in ("one", "two", "other"))
    assert one == two != other


def test_everything_from_the_scenes_to_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A corpus of one shard each, a few steps, the exam, and a file that speaks."""
    monkeypatch.setattr(module, "FULL", 40)
    monkeypatch.setattr(module, "GLANCE", 40)
    config = replace(SMALL, image_size=16, pictures=1, exam=1, steps=4, warmup=8)
    results = pretrain(tmp_path / "out", config, appearances=2)
    assert "warmup 8 is more than steps 4: the learning rate ends at 50%" in capsys.readouterr().err
    assert {"all", "motion", "place"} <= results["exam"].keys() <= results["exam_blind"].keys()
    model, size = load_tiny(tmp_path / "out" / "tiny.safetensors")
    seen = Observation(torch.zeros(1, 16, 16, 3, dtype=torch.uint8), ("what?",))
    assert size == 16 and isinstance(model.generate(seen)[0], str)
    assert (
        json.loads((tmp_path / "out" / "results.json").read_text())["parameters"]
        == results["parameters"]
    )
    with pytest.raises(UserError, match="other settings"):
        pretrain(tmp_path / "out", replace(config, steps=5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 130}, "multiple of 4"),
        ({"layers": 0}, "layers must be positive"),
        ({"weight_decay": -1.0}, "weight_decay must not be negative"),
        ({"threads": 0}, "threads must be positive"),
        ({"device": "nonsense"}, "device 'nonsense' cannot be used"),
    ],
)
def test_what_is_wrong_is_known_before_anything_is_rendered(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        pretrain(tmp_path / "out", replace(SMALL, **change))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_the_exam_asks_every_question_of_a_family() -> None:
    data = toy_corpus()
    pair = [Question("hand", "one?", "1"), Question("hand", "two?", "2")]
    asked = _chosen(Corpus(data.images[:4], [pair] * 4), limit=10)
    assert [question.text for _, question in asked] == ["one?", "two?"] * 2


def test_gradients_that_are_not_finite_end_it_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_update", lambda *_, **__: float("nan"))
    with pytest.raises(UserError, match="no loss was finite"):
        run(tmp_path, SMALL, toy_corpus())
