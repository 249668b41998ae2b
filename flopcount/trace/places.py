"""Which module, and which phase, does a recorded event belong to?

Events inside one another tell it: calls of modules where the recording has Python's frames, and
else the ranges that the program marked by ``record_function``. A backward op belongs to the module
in which its node was made: to that of the last op with the node's number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import unquote

from flopcount.attribution.phase import BACKWARD, FORWARD, OPTIMIZER, OTHER, RECOMPUTE
from flopcount.attribution.tree import UNATTRIBUTED, ModuleTree, Place, Scope
from flopcount.trace.events import (
    CALL,
    INSTANCE,
    MODULE,
    MODULE_NAME,
    OP,
    PART,
    RANGE,
    Event,
    Recording,
    Thread,
    is_op,
)

NODE = "autograd::engine::evaluate_function: "
"""How the name of the event begins in which autograd runs a node."""

STEP = "Optimizer.step#"
"""How the name of the range begins that torch marks around an optimizer's step."""

NODES_OF_AN_OP = 16
"""How many nodes one op makes at most: a change in place of a view makes three."""

PROFILER_STEP = re.compile(r"ProfilerStep#(\d{1,18})")

TORCHS_OWN = re.compile(r"ProfilerStep#|Optimizer\.|FSDP::|## |[a-z_]+:|enumerate\(")
"""How the names of ranges begin that torch marks itself: they are no parts of a model."""


class Around(NamedTuple):
    """What is open around an event, on its thread.

    Attributes:
        scope: the innermost module.
        node: the event of the autograd node that runs.
        is_again: whether a module was called inside the node, so that it runs again.
        is_step: whether an optimizer steps.
        records: whether gradients are on.
    """

    scope: Scope
    node: Event | None = None
    is_again: bool = False
    is_step: bool = False
    records: bool = False


class Places:
    """Tells the place of each event, in the order of a recording.

    Args:
        recording: the recording.
        paths: the paths of modules that the user has told, by their names in the recording.
    """

    def __init__(self, recording: Recording, paths: Mapping[str, str]) -> None:
        self.tree = ModuleTree()
        self._paths = paths
        self._threads = recording.threads
        self._is_marked = any(map(is_marked, recording.host))
        self._has_modules = self._is_marked or any(e.kind is MODULE for e in recording.host)
        self._engines = engines(recording)
        self._graph_makers = graph_makers(recording)
        self._has_numbers = any(event.sequence is not None for event in recording.host)
        self._outside = Around(self.tree.root)
        self._homes: dict[str, Scope] = {}
        self._makers: dict[Thread | None, dict[int, Scope]] = {}  # by the numbers of nodes
        self._records: dict[Thread, bool] = {}  # whether gradients are on
        self._last: dict[Thread, Scope] = {}  # whose node ran last, by thread

    def around(self, event: Event, is_counted: bool) -> Around:
        """What is open inside ``event``; if that ``is_counted``, its module has one call more."""
        around = event.outer.around if event.outer else self._outside
        if is_marked(event):
            return self._in_marked(event, around, is_counted)
        if event.kind is MODULE and not self._is_marked:
            return self._in_module(event, around, is_counted)
        if event.kind is RANGE:
            return self._in_range(event, around, is_counted)
        if event.kind is OP:
            if event.name.startswith(NODE):
                return around._replace(node=event, is_again=False, is_step=False, records=False)
            if event.forward_thread and event.outer is not None and event.outer is around.node:
                tell_number(event.outer, event)
            if event.sequence is not None and not event.forward_thread:
                scope = around.scope
                if around.node is not None and not around.is_again:
                    scope = self._maker(around.node)  # the gradient's own graph
                for thread in (event.thread, None):  # the last op with a number makes the node
                    self._makers.setdefault(thread, {})[event.sequence] = scope
                return around if around.records else around._replace(records=True)
        return around

    def place(self, event: Event, *, tells_gradients: bool) -> Place:
        """Where the op of ``event`` ran.

        If it has no number of a node, gradients are off, if that tells it; else they are as they
        were at the last op that told.
        """
        around: Around = event.around
        if around.records or tells_gradients:
            self._records[event.thread] = around.records
        if around.is_step:
            return around.scope.places[OPTIMIZER]
        if around.node is not None:
            if around.is_again:
                return around.scope.places[RECOMPUTE]
            is_again = around.records and around.node not in self._graph_makers
            return self._maker(around.node).places[RECOMPUTE if is_again else BACKWARD]
        is_outside = around.scope is self.tree.root
        if is_outside and event.thread in self._engines:  # a hook behind a node
            return around.scope.places[BACKWARD]
        records = self._records.get(event.thread, True)
        if is_outside and not records and (self._has_numbers or self._has_modules):
            return around.scope.places[OTHER]
        return around.scope.places[FORWARD]

    def _in_marked(self, event: Event, around: Around, is_counted: bool) -> Around:
        """Inside a module whose path the recording tells."""
        is_call = event.name.startswith(CALL)
        path = unquote(event.name.removeprefix(CALL if is_call else PART))
        scope = self._scope_at(path)
        scope.calls += is_counted and is_call and around.node is None
        return around._replace(scope=scope, is_again=around.node is not None, is_step=False)

    def _scope_at(self, path: str) -> Scope:
        """The row at a path."""
        scope = self._homes.get(path)
        if scope is None:
            scope = self.tree.root
            for name in filter(None, path.split(".")):
                scope = scope.children.setdefault(name, Scope(name, scope))
                scope.params = scope.trainable = None
            self._homes[path] = scope
        return scope

    def _in_module(self, event: Event, around: Around, is_counted: bool) -> Around:
        name = event.name.removeprefix(MODULE_NAME)
        if name in self._paths:
            scope = self._scope_at(self._paths[name])
        else:
            match = INSTANCE.fullmatch(name)
            scope = self._scope(name, match["type"] if match else name, around.scope)
        scope.calls += is_counted and around.node is None
        return around._replace(scope=scope, is_again=around.node is not None, is_step=False)

    def _in_range(self, event: Event, around: Around, is_counted: bool) -> Around:
        if event.name.startswith(STEP):
            return around._replace(is_step=True)
        if self._has_modules or TORCHS_OWN.match(event.name):
            return around
        scope = self._scope(f"{around.scope.path}.{event.name}", "", around.scope, event.name)
        scope.calls += is_counted and around.node is None
        return around._replace(scope=scope, is_again=around.node is not None)

    def _scope(self, key: str, kind: str, outer: Scope, name: str = "") -> Scope:
        """The row of a module: below the one in which it was first called."""
        scope = self._homes.get(key)
        if scope is None:
            name = (name or key).replace(".", "_") or "_"
            name = f"{name}#2" if name == UNATTRIBUTED else name
            scope = self._homes[key] = outer.children.setdefault(name, Scope(name, outer))
            scope.type = kind
            scope.params = scope.trainable = None
        return scope

    def _forward_thread(self, node: Event) -> Thread | None:
        """The thread in which a node was made; None if the recording does not tell."""
        return self._threads.get((node.thread[0], node.forward_thread))

    def _maker(self, node: Event) -> Scope:
        """The module in which ``node`` was made.

        The node that adds up a parameter's gradients has no number. It runs behind the one that
        computes the gradient.
        """
        if node.sequence is None:
            return self._last.get(node.thread, self.tree.root)
        makers = self._makers.get(self._forward_thread(node), {})
        numbers = range(node.sequence, node.sequence - NODES_OF_AN_OP, -1)
        found = (makers[number] for number in numbers if number in makers)
        scope = next(found, self.tree.unattributed)
        self._last[node.thread] = scope
        return scope


def graph_makers(recording: Recording) -> set[Event]:
    """The nodes whose gradients have a graph of their own: gradients are on for their last op.

    A checkpoint runs its forward again with gradients on, too. It does so before the ops of the
    node that asks for it, or it has the rest of its backward inside a node of its own.
    """
    nodes: dict[Event, Event] = {}
    last: dict[Event, bool] = {}
    nesting = set()
    for event in recording.host:
        node = nodes.get(event.outer) if event.outer else None
        if event.name.startswith(NODE):
            if node is not None:
                nesting.add(node)
            node = event
        elif node is not None and is_op(event) and not is_op(event.outer):
            last[node] = event.sequence is not None
        if node is not None:
            nodes[event] = node
    return {node for node, records in last.items() if records and node not in nesting}


def engines(recording: Recording) -> set[Thread]:
    """The threads of autograd's engine: outside of nodes, they make none and call no module."""
    run, call, in_nodes = set(), set(), set()
    for event in recording.host:
        if event.name.startswith(NODE):
            run.add(event.thread)
            in_nodes.add(event)
        elif event.outer in in_nodes:
            in_nodes.add(event)
        elif event.sequence is not None or event.kind is MODULE or is_marked(event):
            call.add(event.thread)
    return run - call


def tell_number(node: Event, function: Event) -> None:
    """Let ``node`` have the number of what runs inside it, if it has none itself."""
    if node.sequence is None:
        node.sequence, node.forward_thread = function.sequence, function.forward_thread


def is_marked(event: Event) -> bool:
    """Whether ``event`` is the call of a module whose path the recording tells."""
    return event.name.startswith((CALL, PART))


def is_inside(event: Event | None, outer: Event) -> bool:
    """Whether ``event`` is ``outer``, or ran inside it."""
    while event is not None and event is not outer:
        event = event.outer
    return event is outer
