"""Diff: what changed between two reports, per module, phase and op."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from flopcount.cost import ZERO, Cost
from flopcount.report.report import Report

__all__ = ["Change", "Diff"]


@dataclass(frozen=True, slots=True)
class Change:
    """One op of one module that costs something else, or is new, or is gone."""

    module: str
    phase: str
    op: str
    dtype: str
    before: Cost
    after: Cost

    @property
    def flops(self) -> int:
        """FLOPs gained; negative if the op became cheaper."""
        return self.after.flops - self.before.flops


@dataclass(frozen=True)
class Diff:
    """The step from one report to another; false if nothing changed.

    >>> import torch, flopcount
    >>> narrow = flopcount.count(torch.nn.Linear(8, 2), torch.ones(4, 8), backward=False)
    >>> wide = flopcount.count(torch.nn.Linear(8, 3), torch.ones(4, 8), backward=False)
    >>> narrow.diff(wide).flops
    68
    """

    before: Report
    after: Report

    @cached_property
    def changes(self) -> tuple[Change, ...]:
        """Everything that changed, the largest first."""
        before, after = _costs(self.before), _costs(self.after)
        changes = [
            Change(*key, before.get(key, ZERO), after.get(key, ZERO))
            for key in dict.fromkeys([*before, *after])
            if before.get(key, ZERO) != after.get(key, ZERO)
        ]
        return tuple(sorted(changes, key=lambda change: -abs(change.flops)))

    @property
    def flops(self) -> int:
        """FLOPs gained in all."""
        return self.after.total.flops - self.before.total.flops

    def __bool__(self) -> bool:
        return bool(self.changes)

    def __str__(self) -> str:
        from flopcount.report.render import table

        return table.differences(self)


def _costs(report: Report) -> dict[tuple[str, str, str, str], Cost]:
    costs: dict[tuple[str, str, str, str], Cost] = {}
    for row in report.entries:
        key = (report.relative(row.module), row.phase, row.op, row.dtype)
        costs[key] = costs.get(key, ZERO) + row.cost
    return costs
