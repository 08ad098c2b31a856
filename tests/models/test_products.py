"""Products in bfloat16: near those in float32, same gradients, only where they are wanted."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irevla.config import ModelConfig
from irevla.models import products
from irevla.models.policy import VLAPolicy, build_policy
from irevla.types import Observation

SMALL = ModelConfig(vlm="tiny-random", width=32, layers=1)


@pytest.fixture(params=[True, False], ids=["instructions", "none"])
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """A processor with instructions for bfloat16, or without: it computes the same, slowly."""
    monkeypatch.setattr(products, "bfloat16_instructions", lambda: request.param)
    found: bool = request.param
    return found


def of_layer(layer: nn.Linear, x: Tensor) -> tuple[Tensor, ...]:
    """The output, and the gradients of input, weight and bias."""
    layer.zero_grad()
    x = x.clone().requires_grad_()
    out = layer(x)
    out.square().sum().backward()
    assert x.grad is not None and layer.weight.grad is not None and layer.bias.grad is not None
    return out.detach(), x.grad, layer.weight.grad.clone(), layer.bias.grad.clone()


def test_products_are_near_and_float32(instructions: bool) -> None:
    torch.manual_seed(0)
    layer = products.Linear(24, 16)
    x = torch.randn(3, 5, 24)
    exact = of_layer(layer, x)
    with products.mixed_precision(True):
        mixed = of_layer(layer, x)
    for one, other in zip(exact, mixed, strict=True):
        assert other.dtype == torch.float32
        assert torch.equal(one, other) is not instructions
        assert (one - other).abs().max() < 0.03 * one.abs().max()


def test_outside_it_is_torchs_own(instructions: bool) -> None:
    layer = products.Linear(24, 16)
    x = torch.randn(7, 24)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    with products.mixed_precision(True), products.mixed_precision(False):
        assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    assert not products.is_mixed(x), "it ends with its block"


def test_a_frozen_weight_gets_no_gradient(instructions: bool) -> None:
    layer = products.Linear(24, 16)
    layer.weight.requires_grad_(False)
    x = torch.randn(7, 24, requires_grad=True)
    with products.mixed_precision(True):
        layer(x).sum().backward()
    assert layer.weight.grad is None and x.grad is not None and layer.bias.grad is not None


def policy(dtype: str) -> VLAPolicy:
    torch.manual_seed(0)
    return build_policy(replace(SMALL, dtype=dtype), action_dim=4, image_size=32)


def seen() -> Observation:
    images = torch.randint(0, 256, (6, 32, 32, 3), generator=torch.Generator().manual_seed(1))
    return Observation(images.byte(), ("open the drawer", "close it") * 3)


@torch.no_grad()
def test_a_policy_acts_alike_in_both(instructions: bool) -> None:
    exact, mixed = policy("float32"), policy("auto")
    h, near = exact.encode(seen()).tokens, mixed.encode(seen()).tokens
    assert torch.equal(h, near) is not instructions
    assert near.dtype == torch.float32 and (h - near).abs().max() < 0.05 * h.abs().max()
    a, b = (one.mean(one.encode(seen())) for one in (exact, mixed))
    assert (a - b).abs().max() < 0.01


def test_the_fingerprint_is_exact_on_any_processor(instructions: bool) -> None:
    exact, mixed = policy("float32").fingerprint(), policy("auto").fingerprint()
    assert exact == mixed and mixed.computed == "cpu float32"


def test_what_is_learnt_reaches_the_whole_vlm(instructions: bool) -> None:
    learner = policy("auto")
    learner.trainable("all")
    learner.mean(learner.encode(seen())).square().sum().backward()
    assert all(
        parameter.grad is not None and parameter.grad.abs().max() > 0
        for name, parameter in learner.vlm.named_parameters()
    )
