"""The one thing the rest of the house knows about a vision-language model."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from jaxtyping import UInt8
from torch import Tensor, nn

from irevla.types import Features


class VLM(nn.Module, ABC):
    """A generative vision-language model, {vision, text} -> {text}, whose last fully connected
    layer can be taken off."""

    width: int  # d
    lora_targets: str  # regular expression: the linear layers that LoRA adapts by default
    # Hub name or folder of the weights that it starts from; empty: a checkpoint must hold all
    # weights
    base: str = ""
    revision: str = ""  # the commit of `base` on the Hub, resolved; empty for a folder

    @abstractmethod
    def encode(self, images: UInt8[Tensor, "B H W 3"], instructions: Sequence[str]) -> Features:
        """The last hidden states h (section IV-A) of each picture with its instruction: one
        forward, no vocabulary product."""
