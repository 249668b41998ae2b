"""The tree of modules that ran: its rows, their names, and the owners of parameters.

The name of a module is the attribute by which its caller owns it. The counter, a traced graph and
a report all use this tree; it knows no hooks and no costs.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import count

import torch
from torch import nn

from flopcount.attribution.parameters import Parameters
from flopcount.attribution.phase import BACKWARD, FORWARD, PHASES
from flopcount.torch_private.compiler import is_graph_of_torchs_own, untraced
from flopcount.torch_private.modes import without_functions
from flopcount.torch_private.sharding import FSDP_WRAPPED_MODULE

WRAPPERS = frozenset({"_orig_mod", FSDP_WRAPPED_MODULE, "_checkpoint_wrapped_module"})
"""Attributes behind which torch.compile, FSDP and checkpoint wrappers keep the user's module."""


class Place:
    """A scope, a phase, and the gradient that is computed there if the autograd graph tells it.

    There is one object for each combination, so that it hashes by identity. ``entered`` holds the
    modules that were called from here before.
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
            place = self._of_gradients.setdefault(gradient, place)  # another thread may be first
        return place


class Scope:
    """One row of the report: a module as its caller owns it.

    The outermost scope is the watched block itself; below it are the root modules.
    """

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
        self.parameters: Parameters = parent.parameters if parent else Parameters()
        self.params = self.trainable = 0
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
        """Let this row stand for ``module``."""
        self._module = weakref.ref(module)
        self.type = type_name(module)
        self.measure()

    def wrap(self, wrapper: nn.Module) -> Scope:
        """Note the outermost wrapper of this row's module, which may hold its parameters."""
        if wrapper is not self.module:
            inner: nn.Module | None = wrapper
            while inner is not None:
                self.parameters.note(inner)
                inner = _wrapped(inner)
            self.measure()
        return self

    def measure(self) -> None:
        """Count the parameters. A lazy module has none before its first call, so count again."""
        if (module := self.module) is not None:
            with without_functions(), untraced():
                self.params, self.trainable = self.parameters.count(module)

    def child(self, name: str, module: nn.Module) -> Scope:
        """The row ``name`` below this one, for ``module``."""
        scope = self.children.get(name)
        if scope is None:
            scope = self.children[name] = Scope(name, self, module)
        elif scope.module is not module:
            scope.adopt(module)
        return scope

    def remember(self, module: nn.Module, scope: Scope, is_call: bool) -> Entered:
        """Remember, while ``module`` lives, which row it led to when it was called from here."""
        key, entered = id(module), self.entered
        known = weakref.ref(module, lambda _: entered.pop(key, None)), scope, is_call
        entered[key] = known
        return known

    def owned(self, module: nn.Module) -> Scope | None:
        """The row of ``module`` below this one, if this scope's module owns it."""
        way = self._way_to(module)
        scope = self
        for name, inner in way:
            # the wrapper's row is that of the module it wraps
            if (unwrapped := innermost(inner)) is not scope.module:
                scope = scope.child(name, unwrapped).wrap(inner)
        return scope if way else None

    def _way_to(self, module: nn.Module) -> list[tuple[str, nn.Module]]:
        """The names and modules from this scope's module down to ``module``, if it owns it."""
        owner = self.module
        if owner is None:
            return []
        way = _walk(owner, self._names, module)
        if not way:  # first the module's own attributes, which are few; the first of a child wins
            attributes = reversed(owner._modules.items())
            self._names = {id(child): name for name, child in attributes if child is not None}
            way = _walk(owner, self._names, module)
        if not way:
            self._names = {id(inner): path for path, inner in _paths_below(owner)}
            way = _walk(owner, self._names, module)
        return way


Entered = tuple["weakref.ref[nn.Module]", Scope, bool]
"""A module, the row that it led to when it was called, and whether that counts as a call."""

Running = Iterable[tuple[object, Scope]]
"""The modules that are open, each with the row that it runs in, outermost first."""


class ModuleTree:
    """The modules that ran, each below the one that called it.

    Args:
        model: names the root, and its submodules where nobody above them ran.
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        self.root = Scope("", None)  # the watched block itself; below it are the root modules
        self.unattributed = Scope("unattributed", self.root)  # ops whose module is not known
        self.model: Scope | None = None
        if model is not None:
            inner = innermost(model)
            self.model = self.root.child(type_name(inner), inner).wrap(model)
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
        self, module: nn.Module, caller: Scope, running: Running, *, in_backward: bool = False
    ) -> Entered:
        """The row of ``module`` when ``caller`` calls it, which the caller's row remembers.

        ``in_backward`` tells that backward calls it, to compute again what a checkpoint dropped.
        """
        known = caller.entered.get(id(module))
        if known is not None and known[0]() is module:
            return known
        if is_graph_of_torchs_own(module):  # a branch of cond, or a part of a compiled step
            return caller.remember(module, caller, False)
        inner = innermost(module)
        with self._lock:
            self._parameters = {}  # this row may own some that an outer row stood in for
            scope = self._row(inner, caller, running, in_backward).wrap(module)
            return caller.remember(module, scope, module is inner)

    def _row(self, module: nn.Module, caller: Scope, running: Running, in_backward: bool) -> Scope:
        for scope in caller.lineage():
            if scope.module is module:  # recursion, or what a wrapper wraps
                return scope
        # a checkpointed block may run again from a node of any of its submodules
        for scope in caller.lineage() if in_backward else (caller,):
            if owned := scope.owned(module):
                return owned
        if self.model and caller.module is None:
            if self.model.module is module:
                return self.model
            if owned := self.model.owned(module):
                return owned
        for opened, scope in running:
            if opened is module:  # recursion through a module that does not own it
                return scope
        return self._root_module(module)

    def _root_module(self, module: nn.Module) -> Scope:
        """A row of its own below the block: ``Linear``, then ``Linear#2``.

        When a module is gone, the next one of its class takes over its row.
        """
        base = type_name(module)
        names = (f"{base}#{number}" if number > 1 else base for number in count(1))
        name = next(name for name in names if not self._is_taken(name, module))
        return self.root.child(name, module)

    def _is_taken(self, name: str, module: nn.Module) -> bool:
        """Whether the row ``name`` below the block belongs to something other than ``module``."""
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


def _paths_below(owner: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """``owner`` and each module below it, once, with its shortest path.

    A class may redefine ``modules()`` and ``parameters()``; no such method is asked here.
    """
    seen = {id(owner)}
    waiting = deque([("", owner)])
    while waiting:
        path, module = waiting.popleft()
        yield path, module
        for name, child in module._modules.items():
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                waiting.append((f"{path}.{name}" if path else name, child))


def _walk(
    owner: nn.Module, names: dict[int, str], module: nn.Module
) -> list[tuple[str, nn.Module]]:
    """The modules on the way from ``owner`` to ``module``, if its path in ``names`` leads there."""
    way: list[tuple[str, nn.Module]] = []
    step = owner
    path = names.get(id(module), "")
    for name in path.split(".") if path else ():
        child = getattr(step, name, None)
        if not isinstance(child, nn.Module):
            return []
        way.append((name, child))
        step = child
    return way if step is module else []


def type_name(module: nn.Module) -> str:
    """The name of the class that the user wrote, without the ``FSDP`` class of fully_shard()."""
    cls = type(module)
    sharded = any(base.__name__ == "FSDPModule" for base in cls.__bases__)
    return (cls.__bases__[-1] if sharded else cls).__name__


def innermost(module: nn.Module) -> nn.Module:
    """``module`` without the wrappers of torch.compile, FSDP, checkpointing and DataParallel."""
    while (inner := _wrapped(module)) is not None:
        module = inner
    return module


def _wrapped(module: nn.Module) -> nn.Module | None:
    """What ``module`` is a wrapper of; None if it is the user's own."""
    if isinstance(module, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        inner: nn.Module = module.module
        return inner
    return next((m for n, m in module._modules.items() if n in WRAPPERS), None)
