"""The modules of a traced program: what its nodes remember of the calls they were traced in."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from torch import fx, nn

from flopcount.attribution.tree import WRAPPERS, ModuleTree, Scope
from flopcount.torch_private.compiler import NO_MODULE

__all__ = ["Stack", "TracedModules"]

Stack = Mapping[str, tuple[str, Any]]
"""The open calls of modules, outermost first: a key of the call, the module's path and class."""

OWNER = re.compile(r"[LG]\['(\w+)'\](?:\[[^]]+\])*")
"""The variable of the traced function that holds a root module: ``L['self']``, ``G['models'][1]``.
Exported programs have none: they are modules themselves."""

FRAME = "L['self']"
"""The module whose own ``forward`` was traced; its call is on no stack."""


class TracedModules:
    """The scopes of modules, made as they come by."""

    def __init__(self) -> None:
        self.tree = ModuleTree()
        self._roots: dict[str, Scope] = {}
        self._calls: dict[Scope, Counter[str]] = {}

    @property
    def block(self) -> Scope:
        """Where ops belong that ran outside every module."""
        return self.tree.root

    def begin(self, graph: fx.Graph) -> Stack:
        """Forget the exported module of the graph before; returns what is open everywhere."""
        self._roots.pop("", None)
        owners = {
            _split(path) for node in graph.nodes for path, _ in list(stack_of(node).values())[:1]
        }
        implied = (FRAME, "") not in owners and any(owner == FRAME for owner, _ in owners)
        return {FRAME: (FRAME, "")} if implied else {}

    def scope(self, stack: Stack, outside: Scope) -> Scope:
        """The scope of the innermost open call."""
        for path, cls in stack.values():
            outside = self._find(path, cls)
        return outside

    def call(self, stack: Stack, seen: set[tuple[str, str]], times: int) -> None:
        """Note the calls that were not ``seen`` yet."""
        for key, (path, cls) in stack.items():
            if (key, path) not in seen:
                seen.add((key, path))
                scope = self._find(path, cls)
                calls = self._calls.setdefault(scope, Counter())
                calls[path] += times
                scope.calls = max(calls.values())  # a wrapper and what it wraps are one row

    def measure(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        """Note the size of the parameters, by their names, in the exported module's scopes."""
        named = list(parameters)
        waiting = [(self._roots[""], "")] if "" in self._roots else []
        while waiting:
            scope, prefix = waiting.pop()
            owned = {id(p): p.numel() for name, p in named if name.startswith(prefix)}
            scope.params = sum(owned.values())
            waiting += [(child, f"{prefix}{name}.") for name, child in scope.children.items()]

    def _find(self, path: str, cls: Any) -> Scope:
        owner, inside = _split(path)
        name = cls.rpartition(".")[2] if isinstance(cls, str) else cls.__name__
        scope = self._root(owner, "" if inside else name)
        steps = [step for step in inside.split(".") if step]
        for step in steps:
            if step not in WRAPPERS:
                scope = scope.children.setdefault(step, Scope(step, scope))
        if not scope.type or not WRAPPERS.isdisjoint(steps[-1:]):
            scope.type = name
        return scope

    def _root(self, owner: str, name: str) -> Scope:
        if owner in self._roots:
            return self._roots[owner]
        match = OWNER.match(owner)
        base = name or (match[1] if match else "model")
        name, count = base, 1
        roots = self.block.children
        while owner and name in roots:
            count += 1
            name = f"{base}#{count}"
        self._roots[owner] = scope = roots.setdefault(name, Scope(name, self.block))
        return scope


def stack_of(node: fx.Node) -> Stack:
    """The calls that a node was traced in; a node of backward has those of its forward."""
    meta = node.meta
    stack: Stack = meta.get("nn_module_stack") or meta.get("fwd_nn_module_stack") or {}
    if any(path == NO_MODULE for path, _ in stack.values()):
        return {}
    return stack


def _split(path: str) -> tuple[str, str]:
    """The variable that owns a path's root, and the path below it."""
    match = OWNER.match(path)
    return (match[0], path[match.end() :].lstrip(".")) if match else ("", path)
