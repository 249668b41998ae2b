"""The modules of a traced program: what its nodes remember of the calls they were traced in."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from torch import fx, nn

from flopcount.attribution.call_stacks import (
    SELF,
    VARIABLE,
    CallStack,
    call_stack,
    class_name,
    split,
)
from flopcount.attribution.tree import ModuleTree, Scope
from flopcount.attribution.wrappers import WRAPPERS


class TracedModules:
    """The tree of modules that nodes were traced in."""

    def __init__(self) -> None:
        self.tree = ModuleTree()
        self._roots: dict[str, Scope] = {}
        self._calls: dict[Scope, Counter[str]] = {}

    def begin(self, graph: fx.Graph) -> CallStack:
        """Start another graph; returns the calls that are open at all of its nodes."""
        self._roots.pop("", None)  # another program, another exported module
        outermost = [next(iter(call_stack(node).values()), ("", None)) for node in graph.nodes]
        roots = {split(path) for path, _ in outermost}
        is_implied = (SELF, "") not in roots and any(variable == SELF for variable, _ in roots)
        return {SELF: (SELF, "")} if is_implied else {}

    def scope(self, stack: CallStack, outside: Scope) -> Scope:
        """The scope of the innermost call; ``outside`` if there is none."""
        for path, cls in stack.values():
            outside = self._scope(path, cls)
        return outside

    def call(self, stack: CallStack, seen: set[tuple[str, str]], times: int) -> None:
        """Count the calls that were not ``seen`` yet, each ``times`` times."""
        for key, (path, cls) in stack.items():
            if (key, path) not in seen:
                seen.add((key, path))
                scope = self._scope(path, cls)
                calls = self._calls.setdefault(scope, Counter())
                calls[path] += times
                scope.calls = max(calls.values())  # a wrapper and what it wraps are one row

    def measure(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        """Note how many of these parameters each module of the exported program has."""
        named = list(parameters)
        waiting = [(self._roots[""], "")] if "" in self._roots else []
        while waiting:
            scope, prefix = waiting.pop()
            owned = {id(p): p for name, p in named if name.startswith(prefix)}.values()
            scope.params = sum(p.numel() for p in owned)
            scope.trainable = sum(p.numel() for p in owned if p.requires_grad)
            waiting += [(child, f"{prefix}{name}.") for name, child in scope.children.items()]

    def _scope(self, path: str, cls: Any) -> Scope:
        variable, inside = split(path)
        type_name = class_name(cls)
        scope = self._root(variable, "" if inside else type_name)
        attributes = inside.split(".") if inside else []
        for attribute in attributes:
            if attribute not in WRAPPERS:
                scope = scope.children.setdefault(attribute, Scope(attribute, scope))
        if not scope.type or not WRAPPERS.isdisjoint(attributes[-1:]):
            scope.type = type_name
        return scope

    def _root(self, variable: str, type_name: str) -> Scope:
        """The root module in a variable: named by its class, else by the variable."""
        if variable in self._roots:
            return self._roots[variable]
        match = VARIABLE.match(variable)
        base = type_name or (match[1] if match else "model")
        name, count = base, 1
        roots = self.tree.root.children
        while variable and name in roots:
            count += 1
            name = f"{base}#{count}"
        self._roots[variable] = scope = roots.setdefault(name, Scope(name, self.tree.root))
        return scope
