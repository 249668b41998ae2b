"""How each op that torch knows is decided: what ``flopcount ops`` prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from tabulate import tabulate

from flopcount.formulas import Decision, plan_of
from flopcount.torch_private.ops import all_overloads

__all__ = ["OpRow", "op_rows", "render"]


@dataclass(frozen=True, slots=True, order=True)
class OpRow:
    """How an op is decided.

    Attributes:
        op: its name, ``aten.mm``; its overloads may be decided in several ways.
        decision: ``formula``, ``free``, ``view``, ``composite``, ``decomposed`` or ``uncounted``.
        why: the first line of its formula's docstring, or the reason why it has none.
    """

    op: str
    decision: str
    why: str


WHY = {
    Decision.VIEW: "moves nothing",
    Decision.FREE: "moves bytes, and does no arithmetic",
    Decision.COMPOSITE: "opens itself; the ops that it is made of are counted",
    Decision.DECOMPOSED: "costs what torch's decomposition of it costs",
    Decision.UNCOUNTED: "listed in the report as uncounted",
}


def op_rows() -> list[OpRow]:
    """Every op that torch knows at this moment, by name."""
    found = set()
    for overload in all_overloads():
        decided = plan_of(overload)
        doc = decided.rule.formula.__doc__ if decided.decision is Decision.FORMULA else None
        why = decided.rule.why or (doc or "").partition("\n")[0].strip()
        why = why or WHY.get(decided.decision, "")
        found.add(OpRow(decided.name, decided.decision.value, why))
    return sorted(found)


def render(rows: Iterable[OpRow]) -> str:
    """A table of ``rows``, and how many ops are decided in which way."""
    rows = list(rows)
    body = [(row.op, row.decision, row.why) for row in rows]
    counts = Counter(row.decision for row in rows)
    summary = ", ".join(f"{count} {decision}" for decision, count in counts.most_common())
    table = tabulate(body, headers=["op", "decision", "why"], disable_numparse=True)
    lines = [line.rstrip() for line in table.splitlines()]
    return "\n".join([*lines, "", summary])
