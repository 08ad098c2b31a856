"""The one exception that a user is meant to read, and what others wrote as they may read it."""

import difflib
from collections.abc import Iterable

MOST_SHOWN = 200  # characters of a text of others


def printable(text: str) -> str:
    """Return a text of others as a terminal may be given it: without what would control it, and
    with an end."""
    shown = "".join(each if each.isprintable() else "�" for each in text[:MOST_SHOWN])
    return shown if len(text) <= MOST_SHOWN else f"{shown}..."


class UserError(ValueError):
    """Something a person can put right: the message says what is wrong and what to do, in one line.

    The command line prints it and exits with code 2. Anything else that escapes is a fault of ours
    and keeps its traceback.
    """


def unknown(kind: str, name: str, known: Iterable[str], *, see: str = "") -> UserError:
    """The error for a name that does not exist: "unknown task 'door-opne'; did you mean
    'door-open'?".

    `see`: the command that lists them, where they are too many for a line.
    """
    options = sorted(known)
    close = difflib.get_close_matches(name, options, n=1)
    hint = f"see `{see}`" if see else f"choose from: {', '.join(options)}"
    if close:
        hint = f"did you mean {close[0]!r}?"
    return UserError(f"unknown {kind} {name!r}; {hint}")
