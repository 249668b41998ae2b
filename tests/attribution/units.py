"""The unit of these tests: one Linear(8, 8) without bias on a 4 × 8 input, forward."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flopcount.report.report import Report
from flopcount.report.tree import ModuleNode

U = 2 * 4 * 8 * 8
"""4 × 8 dot products of length 8, two operations a MAC. Backward: 1 U for the weight's gradient,
1 U for the input's."""


def linear() -> nn.Linear:
    return nn.Linear(8, 8, bias=False)


def batch(*, grad: bool = False) -> Tensor:
    return torch.ones(4, 8, requires_grad=grad)


def units(node: ModuleNode | Report) -> dict[str, int]:
    """Matmul-class FLOPs of each phase that has any, in units, children included."""
    found = {}
    for phase, cost in node.phases.items():
        count, rest = divmod(cost.matmul_flops, U)
        assert rest == 0, f"{cost.matmul_flops} is no multiple of the unit"
        if count:
            found[phase] = count
    return found


def own_units(node: ModuleNode) -> int:
    """Matmul-class FLOPs of the node without its children, in units."""
    return node.own.matmul_flops // U


def paths(report: Report) -> list[str]:
    """The modules of the report, parents first, without the block."""
    return [node.path for node in report.root.walk()][1:]
