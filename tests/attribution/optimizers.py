"""Optimizers that torch has no hooks for, and what their steps cost.

The layer has 64 weights, no bias. An update does 2 operations for each.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from flopcount import Report

UPDATE = 2 * 64
"""A product and a sum for each weight."""


def flops(report: Report) -> dict[str, int]:
    """The FLOPs of the phases that are no graph's, where they have any."""
    found = {name: report.phases[name].flops for name in ("optimizer", "other")}
    return {name: number for name, number in found.items() if number}


def update(p: Tensor) -> None:
    p.data.add_(p.grad, alpha=-0.1)


class Plain:
    """No Optimizer at all."""

    def __init__(self, params: Iterable[Tensor]) -> None:
        self.params = list(params)

    def step(self) -> None:
        for p in self.params:
            update(p)
