"""How each op that torch knows is decided: what ``flopcount ops`` prints."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from tabulate import tabulate

from flopcount.formulas import Decision, plan_of
from flopcount.torch_private.ops import all_overloads


@dataclass(frozen=True, slots=True, order=True)
class OpRow:
    """How an op is decided.

    Attributes:
        op: its name, ``aten.mm``; its overloads may be decided in several ways.
        decision: ``formula``, ``free``, ``view``, ``composite``, ``decomposed`` or ``uncounted``.
        why: the first line of its formula's docstring, or the reason why it has none.
        place: ``file:line`` where its formula is registered, or where it is declared free; empty
            for an op that torch's own facts decide.
    """

    op: str
    decision: str
    why: str
    place: str


WHY = {
    Decision.VIEW: "moves nothing",
    Decision.FREE: "moves bytes, and does no arithmetic",
    Decision.COMPOSITE: "opens itself; the ops that it is made of are counted",
    Decision.DECOMPOSED: "costs what torch's decomposition of it costs",
    Decision.UNCOUNTED: "has no formula, and torch does not decompose it",
}


def op_rows() -> list[OpRow]:
    """Every op that torch knows now, by name."""
    rows = set()
    for overload in all_overloads():
        plan = plan_of(overload)
        doc = plan.rule.formula.__doc__ if plan.decision is Decision.FORMULA else None
        why = plan.rule.why or (doc or "").partition("\n")[0].strip() or WHY.get(plan.decision, "")
        rows.add(OpRow(plan.name, plan.decision.value, why, plan.rule.place))
    return sorted(rows)


def render(rows: Iterable[OpRow]) -> str:
    """A table of ``rows``, and the number of ops for each decision."""
    rows = list(rows)
    body = [(row.op, row.decision, row.place, row.why) for row in rows]
    counts = Counter(row.decision for row in rows)
    summary = ", ".join(f"{count} {decision}" for decision, count in counts.most_common())
    table = tabulate(body, headers=["op", "decision", "where", "why"], disable_numparse=True)
    lines = [line.rstrip() for line in table.splitlines()]
    return "\n".join([*lines, "", summary])
