"""From a `ModelConfig` to a VLM without its final fully connected layer.

A new small vision-language model is one class that implements `VLM`, and one line in `VLMS`; any
other name is one that transformers loads.
"""

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec

import torch

from irevla.config import ModelConfig
from irevla.errors import UserError, unknown
from irevla.models.vlm.base import VLM
from irevla.models.vlm.pretrained import load_tiny
from irevla.models.vlm.tiny import TinyVLM

HEADS = 4  # attention heads of the small VLM


def _tiny_random(config: ModelConfig, image_size: int) -> VLM:
    if config.width % HEADS:
        raise UserError(
            f"model.width {config.width} must be a multiple of {HEADS}, the attention heads of "
            "tiny-random"
        )
    vlm = TinyVLM(width=config.width, layers=config.layers, heads=HEADS, image_size=image_size)
    vlm.take_off_output_layer()
    return vlm


def _tiny(config: ModelConfig, image_size: int) -> VLM:
    """Return the pretrained one; what it was built with is in its file."""
    vlm, size = load_tiny()
    if image_size != size:
        raise UserError(
            f"tiny reads images of {size} pixels, not {image_size}: set env.image_size, or use "
            "tiny-random"
        )
    layers = len(vlm.tower)
    if (config.width, config.layers) != (vlm.width, layers):
        raise UserError(
            f"tiny has width {vlm.width} and {layers} layers: leave model.width and model.layers "
            "as they are, or use tiny-random"
        )
    vlm.take_off_output_layer()
    return vlm


VLMS: dict[str, Callable[[ModelConfig, int], VLM]] = {
    "tiny": _tiny,
    "tiny-random": _tiny_random,
}
"""Name -> a function of the config and the image's side: the VLM without its final fully connected
layer."""


def build_vlm(
    config: ModelConfig, *, image_size: int, device: torch.device
) -> tuple[VLM, ModelConfig]:
    """Return `config.vlm` without its final fully connected layer.

    The config that is returned names these very weights: the commit and the type of a VLM of
    transformers. Raises `UserError` for an unknown VLM.
    """
    check_model(config, device)
    if config.vlm in VLMS:
        return VLMS[config.vlm](config, image_size), config
    from irevla.models.vlm.huggingface import load  # transformers: not for the small ones

    vlm = load(config, image_size=image_size, device=device)
    return vlm, replace(config, revision=vlm.revision, dtype=vlm.dtype)


def check_model(config: ModelConfig, device: torch.device) -> None:
    """Raise `UserError` for what can be seen to be wrong with `config` before anything large is
    read."""
    if config.lora.rank > 0:
        check_peft()
    if config.vlm in VLMS:
        return
    if not config.pretrained:
        raise unknown("model", config.vlm, VLMS)
    from irevla.models.vlm.huggingface import check_before

    check_before(config, device)


def check_peft() -> None:
    """Raise `UserError` where the package peft is missing, which LoRA needs."""
    if find_spec("peft") is None:
        raise UserError("LoRA needs the package peft: pip install 'irevla[lora]'")
