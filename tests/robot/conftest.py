"""The cell around a simulated arm: settings in a file, images as a video stream over HTTP, a
person at the keys."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from irevla.robot.settings import FILE


@pytest.fixture
def cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for package in ("franky", "franky_sim", "cv2"):
        pytest.importorskip(package)
    from cell import SimulatedCell

    with SimulatedCell(tmp_path / "arm.yaml") as cell:
        monkeypatch.setenv(FILE, str(cell.path))
        yield cell
