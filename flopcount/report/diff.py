"""Diff: what changed between two reports, per module, phase and op."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib import import_module

from flopcount.cost import ZERO, Cost
from flopcount.report.tree import ModuleNode


@dataclass(frozen=True, slots=True)
class Change:
    """An op of one module whose cost changed; ``ZERO`` is that of an op that did not run."""

    module: str
    phase: str
    op: str
    dtype: str
    before: Cost
    after: Cost

    @property
    def flops(self) -> int:
        """FLOPs added; negative if the op became cheaper."""
        return self.after.flops - self.before.flops


@dataclass(frozen=True)
class Diff:
    """What changed from one report to another; false if nothing did.

    >>> import torch, flopcount
    >>> narrow = flopcount.count(torch.nn.Linear(8, 2), torch.ones(4, 8), backward=False)
    >>> wide = flopcount.count(torch.nn.Linear(8, 3), torch.ones(4, 8), backward=False)
    >>> narrow.diff(wide).flops
    68

    Attributes:
        before, after: the ``root`` of each report.
    """

    before: ModuleNode
    after: ModuleNode

    @cached_property
    def changes(self) -> tuple[Change, ...]:
        """The ops whose cost changed, the largest change of FLOPs first."""
        before, after = _costs(self.before), _costs(self.after)
        changes = [
            Change(*key, before.get(key, ZERO), after.get(key, ZERO))
            for key in dict.fromkeys([*before, *after])
            if before.get(key, ZERO) != after.get(key, ZERO)
        ]
        return tuple(sorted(changes, key=lambda change: -abs(change.flops)))

    @property
    def flops(self) -> int:
        """FLOPs added in total."""
        return self.after.total.flops - self.before.total.flops

    def __bool__(self) -> bool:
        return bool(self.changes)

    def __str__(self) -> str:
        # imported on use: formats know differences, not the reverse
        text: str = import_module("flopcount.report.render.table").differences(self)
        return text


def _costs(root: ModuleNode) -> dict[tuple[str, str, str, str], Cost]:
    costs: dict[tuple[str, str, str, str], Cost] = {}
    for node in root.walk():
        for row in node.rows:
            key = (node.path, row.phase, row.op, row.dtype)
            costs[key] = costs.get(key, ZERO) + row.cost
    return costs
