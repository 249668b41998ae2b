"""What a report is made of: rows, the modules that they belong to, and the tree of these."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from flopcount.attribution.phase import PHASES
from flopcount.cost import ZERO, Cost

__all__ = ["GRADIENTS", "Module", "ModuleNode", "Row", "sum_rows"]

GRADIENTS = ("input", "weight", "bias")
"""What a backward op may compute."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one op, in one dtype, cost in one module and phase, without the module's children.

    ``gradients`` splits backward arithmetic by what it computes, where that is known; bytes stay
    with the op as a whole. ``uncounted`` of the calls have no formula.
    """

    module: str
    phase: str
    op: str
    dtype: str
    calls: int
    cost: Cost
    gradients: dict[str, Cost] = field(default_factory=dict)
    uncounted: int = 0


@dataclass(frozen=True, slots=True)
class Module:
    """A module that ran: its full path, class, calls, and number of parameters, children's too."""

    path: str
    name: str
    type: str
    calls: int
    params: int


@dataclass(frozen=True)
class ModuleNode:
    """A module in the report's tree.

    >>> import torch, flopcount
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 2), torch.nn.ReLU())
    >>> node = flopcount.count(model, torch.ones(4, 8))["0"]
    >>> node.type, node.params, node.calls, node.gradients["weight"].macs
    ('Linear', 18, 1, 64)

    Attributes:
        name: the attribute by which its caller owns it; a root's class.
        path: dotted path from the model.
        type: its class.
        calls: how often it was called; recomputation is not a call.
        params: its parameters, its children's included.
        own: Cost of the ops that ran in the module itself.
        total: Cost with its children.
        phases: ``total`` by phase: forward, backward, recompute, optimizer.
        gradients: the arithmetic of ``total``'s backward by the gradient that it computes
            (``"input"``, ``"weight"``, ``"bias"``), where that is known.
        children: the modules below it, in the order of their first call.
    """

    name: str
    path: str
    type: str
    calls: int
    params: int
    own: Cost
    total: Cost
    phases: dict[str, Cost]
    gradients: dict[str, Cost]
    rows: tuple[Row, ...] = field(repr=False)
    children: tuple[ModuleNode, ...] = field(repr=False)

    def walk(self) -> Iterator[ModuleNode]:
        """This node and all below it, parents first.

        >>> import torch, flopcount
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 2), torch.nn.ReLU())
        >>> [node.path for node in flopcount.count(model, torch.ones(4, 8)).model.walk()]
        ['', '0', '1']
        """
        yield self
        for child in self.children:
            yield from child.walk()


def sum_rows(rows: Iterable[Row]) -> tuple[dict[str, Cost], dict[str, Cost]]:
    """Costs of ``rows`` added up by phase, and their backward arithmetic by gradient."""
    phases = dict.fromkeys(PHASES, ZERO)
    gradients = dict.fromkeys(GRADIENTS, ZERO)
    for row in rows:
        phases[row.phase] += row.cost
        for name, cost in row.gradients.items():
            gradients[name] += cost
    return phases, gradients
