"""Figures that papers print, beside flopcount's: equal to the printed digits, or why not.

The figures are in ``tables.json``; each of the other files has the models of its papers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.accuracy.verdicts import AGREES, EXPLAINED, UNEXPLAINED, Row

__all__ = ["Table", "formula", "printed", "same", "table"]


@dataclass(frozen=True)
class Table:
    """A table of a paper.

    Attributes:
        source: the paper, and which table of it.
        unit: of what is printed, in the paper's words.
        rows: by column; ``printed`` has the digits as they are printed.
    """

    source: str
    unit: str
    rows: list[Row]


@cache
def tables() -> dict[str, Any]:
    """The data file."""
    text = Path(__file__).with_name("tables.json").read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text)
    return data


def table(name: str, first: int | None = None) -> Table:
    """The table of that name, or the ``first`` rows of it."""
    data = tables()[name]
    rows = [dict(zip(data["columns"], row, strict=True)) for row in data["rows"][:first]]
    return Table(data["source"], data["unit"], rows)


CUT = "the paper cuts its digits off"


def printed(source: str, name: str, unit: str, figure: str, found: float, **others: float) -> Row:
    """A figure as the paper prints it, beside what was found.

    Args:
        source: the paper and its table.
        name: of the model.
        unit: of both numbers.
        figure: the printed digits.
        found: flopcount's figure.
        others: by a reason why the paper may differ, what was found to its way of counting.
    """
    if same(figure, found):
        return row(source, name, unit, figure, found, [], AGREES)
    ways = [([reason], other) for reason, other in others.items()]
    ways += [([CUT], cut(figure, found))]
    ways += [([reason, CUT], cut(figure, other)) for reason, other in others.items()]
    reached = next((why for why, other in ways if same(figure, other)), [])
    return row(source, name, unit, figure, found, reached, EXPLAINED if reached else UNEXPLAINED)


def formula(
    source: str, name: str, unit: str, figure: int, found: int, more: Mapping[str, int] = {}
) -> Row:
    """A figure that the paper's formula makes, to the last digit.

    ``more`` are reasons why the formula counts more, with how much each is.
    """
    if figure == found:
        return row(source, name, unit, figure, found, [], AGREES)
    reached = figure == found + sum(more.values())
    return row(source, name, unit, figure, found, list(more), EXPLAINED if reached else UNEXPLAINED)


def row(*cells: Any) -> Row:
    """A row of the results."""
    keys = ("source", "name", "unit", "printed", "flopcount", "reasons", "verdict")
    return dict(zip(keys, cells, strict=True))


def decimals(figure: str) -> int:
    """How many digits are printed behind the point."""
    return len(figure.partition(".")[2])


def same(figure: str, value: float) -> bool:
    """Whether ``value`` has these digits, rounded to as many."""
    return f"{value:.{decimals(figure)}f}" == figure


def cut(figure: str, value: float) -> float:
    """``value``, its digits cut off where those of ``figure`` end."""
    unit: int = 10 ** decimals(figure)
    return int(value * unit) / unit
