"""The running totals: one row for each module, phase, op and dtype, and a report of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from flopcount.attribution.phase import RECOMPUTE
from flopcount.attribution.tree import ModuleTree, Place
from flopcount.cost import ZERO
from flopcount.formulas import Bill
from flopcount.report.report import Report
from flopcount.report.run import Run
from flopcount.report.tree import Module, Row

INTEGER = "int8"
"""The dtype of rows of integer products."""


class Ledger:
    """Adds up bills. It grows with distinct rows, not with calls.

    Args:
        rows: totals to start from, by module, phase, op and dtype.
    """

    def __init__(self, rows: Mapping[tuple[str, str, str, str], Row] | None = None) -> None:
        self.rows = dict(rows or {})

    def post(self, place: Place, bill: Bill, calls: int, nanoseconds: int | None = None) -> None:
        """Add ``calls`` calls at ``place`` that cost ``bill`` each, and took this together."""
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
            nanoseconds=nanoseconds,
        )
        self.add(row)
        of_parts = None if nanoseconds is None else 0  # their time is in the row above
        if bill.integer:  # products of integers in an op that works on floats too
            cost = calls * bill.integer
            split = {place.gradient: cost} if place.gradient else {}
            part = Row(row.module, row.phase, row.op, INTEGER, 0, cost, split, 0, of_parts)
            self.add(part)
        if bill.recompute:  # a fused backward repeats forward work
            cost = calls * bill.recompute
            part = Row(row.module, RECOMPUTE, row.op, row.dtype, 0, cost, {}, 0, of_parts)
            self.add(part)

    def add(self, row: Row) -> None:
        """Add a row."""
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
            nanoseconds=_sum(total.nanoseconds, row.nanoseconds),
        )

    def since(self, before: Ledger) -> list[Row]:
        """What was added to these totals since they were those of ``before``."""
        ledger = Ledger(self.rows)
        for row in before.rows.values():
            ledger.add(negative(row))
        return [row for row in ledger.rows.values() if row.calls or row.cost]

    def report(
        self,
        tree: ModuleTree,
        unwatched: Mapping[str, str] | None = None,
        children: Mapping[str, int] | None = None,
        run: Run | None = None,
    ) -> Report:
        """A report of these totals and of the modules in ``tree`` that ran.

        ``unwatched`` are threads that had not entered the counter, with what ran first in each;
        ``children`` is what processes ran that the block started, with their number; ``run`` is
        the time that a recorded run took.
        """
        rows = tuple(self.rows.values())
        paths = {row.module for row in rows}
        scopes = [*tree.scopes(), tree.unattributed]
        shown = {tree.root, *tree.models}
        for scope in scopes:
            if scope.calls or scope.path in paths:
                shown.update(scope.lineage())
        others = tree.other_names(shown)
        modules = []
        for scope in filter(shown.__contains__, scopes):
            scope.measure()
            counts = scope.calls, scope.params, scope.trainable
            names = tuple(others.get(scope, ()))
            modules.append(Module(scope.path, scope.name, scope.type, *counts, names))
        roots = [scope.path for scope in tree.root.children.values() if scope in shown]
        models = [scope.path for scope in tree.models]
        path = (models or roots)[0] if len(models or roots) == 1 and not tree.named else None
        return Report(
            modules=tuple(modules),
            entries=rows,
            model_path=path,
            unwatched=dict(unwatched or {}),
            children=dict(children or {}),
            models=tuple(models if tree.named else ()),
            run=run,
        )


def _sum(one: int | None, other: int | None) -> int | None:
    """Two times together; None is one that nobody measured."""
    return other if one is None else one if other is None else one + other


def negative(row: Row) -> Row:
    """The row that takes ``row`` out of a ledger."""
    return replace(
        row,
        calls=-row.calls,
        cost=-1 * row.cost,
        gradients={name: -1 * cost for name, cost in row.gradients.items()},
        uncounted=-row.uncounted,
    )
