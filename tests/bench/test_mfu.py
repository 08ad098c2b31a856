import resource
import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from irevla.bench import mfu
from irevla.bench.mfu import (
    GIB,
    MatrixProduct,
    Stopwatch,
    flop,
    matrix_product,
    peak_memory,
    seconds,
    utilisation,
)

CPU = torch.device("cpu")


def test_flop_of_a_matrix_product_and_a_convolution() -> None:
    assert flop(lambda: torch.ones(2, 3) @ torch.ones(3, 5)) == 2 * 2 * 3 * 5
    images, kernel = torch.ones(2, 3, 8, 8), torch.ones(5, 3, 3, 3)
    assert (
        flop(lambda: F.conv2d(images, kernel, stride=2, padding=1))
        == 2 * (2 * 4 * 4) * (3 * 3 * 3) * 5
    )


def test_flop_of_attention_are_those_of_its_products_and_twice_as_many_backwards() -> None:
    q, k, v = (torch.randn(2, 3, 7, 4, requires_grad=True) for _ in range(3))
    forward = 2 * (2 * 3) * 7 * 7 * 4 * 2
    assert flop(lambda: F.scaled_dot_product_attention(q, k, v)) == forward
    assert flop(lambda: F.scaled_dot_product_attention(q, k, v).sum().backward()) == 3 * forward


def test_flop_leave_out_the_gradients_of_frozen_weights() -> None:
    model, x = nn.Linear(3, 5), torch.ones(2, 3, requires_grad=True)
    product = 2 * 2 * 3 * 5
    assert flop(lambda: model(x).sum().backward()) == 3 * product
    model.requires_grad_(False)
    assert flop(lambda: model(x).sum().backward()) == 2 * product


def test_the_rate_of_a_matrix_product_is_the_best_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mfu, "seconds", lambda *_, **__: [2.0, 0.5, 1.0])
    product = matrix_product(CPU, size=100)
    assert product == MatrixProduct(2 * 100**3 / 0.5, 100, "float32", torch.get_num_threads())


def test_utilisation_is_the_median_time_against_the_better_yardstick(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rates = iter((100.0, 200.0))
    monkeypatch.setattr(
        mfu, "matrix_product", lambda _: MatrixProduct(next(rates), 1, "float32", 1)
    )
    result = utilisation(lambda: [4.0, 2.0, 9.0], CPU, images=8, flop_per_image=30)
    assert result["ratio"] == pytest.approx((8 * 30 / 4) / 200)
    assert result["images_per_s"] == 2 and result["seconds"] == 4
    assert result["matrix_tflop_per_s"] == pytest.approx(200e-12)


def test_warm_up_is_not_timed() -> None:
    pauses = iter((0.05, 0.0, 0.0))
    times = seconds(lambda: time.sleep(next(pauses)), CPU, repeats=2, warmup=1)
    assert len(times) == 2 and max(times) < 0.05


def test_peak_memory_of_the_process() -> None:
    block = torch.ones(2**24)  # 64 MiB
    assert peak_memory(CPU)["process_gib"] >= block.nbytes / GIB
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert peak_memory(CPU)["process_gib"] == pytest.approx(kib * 1024 / GIB, rel=0.05)


class Slow(nn.Module):
    """A layer that takes some time."""

    def __init__(self, pause: float) -> None:
        super().__init__()
        self.weight, self.pause = nn.Parameter(torch.ones(())), pause

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(self.pause)
        return x * self.weight


def test_the_stopwatch_tells_the_parts_of_a_step_apart() -> None:
    first, second = Slow(0.02), Slow(0.06)
    Slow(0.0)(torch.ones(3)).sum().backward()  # torch's first takes its time
    optimiser = torch.optim.SGD([*first.parameters(), *second.parameters()], lr=0.1)
    with Stopwatch(CPU, [("first", first), ("second", second)]) as watch:
        for _ in range(2):
            watch.restart()
            second(first(torch.ones(3))).sum().backward()
            optimiser.step()
            watch.lap("rest")
    shares = watch.shares()
    assert set(shares) == {"first", "second", "backward", "optimiser", "rest"}
    assert sum(shares.values()) == pytest.approx(1)
    assert (
        next(iter(shares)) == "second"
        and watch.spent["first"] >= 0.04
        and watch.spent["second"] >= 0.12
    )


def test_the_stopwatch_leaves_no_hooks() -> None:
    part = Slow(0.0)
    optimiser = torch.optim.SGD(part.parameters(), lr=0.1)
    with Stopwatch(CPU, [("part", part)]) as watch:
        pass
    part(torch.ones(3)).sum().backward()
    optimiser.step()
    assert watch.spent == {}
