"""From a `ModelConfig` to a VLA.

A new small vision-language model is one class that implements `VLM`, and one line in `VLMS`; any
other name is one that transformers loads.
"""

from collections.abc import Callable
from dataclasses import replace

import torch

from irevla.config import ModelConfig
from irevla.errors import UserError, unknown
from irevla.models.heads import ActionHead
from irevla.models.lora import add_lora, check_peft
from irevla.models.policy import VLAPolicy
from irevla.models.vlm.base import VLM
from irevla.models.vlm.pretrained import load_tiny
from irevla.models.vlm.tiny import TinyVLM

HEADS = 4  # attention heads of the small VLM


def _tiny_random(config: ModelConfig, image_size: int) -> VLM:
    if config.width % HEADS:
        raise UserError(
            f"model.width {config.width} must be a multiple of {HEADS}, the attention heads of tiny-random"
        )
    vlm = TinyVLM(width=config.width, layers=config.layers, heads=HEADS, image_size=image_size)
    vlm.take_off_output_layer()
    return vlm


def _tiny(config: ModelConfig, image_size: int) -> VLM:
    """The pretrained one; what it was built with is in its file."""
    vlm, size = load_tiny()
    if image_size != size:
        raise UserError(
            f"tiny reads pictures of {size} pixels, not {image_size}: set env.image_size, or use tiny-random"
        )
    layers = len(vlm.tower)
    if (config.width, config.layers) != (vlm.width, layers):
        raise UserError(
            f"tiny has width {vlm.width} and {layers} layers: leave model.width and model.layers as they are, "
            "or use tiny-random"
        )
    vlm.take_off_output_layer()
    return vlm


VLMS: dict[str, Callable[[ModelConfig, int], VLM]] = {
    "tiny": _tiny,
    "tiny-random": _tiny_random,
}
"""Name -> a function of the config and the picture's side: the VLM without its final fully
connected layer."""


def _pretrained(
    config: ModelConfig, image_size: int, device: torch.device
) -> tuple[VLM, ModelConfig]:
    """A VLM of transformers, and the config that names these very weights: their commit and their
    type."""
    from irevla.models.vlm.huggingface import (
        load,
    )  # only here: transformers is not needed for the small ones

    vlm = load(config, image_size=image_size, device=device)
    return vlm, replace(config, revision=vlm.revision, dtype=vlm.dtype)


def check_model(config: ModelConfig, device: torch.device) -> None:
    """`UserError` for what can be seen to be wrong with `config` before anything large is read."""
    if config.lora.rank > 0:
        check_peft()
    if config.vlm in VLMS:
        return
    if not config.pretrained:
        raise unknown("model", config.vlm, VLMS)
    from irevla.models.vlm.huggingface import check_before

    check_before(config, device)


def build_policy(
    config: ModelConfig, *, action_dim: int, image_size: int, device: torch.device | str = "cpu"
) -> VLAPolicy:
    """A new VLA: `config.vlm` with a new action head in the place of its final fully connected
    layer (section IV-A).

    Raises `UserError` for an unknown VLM and for LoRA that cannot be.
    """
    check_model(config, torch.device(device))
    if config.vlm in VLMS:
        vlm = VLMS[config.vlm](config, image_size)
    else:
        vlm, config = _pretrained(config, image_size, torch.device(device))
    if config.lora.rank > 0:
        add_lora(vlm, config.lora)
    head = ActionHead(
        width=vlm.width, groups=config.head_groups, hidden=config.head_hidden, action_dim=action_dim
    )
    return VLAPolicy(vlm, head, config=config, image_size=image_size).to(device)
