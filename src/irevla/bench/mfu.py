"""Model FLOP utilisation: what a model computes in a second, over what a plain matrix product does
in the same run."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle

GIB = 2**30


def default_device() -> torch.device:
    """CUDA where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class MatrixProduct:
    """The yardstick: the rate of one square matrix product, with the threads that the model has."""

    flop_per_s: float
    size: int
    dtype: str
    threads: int  # of the CPU


def matrix_product(device: torch.device, *, size: int = 0, repeats: int = 12) -> MatrixProduct:
    """The best of `repeats`: bfloat16 on CUDA, where the models compute in it, float32 on the CPU.

    The numbers are random: a GPU multiplies zeros faster, because they take less power. `size` 0:
    large enough for the device to be busy, small enough to take a second or two.
    """
    on_cuda = device.type == "cuda"
    size, dtype = size or (8192 if on_cuda else 1024), torch.bfloat16 if on_cuda else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = seconds(lambda: a @ b, device, repeats=repeats, warmup=2)
    return MatrixProduct(
        2 * size**3 / min(times), size, str(dtype).removeprefix("torch."), torch.get_num_threads()
    )


def flop(work: Callable[[], object]) -> int:
    """The floating point operations of the matrix products and convolutions in `work`, backward
    passes included.

    Attention is counted as the products that it consists of, and so alike on every device: the
    counter knows no formula for the fused kernel of the CPU, and adds to the fused backward pass of
    CUDA what that computes twice.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def seconds(
    work: Callable[[], object], device: torch.device, *, repeats: int, warmup: int
) -> list[float]:
    """How long each of `repeats` calls takes, until the device is done."""
    times = []
    for repeat in range(warmup + repeats):
        synchronise(device)
        start = time.perf_counter()
        work()
        synchronise(device)
        times += [time.perf_counter() - start] if repeat >= warmup else []
    return times


def utilisation(
    measure: Callable[[], list[float]], device: torch.device, *, images: int, flop_per_image: int
) -> dict[str, Any]:
    """What the times that `measure` returns amount to, each for a forward or a training step of
    `images` pictures.

    "ratio" is the model FLOP utilisation: the operations of the median time per second, over those
    of the best matrix product before and after. "memory" is the peak within `measure`.
    """
    before = matrix_product(device)
    reset_peak(device)
    middle = median(measure())
    memory = peak_memory(device)
    matrix = max(before, matrix_product(device), key=lambda product: product.flop_per_s)
    rate = images * flop_per_image / middle
    return {
        "ratio": rate / matrix.flop_per_s,
        "images_per_s": images / middle,
        "seconds": middle,
        "gflop_per_image": flop_per_image / 1e9,
        "tflop_per_s": rate / 1e12,
        "matrix_tflop_per_s": matrix.flop_per_s / 1e12,
        "matrix_size": matrix.size,
        "matrix_dtype": matrix.dtype,
        "threads": matrix.threads,
        "memory": memory,
    }


def reset_peak(device: torch.device) -> None:
    """Forget the peak of CUDA's memory so far, and what is held of it. That of a process on the CPU
    is its whole life's."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> dict[str, float]:
    """GiB: what tensors took on CUDA at most, and what was held for them; on the CPU the process
    (VmHWM)."""
    if device.type == "cuda":
        allocated, reserved = (
            torch.cuda.max_memory_allocated(device),
            torch.cuda.max_memory_reserved(device),
        )
        return {"allocated_gib": allocated / GIB, "reserved_gib": reserved / GIB}
    lines = Path("/proc/self/status").read_text().splitlines()
    kib = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return {"process_gib": kib * 1024 / GIB}


class Stopwatch(AbstractContextManager["Stopwatch"]):
    """Where the time of a step goes, part by part, in seconds.

    It waits for the device at every border, so the steps that it watches are slower than others:
    time those without it. Modules named in `parts` are timed from call to return; `between` names
    what passes from one border to the next outside of them: before a forward pass, after it, in the
    optimiser, after it.
    """

    def __init__(self, device: torch.device, parts: Sequence[tuple[str, nn.Module]]) -> None:
        self.device, self.parts = device, parts
        self.spent: dict[str, float] = {}
        self._handles: list[RemovableHandle] = []
        self._last = 0.0

    def __enter__(self) -> "Stopwatch":
        for name, module in self.parts:
            self._handles.append(module.register_forward_pre_hook(lambda *_: self.lap("rest")))
            self._handles.append(module.register_forward_hook(lambda *_, name=name: self.lap(name)))
        self._handles.append(register_optimizer_step_pre_hook(lambda *_: self.lap("backward")))
        self._handles.append(register_optimizer_step_post_hook(lambda *_: self.lap("optimiser")))
        self.restart()
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def restart(self) -> None:
        """Start the clock, and drop what passed since the last border."""
        synchronise(self.device)
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """What passed since the last border was `name`."""
        synchronise(self.device)
        now = time.perf_counter()
        self.spent[name] = self.spent.get(name, 0.0) + now - self._last
        self._last = now

    def shares(self) -> dict[str, float]:
        """Each part's share of all the time, the largest first."""
        total = sum(self.spent.values())
        return {
            name: value / total
            for name, value in sorted(self.spent.items(), key=lambda item: -item[1])
        }


def median(times: Sequence[float]) -> float:
    """The middle one."""
    return float(np.median(times))
