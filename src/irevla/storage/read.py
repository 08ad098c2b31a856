"""How a file is read that somebody else may have written: one way for each format.

A link to a device, a pipe that nobody writes to, gigabytes where a page is due, brackets nested a
million deep: each becomes one line that names the file.
"""

import json
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from irevla.errors import UserError

LARGEST_TEXT = 256 << 20  # bytes: a journal of years; no text of ours is larger
MOST_SETTINGS = 100_000
RESTORE = "restore it from a copy, or move it away"


class Missing(UserError):
    """There is no such file."""


def read_bytes(path: Path, *, most: int = LARGEST_TEXT, remedy: str = RESTORE) -> bytes:
    """Return what is in a regular file of at most `most` bytes.

    Raises `UserError`, or `Missing`, with what to do (`remedy`).
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise UserError(f"{path} is no regular file; {remedy}")
        if found.st_size > most:
            raise UserError(f"{path} is {found.st_size:,} bytes, too large to be ours; {remedy}")
        return path.read_bytes()
    except UserError:
        raise
    except FileNotFoundError as error:
        raise Missing(f"{path} is missing; {remedy}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; {remedy}") from error
    except ValueError as error:  # a name with a NUL in it
        raise UserError(f"{str(path)!r} cannot be the name of a file") from error


def read_text(path: Path, *, remedy: str = RESTORE) -> str:
    """Return the text in a file. Raises `UserError` where it is no UTF-8."""
    with _understood(path, "no text (UTF-8)", remedy):
        return read_bytes(path, remedy=remedy).decode()


def read_json(path: Path, *, remedy: str = RESTORE) -> Any:
    """Return what a JSON file says. Raises `UserError` where it is none."""
    return parse_json(read_bytes(path, remedy=remedy), path, remedy=remedy)


def parse_json(content: bytes, path: Path | str, *, remedy: str = RESTORE) -> Any:
    """Return what JSON says that was read from `path`. Raises `UserError` where it is none."""
    with _understood(path, "damaged: no JSON", remedy):
        return json.loads(content, object_pairs_hook=_each_once)


def read_yaml(path: Path, *, remedy: str = RESTORE) -> dict[str, Any]:
    """Return the settings in a YAML file: text keys, and numbers, text, lists and groups alone.

    Raises `UserError` where it holds anything else.
    """
    text = read_text(path, remedy=remedy)
    with _understood(path, "damaged: no settings in YAML", remedy):
        data = yaml.load(text, _EachOnce)
        if not isinstance(data, dict):
            raise ValueError("there are no settings in it")
        # Aliases that name aliases: a few lines can stand for more than any memory holds.
        if any(number > MOST_SETTINGS for number, _ in enumerate(_plain(data))):
            raise ValueError(f"it has more than {MOST_SETTINGS:,} values")
    settings: dict[str, Any] = data
    return settings


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a group of JSON.

    Raises `ValueError` where a key is told twice: the last would count without a word.
    """
    group = dict(pairs)
    if len(group) < len(pairs):
        key, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"{key!r} is told twice")
    return group


class _EachOnce(yaml.SafeLoader):
    """As `_each_once`, for YAML."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Return a group as it is written, before other groups are merged into it. Raises
        `ValueError`."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)  # type: ignore[no-untyped-call]
        scalars = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for (_, key), times in Counter((each.tag, each.value) for each in scalars).items():
            if times > 1:
                raise ValueError(f"{key!r} is told twice")
        return node


def _plain(value: Any) -> Iterator[Any]:
    """Yield all that is in `value`.

    Raises `ValueError` for what JSON could not say: dates, sets, keys that are no text.
    """
    yield value
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ValueError(f"the key {key!r} is no text: put it in quotes")
            yield from _plain(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _plain(inner)
    elif not isinstance(value, str | int | float | None):
        raise ValueError(f"{value!r} is neither text nor a number: put it in quotes")


@contextmanager
def _understood(path: Path | str, what: str, remedy: str) -> Iterator[None]:
    """Say in one line what is wrong with the file `path`."""
    try:
        yield
    except UserError:
        raise
    except RecursionError as error:
        raise UserError(f"{path} is {what} (it is nested too deeply); {remedy}") from error
    except (ValueError, yaml.YAMLError) as error:  # ValueError: JSON or UTF-8 gone wrong
        raise UserError(f"{path} is {what} ({_reason(error)}); {remedy}") from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


@contextmanager
def shaped(path: Path | str, *, remedy: str = RESTORE) -> Iterator[None]:
    """Turn what a look into foreign data stumbles over into one line: a key that is missing, a
    number where a list is due."""
    try:
        yield
    except UserError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        reason = _reason(error)
        kind = "lacks" if isinstance(error, KeyError) else "does not fit"
        raise UserError(f"{path} is damaged ({kind}: {reason}); {remedy}") from error
    except NotImplementedError as error:  # Arrow, for a column of another kind
        raise UserError(f"{path} is damaged ({_reason(error)}); {remedy}") from error


def mapping(value: Any, what: str) -> Mapping[str, Any]:
    """Return `value` where it is a group with names. Raises `TypeError`, for `shaped`."""
    if not isinstance(value, dict):
        raise TypeError(f"{what} is no group of values")
    return value
