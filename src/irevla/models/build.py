"""From a `ModelConfig` to a VLA.

A new vision-language model is one class that implements `VLM`, and one line in `VLMS`.
"""

from collections.abc import Callable

import torch

from irevla.config import ModelConfig
from irevla.errors import UserError, unknown
from irevla.models.heads import ActionHead
from irevla.models.lora import add_lora
from irevla.models.policy import VLAPolicy
from irevla.models.vlm.base import VLM
from irevla.models.vlm.tiny import TinyVLM

HEADS = 4  # attention heads of the small VLM


def _tiny_random(config: ModelConfig, image_size: int) -> VLM:
    if config.width % HEADS:
        raise UserError(f"model.width {config.width} must be a multiple of {HEADS}, the attention heads of tiny-random")
    vlm = TinyVLM(width=config.width, layers=config.layers, heads=HEADS, image_size=image_size)
    vlm.take_off_output_layer()
    return vlm


VLMS: dict[str, Callable[[ModelConfig, int], VLM]] = {
    "tiny-random": _tiny_random,
}
"""Name -> a function of the config and the picture's side: the VLM without its final fully connected layer."""


def build_policy(
    config: ModelConfig, *, action_dim: int, image_size: int, device: torch.device | str = "cpu"
) -> VLAPolicy:
    """A new VLA: `config.vlm` with a new action head in the place of its final fully connected layer (section IV-A).

    Raises `UserError` for an unknown VLM and for LoRA that cannot be.
    """
    if config.vlm not in VLMS:
        raise unknown("model", config.vlm, VLMS)
    vlm = VLMS[config.vlm](config, image_size)
    if config.lora.rank > 0:
        add_lora(vlm, config.lora)
    head = ActionHead(width=vlm.width, groups=config.head_groups, hidden=config.head_hidden, action_dim=action_dim)
    return VLAPolicy(vlm, head, config=config, image_size=image_size).to(device)
