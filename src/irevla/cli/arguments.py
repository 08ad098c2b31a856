"""What people type, as dataclasses; whatever is wrong with it in one line."""

import contextlib
import dataclasses
import io
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro

from irevla.config import Config
from irevla.config_io import RENAMED
from irevla.errors import UserError, unknown


def parse(kind: type[Any], argv: Sequence[str], *, prog: str) -> Any:
    """Parse `argv` into the dataclass `kind`; whatever is wrong with it becomes a `UserError` of
    one line."""
    argv = [_renamed(word) for word in argv]
    if "-h" in argv or "--help" in argv:
        return tyro.cli(kind, args=list(argv), prog=prog)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint), contextlib.redirect_stdout(complaint):
            arguments, strangers = tyro.cli(
                kind, args=list(argv), prog=prog, return_unknown_args=True
            )
    except SystemExit as error:
        raise UserError(f"{_one_line(complaint.getvalue())} (see `{prog} --help`)") from error
    if strangers:
        word = strangers[0]
        options = dict(_options(kind))
        if word.startswith("-"):
            raise _unknown_option(word.partition("=")[0], options, see=f"{prog} --help")
        raise UserError(f"{_of_no_option(word, argv, options)} (see `{prog} --help`)")
    return arguments


def _unknown_option(word: str, options: Mapping[str, Any], *, see: str) -> UserError:
    """The error for an option that does not exist: a no is answered with a no, wherever it
    stands."""
    switches = [_negated(option) for option, default in options.items() if type(default) is bool]
    if switches and "no" in re.split(r"[-._]", word):
        return unknown("option", word, switches, see=see)
    return unknown("option", word, [*options, *switches], see=see)


def _of_no_option(word: str, argv: Sequence[str], options: Mapping[str, Any]) -> str:
    """Say what a value does that nobody takes: "--eval.videos takes no value ..."."""
    words = [part for each in argv for part in (each.split("=", 1) if each[:2] == "--" else [each])]
    before = [each for each in words[: words.index(word)] if each.startswith("--")]
    option = before[-1].replace("_", "-") if before else ""
    positive = {_negated(each): each for each in options}.get(option, option)
    if type(options.get(positive)) is bool:
        off = _negated(positive)
        return f"{option} takes no value: leave {word!r} out; {positive} is a yes, {off} a no"
    if option in options:
        return f"{option} takes no {word!r} besides its value"
    return f"unexpected {word!r}"


def _negated(option: str) -> str:
    """Return what switches an option off: "--eval.no-videos" for "--eval.videos"."""
    *groups, last = option.removeprefix("--").split(".")
    return "--" + ".".join([*groups, f"no-{last}"])


def _one_line(box: str) -> str:
    """What tyro says in a box of several lines, without the box and the help text."""
    text = " ".join(re.sub(r"[╭╮╰╯│─]+|-{4,}", " ", box).split())
    text = re.sub(r"Argument helptext:.*|For full helptext.*", "", text)
    return re.sub(
        r"^(Parsing error|Value error|Required options) (Error parsing [a-z]+(\.[a-z]+)*: )?",
        "",
        text,
    ).strip()


def _options(kind: type[Any]) -> list[tuple[str, Any]]:
    """All options of an argument class, as "--sft.steps", with their defaults."""

    def walk(cls: type[Any], prefix: str) -> list[tuple[str, Any]]:
        found: list[tuple[str, Any]] = []
        for field in dataclasses.fields(cls):
            default = (
                field.default_factory()
                if field.default_factory is not dataclasses.MISSING
                else field.default
            )
            if isinstance(default, Config):
                found += walk(Config, "")
            elif dataclasses.is_dataclass(default):
                found += walk(type(default), f"{prefix}{field.name}.")
            else:
                found.append((f"--{prefix}{field.name}".replace("_", "-"), default))
        return found

    return walk(kind, "")


def _renamed(word: str) -> str:
    """Return an option of version 0.1 as it is called now: scripts may rely on it."""
    name, equals, value = word.partition("=")
    if not name.startswith("--"):
        return word
    *groups, last = name.removeprefix("--").split(".")
    no = last.startswith("no-")
    old = ".".join([*groups, last.removeprefix("no-")]).replace("-", "_")
    if old not in RENAMED:
        return word
    *groups, last = RENAMED[old].replace("_", "-").split(".")
    return "--" + ".".join([*groups, f"no-{last}" if no else last]) + equals + value


def writable(directory: Path) -> None:
    """`UserError` unless files can be written below `directory`."""
    place = next(path for path in (directory, *directory.parents) if path.exists())
    try:
        # Tried: that root may write anywhere does not mean that it can, to /proc for one.
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise UserError(f"cannot write to {place}; choose another --out") from error
