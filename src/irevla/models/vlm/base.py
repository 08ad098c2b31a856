"""The one thing the rest of the house knows about a vision-language model."""

from abc import ABC, abstractmethod

from torch import nn

from irevla.types import Features, Observation


class VLM(nn.Module, ABC):
    """A generative vision-language model, {vision, text} -> {text}, whose last fully connected
    layer can be taken off."""

    width: int  # d
    lora_targets: str  # regular expression: the linear layers that LoRA adapts by default
    base: str = ""  # Hub name or folder of the weights that it starts from; empty: none
    revision: str = ""  # the commit of `base` on the Hub, resolved; empty for a folder

    @abstractmethod
    def encode(self, observation: Observation) -> Features:
        """Return the last hidden states h (section IV-A) of each image with its instruction.

        One forward, no vocabulary product. Any sentence must do: a policy is saved with what it
        makes of a fixed one (`models.fingerprint`).
        """
