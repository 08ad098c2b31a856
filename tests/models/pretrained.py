"""A pretrained VLM for tests: the small one, with fixed weights and a name on the Hub."""

import pytest
import torch

from irevla.config import LoRAConfig, ModelConfig
from irevla.models import build
from irevla.models.policy import VLAPolicy
from irevla.models.vlm.tiny import TinyVLM

NAME, REVISION = "someone/pretrained", "0123456789abcdef0123456789abcdef01234567"


def pretrained(*, base: str = NAME, revision: str = REVISION) -> TinyVLM:
    """The same weights whenever it is made, as if they had been read from `base`."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        vlm = TinyVLM(width=32, layers=1, heads=4, image_size=32)
    vlm.take_off_output_layer()
    vlm.base, vlm.revision = base, revision
    return vlm


def register(
    monkeypatch: pytest.MonkeyPatch, *, base: str = NAME, revision: str = REVISION
) -> None:
    """Let "pretrained" be the name of that VLM."""
    monkeypatch.setitem(
        build.VLMS, "pretrained", lambda config, size: pretrained(base=base, revision=revision)
    )


def adapted(
    *, vlm: str = "pretrained", rank: int = 2, trained: bool = True, **lora: object
) -> VLAPolicy:
    """A policy on that VLM with LoRA; `trained`: every trainable weight has been moved."""
    config = ModelConfig(
        vlm=vlm,
        width=32,
        layers=1,
        head_groups=4,
        head_hidden=16,
        lora=LoRAConfig(rank=rank, **lora),
    )
    policy = build.build_policy(config, action_dim=3, image_size=32)
    return moved(policy) if trained else policy.eval()


def moved(policy: VLAPolicy) -> VLAPolicy:
    """As if it had been trained: every trainable weight has another value."""
    with torch.no_grad():
        for parameter in policy.trainable("all"):
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return policy.eval()
