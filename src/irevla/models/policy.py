"""The vision-language-action model pi: O x L -> A (section IV-A)."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from irevla.config import ModelConfig
from irevla.config_io import to_dict
from irevla.errors import UserError
from irevla.models.action_scale import ActionScale
from irevla.models.files import (
    ADAPTER,
    ADAPTER_CONFIG,
    CAMERAS,
    CONFIG,
    FORMAT,
    GRIPPER,
    STATE_DIM,
    WEIGHTS,
    YOUNGER,
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
from irevla.models.fingerprint import (
    FINGERPRINT,
    Fingerprint,
    check_same,
    fixed_observation,
)
from irevla.models.heads import ActionHead
from irevla.models.hub import locate, model_card, upload
from irevla.models.lora import add_lora, check_lora, is_lora
from irevla.models.products import mixed_precision
from irevla.models.state_scale import StateScale
from irevla.models.views import Views
from irevla.models.vlm.base import VLM
from irevla.models.vlm.registry import build_vlm
from irevla.tasks import Parts
from irevla.types import STATELESS, Encoder, Features, Observation, tensors_hash

MAKERS = ("vlm.", "views.")  # how the names of those weights begin that make the latents


class VLAPolicy(nn.Module):
    """A VLM and an action head, which may be told the robot's state beside the VLM's latents.

    The head gives the actions of `chunk` steps at once, of which `execute` are executed before the
    policy looks again. Their mean is its output; exploration is a Gaussian around it with
    `log_std`, the same in every step. With `discrete_gripper` the last dimension is executed as
    open (-1) or closed (+1), as SAC trains it; supervised learning fits the mean all the same.
    """

    def __init__(
        self,
        vlm: VLM,
        action_head: ActionHead,
        *,
        config: ModelConfig,
        image_size: int,
        cameras: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.vlm = vlm
        self._modules["action_head"] = action_head
        self.config = config
        self.image_size = image_size
        self.cameras = cameras  # that it sees, one below the other; empty: one, unnamed
        self._modules["views"] = Views(cameras, width=vlm.width)
        self.action_dim = action_head.action_dim
        self.state_dim = action_head.state_dim  # S: how much it is told of the robot
        self._modules["state_scale"] = StateScale(self.state_dim)
        self._modules["action_scale"] = ActionScale(self.action_dim, config.action_scale)
        self.discrete_gripper = False
        self.encoder: Encoder | None = None
        self.noise = nn.ParameterDict({"log_std": torch.zeros(self.action_dim)})

    @property
    def action_head(self) -> ActionHead:
        """phi. A property of the class, since a protocol is looked up there and not among
        modules."""
        head = self._modules["action_head"]
        assert isinstance(head, ActionHead)
        return head

    @property
    def chunk(self) -> int:
        """k: actions that the head gives at once."""
        return self.config.chunk

    @property
    def execute(self) -> int:
        """n: of these executed before the policy looks again."""
        return self.config.execute

    def set_execute(self, execute: int) -> None:
        """Let so many actions of a chunk be executed. Raises `UserError` for more than there
        are."""
        self.config = replace(self.config, execute=execute)

    @property
    def views(self) -> Views:
        """What makes one sequence of tokens of several pictures."""
        views = self._modules["views"]
        assert isinstance(views, Views)
        return views

    @property
    def state_scale(self) -> StateScale:
        """What makes the robot's state readable."""
        scale = self._modules["state_scale"]
        assert isinstance(scale, StateScale)
        return scale

    @property
    def action_scale(self) -> ActionScale:
        """What the head's -1 and 1 are in the suite."""
        scale = self._modules["action_scale"]
        assert isinstance(scale, ActionScale)
        return scale

    @property
    def log_std(self) -> nn.Parameter:
        """Logarithm of the standard deviation of the exploration noise: A."""
        log_std: nn.Parameter = self.noise["log_std"]
        return log_std

    def reset_exploration(self, std: float) -> None:
        """Let the exploration noise have the standard deviation `std`, in action units."""
        self.log_std.data.fill_(math.log(std))

    @property
    def device(self) -> torch.device:
        """Where the weights are, and the latents and actions with them."""
        return self.log_std.device

    # --- o, l -> h -> a

    def encode(self, observation: Observation) -> Features:
        """Return h of an observation: float32, with gradients where the VLM is trainable.

        Under `torch.no_grad`, as where RL acts, the tokens are plain tensors on which the head can
        be trained. CUDA computes in bfloat16, and so does a small VLM on a CPU that is fast at it,
        unless `config.dtype` is float32. Raises `UserError` for images of another size than the
        model's. While there is an `encoder`, it does that, without gradients.
        """
        self._check_size(observation.images)
        self._check_state(observation.state)
        if self.encoder is not None:
            return self.encoder(observation)
        return self._encode(observation, mixed=self.config.dtype == "auto")

    def _encode(self, observation: Observation, *, mixed: bool) -> Features:
        cuda = self.device.type == "cuda"
        with torch.autocast("cuda", torch.bfloat16, enabled=cuda), mixed_precision(mixed):
            h = self.views.joined(self.vlm.encode(self.views.apart(observation.to(self.device))))
        state = self.state_scale(observation.state.to(self.device))
        return Features(h.tokens.float(), h.mask, state)

    def mean(self, features: Features) -> Float[Tensor, "B kA"]:
        """Return the mean actions of latents, in [-1, 1]: in the head's scale, see
        `action_scale`."""
        mean: Tensor = self.action_head(features)
        return mean

    @torch.no_grad()
    def decide(
        self, features: Features, chance: Float[Tensor, "B n"] | float = 0.5
    ) -> Float[Tensor, "B nA"]:
        """Return the actions to execute without exploration: the means, with the gripper open or
        closed.

        A discrete gripper closes with the probability that its mean says, (1 + mean) / 2: where
        `chance`, uniform in [0, 1), is less. At 0.5 it does whichever is likelier; but a hand that
        stands right, and is a little likelier not to close than to close, then waits for ever.
        """
        actions = self.mean(features).view(len(features), self.chunk, -1)[:, : self.execute]
        if self.discrete_gripper:
            closed = (1 + actions[..., -1]) / 2 > chance  # just as `SoftActor.act`
            actions[..., -1] = closed * 2.0 - 1
        flat: Tensor = actions.flatten(1)
        return flat

    def native(self, actions: Float[Tensor, "B nA"]) -> Float[Tensor, "B nA"]:
        """Return actions of the head in the suite's scale, in which they are executed."""
        return self.action_scale.native(actions)

    @torch.no_grad()
    def act(
        self,
        image: np.ndarray | Tensor | Mapping[str, np.ndarray | Tensor],
        instruction: str | Sequence[str],
        state: np.ndarray | Tensor | None = None,
    ) -> np.ndarray:
        """Return the action for what is seen and asked: float32[A] in [-1, 1], without exploration.

        With `execute` above 1 it is float32[n, A]: so many actions, to carry out one after the
        other. `image` is uint8, `H W 3`, 0..255; of several cameras, one for each by its name.
        `state`, where the policy is told it, is the robot's: `S` numbers. Given a batch
        (`B H W 3`, `B S`) and one instruction for all or one for each, it returns as many of these.
        A discrete gripper is sampled by torch's own generator. Raises `UserError` for images and
        states of another type or size than the model's.
        """
        image = self._stacked(image)
        batch = image if image.ndim == 4 else image[None]
        texts = [instruction] * len(batch) if isinstance(instruction, str) else instruction
        self._check_size(batch)
        observation = _as_observation(batch, texts, state)
        chance = torch.rand(len(batch), self.execute).to(self.device)
        decided = self.decide(self.encode(observation), chance)
        actions: np.ndarray = self.native(decided).cpu().numpy()
        if self.execute > 1:
            actions = actions.reshape(len(batch), self.execute, -1)
        return actions if image.ndim == 4 else actions[0]

    def _check_size(self, images: np.ndarray | Tensor) -> None:
        size = self.image_size
        high = max(1, len(self.cameras)) * size
        shape = tuple(images.shape[1:])
        if shape != (high, size, 3):
            found = " x ".join(map(str, shape))
            which = f" ({', '.join(self.cameras)}, one below the other)" if self.cameras else ""
            raise UserError(f"images must be {high} x {size} x 3{which}, not {found}: resize them")

    def _stacked(
        self, image: np.ndarray | Tensor | Mapping[str, np.ndarray | Tensor]
    ) -> np.ndarray | Tensor:
        """Return the images of all cameras, one below the other."""
        if not isinstance(image, Mapping):
            return image
        if set(image) != set(self.cameras):
            raise UserError(
                f"the policy sees {', '.join(self.cameras) or 'one picture without a name'}, not "
                f"{', '.join(image)}"
            )
        return np.concatenate([np.asarray(image[name]) for name in self.cameras], axis=-3)

    def _check_state(self, state: Tensor) -> None:
        if state.shape[1] != self.state_dim:
            raise UserError(
                f"the policy is told {self.state_dim} numbers of the robot's state, not "
                f"{state.shape[1]}: give it those that it was trained with"
            )

    # --- who is trainable

    def trainable(self, parts: Parts) -> list[nn.Parameter]:
        """Make exactly `parts` trainable and return those parameters: the one place that decides.

        "head": phi, the action head, with `log_std` (stage 1). "all": the VLM as well (stages 0 and
        2); with LoRA on, that is theta, the LoRA weights, and the VLM's own stay frozen. "none":
        nothing.
        """
        chosen = []
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(self._trains(name, parts))
            if parameter.requires_grad:
                chosen.append(parameter)
        return chosen

    def _trains(self, name: str, parts: Parts) -> bool:
        if name.startswith("views."):
            return parts == "all"
        if not name.startswith("vlm."):
            return parts != "none"
        return parts == "all" and (self.config.lora.rank == 0 or is_lora(name))

    # --- files

    @torch.no_grad()
    def fingerprint(self) -> Fingerprint:
        """Return what it makes of one fixed picture and sentence: see `models.fingerprint`."""
        with _acting(self), _eager(self.config):
            seen = fixed_observation(self.image_size, self.state_dim, max(1, len(self.cameras)))
            h = self._encode(seen, mixed=False)
            mean = self.mean(h)
        coarse = self.device.type == "cuda" or any(
            parameter.dtype == torch.bfloat16 for parameter in self.vlm.parameters()
        )
        computed = f"{self.device.type} {'bfloat16' if coarse else 'float32'}"
        return Fingerprint.of(h, mean, computed=computed)

    def hash(self) -> str:
        """Return the sha256 of all weights.

        Those of a frozen pretrained VLM count by their name and revision.
        """
        return self._hash(self._kept())

    def vlm_hash(self) -> str:
        """Return the sha256 of the weights that make the latents: what cached latents are marked
        with."""
        kept = self._kept()
        return self._hash({name: kept[name] for name in kept if name.startswith(MAKERS)})

    def head(self) -> dict[str, Tensor]:
        """Return the weights that `vlm_hash` does not cover: all that stage 1 changes."""
        kept = self._kept()
        return {name: kept[name] for name in kept if not name.startswith(MAKERS)}

    def load_head(self, head: Mapping[str, Tensor]) -> None:
        """Take what `head` returned. Raises `UserError`, and changes nothing, unless it fits."""
        check_weights(self.head(), head)
        self.load_state_dict(dict(head), strict=False)

    def _hash(self, kept: Mapping[str, Tensor]) -> str:
        base = self._adapted
        if base is None:
            return tensors_hash(kept)
        config = self.config
        frozen = f"{base.identity} {config.dtype} {config.quantize} {config.lora.alpha}"
        return hashlib.sha256(f"{frozen} {tensors_hash(kept)}".encode()).hexdigest()

    @property
    def _adapted(self) -> Base | None:
        """The pretrained weights beside which only LoRA and the heads are kept; None: keep
        everything."""
        return base_of(self.vlm) if self.config.lora.rank > 0 else None

    def _kept(self) -> dict[str, Tensor]:
        """Return the weights that the files hold, by their names here.

        Raises `UserError` where they would not say how the policy acts: see `check_lora`.
        """
        whole = self._adapted is None
        if self.config.lora.rank > 0:
            check_lora(self.vlm, apart=whole)
        weights = dict(self.state_dict())
        if whole:
            return weights
        own = [name for name in weights if is_lora(name) or not name.startswith("vlm.")]
        return {name: weights[name] for name in own}

    def files(self) -> dict[str, Any]:
        """Return the policy as files of a checkpoint: `model.safetensors` and `config.json`.

        Where LoRA adapts a pretrained VLM, the former has the heads alone; PEFT's two files hold
        the adapter. Raises `UserError` where a LoRA is merged into weights that are kept.
        """
        kept = self._kept()
        described = {**self._description(), FINGERPRINT: self.fingerprint().to_json()}
        base = self._adapted
        if base is None:
            return {WEIGHTS: kept, CONFIG: described}
        adapter = self._adapter(kept)
        return {
            WEIGHTS: {name: kept[name] for name in kept if not is_lora(name)},
            CONFIG: described,
            ADAPTER: adapter,
            ADAPTER_CONFIG: adapter_config(base, self.config.lora, adapter),
        }

    def _adapter(self, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the LoRA weights among `kept`, by the names that PEFT gives them."""
        root = peft_root(self.vlm)
        return {adapter_name(name, root): kept[name] for name in kept if is_lora(name)}

    def _description(self) -> dict[str, Any]:
        """Return the content of `config.json` but for the fingerprint: what `parse` reads."""
        base = base_of(self.vlm)
        model = to_dict(from_anywhere(self.config, base))
        for name in YOUNGER:  # older versions read what has none of them
            if model[name] == getattr(ModelConfig, name):
                del model[name]
        described: dict[str, Any] = {
            "format": FORMAT,
            "model": model,
            "action_dim": self.action_dim,
            "image_size": self.image_size,
        }
        if base is not None:
            described["base"] = asdict(base)
        if self.cameras:
            described[CAMERAS] = list(self.cameras)
        if self.state_dim:
            described[STATE_DIM] = self.state_dim
        if self.discrete_gripper:
            described[GRIPPER] = True
        return described

    def load_files(self, files: Mapping[str, Any]) -> None:
        """Take the weights from `files`.

        Raises `UserError` unless names, shapes and types are this model's, and an adapter's base
        model as well.
        """
        if WEIGHTS not in files:
            raise UserError(
                f"no {WEIGHTS} in it: this is not a policy; name a folder that save_pretrained "
                "wrote"
            )
        new = dict(files[WEIGHTS])
        kept = self._kept()
        base = self._adapted
        if base is not None:
            check_lora(self.vlm, apart=True)  # what is merged would stay
            own = adapter_config(base, self.config.lora, self._adapter(kept))
            check_adapter(files, base=base, own=own)
            root = peft_root(self.vlm)
            new |= {parameter_name(name, root): value for name, value in files[ADAPTER].items()}
        elif ADAPTER in files:
            raise UserError(
                "it holds an adapter for another model; set model.vlm as it was trained"
            )
        check_weights(kept, new)
        # Not strict: the names are checked, and a frozen VLM's are not among them.
        self.load_state_dict(new, strict=False)

    def save_pretrained(self, directory: Path | str, *, card: str = "") -> None:
        """Write the policy to a folder, wholly or not at all, with `card` as its README.md.

        Without a `card` it is a plain one, or the README.md that is there: delete it to get a new
        one. An older policy is replaced. Raises `UserError` where there is anything else.
        """
        files = self.files()
        path = Path(directory)
        plain = model_card(files[CONFIG], name=path.name)
        write_policy(path, files, card=card or plain, keep_card=not card)

    def push_to_hub(self, repo_id: str, *, private: bool = False, card: str = "") -> str:
        """Upload the policy to the repository `repo_id` ("owner/name"); return its address.

        The repository is made if need be, and has `card` (or a plain one) as its README.md. The
        token is the one that `hf auth login` kept, or HF_TOKEN. Raises `UserError` where it cannot
        be done.
        """
        files = self.files()
        text = card or model_card(files[CONFIG], name=repo_id)
        return upload(files, repo_id, private=private, card=text)

    @staticmethod
    def from_pretrained(
        path: Path | str,
        *,
        revision: str = "",
        device: torch.device | str = "cpu",
        accept_difference: bool = False,
    ) -> "VLAPolicy":
        """Return the policy in `path`, ready to act.

        `path` is a folder of `save_pretrained`, a checkpoint, a run's directory (its newest
        policy), or a repository of the Hugging Face Hub, "owner/name", at `revision` (a branch, tag
        or commit; none: the newest). Raises `UserError` where there is none, or it is corrupt, or
        not ours; and, but for `accept_difference`, where it acts otherwise here than where it was
        saved.
        """
        folder = locate(path, revision=revision)
        files = read_policy(folder)
        try:
            return VLAPolicy.from_files(files, device=device, accept_difference=accept_difference)
        except UserError as error:
            raise UserError(f"cannot load the policy {folder}: {error}") from error

    @staticmethod
    def from_files(
        files: Mapping[str, Any],
        *,
        device: torch.device | str = "cpu",
        accept_difference: bool = False,
    ) -> "VLAPolicy":
        """Return the policy that is saved as `files`, ready to act: see `from_pretrained`."""
        what = parse(files)
        policy = build_policy(
            what.model,
            action_dim=what.action_dim,
            image_size=what.image_size,
            state_dim=what.state_dim,
            cameras=what.cameras,
            device=device,
        )
        policy.load_files(files)
        policy.discrete_gripper = what.discrete_gripper
        if what.fingerprint is not None and not accept_difference:
            check_same(what.fingerprint, policy.fingerprint())
        return policy.eval()


def build_policy(
    config: ModelConfig,
    *,
    action_dim: int,
    image_size: int,
    state_dim: int = 0,
    cameras: tuple[str, ...] = (),
    device: torch.device | str = "cpu",
) -> VLAPolicy:
    """Return a new VLA: `config.vlm` with a new action head in the place of its output layer, which
    is told `state_dim` numbers of the robot's state and sees the pictures of `cameras`.

    See section IV-A. New weights are sampled by torch's own generator. Raises `UserError` for an
    unknown VLM and for LoRA that cannot be.
    """
    vlm, config = build_vlm(config, image_size=image_size, device=torch.device(device))
    if config.lora.rank > 0:
        add_lora(vlm, config.lora, autocast=torch.device(device).type == "cuda")
    head = ActionHead(
        width=vlm.width,
        groups=config.head_groups,
        hidden=config.head_hidden,
        action_dim=action_dim,
        chunk=config.chunk,
        state_dim=state_dim,
    )
    policy = VLAPolicy(vlm, head, config=config, image_size=image_size, cameras=cameras)
    return policy.to(device)


@contextmanager
def _acting(policy: nn.Module) -> Iterator[None]:
    """Let `policy` be without dropout, and then be again as it was, module by module."""
    training = {module: module.training for module in policy.modules()}
    policy.eval()
    try:
        yield
    finally:
        for module, flag in training.items():
            module.training = flag


def _eager(config: ModelConfig) -> AbstractContextManager[Any]:
    """Leave compiled code aside: a batch of one would be compiled anew. Elsewhere a fingerprint
    may be compared with one of code that is not compiled."""
    return torch.compiler.set_stance("force_eager") if config.compile else nullcontext()


def _as_observation(
    images: np.ndarray | Tensor, instructions: Sequence[str], state: np.ndarray | Tensor | None
) -> Observation:
    known = STATELESS if state is None else torch.as_tensor(state, dtype=torch.float32)
    known = known.view(len(images), -1) if state is not None else known
    if isinstance(images, np.ndarray) and images.dtype == np.uint8:
        seen = Observation.of(images, instructions)
        return Observation(seen.images, seen.instructions, known)
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        raise UserError(
            f"images must be uint8 (0..255), not {images.dtype}: convert them before the policy "
            "sees them"
        )
    return Observation(images, tuple(instructions), known)
