"""Rows of a report, the modules that they belong to, and the tree of these modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from flopcount.attribution.phase import PHASES
from flopcount.cost import ZERO, Cost
from flopcount.report.named import Named

GRADIENTS = ("input", "weight", "bias")
"""The gradients that a backward op may compute."""


@dataclass(frozen=True, slots=True)
class Row:
    """The cost of one op, in one dtype, in one module without its children, and in one phase.

    ``gradients`` splits backward arithmetic by the gradient that it computes, if that is known;
    bytes are not split. ``uncounted`` is the number of calls whose cost is not known.
    ``nanoseconds`` is how long devices worked on it in a recorded run; None if nobody measured.
    """

    module: str
    phase: str
    op: str
    dtype: str
    calls: int
    cost: Cost
    gradients: dict[str, Cost] = field(default_factory=dict)
    uncounted: int = 0
    nanoseconds: int | None = None


@dataclass(frozen=True, slots=True)
class Module:
    """A module that ran: its full path, class, calls, and parameters with its children's.

    ``params`` are not known in a recorded run. ``trainable`` of them require gradients: None in a
    file of an older version, too. ``other_paths`` are the full paths under which it is registered,
    too.
    """

    path: str
    name: str
    type: str
    calls: int
    params: int | None
    trainable: int | None = None
    other_paths: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModuleNode:
    """A module in the report's tree.

    >>> import torch, flopcount
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 2), torch.nn.ReLU())
    >>> node = flopcount.count(model, torch.ones(4, 8))["0"]
    >>> node.type, node.params, node.calls, node.gradients["weight"].macs
    ('Linear', 18, 1, 64)
    >>> node.seconds is None  # nobody measured
    True

    Attributes:
        name: the attribute of its nearest owner that holds it; for a root its class.
        path: dotted path from the model.
        other_paths: the paths of a shared module that lead here, too.
        type: its class.
        calls: how often it was called; recomputation is not a call.
        params: the number of its parameters, its children's included; 0 for the block. Those of
            which other ranks hold parts, or that are packed, count as the whole model has them.
            None in a recorded run that does not tell.
        trainable: how many of these require gradients; None in a report that an older version
            wrote.
        own: the Cost of ops that ran in the module itself.
        total: the Cost of these and of its children.
        phases: ``total`` by phase: forward, backward, recompute, optimizer, other.
        gradients: the backward arithmetic in ``total`` by the gradient that it computes
            (``"input"``, ``"weight"``, ``"bias"``), if that is known.
        children: the modules below it, in the order of their first call.
    """

    name: str
    path: str
    type: str
    calls: int
    params: int | None
    trainable: int | None
    own: Cost
    total: Cost
    phases: dict[str, Cost]
    gradients: dict[str, Cost]
    rows: tuple[Row, ...] = field(repr=False)
    children: tuple[ModuleNode, ...] = field(repr=False)
    other_paths: tuple[str, ...] = field(default=(), repr=False)

    @property
    def seconds(self) -> float | None:
        """How long devices worked on it and its children; None if nobody measured.

        Kernels that ran at once, on several streams, add up.
        """
        times = [row.nanoseconds for node in self.walk() for row in node.rows]
        known = [time for time in times if time is not None]
        return sum(known) / 1e9 if known else None

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


def rows_by_op(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """The ``rows`` of each op and dtype."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.op, row.dtype), []).append(row)
    return groups


def sum_rows(rows: Iterable[Row]) -> tuple[dict[str, Cost], dict[str, Cost]]:
    """The cost of ``rows`` by phase, and their backward arithmetic by gradient."""
    phases = Named(dict.fromkeys(PHASES, ZERO), kind="phase")
    gradients = Named(dict.fromkeys(GRADIENTS, ZERO), kind="gradient")
    for row in rows:
        phases[row.phase] += row.cost
        for name, cost in row.gradients.items():
            gradients[name] += cost
    return phases, gradients


def tree_of(
    modules: Sequence[Module], rows: Iterable[Row], relative: Callable[[str], str]
) -> ModuleNode:
    """The tree of ``modules``, the root first; ``relative`` shortens their paths."""
    rows_of: dict[str, list[Row]] = {}
    for row in rows:
        rows_of.setdefault(row.module, []).append(row)
    modules_below: dict[str, list[Module]] = {}
    for module in modules[1:]:
        parent = module.path[: -len(module.name)].rstrip(".")
        modules_below.setdefault(parent, []).append(module)

    def node_of(module: Module) -> ModuleNode:
        children = tuple(map(node_of, modules_below.get(module.path, ())))
        own_rows = tuple(rows_of.get(module.path, ()))
        phases, gradients = sum_rows(own_rows)
        own = sum(phases.values(), ZERO)
        for child in children:
            for name, cost in child.phases.items():
                phases[name] += cost
            for name, cost in child.gradients.items():
                gradients[name] += cost
        return ModuleNode(
            name=module.name,
            path=relative(module.path),
            type=module.type,
            calls=module.calls,
            params=module.params,
            trainable=module.trainable,
            own=own,
            total=sum(phases.values(), ZERO),
            phases=phases,
            gradients=gradients,
            rows=own_rows,
            children=children,
            other_paths=tuple(map(relative, module.other_paths)),
        )

    return node_of(modules[0])
