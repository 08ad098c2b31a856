"""A policy as files: all weights; or, beside a large pretrained VLM with LoRA, the adapter, the
heads and the VLM's name.

The adapter is in PEFT's own format (`adapter_model.safetensors`, `adapter_config.json`), so that
PEFT can put it on the same base model without us.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from irevla.config import LoRAConfig, ModelConfig
from irevla.errors import UserError
from irevla.models.vlm.base import VLM
from irevla.presets import from_dict
from irevla.runs import checkpoint
from irevla.runs.run import write_atomically

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
FORMAT = "irevla-policy-1"
NAMES = (WEIGHTS, CONFIG, ADAPTER, ADAPTER_CONFIG)
PEFT_ROOT = "base_model.model."  # what PEFT puts before the names of a model's parameters
OF_MODELS = (
    ".safetensors",
    ".json",
    ".jinja",
    ".model",
    ".txt",
)  # weights, settings, prompts and vocabularies
OF_FOLDER = "sha256:"  # how the revision of a base model begins that is a folder


@dataclass(frozen=True)
class Base:
    """The pretrained weights that a VLM starts from."""

    name: str  # on the Hub, or a folder
    revision: str  # the commit on the Hub; of a folder "sha256:" and the hash of its files

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder of this machine, which others cannot load."""
        return self.revision.startswith(OF_FOLDER)

    @property
    def identity(self) -> str:
        """What tells it from all others. A folder may be moved."""
        return self.revision if self.is_folder else f"{self.name}@{self.revision}"

    def __str__(self) -> str:
        return f"{self.name} at {self.revision[: len(OF_FOLDER) + 12] if self.is_folder else self.revision[:12]}"


def base_of(vlm: VLM) -> Base | None:
    """What `vlm` starts from; None for one that is made from nothing."""
    if not vlm.base:
        return None
    if vlm.revision:
        return Base(vlm.base, vlm.revision)
    folder = Path(vlm.base).absolute()
    return Base(str(folder), OF_FOLDER + folder_hash(folder))


def from_anywhere(config: ModelConfig, base: Base | None) -> ModelConfig:
    """`config` with the whole path of the base model's folder: it may be read in another
    directory."""
    if base and base.is_folder and Path(config.vlm).absolute() == Path(base.name):
        return replace(config, vlm=base.name)
    return config


def folder_hash(folder: Path) -> str:
    """sha256 over the weights and settings in a model's folder: it changes whenever they do. Read
    once per process."""
    files = sorted(path for path in folder.iterdir() if path.suffix in OF_MODELS)
    return _hash_of(tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in files))


@lru_cache
def _hash_of(files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path, _, _ in files:
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


# --- PEFT's format


def peft_root(vlm: VLM) -> str:
    """The name, in a policy, of the model that PEFT knows: the one part of `vlm` that has weights,
    or `vlm` itself."""
    parts = [
        name for name, part in vlm.named_children() if next(part.parameters(), None) is not None
    ]
    return f"vlm.{parts[0]}" if len(parts) == 1 else "vlm"


def adapter_name(name: str, root: str) -> str:
    """What PEFT calls the LoRA parameter `name` of a policy, whose adapted model is the submodule
    `root`."""
    own = name.removeprefix(f"{root}.")
    return PEFT_ROOT + re.sub(r"\.(lora_[AB])\.default\.weight$", r".\1.weight", own)


def parameter_name(name: str, root: str) -> str:
    """The inverse of `adapter_name`."""
    own = name.removeprefix(PEFT_ROOT)
    return f"{root}." + re.sub(r"\.(lora_[AB])\.weight$", r".\1.default.weight", own)


def adapter_config(base: Base, lora: LoRAConfig, names: Iterable[str]) -> dict[str, Any]:
    """`adapter_config.json` of a LoRA whose parameters PEFT calls `names`."""
    targets = {name.removeprefix(PEFT_ROOT).partition(".lora_")[0] for name in names}
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base.name,
        "revision": None if base.is_folder else base.revision,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(targets),
        "inference_mode": True,
    }


# --- from files


def read_policy(folder: Path) -> dict[str, Any]:
    """The files in `folder` that make a policy, every byte as its manifest says.

    Raises `UserError` where they are damaged or missing, or not a policy's.
    """
    if not (folder / checkpoint.MANIFEST).is_file():
        raise UserError(
            f"{folder} is not a policy that irevla wrote: it has no {checkpoint.MANIFEST}"
        )
    files = {
        name: content
        for name, content in checkpoint.load(folder.resolve()).items()
        if name in NAMES
    }
    try:
        parse(files)
    except UserError as error:
        raise UserError(f"cannot load the policy {folder}: {error}") from error
    return files


def write_policy(
    directory: Path, files: Mapping[str, Any], *, card: str, keep_card: bool = True
) -> bool:
    """Write a policy's files and its model card to a folder, wholly or not at all; returns whether
    `card` was written.

    A README.md that is there is kept instead, for a person may have edited it, unless `keep_card`
    is off. Raises `UserError` where there is anything but an older policy, and where it cannot be
    written.
    """
    try:
        _check_replaceable(directory)
        place = directory.resolve()  # a link stays one
        _save_without_card(place, files)
        if keep_card and (place / CARD).exists():
            return False
        write_atomically(place / CARD, card)
    except OSError as error:
        raise UserError(
            f"cannot write the policy {directory}: {error.strerror}; {checkpoint.remedy(error)}"
        ) from error
    return True


def _check_replaceable(directory: Path) -> None:
    """`UserError` unless `directory` is new, empty, or a policy with nothing of anyone else's
    beside it."""
    if not directory.exists():
        return
    if not directory.is_dir():
        raise UserError(f"{directory} is a file: choose a folder")
    if directory.samefile("."):
        raise UserError(
            f"{directory} is the current directory, which cannot be swapped for another: choose a folder"
        )
    names = {path.name for path in directory.iterdir()}
    ours = {*NAMES, checkpoint.MANIFEST, CARD} if {CONFIG, checkpoint.MANIFEST} <= names else set()
    if names - ours:
        raise UserError(
            f"{directory} holds other files ({min(names - ours)}): choose a new folder, or an older policy to replace"
        )


def _save_without_card(directory: Path, files: Mapping[str, Any]) -> None:
    """Replace all of a policy but its card, which stands aside for as long and also comes back
    after a kill."""
    card, aside = directory / CARD, directory.with_name(f".{directory.name}.{CARD}")
    if card.exists():
        card.rename(aside)
    try:
        checkpoint.save(directory, files)
    finally:
        if aside.exists():
            aside.rename(card)


def policy_folder(path: Path) -> Path:
    """Where in the folder `path` the files are: in itself, or in the newest policy among the
    checkpoints of a run."""
    if (path / CONFIG).is_file() or (path / checkpoint.MANIFEST).is_file():
        return path
    policies = [weights.parent for weights in (path / "checkpoints").glob(f"[!.]*/{WEIGHTS}")]
    if not policies:
        raise UserError(f"{path} holds no policy: neither {CONFIG} nor checkpoints with {WEIGHTS}")
    return max(policies, key=lambda folder: ((folder / WEIGHTS).stat().st_mtime_ns, folder.name))


@dataclass(frozen=True)
class Description:
    """What `config.json` says of a policy."""

    model: ModelConfig
    action_dim: int
    image_size: int
    base: Base | None
    gripper: bool = False  # the last action dimension is executed as open or closed


def parse(files: Mapping[str, Any]) -> Description:
    """Read `config.json` among `files`. Raises `UserError` for what irevla did not write."""
    data = files.get(CONFIG)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UserError(f"{CONFIG} is not one that irevla wrote (format {FORMAT!r})")
    try:
        model, action_dim, image_size = data["model"], data["action_dim"], data["image_size"]
    except KeyError as error:
        raise UserError(f"{CONFIG} lacks {error}") from error
    if not (
        isinstance(model, dict) and isinstance(action_dim, int) and isinstance(image_size, int)
    ):
        raise UserError(
            f"{CONFIG} is damaged: model must be a group of settings, action_dim and image_size integers"
        )
    config = from_dict(model, kind=ModelConfig, where="model.")
    return Description(config, action_dim, image_size, _base(data), "gripper" in data)


def _base(data: Mapping[str, Any]) -> Base | None:
    if "base" not in data:
        return None
    named = data["base"]
    if not isinstance(named, dict) or not all(
        isinstance(named.get(key), str) for key in ("name", "revision")
    ):
        raise UserError(f"{CONFIG} is damaged: base must have a name and a revision")
    return Base(named["name"], named["revision"])


def check_adapter(files: Mapping[str, Any], *, base: Base, own: Mapping[str, Any]) -> None:
    """`UserError`, naming both, unless the adapter in `files` is for `base` and has the settings
    `own` (as adapter_config.json says them)."""
    for name in (ADAPTER, ADAPTER_CONFIG, CONFIG):
        if name not in files:
            raise UserError(
                f"no {name} in it: this is not the whole of an adapted policy; save or download it again"
            )
    theirs = parse(files).base
    if theirs is None or theirs.identity != base.identity:
        raise UserError(
            f"its adapter is for the base model {theirs}, but the one here is {base}; use the former"
        )
    saved = files[ADAPTER_CONFIG]
    for key in ("r", "lora_alpha"):
        if saved[key] != own[key]:
            raise UserError(
                f"its adapter has {key} {saved[key]}, but the model here {own[key]}; set model.lora alike"
            )
    strangers = sorted(set(saved["target_modules"]) ^ set(own["target_modules"]))
    if strangers:
        raise UserError(
            f"its adapter changes {len(saved['target_modules'])} layers and the model here {len(own['target_modules'])}"
            f" ({strangers[0]} is not in both); set model.lora.targets alike"
        )


def check_weights(own: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> None:
    """`UserError` unless `new` has the names, shapes and types of the weights `own`."""
    faults = list(_differences(own, new))
    if faults:
        raise UserError(
            f"the weights are those of another model ({faults[0]}; {len(faults)} differences)"
        )


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
