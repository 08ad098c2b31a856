"""Checkpoints that survive kill -9, a full disk and a flipped bit. Nothing is unpickled.

A checkpoint is a directory: some `*.safetensors`, some `*.json`, and MANIFEST.json with the size
and sha256 of each. It is written aside as `.NAME.new`, every file fsynced, and renamed into place;
so a directory without a dot in front is always a whole one.
"""

import glob
import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from irevla.errors import UserError
from irevla.storage.disk import locked, remedy, sync, write_synced
from irevla.storage.read import LARGEST_TEXT, read_bytes

MANIFEST = "MANIFEST.json"
Files = Mapping[str, Any]
"""Name -> content: "x.safetensors" -> Mapping[str, Tensor], "x.json" -> whatever JSON can say."""


class CorruptCheckpoint(UserError):
    """A checkpoint that is not, byte for byte, what was saved. The message names the file."""


def save(
    directory: Path, files: Files, *, texts: Mapping[str, str] | None = None, keep: bool = False
) -> None:
    """Write `files` as the checkpoint `directory`, wholly or not at all.

    One of that name is replaced at the very end. `texts` lie beside them, for people, and are in no
    manifest; with `keep`, those that are there already stay as they are.
    Raises `UserError` where the disk is full or not writable; what was there before is then
    untouched.
    """
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with locked(directory.parent):  # two writers of one name, or a reader who recovers
            _replace(directory, files, texts or {}, keep=keep)
    except OSError as error:
        raise UserError(
            f"cannot write checkpoint {directory}: {error.strerror}; {remedy(error)}"
        ) from error


def _replace(directory: Path, files: Files, texts: Mapping[str, str], *, keep: bool) -> None:
    new, old, trash = (_aside(directory, suffix) for suffix in ("new", "old", "trash"))
    _finish_replacement(directory)
    _discard(new, old, trash)
    try:
        _write_all(new, directory.name, files)
        for name, text in texts.items():
            there = directory / name
            kept = there.read_bytes() if keep and there.exists() else text.encode()
            write_synced(new / name, kept)
    except OSError:
        shutil.rmtree(new, ignore_errors=True)
        raise
    if directory.exists():
        directory.rename(old)
    new.rename(directory)  # killed between these two renames, `_recover` finishes the job
    sync(directory.parent)
    if old.exists():
        old.rename(trash)
    _discard(trash)


def load(directory: Path, *, as_saved: bool = False) -> dict[str, Any]:
    """Return what `save` was given, tensors on the CPU.

    Raises `CorruptCheckpoint` where a byte differs from the manifest and, `as_saved`, where the
    checkpoint was saved under another name: two whole ones may have been swapped. One that another
    process replaces while it is read is read again.
    """
    while True:
        _recover(directory)
        before = _identity(directory)
        try:
            return _load(directory, as_saved=as_saved)
        except CorruptCheckpoint:
            if _identity(directory) == before:
                raise


def _identity(directory: Path) -> tuple[int, int] | None:
    """What tells a folder from the one that takes its place; None: there is none."""
    try:
        found = directory.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _load(directory: Path, *, as_saved: bool) -> dict[str, Any]:
    if as_saved:
        saved = _manifest(directory).get("name", directory.name)  # version 0.1 noted no name
        if saved != directory.name:
            raise CorruptCheckpoint(f"corrupt checkpoint: {directory} was saved as {saved}")
    return {name: decode(directory / name, data) for name, data in _verified(directory)}


class Checkpoints:
    """The checkpoints of a run.

    "sft-000500" is one of a series (prefix, dash, six digits or more); "sft" stands alone.
    Of a series the newest `keep` stay. A name without such a number is never deleted.
    """

    def __init__(self, root: Path, *, keep: int = 2) -> None:
        assert keep >= 1
        self.root = root
        self.keep = keep
        self.passed_over: list[str] = []  # what `newest` found corrupt, in words

    def save(self, name: str, files: Files) -> Path:
        """Write the checkpoint `name`, drop what is too old in its series; return where it is."""
        assert Path(name).name == name and not name.startswith("."), name
        save(self.root / name, files)
        self._rotate(name)
        return self.root / name

    def newest(self, prefix: str) -> tuple[Path, dict[str, Any]] | None:
        """Return the newest of the series that verifies, with its contents; None: there is none.

        Raises `CorruptCheckpoint` where there are some but none verifies: starting afresh must be
        the user's choice.
        """
        faults: list[str] = []
        for path in self._series(prefix):
            try:
                return path, load(path, as_saved=True)
            except CorruptCheckpoint as error:
                faults.append(str(error))
                self.passed_over += [text for text in faults[-1:] if text not in self.passed_over]
        if faults:
            raise CorruptCheckpoint(
                f"no checkpoint {prefix}-* in {self.root} is intact ({faults[0]}); delete them to "
                "repeat that stage"
            )
        return None

    def drop(self, prefix: str) -> None:
        """Delete the whole series, once its stage is done, and what a kill left of one."""
        for path in self._series(prefix):
            _remove(path)
        _discard(*self.root.glob(f".{glob.escape(prefix)}-*.new"))

    def _series(self, prefix: str) -> list[Path]:
        """Return the checkpoints of one series, newest first."""
        if not self.root.is_dir():
            return []
        for leftover in self.root.glob(".*.old"):
            _recover(self.root / leftover.name[1 : -len(".old")])
        _discard(*self.root.glob(".*.trash"))  # of a kill while something was deleted
        found = [
            (parsed[1], path)
            for path in self.root.iterdir()
            if (parsed := split_name(path.name)) and parsed[0] == prefix
        ]
        return [path for _, path in sorted(found, reverse=True)]

    def _rotate(self, name: str) -> None:
        """Drop the old. Higher numbers do not count: they are corrupt ones that `newest` passed
        over."""
        parsed = split_name(name)
        if parsed is None:
            return
        so_far = [
            path
            for path in self._series(parsed[0])
            if (split_name(path.name) or parsed)[1] <= parsed[1]
        ]
        for path in so_far[self.keep :]:
            _remove(path)


def series_name(prefix: str, number: int) -> str:
    """Return the name of one of a series: ("sft", 500) -> "sft-000500"."""
    return f"{prefix}-{number:06d}"


def split_name(name: str) -> tuple[str, int] | None:
    """Return the inverse of `series_name`; None for a name that stands alone.

    It has six digits, so that "rl:knob-1" is no series.
    """
    match = re.fullmatch(r"(?P<prefix>[^.].*)-(?P<number>\d{6,})", name)
    return (match["prefix"], int(match["number"])) if match else None


def optimizer_tensors(opt: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state of Adam or AdamW as plain tensors, such as "3.exp_avg".

    Learning rates are the config's.
    """
    state: dict[str, Tensor] = {}
    for index, parameter in enumerate(_parameters(opt)):
        for key, value in opt.state.get(parameter, {}).items():
            assert isinstance(value, Tensor), f"optimizer state {key} is no tensor"
            state[f"{index}.{key}"] = value.detach()
    return state


def load_optimizer(opt: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give `opt` the state that `optimizer_tensors` took, bit for bit.

    Raises `UserError` where it is another model's.
    """
    parameters = _parameters(opt)
    opt.state.clear()
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        parameter = parameters[int(index)] if int(index) < len(parameters) else None
        if parameter is None or (value.dim() > 0 and value.shape != parameter.shape):
            raise UserError(
                f"optimizer state {name!r} is that of another model; resume with the settings that "
                "it was saved with"
            )
        # Adam counts its steps on the CPU. The rest must lie in memory as the parameter does
        # (channels last, say): fused Adam walks over both without looking at their strides.
        if key == "step":
            opt.state[parameter][key] = value.clone()
        else:
            opt.state[parameter][key] = torch.empty_like(parameter).copy_(value)


def _parameters(opt: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in opt.param_groups for parameter in group["params"]]


def _aside(directory: Path, suffix: str) -> Path:
    return directory.with_name(f".{directory.name}.{suffix}")


def _recover(directory: Path) -> None:
    """Finish a replacement that was killed between its two renames; wait for one under way."""
    if not directory.exists() and _aside(directory, "old").exists():
        with locked(directory.parent):
            _finish_replacement(directory)


def _finish_replacement(directory: Path) -> None:
    """Give the newer whole one its name: where `.old` is there, `.new` is whole."""
    new = _aside(directory, "new")
    old = _aside(directory, "old")
    if not directory.exists() and old.exists():
        (new if new.exists() else old).rename(directory)


def _discard(*leftovers: Path) -> None:
    for path in leftovers:
        shutil.rmtree(path, ignore_errors=True)


def _remove(directory: Path) -> None:
    """Delete a checkpoint such that a kill on the way leaves no half one."""
    trash = _aside(directory, "trash")
    _discard(trash)
    directory.rename(trash)
    _discard(trash)


def _write_all(directory: Path, name: str, files: Files) -> None:
    directory.mkdir()
    entries = {file: _write(directory / file, content) for file, content in files.items()}
    _write(directory / MANIFEST, {"name": name, "files": entries})
    sync(directory)


def _write(path: Path, content: Any) -> dict[str, int | str]:
    """Write one file and fsync it; returns its line of the manifest."""
    data = encode(path.name, content)
    write_synced(path, data)
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def encode(name: str, content: Any) -> bytes:
    """Return the bytes of the file `name` of a checkpoint."""
    assert name.endswith((".safetensors", ".json")) and Path(name).name == name, (
        f"{name}: checkpoints hold .safetensors and .json only"
    )
    if name.endswith(".json"):
        return json.dumps(content, indent=1).encode()
    return safetensors.torch.save(_unshared(content))


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors on the CPU, contiguous, with tied weights written out for each name.

    safetensors refuses shared memory.
    """
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        address = plain.untyped_storage().data_ptr()
        result[name] = plain.clone() if address in seen else plain
        seen.add(address)
    return result


def _verified(directory: Path) -> list[tuple[str, bytes]]:
    """Return name and bytes of every file, each as the manifest says."""
    entries = _manifest(directory)["files"]
    return [(name, _checked(directory / Path(name).name, entry)) for name, entry in entries.items()]


def _manifest(directory: Path) -> dict[str, Any]:
    manifest = decode(directory / MANIFEST, _read(directory / MANIFEST))
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise CorruptCheckpoint(f"corrupt checkpoint: {directory / MANIFEST} is no manifest")
    return manifest


def _checked(path: Path, entry: Any) -> bytes:
    size = entry.get("bytes") if isinstance(entry, dict) else None
    data = _read(path, most=size if type(size) is int else 0)
    if entry != {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}:
        raise CorruptCheckpoint(
            f"corrupt checkpoint: {path} does not match its manifest ({len(data)} bytes)"
        )
    return data


def _read(path: Path, *, most: int = LARGEST_TEXT) -> bytes:
    try:
        return read_bytes(path, most=most)
    except UserError as error:
        raise CorruptCheckpoint(f"corrupt checkpoint: {error}") from error


def decode(path: Path, data: bytes) -> Any:
    """Return what `encode` was given, tensors on the CPU.

    Raises `CorruptCheckpoint`, which names `path`, for anything else.
    """
    try:
        return _tensors(data) if path.suffix == ".safetensors" else json.loads(data)
    # ValueError: JSON or UTF-8 gone wrong. The others: a tensor of a kind or size that cannot be.
    except (ValueError, RecursionError, SafetensorError, KeyError, OverflowError) as error:
        raise CorruptCheckpoint(f"corrupt checkpoint: {path} is unreadable: {error}") from error


def _tensors(data: bytes) -> dict[str, Tensor]:
    """Return tensors sorted by name: safetensors gives them in no fixed order."""
    return dict(sorted(safetensors.torch.load(data).items()))
