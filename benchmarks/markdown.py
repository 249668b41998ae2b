"""Markdown of the pages that figures are shown on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

__all__ = ["code", "figures_of", "table"]

T = TypeVar("T")


def code(name: Any) -> str:
    """``name`` as code."""
    return f"`{name}`"


def table(headers: Sequence[str], lines: Sequence[Sequence[Any]], align: str = "") -> str:
    """A table; ``align`` has an ``l`` or ``r`` for each column, which is ``l`` if left out."""
    rule = ["---:" if side == "r" else "---" for side in align.ljust(len(headers), "l")]
    cells = [[str(cell).replace("|", "\\|") for cell in line] for line in [headers, rule, *lines]]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def figures_of(
    title: str, things: Mapping[str, T], columns: Mapping[str, Callable[[T], object]]
) -> str:
    """A table with a line for each of ``things``, under ``title``, and a figure in each column."""
    lines = [
        [name, *(figure(thing) for figure in columns.values())] for name, thing in things.items()
    ]
    return table([title, *columns], lines, "l" + "r" * len(columns))
