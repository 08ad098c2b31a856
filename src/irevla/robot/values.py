"""Values of a YAML file that a person wrote: what is wrong with one is said in one line."""

import dataclasses
import math
import sys
from typing import Any

from irevla.errors import UserError, unknown

Number = int | float


def group_of(kind: type[Any], found: dict[str, Any], name: str) -> Any:
    """Return the settings `found` under `name` as the dataclass `kind`, whose fields all have
    defaults."""
    plain = with_default(kind)
    for key in found:
        if key not in plain:
            raise unknown(f"setting of {name}", key, plain)
    return kind(
        **{key: as_kind(value, plain[key], f"{name}.{key}") for key, value in found.items()}
    )


def within(name: str, value: Number, least: Number, most: Number, unit: str = "") -> None:
    """Raise `UserError` unless a value is in a range."""
    if not least <= value <= most:
        raise UserError(f"{name} must be from {least:g} to {most:g}{unit}, not {value}")


def with_default(kind: type[Any]) -> dict[str, type[Any]]:
    """Return the fields of a dataclass that may be left out, with the types of their values."""
    return {
        field.name: type(field.default)
        for field in dataclasses.fields(kind)
        if field.default is not dataclasses.MISSING
    }


def mapping(value: Any, name: str) -> dict[str, Any]:
    """Return a group of settings."""
    if not isinstance(value, dict):
        raise UserError(f"{name} must be settings with names, not {value!r}")
    return value


def one_of(found: dict[str, Any], name: str, known: tuple[str, ...]) -> None:
    """Raise `UserError` where `name` is said and is none of the `known`."""
    if name in found and found[name] not in known:
        raise unknown(name, str(found[name]), known)


def triple(value: Any, name: str) -> tuple[float, float, float]:
    """Return three numbers, m."""
    if not (isinstance(value, list) and len(value) == 3):
        raise UserError(f"{name} must be three numbers [x, y, z] in m, not {value!r}")
    x, y, z = (as_kind(number, float, name) for number in value)
    return x, y, z


def as_kind(value: Any, kind: type, name: str) -> Any:
    """Return a plain value of that type; whole numbers are floats, too, and words."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if kind is float and whole and abs(value) <= sys.float_info.max:
        value = float(value)
    if kind is str and whole:
        value = str(value)  # a policy's hash may begin with digits
    wrong = type(value) is not kind
    if wrong or (kind is float and not math.isfinite(value)):
        raise UserError(f"{name} must be a {kind.__name__}, not {value!r}")
    return value
