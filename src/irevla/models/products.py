"""Products in bfloat16 on a CPU that has instructions for them, with weights, sums over the batch
and everything else in float32: the small VLM's mixed precision.

Autocast does the same to attention, whose backward pass is then slower than all that is gained.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_mixed: ContextVar[bool] = ContextVar("mixed", default=False)


@functools.cache
def bfloat16_instructions() -> bool:
    """Return whether this processor multiplies bfloat16 itself: else it is slower, not faster."""
    can = torch.cpu.get_capabilities()
    return bool(can.get("avx512_bf16") or can.get("amx_bf16"))


@contextmanager
def mixed_precision(enabled: bool) -> Iterator[None]:
    """Compute the products of a small VLM that is on the CPU in bfloat16 in here.

    Only where the processor has instructions for it.
    """
    token = _mixed.set(enabled and bfloat16_instructions())
    try:
        yield
    finally:
        _mixed.reset(token)


def is_mixed(x: Tensor) -> bool:
    """Return whether products of `x` are to be computed in bfloat16."""
    return _mixed.get() and x.device.type == "cpu"


class Linear(nn.Linear):
    """torch's, but for `mixed_precision`."""

    def forward(self, x: Float[Tensor, "*B n"]) -> Float[Tensor, "*B k"]:
        """Return x W^T + b."""
        return linear(x, self.weight, self.bias)


def linear(
    x: Float[Tensor, "*B n"], weight: Float[Tensor, "k n"], bias: Float[Tensor, " k"]
) -> Float[Tensor, "*B k"]:
    """Return x W^T + b, float32."""
    if not is_mixed(x):
        return F.linear(x, weight, bias)
    if not torch.is_grad_enabled():  # the same numbers, without what a graph costs
        return _product(x, weight, bias)[0]
    product: Tensor = _Product.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return product


def _product(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return x W^T + b, and in bfloat16 what it was made of: the rows of x, and W."""
    rows = x.reshape(-1, x.shape[-1]).bfloat16()
    small = weight.bfloat16()
    out = torch.addmm(bias.bfloat16(), rows, small.t())
    return out.float().view(*x.shape[:-1], -1), rows, small


class _Product(torch.autograd.Function):
    """x W^T + b and its three gradients, all products in bfloat16."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        out, rows, small = _product(x, weight, bias)
        ctx.save_for_backward(rows, small)
        ctx.shape = x.shape
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        grad = gradients[0].reshape(-1, weight.shape[0])
        small = grad.bfloat16()
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        dx = (small @ weight).float().view(ctx.shape) if wants_x else None
        dweight = (small.t() @ rows).float() if wants_weight else None
        return dx, dweight, grad.sum(0) if wants_bias else None
