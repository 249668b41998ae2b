"""Rows of graph modules: what torch.export and torch.fx traced remembers the layers it had.

Such a module has one forward for all layers, so no hook tells them. But each line of its code runs
one node, and the node knows in which calls it was traced.
"""

from __future__ import annotations

import weakref
from types import CodeType
from typing import Any, Protocol, cast

from torch import fx, nn

from flopcount.attribution.call_stacks import SELF, call_stack, class_name, split
from flopcount.attribution.wrappers import WRAPPERS
from flopcount.torch_private.autograd import next_sequence_nr
from flopcount.torch_private.compiler import forward_code, nodes_by_line
from flopcount.torch_private.frames import frames


class Row(Protocol):
    """A row of the tree: a :class:`~flopcount.attribution.tree.Scope`."""

    calls: int
    places: dict[str, Any]
    type: str

    @property
    def module(self) -> nn.Module | None:
        """The module that it stands for."""

    def traced_child(self, name: str, held: nn.Module | None) -> Row:
        """The row ``name`` below it."""


SEEN: list[bool] = []
"""It is empty as long as no module has lines, so that views need not look for one."""


class GraphLines:
    """The row of each line of a graph module's forward.

    Args:
        module: the graph module.
        code: its forward.
        nodes: the node that each line runs.
        base: the row of what was traced.
        outer: the lines of the graph that this one is a part of, if any.
    """

    def __init__(
        self,
        module: nn.Module,
        code: CodeType,
        nodes: dict[int, fx.Node],
        base: Row,
        outer: GraphLines | None,
    ) -> None:
        self.base = base
        self._module = weakref.ref(module)
        self._outer = outer
        self._read(code, nodes)
        if not SEEN:
            SEEN.append(True)

    def _read(self, code: CodeType, nodes: dict[int, fx.Node]) -> None:
        self._code = code
        self._rows: dict[int, Row] = {}
        self._calls: dict[str, Row] = {}  # the key of each call of a layer -> its row
        self._parts = {str(node.target) for node in nodes.values() if node.op == "get_attr"}
        begun = self._outer._calls if self._outer else {}
        for line, node in nodes.items():
            row = self.base
            for key, (path, cls) in call_stack(node).items():
                row = self._row(path, cls)
                is_hooked = node.op == "call_module" and path == node.target
                if row is not self.base and key not in begun and not is_hooked:
                    self._calls[key] = row
            self._rows[line] = row

    def has_part(self, module: nn.Module) -> bool:
        """Whether ``module`` is a function of this graph, such as a branch, and no module of it."""
        graph = self._module()
        return any(getattr(graph, name, None) is module for name in self._parts)

    def begin_call(self, module: nn.Module) -> None:
        """Count the calls of all layers if ``module`` is the graph, which has no branches."""
        if self._module() is not module:
            return
        code = forward_code(module)
        if code is not None and code is not self._code:  # the program has changed the graph
            self._read(code, nodes_by_line(cast(fx.GraphModule, module)))
        for row in self._calls.values():
            row.calls += 1

    def place(self, thread: Any, place: Any) -> Any:
        """The place of the op that runs in this module, whose own is ``place``."""
        frame = next((frame for frame in frames() if frame.f_code is self._code), None)
        row = self._rows.get(frame.f_lineno, self.base) if frame is not None else self.base
        place = place if row is self.base else row.places[place.phase]
        number = next_sequence_nr()
        if place is not thread.node_log.places[-1]:
            made_node = number > thread.seen_number  # since the op before; it is this op's
            thread.node_log.start(place, number - made_node)
        thread.seen_number = number
        return place

    def _row(self, path: str, cls: Any) -> Row:
        variable, inside = split(path)
        scope, held = self.base, self.base.module
        if not inside or variable not in ("", SELF):
            return scope
        for name in inside.split("."):
            held = getattr(held, name, None)
            if name not in WRAPPERS:
                scope = scope.traced_child(name, held if isinstance(held, nn.Module) else None)
        scope.type = class_name(cls)
        return scope


def lines_of(module: nn.Module, base: Row, outer: GraphLines | None) -> GraphLines | None:
    """The rows of ``module`` below ``base``; None if it is no graph that remembers layers."""
    code = forward_code(module)
    if code is None:
        return None
    nodes = nodes_by_line(cast(fx.GraphModule, module))
    remembers = any(map(call_stack, nodes.values()))
    return GraphLines(module, code, nodes, base, outer) if remembers else None
