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
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from irevla.config import LoRAConfig, ModelConfig
from irevla.config_io import from_dict
from irevla.errors import UserError
from irevla.models.fingerprint import FINGERPRINT, Fingerprint
from irevla.models.vlm.base import VLM
from irevla.storage import checkpoint
from irevla.storage.checkpoint import split_name
from irevla.storage.disk import locked, remedy
from irevla.storage.journal import Journal

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
ADAPTER = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
NAMES = (WEIGHTS, CONFIG, ADAPTER, ADAPTER_CONFIG)
CARD = "README.md"
FORMAT = "irevla-policy-1"
CAMERAS = "cameras"  # in config.json, where the policy sees several
STATE_DIM = "state_dim"  # in config.json, where the policy is told the robot's state
GRIPPER = "gripper"  # in config.json, where the last action dimension is executed as open or closed
YOUNGER = ("chunk", "execute", "action_scale")  # settings of a model that version 0.2 had not
PEFT_ROOT = "base_model.model."  # what PEFT puts before the names of a model's parameters
# Weights, settings, prompts and vocabularies.
OF_MODELS = (".safetensors", ".json", ".jinja", ".model", ".txt")
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
        """What tells it from all others: a folder may be moved."""
        return self.revision if self.is_folder else f"{self.name}@{self.revision}"

    def __str__(self) -> str:
        length = 12 + (len(OF_FOLDER) if self.is_folder else 0)
        return f"{self.name} at {self.revision[:length]}"


def base_of(vlm: VLM) -> Base | None:
    """Return what `vlm` starts from; None for one that is made from nothing."""
    if not vlm.base:
        return None
    if vlm.revision:
        return Base(vlm.base, vlm.revision)
    folder = Path(vlm.base).absolute()
    return Base(str(folder), OF_FOLDER + folder_hash(folder))


def from_anywhere(config: ModelConfig, base: Base | None) -> ModelConfig:
    """Return `config` with the whole path of the base model's folder: it may be read in another
    directory."""
    if base and base.is_folder and Path(config.vlm).absolute() == Path(base.name):
        return replace(config, vlm=base.name)
    return config


def folder_hash(folder: Path) -> str:
    """Return the sha256 over the weights and settings in a model's folder.

    They are read once per process, and again where they have changed.
    """
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
    """Return the name, in a policy, of the model that PEFT knows: the one part of `vlm` that has
    weights, or `vlm` itself."""
    weighty = [name for name, part in vlm.named_children() if any(True for _ in part.parameters())]
    return f"vlm.{weighty[0]}" if len(weighty) == 1 else "vlm"


def adapter_name(name: str, root: str) -> str:
    """Return what PEFT calls the LoRA parameter `name` of a policy, whose adapted model is the
    submodule `root`."""
    own = name.removeprefix(f"{root}.")
    return PEFT_ROOT + re.sub(r"\.(lora_[AB])\.default\.weight$", r".\1.weight", own)


def parameter_name(name: str, root: str) -> str:
    """Return the inverse of `adapter_name`."""
    own = name.removeprefix(PEFT_ROOT)
    return f"{root}." + re.sub(r"\.(lora_[AB])\.weight$", r".\1.default.weight", own)


def adapter_config(base: Base, lora: LoRAConfig, names: Iterable[str]) -> dict[str, Any]:
    """Return `adapter_config.json` of a LoRA whose parameters PEFT calls `names`."""
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
    """Return the files in `folder` that make a policy, every byte as its manifest says.

    Raises `UserError` where they are damaged or missing, or not a policy's.
    """
    if not (folder / checkpoint.MANIFEST).is_file():
        raise UserError(
            f"{folder} is not a policy that irevla wrote: it has no {checkpoint.MANIFEST}"
        )
    found = checkpoint.load(folder.resolve())
    files = {name: found[name] for name in found if name in NAMES}
    try:
        parse(files)
    except UserError as error:
        raise UserError(f"cannot load the policy {folder}: {error}") from error
    return files


def write_policy(
    directory: Path, files: Mapping[str, Any], *, card: str, keep_card: bool = True
) -> bool:
    """Write a policy's files and its model card to a folder, wholly or not at all.

    Return whether `card` was written: a README.md that is there is kept instead, for a person may
    have edited it, unless `keep_card` is off. Raises `UserError` where there is anything but an
    older policy, and where it cannot be written.
    """
    place = directory.resolve()  # a link stays one
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with locked(place.parent):  # while another writer swaps it, the folder is not there
            _check_replaceable(directory)
            new = not (keep_card and (place / CARD).exists())
        checkpoint.save(place, files, texts={CARD: card}, keep=keep_card)
    except OSError as error:
        raise UserError(
            f"cannot write the policy {directory}: {error.strerror}; {remedy(error)}"
        ) from error
    return new


def _check_replaceable(directory: Path) -> None:
    """Raise `UserError` unless `directory` is new, empty, or a policy with nothing of anyone else's
    beside it."""
    if not directory.exists():
        return
    if not directory.is_dir():
        raise UserError(f"{directory} is a file: choose a folder")
    if directory.samefile("."):
        raise UserError(
            f"{directory} is the current directory, which cannot be swapped for another: choose a "
            "folder"
        )
    names = {path.name for path in directory.iterdir()}
    others = names
    if {CONFIG, checkpoint.MANIFEST} <= names:
        others = names - {*NAMES, checkpoint.MANIFEST, CARD}
    if others:
        raise UserError(
            f"{directory} holds other files ({min(others)}): choose a new folder, or an older "
            "policy to replace"
        )


def policy_folder(path: Path) -> Path:
    """Return where in the folder `path` the files are: in itself, or in a run's newest policy.

    Raises `UserError` where there is none, and where nothing says which is the newest.
    """
    if (path / CONFIG).is_file() or (path / checkpoint.MANIFEST).is_file():
        return path
    policies = {place.parent.name for place in (path / "checkpoints").glob(f"[!.]*/{WEIGHTS}")}
    if not policies:
        raise UserError(f"{path} holds no policy: neither {CONFIG} nor checkpoints with {WEIGHTS}")
    return path / "checkpoints" / _newest(path, policies)


def _newest(run: Path, policies: set[str]) -> str:
    """Return the newest of a run's checkpoints by its journal.

    Times of files do not survive a copy. A stage that is under way has numbered checkpoints;
    what is done has none.
    """
    events: list[str] = [record["event"] for record in Journal(run / "journal.jsonl")]
    done = [event.replace(":", "-") for event in events]
    numbered = [(parts[1], name) for name in policies if (parts := split_name(name))]
    under_way = [each for each in numbered if (split_name(each[1]) or each)[0] not in done]
    if under_way:
        return max(under_way)[1]
    kept = [name for name in done if name in policies]
    if not kept and len(policies) == 1:
        return min(policies)
    if not kept:
        raise UserError(
            f"{run} has policies, and no journal that says which is the newest: name one of "
            f"{', '.join(sorted(policies))} in its checkpoints"
        )
    return kept[-1]


@dataclass(frozen=True)
class Description:
    """What `config.json` says of a policy."""

    model: ModelConfig
    action_dim: int
    image_size: int
    base: Base | None
    discrete_gripper: bool = False  # the last action dimension is executed as open or closed
    fingerprint: Fingerprint | None = None
    state_dim: int = 0
    cameras: tuple[str, ...] = ()


@runtime_checkable
class Interface(Protocol):
    """What a policy must share with a suite."""

    @property
    def action_dim(self) -> int:
        """A."""
        ...

    @property
    def image_size(self) -> int:
        """The side of the square image, pixels."""
        ...

    @property
    def state_dim(self) -> int:
        """S: how many numbers of the robot's state it is told."""
        ...

    @property
    def cameras(self) -> tuple[str, ...]:
        """The cameras that it sees; empty: one, unnamed."""
        ...


def check_fits(
    policy: Interface,
    *,
    suite: str,
    action_dim: int,
    image_size: int,
    state_dim: int,
    cameras: tuple[str, ...],
    path: str,
) -> None:
    """Raise `UserError` where a policy does not act as the suite does, or sees something else."""
    if policy.cameras != cameras:
        sees, has = (", ".join(each) or "its one camera" for each in (policy.cameras, cameras))
        raise UserError(
            f"{path} sees {sees}, and is to see {has} of {suite}: choose another policy or "
            "--env.cameras"
        )
    if policy.state_dim != state_dim:
        raise UserError(
            f"{path} is told {policy.state_dim} numbers of the robot's state, and {suite} tells "
            f"{state_dim}: choose another policy, or --env.state or --env.no-state"
        )
    if policy.action_dim != action_dim or policy.image_size != image_size:
        raise UserError(
            f"{path} acts in {policy.action_dim} dimensions on images of {policy.image_size} "
            f"pixels, but {suite} has {action_dim} and {image_size}; choose another policy or "
            "env.image_size"
        )


def parse(files: Mapping[str, Any]) -> Description:
    """Return what `config.json` among `files` says. Raises `UserError` for what irevla did not
    write."""
    data = files.get(CONFIG)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UserError(f"{CONFIG} is not one that irevla wrote (format {FORMAT!r})")
    try:
        model = data["model"]
        action_dim = data["action_dim"]
        image_size = data["image_size"]
    except KeyError as error:
        raise UserError(f"{CONFIG} lacks {error}") from error
    if not (
        isinstance(model, dict) and isinstance(action_dim, int) and isinstance(image_size, int)
    ):
        raise UserError(
            f"{CONFIG} is damaged: model must be a group of settings, action_dim and image_size "
            "integers"
        )
    if not (0 < action_dim <= 4096 and 0 < image_size <= 4096):
        raise UserError(f"{CONFIG} is damaged: action_dim {action_dim}, image_size {image_size}")
    if type(action_dim) is bool or type(image_size) is bool:
        raise UserError(f"{CONFIG} is damaged: action_dim {action_dim}, image_size {image_size}")
    state_dim = data.get(STATE_DIM, 0)
    if type(state_dim) is not int or not 0 <= state_dim <= 4096:
        raise UserError(f"{CONFIG} is damaged: {STATE_DIM} {state_dim}")
    cameras = data.get(CAMERAS, [])
    if not isinstance(cameras, list) or not all(isinstance(name, str) for name in cameras):
        raise UserError(f"{CONFIG} is damaged: {CAMERAS} {cameras}")
    config = from_dict(model, kind=ModelConfig, where="model.")
    known = Fingerprint.read(data[FINGERPRINT]) if FINGERPRINT in data else None
    return Description(
        config,
        action_dim,
        image_size,
        _base(data),
        GRIPPER in data,
        known,
        state_dim,
        tuple(cameras),
    )


def _base(data: Mapping[str, Any]) -> Base | None:
    if "base" not in data:
        return None
    match data["base"]:
        case {"name": str(name), "revision": str(revision)}:
            return Base(name, revision)
    raise UserError(f"{CONFIG} is damaged: base must have a name and a revision")


def check_adapter(files: Mapping[str, Any], *, base: Base, own: Mapping[str, Any]) -> None:
    """Raise `UserError`, naming both, unless the adapter in `files` is for `base` and has the
    settings `own` (as adapter_config.json says them)."""
    for name in (ADAPTER, ADAPTER_CONFIG, CONFIG):
        if name not in files:
            raise UserError(
                f"no {name} in it: this is not the whole of an adapted policy; save or download it "
                "again"
            )
    wanted = parse(files).base
    if wanted is None or wanted.identity != base.identity:
        raise UserError(
            f"its adapter is for the base model {wanted}, but the one here is {base}; use the "
            "former"
        )
    saved = files[ADAPTER_CONFIG]
    targets = saved.get("target_modules") if isinstance(saved, dict) else None
    if not isinstance(targets, list) or not all(isinstance(name, str) for name in targets):
        raise UserError(f"{ADAPTER_CONFIG} is damaged: it names no layers; download it again")
    for key in ("r", "lora_alpha"):
        if saved.get(key) != own[key]:
            raise UserError(
                f"its adapter has {key} {saved.get(key)}, but the model here {own[key]}; set "
                "model.lora alike"
            )
    changed = set(targets)
    adapted = set(own["target_modules"])
    if changed != adapted:
        raise UserError(
            f"its adapter changes {len(changed)} layers and the model here {len(adapted)} "
            f"({min(changed ^ adapted)} is not in both); set model.lora.targets alike"
        )


def check_weights(own: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> None:
    """Raise `UserError` unless `new` has the names, shapes and types of the weights `own`."""
    faults = list(_differences(own, new))
    if faults:
        raise UserError(
            f"the weights are those of another model ({faults[0]}; {len(faults)} differences)"
        )


def _differences(own: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield, in words, how the weights `new` are not those of the model `own`."""
    for name in sorted(own.keys() | new.keys()):
        if name not in new:
            yield f"{name} is missing"
        elif name not in own:
            yield f"{name} is unknown"
        elif own[name].shape != new[name].shape or own[name].dtype != new[name].dtype:
            yield f"{name} is {_kind(new[name])} instead of {_kind(own[name])}"


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
