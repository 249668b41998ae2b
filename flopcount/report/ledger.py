"""The running totals: one row for each module, phase, op and dtype."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from flopcount.attribution.phase import RECOMPUTE
from flopcount.cost import ZERO
from flopcount.report.tree import Row

if TYPE_CHECKING:
    from flopcount.attribution.tree import Place
    from flopcount.formulas import Bill


class Ledger:
    """Adds up bills. It grows with distinct rows, not with calls.

    Args:
        rows: totals to start from, by module, phase, op and dtype.
    """

    def __init__(self, rows: Mapping[tuple[str, str, str, str], Row] | None = None) -> None:
        self.rows = dict(rows or {})

    def post(self, place: Place, bill: Bill, calls: int) -> None:
        """Add ``calls`` calls at ``place`` that cost ``bill`` each."""
        gradients = bill.gradients
        if place.gradient:  # only the autograd graph knows which gradient the op computes
            gradients = {place.gradient: replace(bill.cost, read=0, written=0)}
        row = Row(
            module=place.scope.path,
            phase=place.phase,
            op=bill.op,
            dtype=bill.dtype,
            calls=calls,
            cost=calls * bill.cost,
            gradients={name: calls * cost for name, cost in gradients.items()},
            uncounted=0 if bill.counted else calls,
        )
        self._add(row)
        if bill.recompute:  # a fused backward repeats forward work
            cost = calls * bill.recompute
            self._add(Row(row.module, RECOMPUTE, row.op, row.dtype, calls=0, cost=cost))

    def _add(self, row: Row) -> None:
        key = row.module, row.phase, row.op, row.dtype
        total = self.rows.get(key)
        if total is None:
            self.rows[key] = row
            return
        names = dict.fromkeys([*total.gradients, *row.gradients])
        self.rows[key] = replace(
            total,
            calls=total.calls + row.calls,
            cost=total.cost + row.cost,
            gradients={
                name: total.gradients.get(name, ZERO) + row.gradients.get(name, ZERO)
                for name in names
            },
            uncounted=total.uncounted + row.uncounted,
        )
