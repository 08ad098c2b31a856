"""Lines for the terminal of a run."""

import sys

CLEAR = "\r\x1b[K"  # to the line's beginning, and nothing is left on it


def say(text: str) -> None:
    """Write a line to standard error, in the place of the progress bar that another process draws
    there."""
    clear = CLEAR if sys.stderr.isatty() else ""
    print(f"{clear}{text}", file=sys.stderr, flush=True)
