"""Pieces of Markdown that the tables of a grid are made of."""

from collections.abc import Sequence

from irevla.evaluation.tables import interval, number


def line(cells: Sequence[str]) -> str:
    """Return a line of a table."""
    return "| " + " | ".join(cells) + " |"


def head(columns: Sequence[str]) -> list[str]:
    """Return the first two lines of a table."""
    return [line(columns), "|---|" + "---:|" * (len(columns) - 1)]


def signed(value: float, ci95: tuple[float, float] | None = None) -> str:
    """Return "+0.29 [+0.14, +0.44]": a difference, and its interval where there is one."""
    limits = f" {interval(ci95, signed=True)}" if ci95 else ""
    return f"{number(value, signed=True)}{limits}"
