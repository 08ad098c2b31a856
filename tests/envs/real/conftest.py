"""The cell around a simulated arm: settings in a file, pictures as a video stream over HTTP, a
person at the keys."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from irevla.envs.real.settings import FILE
from irevla.envs.real.suite import POLICY


@pytest.fixture
def cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["SimulatedCell"]:
    for package in ("franky", "franky_sim", "cv2"):
        pytest.importorskip(package)
    from cell import SimulatedCell

    with SimulatedCell(tmp_path / "arm.yaml") as cell:
        monkeypatch.setenv(FILE, str(cell.path))
        monkeypatch.setenv(POLICY, "")
        monkeypatch.delenv(POLICY)  # and whatever an `admit` sets is gone afterwards
        yield cell
