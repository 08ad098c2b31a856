"""Builders shared by the tests."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(1)  # two threads on a busy machine are slower than one


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def coarse_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked at is what is drawn, not how finely: a page takes a third of the time."""
    monkeypatch.setattr("irevla.evaluation.plots.DPI", 40)
