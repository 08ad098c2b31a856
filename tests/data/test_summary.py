"""`irevla data`: what is in a dataset, of others or of our own."""

import json
from pathlib import Path

import numpy as np
import pytest
from recorded import IMAGES, VIDEOS, copied, edit_info, record, set_action

from irevla.cli.main import main
from irevla.data.episodes import EpisodeStore
from irevla.data.store_spec import StoreSpec
from irevla.types import Episode, Provenance


def told(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["data", str(path)]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_what_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    text = told(VIDEOS, capsys)
    assert "4 episodes, 35 frames at 30 a second (1.2 s)" in text
    assert "reach the right disc 2 2 0.3 to 0.3" in text
    assert "Reach the left disc. 2 1 0.3 to 0.3" in text
    assert "front 32 x 48 x 3 video wrist 32 x 48 x 3 video" in text
    assert "x 0 0.1514 0.3 0.1079 0" in text
    assert "not recorded" not in text and "not recorded" in told(IMAGES, capsys)


def test_the_same_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = copied(IMAGES, tmp_path / "data")
    edit_info(root, robot_type="so101")
    for frame in range(35):
        set_action(root, frame, [float("nan"), 0.5])
    assert main(["data", str(root), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["robot"], said["episodes"], said["frames"], said["fps"]) == ("so101", 4, 35, 10)
    assert said["tasks"][0]["succeeded"] is None
    empty, half = said["actions"]
    assert (empty["min"], empty["std"], empty["not_finite"]) == (None, None, 35)
    assert (half["min"], half["max"], half["std"], half["not_finite"]) == (0.5, 0.5, 0.0, 0)


def test_our_own_datasets_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = EpisodeStore(tmp_path / "own", StoreSpec("toy", (16, 16, 3), 1, 10))
    made = Provenance("toy", "reach", 0, source="expert")
    images = np.zeros((5, 16, 16, 3), np.uint8)
    actions = np.linspace(-1, 1, 5, dtype=np.float32)[:, None]
    store.append(Episode(images, actions, np.zeros(5, np.float32), "reach it", True, made))
    text = told(store.root, capsys)
    assert "reach it 1 1 0.5 to 0.5" in text and "0 -1 0 1 0.7071 0" in text


def test_what_is_no_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "a" / "\0"):
        assert main(["data", str(path)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    root = copied(IMAGES, tmp_path / "old")
    edit_info(root, codebase_version="v1.6")
    assert main(["data", str(root)]) == 2
    assert "convert" in capsys.readouterr().err


def test_what_would_steer_a_terminal_is_not_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "\x1b[2J\x1b]0;mine\x07 pick\nit " + "up" * 5_000
    images, actions = np.zeros((3, 16, 16, 3), np.uint8), np.zeros((3, 2), np.float32)
    record(tmp_path / "data", [(images, actions)], instruction=words, fps=10)
    assert main(["data", str(tmp_path / "data")]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\x07" not in out and "pick" in out and len(out) < 3_000
