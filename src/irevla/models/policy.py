"""The vision-language-action model pi: O x L -> A (section IV-A)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from irevla.config import ModelConfig
from irevla.errors import UserError
from irevla.models.heads import ActionHead
from irevla.models.lora import is_lora
from irevla.models.vlm.base import VLM
from irevla.presets import from_dict, to_dict
from irevla.runs import checkpoint
from irevla.types import Features, weights_hash

WEIGHTS, CONFIG = "model.safetensors", "config.json"
FORMAT = "irevla-policy-1"
Stage = Literal["all", "head", "none"]


class VLAPolicy(nn.Module):
    """A VLM and an action head.

    The mean action is the head's output; exploration is a Gaussian around it with `log_std`.
    """

    def __init__(self, vlm: VLM, action_head: ActionHead, *, config: ModelConfig, image_size: int) -> None:
        super().__init__()
        self.vlm = vlm
        self.action_head = action_head
        self.config = config
        self.image_size = image_size
        self.action_dim = action_head.action_dim
        self.noise = nn.ParameterDict({"log_std": torch.zeros(self.action_dim)})

    @property
    def log_std(self) -> nn.Parameter:
        """Logarithm of the standard deviation of the exploration noise, in each action dimension."""
        log_std: nn.Parameter = self.noise["log_std"]
        return log_std

    def reset_exploration(self, std: float) -> None:
        """Let the exploration noise have the standard deviation `std` in every action dimension (in action units)."""
        self.log_std.data.fill_(math.log(std))

    @property
    def device(self) -> torch.device:
        """Where the weights are, and the latents and actions with them."""
        return self.log_std.device

    # --- o, l -> h -> a

    def features(self, images: np.ndarray | Tensor, instructions: Sequence[str]) -> Features:
        """h of `B` pictures (uint8, `B H W 3`) with their instructions, with gradients where the VLM is trainable.

        Raises `UserError` for pictures of another type or size than the model's. CUDA computes in bfloat16; latents
        are float32.
        """
        pictures = self._pictures(images)
        assert len(pictures) == len(instructions), "one instruction for each picture"
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
            h = self.vlm.encode(pictures, instructions)
        return Features(h.tokens.float(), h.mask)

    @torch.no_grad()
    def encode(self, images: np.ndarray | Tensor, instructions: Sequence[str]) -> Features:
        """`features` without gradients: what RL caches.

        The tokens are plain tensors, on which the head can be trained.
        """
        return self.features(images, instructions)

    def mean(self, features: Features) -> Float[Tensor, "B A"]:
        """The mean action of latents, in [-1, 1]."""
        mean: Tensor = self.action_head(features)
        return mean

    def forward(self, images: np.ndarray | Tensor, instructions: Sequence[str]) -> Float[Tensor, "B A"]:
        """The mean action of pictures, with gradients: what supervised learning fits (equations 2 and 4)."""
        return self.mean(self.features(images, instructions))

    @torch.no_grad()
    def act(self, image: np.ndarray | Tensor, instruction: str | Sequence[str]) -> np.ndarray:
        """The action for what is seen and asked: float32[A] in [-1, 1], without exploration.

        `image` is uint8, `H W 3`, 0..255. Given a batch (`B H W 3`) and one instruction for all or one for each, it
        returns float32[B, A].
        """
        batch = image if image.ndim == 4 else image[None]
        texts = [instruction] * len(batch) if isinstance(instruction, str) else instruction
        actions: np.ndarray = self.forward(batch, texts).cpu().numpy()
        return actions if image.ndim == 4 else actions[0]

    def _pictures(self, images: np.ndarray | Tensor) -> UInt8[Tensor, "B H W 3"]:
        size = self.image_size
        if isinstance(images, np.ndarray) and images.dtype == np.uint8:
            plain = np.ascontiguousarray(images)
            images = torch.from_numpy(plain if plain.flags.writeable else plain.copy())
        if not isinstance(images, Tensor) or images.dtype != torch.uint8:
            raise UserError(
                f"pictures must be uint8 (0..255), not {images.dtype}: convert them before the policy sees them"
            )
        if images.ndim != 4 or images.shape[1:] != (size, size, 3):
            raise UserError(
                f"pictures must be {size} x {size} x 3, not {' x '.join(map(str, images.shape[-3:]))}: resize them"
            )
        return images.to(self.device)

    # --- who is trainable

    def trainable(self, stage: Stage) -> list[nn.Parameter]:
        """Make one stage's parameters trainable, freeze all others, and return them: the one place that decides.

        "head": phi, the action head, with `log_std` (stage 1). "all": the VLM as well (stages 0 and 2); with LoRA on,
        that is theta, the LoRA weights, and the VLM's own stay frozen. "none": nothing.
        """
        chosen = []
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(self._trains(name, stage))
            if parameter.requires_grad:
                chosen.append(parameter)
        return chosen

    def _trains(self, name: str, stage: Stage) -> bool:
        if not name.startswith("vlm."):
            return stage != "none"
        return stage == "all" and (self.config.lora.rank == 0 or is_lora(name))

    # --- files

    def hash(self) -> str:
        """sha256 of all weights."""
        return weights_hash(self)

    def files(self) -> dict[str, Any]:
        """What makes this policy, as files of a checkpoint: `model.safetensors` and `config.json`."""
        config = {
            "format": FORMAT,
            "model": to_dict(self.config),
            "action_dim": self.action_dim,
            "image_size": self.image_size,
        }
        return {WEIGHTS: dict(self.state_dict()), CONFIG: config}

    def load_files(self, files: Mapping[str, Any]) -> None:
        """Take the weights out of `files`. Raises `UserError` unless names, shapes and types are this model's."""
        if WEIGHTS not in files:
            raise UserError(f"no {WEIGHTS} in it: this is not a policy; name a folder that save_pretrained wrote")
        own, new = self.state_dict(), files[WEIGHTS]
        faults = list(_differences(own, new))
        if faults:
            raise UserError(f"the weights are those of another model ({faults[0]}; {len(faults)} differences)")
        self.load_state_dict(new)

    def save_pretrained(self, directory: Path | str) -> None:
        """Write the policy to a folder, wholly or not at all.

        Raises `UserError` where the folder holds something else.
        """
        path = Path(directory)
        if path.is_dir() and any(path.iterdir()) and not (path / CONFIG).is_file():
            raise UserError(f"{path} holds other files: choose a new folder, or an older policy to replace")
        checkpoint.save(path, self.files())

    @staticmethod
    def from_pretrained(path: Path | str, *, device: torch.device | str = "cpu") -> "VLAPolicy":
        """The policy in `path`: a folder of `save_pretrained`, a checkpoint, or a run's directory (its final policy).

        Raises `UserError` where there is none, or it is corrupt, or not ours.
        """
        from irevla.models.build import build_policy  # which imports this module

        folder = _folder(Path(path))
        files = checkpoint.load(folder)
        try:
            config, action_dim, image_size = _parse(files.get(CONFIG))
            policy = build_policy(config, action_dim=action_dim, image_size=image_size)
            policy.load_files(files)
        except UserError as error:
            raise UserError(f"cannot load the policy {folder}: {error}") from error
        return policy.to(device).eval()


def _folder(path: Path) -> Path:
    """Where the files are: `path` itself, or the newest policy among the checkpoints of a run."""
    if not path.is_dir():
        raise UserError(f"there is no folder {path}: name a saved policy, a checkpoint or a run's directory")
    if (path / CONFIG).is_file() or (path / checkpoint.MANIFEST).is_file():
        return path
    policies = [weights.parent for weights in (path / "checkpoints").glob(f"[!.]*/{WEIGHTS}")]
    if not policies:
        raise UserError(f"{path} holds no policy: neither {CONFIG} nor checkpoints with {WEIGHTS}")
    return max(policies, key=lambda folder: ((folder / WEIGHTS).stat().st_mtime_ns, folder.name))


def _parse(data: Any) -> tuple[ModelConfig, int, int]:
    """The model's settings, the number of action dimensions and the picture's side, from `config.json`."""
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UserError(f"{CONFIG} is not one that irevla wrote (format {FORMAT!r})")
    try:
        model, action_dim, image_size = data["model"], data["action_dim"], data["image_size"]
    except KeyError as error:
        raise UserError(f"{CONFIG} lacks {error}") from error
    if not (isinstance(model, dict) and isinstance(action_dim, int) and isinstance(image_size, int)):
        raise UserError(f"{CONFIG} is damaged: model must be a group of settings, action_dim and image_size integers")
    return from_dict(model, kind=ModelConfig, where="model."), action_dim, image_size


def _differences(own: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> Iterator[str]:
    """How the weights `new` are not those of the model `own`, in words."""
    for name in sorted(own.keys() | new.keys()):
        if name not in new:
            yield f"{name} is missing"
        elif name not in own:
            yield f"{name} is unknown"
        elif own[name].shape != new[name].shape or own[name].dtype != new[name].dtype:
            yield f"{name} is {_kind(new[name])} instead of {_kind(own[name])}"


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
