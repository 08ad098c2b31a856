"""The vision-language-action model pi: O x L -> A (section IV-A)."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from irevla.config import ModelConfig
from irevla.errors import UserError
from irevla.models.files import (
    ADAPTER,
    ADAPTER_CONFIG,
    CONFIG,
    FORMAT,
    WEIGHTS,
    Base,
    adapter_config,
    adapter_name,
    base_of,
    check_adapter,
    check_weights,
    from_anywhere,
    parameter_name,
    parse,
    peft_root,
    read_policy,
    write_policy,
)
from irevla.models.heads import ActionHead
from irevla.models.hub import locate, model_card, upload
from irevla.models.lora import is_lora
from irevla.models.vlm.base import VLM
from irevla.presets import to_dict
from irevla.types import Features, tensors_hash

Stage = Literal["all", "head", "none"]


class VLAPolicy(nn.Module):
    """A VLM and an action head.

    The mean action is the head's output; exploration is a Gaussian around it with `log_std`. With
    `gripper` the last dimension is executed as open (-1) or closed (+1), as SAC trains it;
    supervised learning fits the mean all the same.
    """

    def __init__(
        self, vlm: VLM, action_head: ActionHead, *, config: ModelConfig, image_size: int
    ) -> None:
        super().__init__()
        self.vlm = vlm
        self.action_head = action_head
        self.config = config
        self.image_size = image_size
        self.action_dim = action_head.action_dim
        self.gripper = False
        self.noise = nn.ParameterDict({"log_std": torch.zeros(self.action_dim)})

    @property
    def log_std(self) -> nn.Parameter:
        """Logarithm of the standard deviation of the exploration noise, in each action
        dimension."""
        log_std: nn.Parameter = self.noise["log_std"]
        return log_std

    def reset_exploration(self, std: float) -> None:
        """Let the exploration noise have the standard deviation `std` in every action dimension (in
        action units)."""
        self.log_std.data.fill_(math.log(std))

    @property
    def device(self) -> torch.device:
        """Where the weights are, and the latents and actions with them."""
        return self.log_std.device

    # --- o, l -> h -> a

    def features(self, images: np.ndarray | Tensor, instructions: Sequence[str]) -> Features:
        """h of `B` pictures (uint8, `B H W 3`) with their instructions, with gradients where the
        VLM is trainable.

        Raises `UserError` for pictures of another type or size than the model's. CUDA computes in
        bfloat16; latents are float32.
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

    @torch.no_grad()
    def decide(
        self, features: Features, chance: Float[Tensor, " B"] | float = 0.5
    ) -> Float[Tensor, "B A"]:
        """The action to execute without exploration: the mean, with the gripper open or closed, as
        SAC trains it.

        It closes with the probability that its mean says, (1 + mean) / 2: where `chance`, uniform
        in [0, 1), is less. At 0.5 it does whichever is likelier; but a hand that stands right, and
        is a little likelier not to close than to close, then waits for ever.
        """
        actions = self.mean(features)
        if self.gripper:
            actions[:, -1] = (
                (1 + actions[:, -1]) / 2 > chance
            ) * 2.0 - 1  # just as `SoftActor.act`
        return actions

    def forward(
        self, images: np.ndarray | Tensor, instructions: Sequence[str]
    ) -> Float[Tensor, "B A"]:
        """The mean action of pictures, with gradients: what supervised learning fits (equations 2
        and 4)."""
        return self.mean(self.features(images, instructions))

    @torch.no_grad()
    def act(self, image: np.ndarray | Tensor, instruction: str | Sequence[str]) -> np.ndarray:
        """The action for what is seen and asked: float32[A] in [-1, 1], without exploration. A
        gripper that closes with a probability is drawn by torch's own generator.

        `image` is uint8, `H W 3`, 0..255. Given a batch (`B H W 3`) and one instruction for all or
        one for each, it returns float32[B, A].
        """
        batch = image if image.ndim == 4 else image[None]
        texts = [instruction] * len(batch) if isinstance(instruction, str) else instruction
        chance = torch.rand(len(batch)).to(self.device)
        actions: np.ndarray = self.decide(self.features(batch, texts), chance).cpu().numpy()
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
        """Make one stage's parameters trainable, freeze all others, and return them: the one place
        that decides.

        "head": phi, the action head, with `log_std` (stage 1). "all": the VLM as well (stages 0 and
        2); with LoRA on, that is theta, the LoRA weights, and the VLM's own stay frozen. "none":
        nothing.
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
        """sha256 of all weights; those of a frozen pretrained VLM count by their name and
        revision."""
        return self._hash(self._kept())

    def vlm_hash(self) -> str:
        """sha256 of the weights that make the latents, with which those that are kept are
        marked."""
        return self._hash(
            {name: value for name, value in self._kept().items() if name.startswith("vlm.")}
        )

    def _hash(self, kept: Mapping[str, Tensor]) -> str:
        base = self._adapted
        if base is None:
            return tensors_hash(kept)
        frozen = (
            f"{base.identity} {self.config.dtype} {self.config.quantize} {self.config.lora.alpha}"
        )
        return hashlib.sha256(f"{frozen} {tensors_hash(kept)}".encode()).hexdigest()

    @property
    def _adapted(self) -> Base | None:
        """The pretrained weights beside which only LoRA and the heads are kept; None where
        everything must be."""
        return base_of(self.vlm) if self.config.lora.rank > 0 else None

    def _kept(self) -> dict[str, Tensor]:
        """The weights that the files hold, by their names here."""
        weights = dict(self.state_dict())
        if self._adapted is None:
            return weights
        return {
            name: value
            for name, value in weights.items()
            if is_lora(name) or not name.startswith("vlm.")
        }

    def files(self) -> dict[str, Any]:
        """What makes this policy, as files of a checkpoint: `model.safetensors` and `config.json`.

        Where LoRA adapts a pretrained VLM, the former has the heads alone; PEFT's two files hold
        the adapter.
        """
        kept, base = self._kept(), base_of(self.vlm)
        config = (
            {
                "format": FORMAT,
                "model": to_dict(from_anywhere(self.config, base)),
                "action_dim": self.action_dim,
                "image_size": self.image_size,
            }
            | ({"base": asdict(base)} if base else {})
            | ({"gripper": True} if self.gripper else {})
        )
        if self._adapted is None:
            return {WEIGHTS: kept, CONFIG: config}
        adapter = {
            adapter_name(name, peft_root(self.vlm)): kept.pop(name)
            for name in list(kept)
            if is_lora(name)
        }
        return {
            WEIGHTS: kept,
            CONFIG: config,
            ADAPTER: adapter,
            ADAPTER_CONFIG: adapter_config(self._adapted, self.config.lora, adapter),
        }

    def load_files(self, files: Mapping[str, Any]) -> None:
        """Take the weights out of `files`. Raises `UserError` unless names, shapes and types are
        this model's, and an adapter's base model as well."""
        if WEIGHTS not in files:
            raise UserError(
                f"no {WEIGHTS} in it: this is not a policy; name a folder that save_pretrained wrote"
            )
        new = dict(files[WEIGHTS])
        if self._adapted is not None:
            check_adapter(files, base=self._adapted, own=self.files()[ADAPTER_CONFIG])
            new |= {
                parameter_name(name, peft_root(self.vlm)): value
                for name, value in files[ADAPTER].items()
            }
        elif ADAPTER in files:
            raise UserError(
                "it holds an adapter for another model; set model.vlm as it was trained"
            )
        check_weights(self._kept(), new)
        self.load_state_dict(
            new, strict=False
        )  # the names are checked; a frozen VLM's are not among them

    def save_pretrained(self, directory: Path | str, *, card: str = "") -> None:
        """Write the policy to a folder, wholly or not at all, with `card` as its README.md; without
        one a plain card, or the README.md that is there: delete it to get a new one.

        An older policy is replaced. Raises `UserError` where there is anything else.
        """
        files, path = self.files(), Path(directory)
        plain = model_card(files[CONFIG], name=path.name)
        write_policy(path, files, card=card or plain, keep_card=not card)

    def push_to_hub(self, repo_id: str, *, private: bool = False, card: str = "") -> str:
        """Upload the policy, with `card` (or a plain one), to the repository `repo_id`
        ("owner/name"), which is made if need be. Returns its address.

        The token is the one that `hf auth login` kept, or HF_TOKEN. Raises `UserError` where it
        cannot be done.
        """
        files = self.files()
        return upload(
            files, repo_id, private=private, card=card or model_card(files[CONFIG], name=repo_id)
        )

    @staticmethod
    def from_pretrained(
        path: Path | str, *, revision: str = "", device: torch.device | str = "cpu"
    ) -> "VLAPolicy":
        """The policy in `path`: a folder of `save_pretrained`, a checkpoint, a run's directory (its
        newest policy), or a repository of the Hugging Face Hub, "owner/name", at `revision` (a
        branch, tag or commit; none: the newest).

        Raises `UserError` where there is none, or it is corrupt, or not ours.
        """
        from irevla.models.build import build_policy  # which imports this module

        folder = locate(path, revision=revision)
        files = read_policy(folder)
        try:
            what = parse(files)
            policy = build_policy(
                what.model, action_dim=what.action_dim, image_size=what.image_size, device=device
            )
            policy.load_files(files)
            policy.gripper = what.gripper
        except UserError as error:
            raise UserError(f"cannot load the policy {folder}: {error}") from error
        return policy.eval()
