"""A vision-language model of your own: one class and one line. python examples/your_vlm.py"""

import numpy as np
import torch
from torch import nn

from irevla.config import ModelConfig
from irevla.models.policy import build_policy
from irevla.models.vlm.base import VLM
from irevla.models.vlm.registry import VLMS
from irevla.types import Features, Observation

LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Patches(VLM):
    """Tokens: a linear map of each 8 x 8 patch of the image, and one that counts the letters."""

    lora_targets = "patches|letters"  # the linear layers that LoRA adapts

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.patches = nn.Conv2d(3, width, kernel_size=8, stride=8)
        self.letters = nn.Linear(26, width)

    def encode(self, observation: Observation) -> Features:
        """Return the patches' tokens and the instruction's: B x m x d; all of them are real."""
        device = self.letters.weight.device
        seen = self.patches(observation.images.permute(0, 3, 1, 2) / 255).flatten(2).mT
        counts = [[text.count(letter) for letter in LETTERS] for text in observation.instructions]
        read = self.letters(torch.tensor(counts, dtype=torch.float32, device=device))
        tokens = torch.cat([seen, read[:, None]], 1)
        return Features(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=device))


VLMS["patches"] = lambda config, image_size: Patches(config.width)

if __name__ == "__main__":
    policy = build_policy(ModelConfig(vlm="patches", width=64), action_dim=4, image_size=64)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    with torch.no_grad():
        features = policy.encode(Observation.of(images, ["open the drawer", "close it"]))
    print("latents:", tuple(features.tokens.shape))
    print("actions:", policy.act(images, ["open the drawer", "close it"]))
