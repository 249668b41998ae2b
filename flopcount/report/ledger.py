"""The running totals of a counter: (scope, phase, op, dtype) -> calls and Cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from flopcount.attribution.phase import RECOMPUTE
from flopcount.cost import ZERO, Cost

if TYPE_CHECKING:
    from flopcount.formulas import Bill

__all__ = ["Entry", "Key", "Ledger"]


class Key(NamedTuple):
    """What the totals are kept by."""

    scope: str
    phase: str
    op: str
    dtype: str


@dataclass(slots=True)
class Entry:
    """The total of one key; ``gradients`` splits its backward work by what it computes.

    ``uncounted`` of the calls have no formula, and are in ``cost`` with their bytes only.
    """

    calls: int = 0
    cost: Cost = ZERO
    gradients: dict[str, Cost] = field(default_factory=dict)
    uncounted: int = 0


class Ledger:
    """Adds up what is posted; it grows with distinct keys, not with calls."""

    def __init__(self) -> None:
        self.entries: dict[Key, Entry] = {}

    def post(
        self,
        key: Key,
        calls: int,
        cost: Cost,
        gradients: Mapping[str, Cost] | None = None,
        *,
        uncounted: int = 0,
    ) -> None:
        """Add ``calls`` calls that cost ``cost`` in all."""
        entry = self.entries.setdefault(key, Entry())
        entry.calls += calls
        entry.cost += cost
        entry.uncounted += uncounted
        for name, part in (gradients or {}).items():
            entry.gradients[name] = entry.gradients.get(name, ZERO) + part

    def post_bill(
        self, scope: str, phase: str, bill: Bill, calls: int, gradient: str | None = None
    ) -> None:
        """Add ``calls`` calls that cost ``bill`` each.

        ``gradient`` says what such a call computes, if the bill does not tell that itself.
        """
        gradients = bill.gradients
        if gradient:
            gradients = {gradient: replace(bill.cost, read=0, written=0)}
        self.post(
            Key(scope, phase, bill.op, bill.dtype),
            calls,
            calls * bill.cost,
            {name: calls * cost for name, cost in gradients.items()},
            uncounted=0 if bill.counted else calls,
        )
        if bill.recompute:  # forward work that a backward kernel does again
            self.post(Key(scope, RECOMPUTE, bill.op, bill.dtype), 0, calls * bill.recompute)
