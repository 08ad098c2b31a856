"""Low-rank adaptation of a VLM's linear layers (section IV-A, [46]) with peft, imported only where
LoRA is on."""

import re
from typing import Any

from torch import nn

from irevla.config import LoRAConfig
from irevla.errors import UserError
from irevla.models.files import peft_root
from irevla.models.vlm.base import VLM
from irevla.models.vlm.registry import check_peft

_MARK = ".lora_"


def add_lora(vlm: VLM, config: LoRAConfig, *, autocast: bool = False) -> None:
    """Put a new LoRA beside every linear layer whose whole name matches the targets, in place.

    At first it changes nothing. No dropout: the latents that RL caches must not depend on chance.
    The new weights are float32 beside a VLM of any type: steps of the optimiser are lost in
    bfloat16. `autocast`: products are in bfloat16 anyway, and peft need not make its inputs float32
    before. Raises `UserError` where nothing matches or peft is missing.
    """
    assert config.rank > 0
    check_peft()
    import peft

    targets = config.targets or vlm.lora_targets
    pattern = re.compile(targets)
    linear = [name for name, module in vlm.named_modules() if isinstance(module, nn.Linear)]
    matched = [name for name in linear if pattern.fullmatch(name)]
    if not matched:
        raise UserError(
            f"lora.targets {targets!r} matches no linear layer; there are: {', '.join(linear)}"
        )
    root = peft_root(vlm).removeprefix("vlm").removeprefix(".")
    # Not `vlm`: peft asks the library's own model whether its weights are in 4 bits.
    inner = vlm.get_submodule(root)
    own = [name.removeprefix(f"{root}.") for name in matched]
    alpha: Any = config.alpha  # peft asks for an integer and divides it
    settings = peft.LoraConfig(
        r=config.rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=own
    )
    peft.inject_adapter_in_model(settings, inner)
    for name, parameter in vlm.named_parameters():
        if is_lora(name):
            parameter.data = parameter.data.float()
    for layer in lora_layers(vlm):
        layer.cast_input_dtype_enabled = not autocast


def lora_layers(vlm: nn.Module) -> list[Any]:
    """Return peft's layers, each a linear layer and what is beside it."""
    return [module for module in vlm.modules() if hasattr(module, "lora_A")]


def is_lora(name: str) -> bool:
    """Return whether the parameter of this name is a LoRA's."""
    return _MARK in name


def check_lora(vlm: nn.Module, *, apart: bool) -> None:
    """Raise `UserError` unless `vlm` still has its LoRA; where `apart`, beside its weights alone.

    Merged into the weights, peft keeps it beside them too: saved with them, it would count twice.
    """
    if not any(is_lora(name) for name, _ in vlm.named_parameters()):
        raise UserError(
            "its LoRA was merged and taken out (merge_and_unload): take the policy as it was before"
        )
    if apart and any(layer.merged for layer in lora_layers(vlm)):
        raise UserError(
            "its LoRA is merged into the VLM's weights: call unmerge() of each layer, then try "
            "again"
        )
