"""The rows of a report: modules, named as their callers own them."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from flopcount.attribution.phase import BACKWARD, FORWARD, PHASES
from flopcount.torch_private.compiler import untraced
from flopcount.torch_private.modes import without_functions, without_modes

__all__ = ["Entered", "Place", "Scope", "innermost", "type_name"]

WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Attributes behind which torch.compile, FSDP and checkpoint wrappers keep the user's module."""


class Place:
    """A scope and a phase. There is one object for each pair, so that it hashes by identity.

    ``entered`` has the modules that were called from here before, for the quick way in.
    """

    __slots__ = ("entered", "phase", "scope")

    def __init__(self, scope: Scope, phase: str, entered: dict[int, Entered]) -> None:
        self.scope = scope
        self.phase = phase
        self.entered = entered


class Scope:
    """One row of the report: a module as its caller owns it.

    The outermost scope is the watched block itself; below it are the root modules.
    """

    __slots__ = (
        "_module",
        "_names",
        "backward",
        "calls",
        "children",
        "entered",
        "forward",
        "name",
        "params",
        "parent",
        "path",
        "places",
        "type",
    )

    def __init__(self, name: str, parent: Scope | None, module: nn.Module | None = None) -> None:
        self.name = name
        self.parent = parent
        self.path: str = f"{parent.path}.{name}" if parent and parent.path else name
        self.children: dict[str, Scope] = {}
        self.calls = 0
        self.entered: dict[int, Entered] = {}
        self.places = {phase: Place(self, phase, {}) for phase in PHASES}
        self.forward = self.places[FORWARD] = Place(self, FORWARD, self.entered)
        self.backward = self.places[BACKWARD]
        self._names: dict[int, str] = {}
        self.type = ""
        self.params = 0
        self._module: weakref.ref[nn.Module] | None = None
        if module is not None:
            self.adopt(module)

    def lineage(self) -> Iterator[Scope]:
        """This scope, its parent, and so on to the block."""
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.parent

    @property
    def module(self) -> nn.Module | None:
        """The module that this row stands for, while it lives."""
        return self._module() if self._module else None

    def adopt(self, module: nn.Module) -> None:
        """Make ``module`` the one that this row stands for."""
        self._module = weakref.ref(module)
        self.type = type_name(module)
        self.measure()

    def measure(self) -> None:
        """Count the parameters; later again, since a lazy module has none before its first call."""
        if (module := self.module) is not None:
            with without_functions(), untraced():
                self.params = sum(map(_size, _parameters(module)))

    def child(self, name: str, module: nn.Module) -> Scope:
        """The row ``name`` below this one, for ``module``."""
        scope = self.children.get(name)
        if scope is None:
            scope = self.children[name] = Scope(name, self, module)
        elif scope.module is not module:
            scope.adopt(module)
        return scope

    def remember(self, module: nn.Module, scope: Scope, is_call: bool) -> Entered:
        """Note where ``module`` led when it was called from here, until it dies."""
        key, entered = id(module), self.entered
        known = weakref.ref(module, lambda _: entered.pop(key, None)), scope, is_call
        entered[key] = known
        return known

    def owned(self, module: nn.Module) -> Scope | None:
        """The row of ``module`` below this one, if this scope's module owns it."""
        owner = self.module
        if owner is None:
            return None
        for look in (None, _attributes, _paths):  # the quickest first
            if look is not None:
                self._names = look(owner)
            steps = _walk(owner, self._names.get(id(module)))
            if steps and steps[-1][1] is module:
                break
        scope = self
        for name, inner in steps:
            # the wrapper's row is that of the module it wraps
            scope = scope if inner is scope.module else scope.child(name, innermost(inner))
        return scope if steps else None


Entered = tuple["weakref.ref[nn.Module]", Scope, bool]
"""A module, the row that it led to when it was called, and whether that counts as a call."""


def _attributes(owner: nn.Module) -> dict[int, str]:
    """The attribute of ``owner`` that each of its own modules is: the first, if it is several."""
    return {
        id(child): name for name, child in reversed(owner._modules.items()) if child is not None
    }


def _parameters(module: nn.Module) -> Iterator[torch.Tensor]:
    """Each parameter of ``module`` and its children, once; a class may define another way."""
    seen: set[int] = set()
    waiting = [module]
    for inner in waiting:  # which grows
        for parameter in inner._parameters.values():
            if parameter is not None and id(parameter) not in seen:
                seen.add(id(parameter))
                yield parameter
        for child in inner._modules.values():
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                waiting.append(child)


def _size(parameter: torch.Tensor) -> int:
    if type(parameter) is nn.Parameter:
        return parameter.numel()
    if is_lazy(parameter):
        return 0
    with without_modes():  # modes are asked for the size of tensors of some classes
        return parameter.numel()


def _paths(owner: nn.Module) -> dict[int, str]:
    """The shortest path from ``owner`` to each module below it: its own attributes come first."""
    paths = {id(owner): ""}
    waiting = [owner]
    for module in waiting:  # which grows
        prefix = f"{paths[id(module)]}." if paths[id(module)] else ""
        for name, child in nn.Module.named_children(module):
            if id(child) not in paths:
                paths[id(child)] = prefix + name
                waiting.append(child)
    return paths


def _walk(owner: nn.Module, path: str | None) -> list[tuple[str, nn.Module]]:
    """The modules on the way from ``owner`` to ``path``, or nothing if it leads nowhere."""
    steps: list[tuple[str, nn.Module]] = []
    for name in path.split(".") if path else ():
        step = getattr(owner, name, None)
        if not isinstance(step, nn.Module):
            return []
        steps.append((name, step))
        owner = step
    return steps


def type_name(module: nn.Module) -> str:
    """The class that the user wrote: fully_shard() puts an ``FSDP`` class of its own over it."""
    cls = type(module)
    sharded = any(base.__name__ == "FSDPModule" for base in cls.__bases__)
    return (cls.__bases__[-1] if sharded else cls).__name__


def innermost(module: nn.Module) -> nn.Module:
    """``module`` without the wrappers of torch.compile, FSDP, checkpointing and DataParallel."""
    while True:
        if isinstance(module, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            inner: nn.Module | None = module.module
        else:
            inner = next((m for n, m in module._modules.items() if n in WRAPPERS), None)
        if inner is None:
            return module
        module = inner
