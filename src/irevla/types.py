"""What crosses the walls of the house: frozen, shaped, and importing nothing of ours but names.

Notation, here and everywhere: `B` batch, `T` time, `m` tokens, `d` width, `A` action dimensions, `H
W` pixels.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor, nn

from irevla.tasks import Parts


@dataclass(frozen=True)
class Observation:
    """A batch of what the policy sees: o (pixels, 0..255) and the instruction l of each."""

    images: UInt8[Tensor, "B H W 3"]
    instructions: tuple[str, ...]

    def __post_init__(self) -> None:
        assert len(self.images) == len(self.instructions), "one instruction for each image"

    def __len__(self) -> int:
        return len(self.instructions)

    def __getitem__(self, index: slice | list[int]) -> "Observation":
        if isinstance(index, slice):
            return Observation(self.images[index], self.instructions[index])
        chosen = torch.tensor(index, dtype=torch.int64)
        return Observation(self.images[chosen], tuple(self.instructions[i] for i in index))

    def to(self, device: torch.device | str) -> "Observation":
        """Return the same on another device."""
        return Observation(self.images.to(device), self.instructions)

    @staticmethod
    def of(images: UInt8[np.ndarray, "B H W 3"], instructions: Sequence[str]) -> "Observation":
        """Return a batch of numpy's images; they are not copied where they can be written to."""
        plain = np.ascontiguousarray(images)
        if not plain.flags.writeable:
            plain = plain.copy()
        return Observation(torch.from_numpy(plain), tuple(instructions))

    @staticmethod
    def cat(parts: Sequence["Observation"]) -> "Observation":
        """Join batches."""
        if len(parts) == 1:
            return parts[0]
        images = torch.cat([part.images for part in parts])
        return Observation(images, tuple(text for part in parts for text in part.instructions))


@dataclass(frozen=True)
class Features:
    """The VLM's last hidden states h: all that RL needs of an observation.

    `mask` is True at real tokens, False at padding. Tokens that are kept are bfloat16.
    """

    tokens: Float[Tensor, "B m d"]
    mask: Bool[Tensor, "B m"]

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: Tensor | slice | list[int]) -> "Features":
        return Features(self.tokens[index], self.mask[index])

    def to(self, device: torch.device | str) -> "Features":
        """Return the same latents on another device."""
        return Features(self.tokens.to(device), self.mask.to(device))

    def rounded(self) -> "Features":
        """Return them as they are kept: in bfloat16, half as large."""
        return Features(self.tokens.bfloat16(), self.mask)

    def float(self) -> "Features":
        """Return them as heads read them: in float32."""
        return Features(self.tokens.float(), self.mask)

    @staticmethod
    def cat(parts: Sequence["Features"]) -> "Features":
        """Join batches; shorter ones are padded with masked tokens up to the longest."""
        m = max(part.tokens.shape[1] for part in parts)
        pad = torch.nn.functional.pad
        return Features(
            torch.cat([pad(p.tokens, (0, 0, 0, m - p.tokens.shape[1])) for p in parts]),
            torch.cat([pad(p.mask, (0, m - p.mask.shape[1])) for p in parts]),
        )


@runtime_checkable
class Policy(Protocol):
    """A VLA policy in its two halves, pi(a | o, l): the VLM, then the action head."""

    @property
    def log_std(self) -> nn.Parameter:
        """Logarithm of the standard deviation of PPO's exploration noise: A."""
        ...

    @property
    def action_head(self) -> Any:
        """The action head, phi: a module of `Features` to the mean action."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    def encode(self, observation: Observation) -> Features:
        """Return the VLM's latents, with gradients where the VLM is trainable and they are
        enabled."""
        ...

    def mean(self, features: Features) -> Float[Tensor, "B A"]:
        """Return the mean action of latents, in [-1, 1], with gradients."""
        ...

    def decide(self, features: Features, chance: Float[Tensor, " B"]) -> Float[Tensor, "B A"]:
        """Return what is executed without exploration noise.

        `chance`, uniform in [0, 1), settles what has a probability.
        """
        ...

    def trainable(self, parts: Parts) -> list[nn.Parameter]:
        """Make exactly `parts` trainable and return those parameters."""
        ...

    def train(self, mode: bool = True) -> Any:
        """Switch to training (dropout on) or, with False, to acting."""
        ...

    def hash(self) -> str:
        """Return the sha256 of the weights."""
        ...

    def files(self) -> dict[str, Any]:
        """Return the policy as files of a checkpoint."""
        ...

    def load_files(self, files: Mapping[str, Any]) -> None:
        """Take the weights from such files; other files are left to others."""
        ...


@dataclass(frozen=True)
class Provenance:
    """Where an episode came from. Kept with it for ever: who acted, from which seed, how
    noisily."""

    suite: str
    task: str
    seed: int
    source: str  # "expert" or "rl"
    noise: float = 0.0  # standard deviation of the noise on what was executed (labels are clean)
    policy: str = ""  # sha256 of who acted, as its stage began; empty for a scripted expert


@dataclass(frozen=True)
class Episode:
    """One trajectory. `images[t]` is what was seen before `actions[t]`; the last one is not kept.

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
    """Return the sha256 over the names and values of all parameters and buffers."""
    return tensors_hash(module.state_dict())


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256 over names and values: what latents and episodes are keyed by."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(name.encode())
        if value.numel():
            digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
