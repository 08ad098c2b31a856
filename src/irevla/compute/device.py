"""Which device torch computes on, and with how many threads."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from irevla.errors import UserError


def find_device(name: str) -> torch.device:
    """Return the device that a configuration names; "auto" is CUDA where there is one, else the
    CPU.

    Raises `UserError` for a device that cannot be used here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:  # AssertionError: a torch built without CUDA
        raise UserError(f"device {name!r} cannot be used here; choose auto or cpu") from error
    return chosen


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch use `number` threads on the CPU. Sums depend on it: it is part of a run's
    settings."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let torch's global generators begin at `seed`, and be afterwards as if nothing had been
    drawn."""
    cuda = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        yield
