"""Any generative VLM that transformers loads, with its final fully connected layer taken off
(section IV-A).

One adapter: the library says where the towers are, how an image and a prompt become tokens and how
wide the hidden states are; `families.py` has what it does not say. Code from a repository is never
run.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from jinja2 import TemplateError
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from irevla.config import ModelConfig, is_folder
from irevla.errors import UserError
from irevla.models.vlm.base import VLM
from irevla.models.vlm.families import FAMILIES, Family, question
from irevla.models.vlm.images import Pixels
from irevla.types import Features, Observation

SURPRISES = (
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    RuntimeError,
    TemplateError,
    TypeError,
    ValueError,
)
# Of what a processor returns: pixels of ours come from the device; PaliGemma's labels are no input.
NOT_INPUTS = ("pixel_values", "labels")


class HuggingFaceVLM(VLM):
    """A model of transformers and its processor.

    For encoder-decoder models the hidden states are the encoder's, and the decoder, which nothing
    would use, is dropped. Images are prepared on the device.
    """

    dtype = "float32"  # what its weights were loaded as

    def __init__(
        self, model: Any, processor: Any, *, image_size: int, towers: Sequence[str] = ("language",)
    ) -> None:
        super().__init__()
        self.family = FAMILIES.get(model.config.model_type, Family())
        self.width = _width(model.config)
        with _understood(model.config, "its layers are not where others have them"):
            self.lora_targets = lora_targets(model, towers)
            self.tap = take_off_output_layer(model)
        self.model = model
        self.processor = processor
        self.pixels = Pixels(processor.image_processor, image_size)
        self.blank = Image.new("RGB", (image_size, image_size))
        self.prompts: dict[str, dict[str, Tensor]] = {}
        self._check_prompt()
        if model.config.model_type not in FAMILIES:
            self._check_forward()

    def encode(self, observation: Observation) -> Features:
        """Return h, the hidden states of the image's tokens and the prompt's, after the final norm.

        Prompts are padded on the right; a row is the same in every batch.
        """
        images = observation.images
        text = self._text(observation.instructions, images.device)
        self.model(**text, **self.pixels(images, self.model.dtype))
        return Features(self.tap.take(), text["attention_mask"].bool())

    def _text(self, instructions: Sequence[str], device: torch.device) -> dict[str, Tensor]:
        """Return what belongs to the tokens of the instructions' prompts, each `B m`."""
        prompts = [self._prompt(instruction) for instruction in instructions]
        return {
            name: pad_sequence([each[name] for each in prompts], batch_first=True).to(device)
            for name in prompts[0]
        }

    def _prompt(self, instruction: str) -> dict[str, Tensor]:
        """Return the same for one instruction, each of one dimension.

        Kept: a suite has a handful of them.
        """
        if instruction not in self.prompts:
            whole = instruction.encode(errors="replace").decode()  # no half characters
            inputs = self._ask(question(whole))
            of_tokens = inputs.keys() - self.pixels.names - set(NOT_INPUTS)
            self.prompts[instruction] = {
                name: torch.tensor(inputs[name][0]) for name in sorted(of_tokens)
            }
        return self.prompts[instruction]

    def _ask(self, text: str) -> Any:
        """Return the processor's inputs for a question about an image, as lists.

        It is asked as the family was trained to read it.
        """
        if self.processor.chat_template is not None:
            content = [{"type": "image", "image": self.blank}, {"type": "text", "text": text}]
            return self.processor.apply_chat_template(
                [{"role": "user", "content": content}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
            )
        return self.processor(images=[self.blank], text=[self.family.prompt.format(question=text)])

    def _check_prompt(self) -> None:
        config = self.model.config
        if self.processor.chat_template is None and not self.family.prompt:
            raise _unsupported(config, "its processor has no chat template")
        with _understood(config, "its processor fails"):
            tokens = self._prompt("open the door")["input_ids"]
        image_token = getattr(config, "image_token_id", None)
        if image_token is None or not (tokens == image_token).any():
            raise _unsupported(config, "its processor puts no image tokens into the prompt")

    @torch.no_grad()
    def _check_forward(self) -> None:
        """Raise `UserError` unless one image has as many latents as tokens: nobody tried this
        family."""
        with _understood(self.model.config, "it fails with one image"):
            self.pixels.to(self.model.device)
            blank = Observation.of(np.array(self.blank)[None], ["open the door"])
            latents = self.encode(blank.to(self.model.device))
            assert latents.tokens.shape == (*latents.mask.shape, self.width), (
                "its latents are not one for each token"
            )


# --- taking off the final fully connected layer


class Tap(nn.Module):
    """In the place of the final fully connected layer: keeps the hidden states (`B m d`) that it is
    given.

    `torch.compile` reads `forward`, and cannot read annotations with shapes that are checked.
    """

    hidden: Tensor | None = None

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the hidden states as they are."""
        self.hidden = hidden
        return hidden

    def take(self) -> Float[Tensor, "B m d"]:
        """Return the hidden states of the last forward, once: they would hold its whole graph."""
        hidden = self.hidden
        self.hidden = None
        assert hidden is not None
        return hidden


class DecoderTap(Tap):
    """In the place of a decoder: keeps the hidden states of the encoder."""

    def forward(self, *, encoder_hidden_states: Tensor, **_: Any) -> Any:  # type: ignore[override]
        """Return what the caller expects of a decoder."""
        from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

        self.hidden = encoder_hidden_states
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=encoder_hidden_states)


def take_off_output_layer(model: Any) -> Tap:
    """Put a tap where `model` would score its vocabulary, or decode in encoder-decoder models;
    return it.

    Not an identity whose output would be the logits: some models scale or cap those (Gemma 2, T5).
    """
    if not model.config.get_text_config().is_encoder_decoder:
        tap = Tap()
        model.set_output_embeddings(tap)
        return tap
    owner = _name(model, model.get_encoder()).rpartition(".")[0]
    decoder = model.get_submodule(owner).decoder = DecoderTap()
    model.set_output_embeddings(nn.Identity())
    assert isinstance(decoder, DecoderTap)
    return decoder


def lora_targets(model: Any, towers: Sequence[str]) -> str:
    """Return a regular expression for the linear layers inside the repeated layers of `towers`, as
    names of our module.

    Raises `UserError` for a tower that the model does not have.
    """
    encodes = model.config.get_text_config().is_encoder_decoder
    modules = {
        "language": model.get_encoder() if encodes else model.get_decoder(),
        "vision": model.get_encoder(modality="image"),
        "qformer": getattr(model, "qformer", None),
    }
    names = {
        tower: _name(model, module)
        for tower, module in modules.items()
        if module not in (None, model)
    }
    for tower in towers:
        if tower not in names:
            known = ", ".join(names)
            raise UserError(
                f"lora.towers: {model.config.model_type} has no {tower!r}; it has {known}"
            )
    return "|".join(rf"model\.{re.escape(names[tower])}\..*\.\d+\..+" for tower in towers)


def _name(model: Any, module: nn.Module) -> str:
    name: str = next(name for name, each in model.named_modules() if each is module)
    return name


# --- loading


def load(config: ModelConfig, *, image_size: int, device: torch.device) -> HuggingFaceVLM:
    """Return the VLM that `config.vlm` names, on the Hub or in a folder, with its pretrained
    weights.

    `check_before` comes first. Raises `UserError` where it cannot be reached, or is not whole, or
    no VLM of a supported kind.
    """
    name = config.vlm
    dtype = _dtype(config, device)
    with _readable(name):
        commit = _commit(name, config.revision)
        settings = _settings(name, commit)
        processor = _processor(name, commit, settings)
        model = _weights(
            name, commit, settings, dtype=dtype, quantize=config.quantize, device=device
        )
    vlm = HuggingFaceVLM(model, processor, image_size=image_size, towers=config.lora.towers)
    vlm.base = name
    vlm.revision = commit
    vlm.dtype = str(dtype).removeprefix("torch.")
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    if config.compile:
        compile_layers(model)
    return vlm


def compile_layers(model: nn.Module) -> None:
    """Let torch compile the repeated layers of the towers, in place, at their first images.

    One layer of a kind is compiled, and the others share its code: the whole model at once takes
    minutes. Each kind is compiled with and without gradients, for one size of batches and for all.
    """
    from torch._dynamo import config as dynamo

    dynamo.recompile_limit = max(64, dynamo.recompile_limit)
    for module in model.children():
        if isinstance(module, nn.ModuleList):
            for layer in module:
                layer.compile()
        else:
            compile_layers(module)


def check_before(config: ModelConfig, device: torch.device) -> None:
    """Raise `UserError` for what can be seen without the weights.

    Of a model on the Hub, only config.json is fetched.
    """
    if find_spec("transformers") is None:
        raise UserError(
            "a VLM of the Hub needs the package transformers: pip install 'irevla[hub]'"
        )
    if config.quantize and (device.type != "cuda" or find_spec("bitsandbytes") is None):
        raise UserError(
            "weights in 4 bits need a CUDA device and the package bitsandbytes: leave "
            "model.quantize out"
        )
    check_name(config)
    with _readable(config.vlm):
        settings = _settings(config.vlm, _commit(config.vlm, config.revision))
    width = _width(settings)
    if width % config.head_groups:
        raise UserError(
            f"the width of {config.vlm} is {width}: set a model.head_groups that divides it"
        )


def check_name(config: ModelConfig) -> None:
    """Raise `UserError` unless `config.vlm` is a folder with all the parts of a model, or can be a
    name on the Hub."""
    folder = Path(config.vlm)
    if is_folder(folder):
        if config.revision:
            raise UserError(
                f"model.revision is for models on the Hub, and {folder} is a folder: leave it out"
            )
        check_folder(folder)
    elif not re.fullmatch(r"[\w.-]+/[\w.-]+", config.vlm) or config.vlm.startswith("."):
        raise UserError(
            f"there is no folder {config.vlm}: name a model's folder, or OWNER/NAME on the Hub"
        )


def check_folder(folder: Path) -> None:
    """Raise `UserError` unless `folder` has all the parts of a model."""
    parts = {
        "config.json": "its settings",
        "*.safetensors": "weights in the one format that irevla reads",
        "*processor_config.json": "how it prepares images",
        "tokenizer*": "its tokenizer",
    }
    for pattern, meaning in parts.items():
        if not any(folder.glob(pattern)):
            raise UserError(
                f"{folder} is not the whole of a model: it has no {pattern} ({meaning})"
            )


def _commit(name: str, revision: str) -> str:
    """Return the commit that `revision` is on the Hub at this moment, so that all files come from
    it.

    Empty for a folder.
    """
    if is_folder(name):
        return ""
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(name, "config.json", revision=revision or None)).parent.name


def _settings(name: str, commit: str) -> Any:
    import transformers

    settings = transformers.AutoConfig.from_pretrained(
        name, revision=commit or "main", trust_remote_code=False
    )
    if type(settings) not in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise UserError(
            f"{name} is a {settings.model_type}, which is no generative vision-language model"
        )
    _without_chance(settings)
    return settings


def _width(settings: Any) -> int:
    with _understood(settings, "it does not say how wide its latents are"):
        width: int = settings.get_text_config().hidden_size
    return width


def _without_chance(settings: Any) -> None:
    """Switch off dropout and cache in all towers: latents are kept, so they must not depend on
    chance."""
    for name, value in list(vars(settings).items()):
        if hasattr(value, "sub_configs"):
            _without_chance(value)
        elif "drop" in name and isinstance(value, float):
            setattr(settings, name, 0.0)
        elif name == "use_cache":
            setattr(settings, name, False)


def _dtype(config: ModelConfig, device: torch.device) -> torch.dtype:
    """Return the type of the weights.

    Those trained in full are float32: an optimiser's small steps are lost in bfloat16.
    """
    small = config.dtype == "auto" and device.type == "cuda" and config.lora.rank > 0
    return torch.bfloat16 if small or config.dtype == "bfloat16" else torch.float32


def _weights(
    name: str,
    commit: str,
    settings: Any,
    *,
    dtype: torch.dtype,
    quantize: str,
    device: torch.device,
) -> Any:
    import transformers

    options: dict[str, Any] = {}
    if quantize:
        card = torch.cuda.current_device() if device.index is None else device.index
        options["device_map"] = {"": card}
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_use_double_quant=True,
        )
    model, report = transformers.AutoModelForImageTextToText.from_pretrained(
        name,
        config=settings,
        revision=commit or "main",
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        **options,
    )
    missing = sorted(report["missing_keys"])
    if missing:
        raise UserError(
            f"the weights of {name} are not whole: {len(missing)} are missing, {missing[0]} among "
            "them"
        )
    return model.eval()


def _processor(name: str, commit: str, settings: Any) -> Any:
    """Return what turns questions and images into tokens: the library's, without the part for
    films.

    That part needs torchvision, and nothing here shows films.
    """
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    family = FAMILIES.get(settings.model_type, Family())
    if family.processor:
        kind = getattr(transformers, family.processor)
    elif type(settings) in PROCESSOR_MAPPING:
        kind = PROCESSOR_MAPPING[type(settings)]
    else:
        raise _unsupported(settings, "transformers has no processor for it")

    class Stills(kind):  # type: ignore[misc, valid-type]
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in super().get_attributes() if "video" not in name]

    Stills.__name__ = kind.__name__
    return Stills.from_pretrained(name, revision=commit or "main", trust_remote_code=False)


# --- errors


def _unsupported(settings: Any, reason: str) -> UserError:
    return UserError(
        f"{settings.model_type} is not supported: {reason}; docs/add-a-vlm.md names the families "
        "that are"
    )


@contextmanager
def _understood(settings: Any, doubt: str) -> Iterator[None]:
    """Raise `doubt`, in one line, for whatever the body raises: a family that nobody has tried may
    answer with anything."""
    try:
        yield
    except UserError:
        raise
    except SURPRISES as error:
        raise _unsupported(settings, f"{doubt} ({_first_line(error)})") from error


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Turn what the library raises about a model that cannot be read into a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise UserError(_explained(name, error)) from error


def _explained(name: str, error: BaseException) -> str:
    from huggingface_hub import errors

    kinds = tuple(type(each) for each in _causes(error))

    def caused_by(*wanted: type[BaseException]) -> bool:
        return any(issubclass(kind, wanted) for kind in kinds)

    if caused_by(errors.GatedRepoError):
        return (
            f"{name} is gated: accept its terms on its page on the Hub, then log in with: hf auth "
            "login"
        )
    if caused_by(errors.RepositoryNotFoundError):
        return (
            f"there is no model {name} on the Hub, or it is private (then: hf auth login), and "
            "there is no such folder"
        )
    if caused_by(errors.RevisionNotFoundError):
        return (
            f"{name} has no such model.revision: name a commit, tag or branch that its page on the "
            "Hub shows"
        )
    if caused_by(errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError):
        return (
            f"{name} is not in the cache and the Hub cannot be reached: go online once, or name a "
            "folder that holds it"
        )
    if "trust_remote_code" in str(error):
        return (
            f"{name} brings code of its own, which irevla never runs: use one that transformers "
            "knows"
        )
    return f"cannot load {name}: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
