"""Policies that are small enough to work out by hand, and settings of a small run."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from irevla.config import EnvConfig
from irevla.presets import find_preset
from irevla.tasks import Parts
from irevla.types import Features, Observation, tensors_hash

_TOY = find_preset("pointmass")
SMALL_SAC = replace(
    _TOY,
    rl="sac",
    threads=1,
    env=EnvConfig(image_size=32, horizon=12, workers=1, envs_per_worker=4),
    model=replace(_TOY.model, vlm="tiny-random", width=32, layers=1, head_groups=4, head_hidden=16),
)


class ToyPolicy:
    """All that a `Policy` has, and nothing in it: a test brings what it needs."""

    action_head: Any = None
    chunk = 1
    execute = 1

    def __init__(self, *, action_dim: int = 2, std: float = 0.5) -> None:
        self.log_std = nn.Parameter(torch.full((action_dim,), std).log(), requires_grad=False)

    @property
    def device(self) -> torch.device:
        return self.log_std.device

    def encode(self, observation: Observation) -> Features:
        raise NotImplementedError

    def mean(self, features: Features) -> Tensor:
        raise NotImplementedError

    def decide(self, features: Features, chance: Tensor) -> Tensor:
        return self.mean(features)

    def native(self, actions: Tensor) -> Tensor:
        return actions

    def trainable(self, parts: Parts) -> list[nn.Parameter]:
        return []

    def train(self, mode: bool = True) -> "ToyPolicy":
        return self

    def hash(self) -> str:
        return "toy"

    def files(self) -> dict[str, Any]:
        return {}

    def load_files(self, files: Mapping[str, Any]) -> None:
        pass


class LatentLabels(ToyPolicy):
    """Latents that say which image of the scripted suite they are of: one token (seed, step).

    `padding` masked tokens follow it, as many as the number of calls before, modulo 3.
    """

    def __init__(self, *, padded: bool = False, std: float = 0.5) -> None:
        super().__init__(std=std)
        self.encoded: list[tuple[int, int]] = []
        self.instructions: list[str] = []
        self.calls = 0
        self._padded = padded

    def encode(self, observation: Observation) -> Features:
        self.calls += 1
        images = observation.images
        labels = [(int(image[0, 0, 0]), int(image[0, 1, 0])) for image in images]
        self.encoded += labels
        self.instructions += observation.instructions
        padding = self.calls % 3 if self._padded else 0
        tokens = torch.tensor(labels, dtype=torch.float32).view(-1, 1, 2)
        mask = torch.tensor([[True] + [False] * padding] * len(labels))
        return Features(torch.cat([tokens, torch.zeros(len(labels), padding, 2)], 1), mask)

    def mean(self, features: Features) -> Tensor:
        return features.tokens[:, 0] / 10


class PixelToy(ToyPolicy):
    """A body and a head on 4 x 4 images, with dropout, which draws from torch's own generator.

    Its latents are one token: what the body makes of the image, and whether the text says left.
    """

    def __init__(self) -> None:
        super().__init__(std=0.2)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(49, 64), nn.ReLU(), nn.Dropout(0.1))
        self.action_head = nn.Linear(64, 2)
        self.training = False
        self.shown: list[Observation] = []  # while it trained

    def encode(self, observation: Observation) -> Features:
        if self.training:
            self.shown.append(observation)
        text = torch.tensor([[float("left" in text)] for text in observation.instructions])
        pixels = observation.images.flatten(1) / 127.5 - 1
        tokens = self.body(torch.cat([pixels, text], 1))[:, None]
        return Features(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))

    def mean(self, features: Features) -> Tensor:
        action: Tensor = self.action_head(features.tokens[:, 0])
        return action

    def trainable(self, parts: Parts) -> list[nn.Parameter]:
        self.body.requires_grad_(parts == "all")
        head = list(self.action_head.parameters())
        return [*self.body.parameters(), *head] if parts == "all" else head

    def train(self, mode: bool = True) -> "PixelToy":
        self.training = mode
        self.body.train(mode)
        return self

    def weights(self) -> dict[str, Tensor]:
        modules = {"body": self.body, "head": self.action_head}
        return {
            f"{name}.{key}": value.detach().clone()
            for name, module in modules.items()
            for key, value in module.state_dict().items()
        }

    def hash(self) -> str:
        return tensors_hash(self.weights())

    def files(self) -> dict[str, Any]:
        return {"model.safetensors": self.weights()}

    def load_files(self, files: Mapping[str, Any]) -> None:
        for name, module in (("body.", self.body), ("head.", self.action_head)):
            weights = files["model.safetensors"]
            module.load_state_dict(
                {key.removeprefix(name): weights[key] for key in weights if key.startswith(name)}
            )
