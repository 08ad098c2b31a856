"""What crosses the walls of the house: frozen, shaped, and importing nothing of ours but names.

Notation, here and everywhere: `B` batch, `T` time, `m` tokens, `d` width, `A` action dimensions,
`S` numbers of a robot's state, `H W` pixels. A head gives a chunk of `k` actions at once, of which
`n` are executed: `kA` and `nA` are theirs, one step's after the other's.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor, nn

from irevla.tasks import Parts

STATELESS = torch.zeros(0, 0)
"""The state of robots that say nothing of themselves: S is 0."""


@dataclass(frozen=True)
class Observation:
    """A batch of what the policy sees: o and the instruction l of each. o is pixels, 0..255, and
    what the robot says of itself, in units of its own."""

    images: UInt8[Tensor, "B H W 3"]
    instructions: tuple[str, ...]
    state: Float[Tensor, "_ S"] = STATELESS

    def __post_init__(self) -> None:
        assert len(self.images) == len(self.instructions), "one instruction for each image"
        if self.state is STATELESS:
            nothing = torch.zeros(len(self), 0, device=self.images.device)
            object.__setattr__(self, "state", nothing)
        assert len(self.state) == len(self), "one state for each image"

    def __len__(self) -> int:
        return len(self.instructions)

    def __getitem__(self, index: slice | list[int]) -> "Observation":
        if isinstance(index, slice):
            return Observation(self.images[index], self.instructions[index], self.state[index])
        chosen = torch.tensor(index, dtype=torch.int64)
        texts = tuple(self.instructions[i] for i in index)
        return Observation(self.images[chosen], texts, self.state[chosen])

    def to(self, device: torch.device | str) -> "Observation":
        """Return the same on another device."""
        return Observation(self.images.to(device), self.instructions, self.state.to(device))

    @staticmethod
    def of(
        images: UInt8[np.ndarray, "B H W 3"],
        instructions: Sequence[str],
        state: Float32[np.ndarray, "B S"] | None = None,
    ) -> "Observation":
        """Return a batch of numpy's images; they are not copied where they can be written to."""
        plain = np.ascontiguousarray(images)
        if not plain.flags.writeable:
            plain = plain.copy()
        known = STATELESS if state is None else torch.tensor(state)
        return Observation(torch.from_numpy(plain), tuple(instructions), known)

    @staticmethod
    def cat(parts: Sequence["Observation"]) -> "Observation":
        """Join batches."""
        if len(parts) == 1:
            return parts[0]
        images = torch.cat([part.images for part in parts])
        texts = tuple(text for part in parts for text in part.instructions)
        return Observation(images, texts, torch.cat([part.state for part in parts]))


@dataclass(frozen=True)
class Features:
    """All that RL needs of an observation: the VLM's last hidden states h, and the robot's state.

    `mask` is True at real tokens, False at padding. Tokens that are kept are bfloat16. `state` is
    as heads read it: in deviations from its mean.
    """

    tokens: Float[Tensor, "B m d"]
    mask: Bool[Tensor, "B m"]
    state: Float[Tensor, "_ S"] = STATELESS

    def __post_init__(self) -> None:
        if self.state is STATELESS:
            nothing = torch.zeros(len(self), 0, device=self.tokens.device)
            object.__setattr__(self, "state", nothing)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: Tensor | slice | list[int]) -> "Features":
        return Features(self.tokens[index], self.mask[index], self.state[index])

    def to(self, device: torch.device | str) -> "Features":
        """Return the same latents on another device."""
        return Features(self.tokens.to(device), self.mask.to(device), self.state.to(device))

    def rounded(self) -> "Features":
        """Return them as they are kept: in bfloat16, half as large."""
        return Features(self.tokens.bfloat16(), self.mask, self.state)

    def float(self) -> "Features":
        """Return them as heads read them: in float32."""
        return Features(self.tokens.float(), self.mask, self.state)

    @staticmethod
    def cat(parts: Sequence["Features"]) -> "Features":
        """Join batches; shorter ones are padded with masked tokens up to the longest."""
        m = max(part.tokens.shape[1] for part in parts)
        pad = torch.nn.functional.pad
        return Features(
            torch.cat([pad(p.tokens, (0, 0, 0, m - p.tokens.shape[1])) for p in parts]),
            torch.cat([pad(p.mask, (0, m - p.mask.shape[1])) for p in parts]),
            torch.cat([p.state for p in parts]),
        )


@runtime_checkable
class Encoder(Protocol):
    """Who encodes in the place of a policy's own VLM."""

    @property
    def device_type(self) -> str:
        """What it computes on: "cpu" or "cuda"."""
        ...

    def __call__(self, observation: Observation) -> Features:
        """Return the VLM's latents, without gradients."""
        ...


@runtime_checkable
class Policy(Protocol):
    """A VLA policy in its two halves, pi(a | o, l): the VLM, then the action head."""

    @property
    def chunk(self) -> int:
        """k: actions that the head gives at once."""
        ...

    @property
    def execute(self) -> int:
        """n: of these executed before the policy looks again."""
        ...

    @property
    def log_std(self) -> nn.Parameter:
        """Logarithm of the standard deviation of PPO's exploration noise, the same in all steps of
        a chunk: A."""
        ...

    @property
    def action_head(self) -> Any:
        """The action head, phi: a module of `Features` to the mean actions of a chunk."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    def encode(self, observation: Observation) -> Features:
        """Return the VLM's latents, with gradients where the VLM is trainable and they are
        enabled."""
        ...

    def mean(self, features: Features) -> Float[Tensor, "B kA"]:
        """Return the mean actions of latents, in [-1, 1], with gradients."""
        ...

    def decide(self, features: Features, chance: Float[Tensor, "B n"]) -> Float[Tensor, "B nA"]:
        """Return what is executed without exploration noise.

        `chance`, uniform in [0, 1), settles what has a probability, step by step.
        """
        ...

    def native(self, actions: Float[Tensor, "B nA"]) -> Float[Tensor, "B nA"]:
        """Return actions of the head in the suite's scale, in which they are executed."""
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


NO_STATE = np.zeros((0, 0), np.float32)
"""The same as an array, for episodes."""


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

    `actions` are the labels to imitate (the actor's clean choice), each in [-1, 1]; `state[t]` is
    what the robot said of itself with `images[t]`, nothing (S is 0) where it is not asked.
    """

    images: UInt8[np.ndarray, "T H W 3"]
    actions: Float32[np.ndarray, "T A"]
    rewards: Float32[np.ndarray, " T"]
    instruction: str
    success: bool
    provenance: Provenance
    state: Float32[np.ndarray, "_ S"] = field(default_factory=lambda: NO_STATE)

    def __post_init__(self) -> None:
        if self.state is NO_STATE:
            object.__setattr__(self, "state", np.zeros((len(self), 0), np.float32))
        assert len(self.images) == len(self.actions) == len(self.rewards) == len(self.state) > 0

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
