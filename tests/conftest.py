"""Builders shared by the tests."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(1)  # two threads on a busy machine are slower than one


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
