"""The tree of modules that ran: its rows, their names, and the owners of parameters.

A module is named by the attribute by which its caller owns it. The counter, a traced graph and a
report use this tree alike; it knows no hooks and no costs.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from flopcount.attribution.phase import BACKWARD, FORWARD, PHASES
from flopcount.torch_private.compiler import is_graph_of_torchs_own, untraced
from flopcount.torch_private.modes import without_functions, without_modes

__all__ = ["Entered", "ModuleTree", "Place", "Scope", "innermost", "type_name"]

WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Attributes behind which torch.compile, FSDP and checkpoint wrappers keep the user's module."""


class Place:
    """A scope, a phase, and the gradient that is computed there, if the autograd graph tells it.

    There is one object for each combination, so that it hashes by identity. ``entered`` has the
    modules that were called from here before, for the quick way in.
    """

    __slots__ = ("_of_gradients", "entered", "gradient", "phase", "scope")

    def __init__(
        self, scope: Scope, phase: str, entered: dict[int, Entered], gradient: str | None = None
    ) -> None:
        self.scope = scope
        self.phase = phase
        self.entered = entered
        self.gradient = gradient
        self._of_gradients: dict[str, Place] = {}

    def computing(self, gradient: str) -> Place:
        """This place, where ``gradient`` is computed: ``input``, ``weight`` or ``bias``."""
        place = self._of_gradients.get(gradient)
        if place is None:
            place = Place(self.scope, self.phase, self.entered, gradient)
            place = self._of_gradients.setdefault(gradient, place)  # of two threads the first
        return place


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


class ModuleTree:
    """The modules that ran, each below the one that called it.

    Args:
        model: names the root, and its submodules where nobody above them ran.

    Attributes:
        root: the watched block itself; below it are the root modules.
        unattributed: the row of ops whose module nobody knows.
        model: the row of the model that was given.
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        self.root = Scope("", None)
        self.unattributed = Scope("unattributed", self.root)
        self.model: Scope | None = None
        if model is not None:
            inner = innermost(model)
            self.model = self.root.child(type_name(inner), inner)
        self._parameters: dict[int, tuple[weakref.ref[torch.Tensor], Scope]] = {}
        self._lock = threading.RLock()

    def scopes(self) -> Iterator[Scope]:
        """Every scope that is known, parents before their children."""
        waiting = [self.root]
        while waiting:
            scope = waiting.pop()
            yield scope
            waiting.extend(reversed(list(scope.children.values())))

    def find(
        self,
        module: nn.Module,
        caller: Scope,
        running: Iterable[tuple[object, Scope]],
        *,
        in_backward: bool = False,
    ) -> Entered:
        """Where ``module`` leads when it is called from ``caller``; remembered there.

        Args:
            module: the module that is entered.
            caller: the row of the module that calls it.
            running: every open module with the row that it runs in, outermost first.
            in_backward: whether backward calls it, to compute again what was not kept.
        """
        known = caller.entered.get(id(module))
        if known is not None and known[0]() is module:
            return known
        if is_graph_of_torchs_own(module):  # a branch, or a part of a compiled step
            return caller.remember(module, caller, False)
        inner = innermost(module)
        with self._lock:
            self._parameters = {}  # it may own parameters that an outer row stood in for
            scope = self._row(inner, caller, running, in_backward)
            return caller.remember(module, scope, module is inner)

    def _row(
        self,
        module: nn.Module,
        caller: Scope,
        running: Iterable[tuple[object, Scope]],
        in_backward: bool,
    ) -> Scope:
        for scope in caller.lineage():
            if scope.module is module:  # recursion, or what a wrapper wraps
                return scope
        # what is recomputed may be called from the node of any of its submodules
        for scope in caller.lineage() if in_backward else (caller,):
            if owned := scope.owned(module):
                return owned
        if self.model and caller.module is None:
            if self.model.module is module:
                return self.model
            if owned := self.model.owned(module):
                return owned
        for opened, scope in running:
            if opened is module:  # recursion by way of a module that does not own it
                return scope
        return self._root_module(module)

    def _root_module(self, module: nn.Module) -> Scope:
        """A row of its own below the block: ``Linear``, then ``Linear#2``.

        A module that is gone gives its row to the next of its class.
        """
        name = base = type_name(module)
        count = 1
        while self._is_taken(name, module):
            count += 1
            name = f"{base}#{count}"
        return self.root.child(name, module)

    def _is_taken(self, name: str, module: nn.Module) -> bool:
        """Whether the row ``name`` below the block is that of something else than ``module``."""
        scope = self.root.children.get(name)
        holder = scope and scope.module
        return name == self.unattributed.name or not (holder is None or holder is module)

    def owner_of(self, parameter: torch.Tensor) -> Scope:
        """The innermost scope that ran and owns ``parameter``; else the block."""
        if not isinstance(parameter, nn.Parameter):
            return self.root
        known = self._parameters.get(id(parameter))
        if known is None or known[0]() is not parameter:
            owners = self._parameters_by_owner()
            known = owners.setdefault(id(parameter), (weakref.ref(parameter), self.root))
            self._parameters = owners
        return known[1]

    def _parameters_by_owner(self) -> dict[int, tuple[weakref.ref[torch.Tensor], Scope]]:
        owners: dict[int, tuple[weakref.ref[torch.Tensor], Scope]] = {}
        for scope in self.scopes():  # parents come before their children
            module = scope.module
            for owned in nn.Module.parameters(module) if module is not None else ():
                holder = owners.get(id(owned))
                if holder is None or scope.path.startswith(f"{holder[1].path}."):
                    owners[id(owned)] = weakref.ref(owned), scope
        return owners


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
