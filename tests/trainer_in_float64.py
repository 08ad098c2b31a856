"""A process that computes a job in float64, for comparisons: there rounding hides no fault.

In float32 Adam makes a step of it wherever a gradient is next to nothing.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor

from irevla.compute.processes import obey
from irevla.stages import trainer


@contextmanager
def float64() -> Iterator[None]:
    """Let the models that are built meanwhile, and what they compute, be float64."""
    torch.set_default_dtype(torch.float64)
    try:
        with patch.object(Tensor, "float", Tensor.double):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


def run(arguments: Sequence[str]) -> None:
    """Be the process that an engine would have started."""
    with float64():
        trainer.run(arguments)


if __name__ == "__main__":
    obey(run)
