"""What crosses the walls of the house: frozen, shaped, and importing nothing of ours.

Notation, here and everywhere: `B` batch, `T` time, `m` tokens, `d` width, `A` action dimensions, `H
W` pixels.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor

from irevla.category import Category as Category


@dataclass(frozen=True)
class Observation:
    """A batch of what the policy sees: o (pixels, 0..255) and the instruction l of each."""

    images: UInt8[np.ndarray, "B H W 3"]
    instructions: tuple[str, ...]

    def __post_init__(self) -> None:
        assert len(self.images) == len(self.instructions)

    def __len__(self) -> int:
        return len(self.instructions)


@dataclass(frozen=True)
class Features:
    """The VLM's last hidden states: all that RL needs of an observation. `mask` is True at real
    tokens, False at padding."""

    tokens: Float[Tensor, "B m d"]
    mask: Bool[Tensor, "B m"]

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: Tensor | slice | list[int]) -> "Features":
        return Features(self.tokens[index], self.mask[index])

    def to(self, device: torch.device | str) -> "Features":
        """The same latents on another device."""
        return Features(self.tokens.to(device), self.mask.to(device))

    @staticmethod
    def cat(parts: Sequence["Features"]) -> "Features":
        """Join batches; shorter ones are padded with masked tokens up to the longest."""
        m = max(part.tokens.shape[1] for part in parts)
        pad = torch.nn.functional.pad
        return Features(
            torch.cat([pad(p.tokens, (0, 0, 0, m - p.tokens.shape[1])) for p in parts]),
            torch.cat([pad(p.mask, (0, m - p.mask.shape[1])) for p in parts]),
        )


@dataclass(frozen=True)
class Provenance:
    """Where an episode came from. Kept with it for ever: who acted, from which seed, with how much
    noise."""

    suite: str
    task: str
    seed: int
    source: str  # "expert" or "rl"
    # standard deviation of the noise added to the executed actions (labels are always clean)
    noise: float = 0.0
    # sha256 of the acting policy (as its stage began, where it learns); empty for a scripted expert
    policy: str = ""


@dataclass(frozen=True)
class Episode:
    """One trajectory. `images[t]` is what was seen before `actions[t]`; the last observation is not
    kept.

    `actions` are the labels to imitate (the actor's clean choice), each in [-1, 1].
    """

    images: UInt8[np.ndarray, "T H W 3"]
    actions: Float32[np.ndarray, "T A"]
    rewards: Float32[np.ndarray, " T"]
    instruction: str
    success: bool
    provenance: Provenance

    def __post_init__(self) -> None:
        assert len(self.images) == len(self.actions) == len(self.rewards) > 0

    def __len__(self) -> int:
        return len(self.actions)


def weights_hash(module: torch.nn.Module) -> str:
    """sha256 over the names and values of all parameters and buffers: what a cached latent or an
    episode is keyed by."""
    return tensors_hash(module.state_dict())


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names and values."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(
            value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()
            if value.numel()
            else b""
        )
    return digest.hexdigest()
