"""The cell around a simulated arm: settings in a file, images as a video stream over HTTP, a
person at the keys."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from irevla.robot.settings import FILE


@pytest.fixture(autouse=True)
def state_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where locks and stops lie: with a short name, as sockets need."""
    with tempfile.TemporaryDirectory(prefix="arm-") as folder:
        monkeypatch.setenv("XDG_STATE_HOME", folder)
        yield Path(folder)


@pytest.fixture
def cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for package in ("franky", "franky_sim", "cv2"):
        pytest.importorskip(package)
    from cell import SimulatedCell

    with SimulatedCell(tmp_path / "arm.yaml") as cell:
        monkeypatch.setenv(FILE, str(cell.path))
        yield cell
