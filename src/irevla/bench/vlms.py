"""The VLMs that the benchmarks measure, under short names.

Their weights are random: speed does not depend on the values.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from irevla.bench import blip2
from irevla.config import LoRAConfig, ModelConfig, SFTConfig
from irevla.errors import UserError, unknown
from irevla.models.heads import ActionHead
from irevla.models.lora import add_lora
from irevla.models.policy import VLAPolicy, build_policy
from irevla.models.vlm.huggingface import HuggingFaceVLM

ACTIONS = 4  # action dimensions
INSTRUCTION = "close the window"
LORA = LoRAConfig(rank=16)


@dataclass(frozen=True)
class BenchVLM:
    """One VLM and the sizes that suit it."""

    build: Callable[[torch.device, LoRAConfig], VLAPolicy]
    adapts: bool  # supervised learning trains LoRA and the head; else everything
    image_size: int  # pixels
    batch: int  # images of an encoding pass
    samples: int  # of a supervised step
    tokens: int  # m, of an image and the instruction
    parts: Mapping[str, str]  # name of a part -> regular expression over the names of its modules
    on_cpu: bool = True  # whether a CPU gets anywhere with it

    def make(self, device: torch.device, *, lora: bool) -> VLAPolicy:
        """Return a policy with random weights on the device.

        `lora`: with new LoRA, where supervised learning trains that.
        Raises `UserError` for a large VLM on a CPU.
        """
        if device.type == "cpu" and not self.on_cpu:
            raise UserError(
                "this VLM is measured on a CUDA device, and there is none: try --vlm tiny or "
                "blip2-small"
            )
        torch.manual_seed(0)
        return self.build(device, LORA if lora and self.adapts else LoRAConfig())

    def modules(self, policy: VLAPolicy) -> list[tuple[str, nn.Module]]:
        """Return the modules of each part, with its name."""
        found = [
            (part, module)
            for part, pattern in self.parts.items()
            for name, module in policy.named_modules()
            if re.fullmatch(pattern, name)
        ]
        assert {part for part, _ in found} == set(self.parts), "a part has no module of its name"
        return found


def _tiny(device: torch.device, lora: LoRAConfig) -> VLAPolicy:
    config = ModelConfig(vlm="tiny-random", lora=lora)
    with device:  # "meta" has no weights to move
        return build_policy(config, action_dim=ACTIONS, image_size=64, device=device)


def _blip2(sizes: blip2.Sizes, image_size: int) -> Callable[[torch.device, LoRAConfig], VLAPolicy]:
    def build(device: torch.device, lora: LoRAConfig) -> VLAPolicy:
        config = ModelConfig(vlm=blip2.NAME, lora=lora)
        vlm = blip2.vlm(sizes, image_size=image_size, device=device)
        if lora.rank:
            add_lora(vlm, lora, autocast=device.type == "cuda")
        head = ActionHead(
            width=vlm.width,
            groups=config.head_groups,
            hidden=config.head_hidden,
            action_dim=ACTIONS,
        )
        return VLAPolicy(vlm, head, config=config, image_size=image_size).to(device)

    return build


_TOWERS = {
    "vision tower": r".*\.vision_model",
    "Q-Former": r".*\.qformer",
    "language tower": r".*\.language_model",
    "head": "action_head",
}
VLMS = {
    "tiny": BenchVLM(
        _tiny,
        adapts=False,
        image_size=64,
        batch=64,
        samples=64,
        tokens=20,
        parts={"stem": r"vlm\.stem", "tower": r"vlm\.tower\.\d+", "head": "action_head"},
    ),
    "blip2": BenchVLM(
        _blip2(blip2.FULL, 224),
        adapts=True,
        image_size=224,
        batch=64,
        samples=SFTConfig().batch,
        tokens=48,
        parts=_TOWERS,
        on_cpu=False,
    ),
    "blip2-small": BenchVLM(
        _blip2(blip2.SMALL, 56),
        adapts=True,
        image_size=56,
        batch=4,
        samples=4,
        tokens=48,
        parts=_TOWERS,
    ),
}
"""Short name -> VLM."""


def find_vlm(name: str) -> BenchVLM:
    """Return the VLM of this name. Raises `UserError` for an unknown one."""
    if name not in VLMS:
        raise unknown("VLM", name, VLMS)
    return VLMS[name]


def transformer(policy: VLAPolicy, option: str) -> Any:
    """Return the model of transformers in a policy.

    Raises `UserError`, naming the option that needs it, where there is none.
    """
    if not isinstance(policy.vlm, HuggingFaceVLM):
        raise UserError(
            f"{option} is for a VLM of transformers: leave it out, or choose --vlm blip2"
        )
    return policy.vlm.model
