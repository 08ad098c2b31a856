"""Low-rank adaptation of a VLM's linear layers (section IV-A, [46]) with peft, imported only where
LoRA is on."""

import re
from importlib.util import find_spec
from typing import Any

from torch import nn

from irevla.config import LoRAConfig
from irevla.errors import UserError
from irevla.models.files import peft_root
from irevla.models.vlm.base import VLM

_MARK = ".lora_"


def add_lora(vlm: VLM, config: LoRAConfig) -> None:
    """Put a new LoRA beside every linear layer whose whole name matches the targets, in place.

    At first it changes nothing. No dropout: the latents that RL caches must not depend on chance.
    The new weights are float32 beside a VLM of any type: steps of the optimiser are lost in
    bfloat16. Raises `UserError` where nothing matches or peft is missing.
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
    inner = vlm.get_submodule(
        root
    )  # peft asks the library's own model whether its weights are in 4 bits
    own = [name.removeprefix(f"{root}.") for name in matched]
    alpha: Any = config.alpha  # peft asks for an integer and divides it
    peft.inject_adapter_in_model(
        peft.LoraConfig(r=config.rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=own),
        inner,
    )
    for name, parameter in vlm.named_parameters():
        if is_lora(name):
            parameter.data = parameter.data.float()


def check_peft() -> None:
    """`UserError` where the package peft is missing."""
    if find_spec("peft") is None:
        raise UserError("LoRA needs the package peft: pip install 'irevla[lora]'")


def is_lora(name: str) -> bool:
    """Whether the parameter of this name is a LoRA's."""
    return _MARK in name
