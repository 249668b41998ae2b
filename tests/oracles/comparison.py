"""flopcount's figures beside those of five oracles that know nothing of its formulas.

The oracles: naive loops on numbers that count, torch's own decompositions, XLA's cost analysis,
instructions executed by torch's CPU kernels, and published closed forms. Each row agrees, or
differs by reasons of a stated size, or cannot be compared; else it is unexplained.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flopcount import Cost
from tests.oracles import decompositions, loops
from tests.oracles.cases import CASES, OTHER_NAMES, cost_of
from tests.oracles.reasons import (
    OPAQUE,
    OPAQUE_TO_XLA,
    UNKNOWN,
    XLA,
    arithmetic,
    reasons_of_kernel,
)

HOME = Path(__file__).parent
Row = dict[str, Any]

ORACLES = {
    "loop": "a naive loop on numbers that count what is done with them: arithmetic + comparisons "
    "+ transcendental functions, a dot product of length K being 2·K - 1",
    "decomposition": "torch's decomposition of the op, its steps counted by definition: "
    "arithmetic + comparisons + transcendental functions",
    "closed form": "what a paper or a report prints, the sizes put in",
    "XLA": "HloCostAnalysis of the same function: flops + transcendental evaluations. Only MACs "
    "that meet no padding count",
    "CPU": "floating-point lanes that torch's kernel executed, a fused multiply-add being two: "
    "arithmetic, or where the op has none, comparisons. MACs on padding count, but for `mkldnn`",
}
"""What the numbers in the tables are, by the name of who says them."""

PHASES = {"fwd": "forward", "dgrad": "input", "wgrad": "weight"}
"""The phases of the records; a gradient is named after what it belongs to."""

TOLERANCE, SET_UP = 0.025, 16
"""Executed instructions agree within this part, or within so many scalar ones to set up."""


def row(
    family: str, op: str, phase: str, oracle: str, ours: Sequence[int], figure: Sequence[int]
) -> Row:
    return {
        "family": family,
        "op": op,
        "phase": PHASES.get(phase, phase),
        "flopcount": list(ours),
        "oracle": oracle,
        "figure": [int(part) for part in figure],
        "verdict": "agrees" if list(ours) == list(figure) else "unexplained",
        "reasons": [],
    }


def explained(made: Row, reasons: Sequence[tuple[str, Any, Any]], reached: bool) -> Row:
    """The row with its reasons, if it needs any and they are of the right size."""
    if made["verdict"] == "unexplained" and reasons and reached:
        made |= {"verdict": "differs", "reasons": [why for why, *_ in reasons]}
    return made


def counts(cost: Cost) -> list[int]:
    return [arithmetic(cost), cost.compare, cost.special]


def computed() -> Iterator[Row]:
    """The rows of the three oracles that need no record."""
    for family, op, phase, ours, theirs in loops.by_loops():
        yield row(family, op, phase, "loop", counts(ours), counts(theirs))
    for family, op, phase, ours, theirs, why in decompositions.by_decomposition():
        made = row(family, op, phase, "decomposition", counts(ours), counts(theirs))
        more = sum((cost for _, cost in why), Cost())
        yield explained(made, [(name, 0, 0) for name, _ in why], ours + more == theirs)
    for family, op, phase, ours, theirs in loops.by_closed_form():
        yield row(family, op, phase, "closed form", counts(ours), counts(theirs))


def records(name: str, every: int) -> list[Row]:
    found: list[Row] = json.loads((HOME / "data" / f"{name}.json").read_text("utf-8"))["rows"]
    return found[::every]


def by_xla(every: int) -> Iterator[Row]:
    for record in records("xla_costs", every):
        name, phase = record["op"], record["phase"]
        case = CASES[OTHER_NAMES.get(name, name)]
        cost = cost_of(case, phase)
        ours = [2 * cost.valid_macs + cost.arith + cost.compare, cost.special]
        theirs = [int(record["flops"]), int(record["transcendentals"])]
        made = row(case.family, name, phase, "XLA", ours, theirs)
        if name in OPAQUE_TO_XLA:
            yield not_compared(made, OPAQUE)
            continue
        reasons = XLA.get(name, [])
        more = [sum(sizes) for sizes in zip(*((f, t) for _, f, t in reasons), strict=True)]
        reached = [a + b for a, b in zip(ours, more, strict=False)] == theirs
        yield explained(made, reasons, reached)


def not_compared(made: Row, why: str) -> Row:
    return made | {"verdict": "not compared", "reasons": [why]}


def lanes(record: Row, *kinds: str) -> int:
    return sum(int(record.get(kind + width, 0)) for kind in kinds for width in ("32", "64"))


def by_kernels(every: int) -> Iterator[Row]:
    for record in records("cpu_instructions", every):
        name, phase, n = record["name"], record["phase"], record["n"]
        case = CASES[name.partition("/")[0]]
        executed = lanes(record, "ADD", "MUL", "DIV", "SQRT") + 2 * lanes(record, "FMA")
        if case.call is None:
            yield not_compared(row(case.family, name, phase, "CPU", [], [executed]), UNKNOWN)
            continue
        cost = cost_of(case, phase)
        ours = arithmetic(cost) - 2 * cost.void_macs * name.endswith("/mkldnn")
        if not arithmetic(cost) and not cost.special:
            ours, executed = cost.compare, executed + lanes(record, "CMP", "MINMAX", "ROUND")
        made = row(case.family, name, phase, "CPU", [ours], [executed])
        margin = max(TOLERANCE * ours, SET_UP)
        if abs(executed - ours) <= margin:
            made["verdict"] = "agrees"
        reasons = reasons_of_kernel(name, n, cost)
        low, high = (sum(sizes) for sizes in (list(zip(*reasons, strict=True)) or [[]] * 3)[1:])
        yield explained(made, reasons, ours + low - margin <= executed <= ours + high + margin)


def compare(every: int = 1) -> list[Row]:
    """All rows; of the recorded ones, perhaps only one in so many."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [*computed(), *by_xla(every), *by_kernels(every)]
