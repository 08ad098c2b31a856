"""Any config as plain data (YAML, JSON), and back."""

import dataclasses
import sys
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from irevla.config import Config
from irevla.errors import UserError, unknown

RENAMED = {
    "sac.apart": "sac.async_learner",
    "harvest.practice": "harvest.from_training",
    **{
        f"{stage}.{name}": f"{stage}.augment.{name}"
        for stage in ("sft", "sl")
        for name in ("shift", "colour", "colour_named", "colour_share", "words")
    },
    "sft.validation": "mixture.validation",
    "sl.online_share": "mixture.online_share",
    "sl.discount": "mixture.discount",
}
"""Settings of version 0.1 and what they are called now: in files of then, and on the command
line."""

GONE = (
    "sft.online_share", "sft.discount", "sl.validation", "sac.rate", "sac.backup_entropy",
    "sac.tau", "sac.subset", "sac.entropy", "sac.candidates", "sac.trial",
    "sac.starts",
)  # fmt: skip
"""Settings of older versions that did nothing, that no run had, or whose part of an algorithm is
gone: in files of then."""


def to_dict(config: Any) -> dict[str, Any]:
    """Return a config dataclass as plain data: nested dicts, lists, numbers and strings."""
    plain = dataclasses.asdict(config)
    return {key: _plain(value) for key, value in plain.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return list(value) if isinstance(value, tuple) else value


def read_config(data: Mapping[str, Any]) -> Config:
    """Return the settings of a run from plain data, of older versions too.

    Raises `UserError` for an unknown field and for a value of the wrong type.
    """
    flat = _flat(data)
    if "sac.apart" in flat:
        flat.pop("sac.checkpoint_every", None)  # it counted updates then, and counts episodes now
    if flat.get("threads") == 0:
        del flat["threads"]  # one per core, then
    for old, new in RENAMED.items():
        if old in flat:
            flat.setdefault(new, flat.pop(old))
    config: Config = from_dict(_nested({k: v for k, v in flat.items() if k not in GONE}))
    return config


def gone(data: Mapping[str, Any]) -> list[str]:
    """Return the settings of an older version that have no meaning now, as "sac.tau: 0.005 ->
    gone"."""
    return [f"{name}: {value!r} -> gone" for name, value in _flat(data).items() if name in GONE]


def _flat(data: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Return nested groups of settings as {"sft.augment.colour": 0.35, ...}."""
    flat: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{where}{name}.")
        else:
            flat[where + name] = value
    return flat


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inverse of `_flat`."""
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        *groups, name = path.split(".")
        inner = nested
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[name] = value
    return nested


def from_dict(data: Mapping[str, Any], *, kind: Any = Config, where: str = "") -> Any:
    """Return the config dataclass `kind` from plain data.

    Raises `UserError` for an unknown field and for a value of the wrong type.
    """
    if not isinstance(data, Mapping):
        raise UserError(f"settings {where or 'of a run'} must be a group with names, not {data!r}")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for name, value in data.items():
        if not isinstance(name, str) or name not in fields:
            raise unknown("field", f"{where}{name}", [where + known for known in fields])
        values[name] = _typed(value, hints[name], where + name)
    return kind(**values)


def _typed(value: Any, hint: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise UserError(f"field {where!r} must be a group of settings, not {value!r}")
        return from_dict(value, kind=hint, where=where + ".")
    if typing.get_origin(hint) is tuple:
        if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
            return tuple(value)
    elif isinstance(value, bool):  # which is an int, for Python
        if hint is bool:
            return value
    elif hint is float and isinstance(value, int | float):
        if abs(value) <= sys.float_info.max:  # neither infinite nor NaN
            return float(value)
    elif isinstance(value, typing.get_origin(hint) or hint):  # what is in a group or a list: any
        return value
    raise UserError(f"field {where!r} must be {getattr(hint, '__name__', hint)}, not {value!r}")


def check_names(config: Any, names: Iterable[str]) -> None:
    """Raise `UserError` with the nearest name where one is no field of `config`."""
    known = [field.name for field in dataclasses.fields(config)]
    for name in names:
        if name not in known:
            raise unknown("field", name, known)


def differences(old: Any, new: Any) -> list[str]:
    """Return the fields in which two configs differ, as "sft.steps: 3000 -> 2000"."""
    return _differences(to_dict(old), to_dict(new), "")


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], where: str) -> list[str]:
    found: list[str] = []
    for key, value in old.items():
        if isinstance(value, Mapping):
            found += _differences(value, new[key], f"{where}{key}.")
        elif value != new[key]:
            found.append(f"{where}{key}: {value!r} -> {new[key]!r}")
    return found
