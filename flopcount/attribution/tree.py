"""The tree of modules that ran: its rows, their names, and the owners of parameters.

The name of a module is the attribute by which its nearest owner owns it. The counter, a traced
graph and a report all use this tree; it knows no hooks and no costs.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import count, product
from typing import Any

import torch
from torch import nn

from flopcount.attribution.graph_lines import GraphLines, lines_of
from flopcount.attribution.parameters import Parameters
from flopcount.attribution.paths import (
    Way,
    every_name_below,
    held_below,
    paths_below,
    way_along,
    way_through_containers,
)
from flopcount.attribution.phase import BACKWARD, FORWARD, OTHER, PHASES, RECOMPUTE
from flopcount.attribution.wrappers import innermost, type_name, wrapped
from flopcount.torch_private.compiler import is_graph_of_torchs_own, untraced
from flopcount.torch_private.modes import without_functions

UNATTRIBUTED = "unattributed"
"""The row of ops whose module is not known."""

DETOUR_LIMIT = 64
"""From how many places a row that they do not own may be called, and each be told apart."""


class Place:
    """A scope, a phase, and the gradient that is computed there if the autograd graph tells it.

    There is one object for each combination, so that it hashes by identity; and one more for each
    place from which a module is called that does not own it, since the modules that are open there
    may own what it calls.

    Attributes:
        caller: the place, in forward, from which the scope's module was called.
        places: this place in each phase.
        entered: the modules that were called from here before, if the phase is forward.
        is_outside: whether no module is open here, and no step: the phase may be another one.
        lines: what the lines of the code tell that runs here, if it is a graph module's.
        is_vague: whether more than this place is known of an op, since it is one of these two.
    """

    __slots__ = (
        "_in_step",
        "_of_gradients",
        "caller",
        "entered",
        "gradient",
        "is_outside",
        "is_vague",
        "lines",
        "phase",
        "places",
        "scope",
    )

    def __init__(
        self,
        scope: Scope,
        phase: str,
        caller: Place | None,
        places: dict[str, Place],
        gradient: str | None = None,
    ) -> None:
        self.scope = scope
        self.phase = phase
        self.caller = caller
        self.places = places
        self.entered: dict[int, Entered] = {}
        self.gradient = gradient
        self.is_outside = self.is_vague = scope.parent is None and phase == FORWARD
        self.lines: GraphLines | None = None
        self._of_gradients: dict[str, Place] = {}
        self._in_step: Place | None = None

    def computing(self, gradient: str) -> Place:
        """This place, where ``gradient`` is computed: ``input``, ``weight`` or ``bias``."""
        place = self._of_gradients.get(gradient)
        if place is None:
            place = Place(self.scope, self.phase, self.caller, self.places, gradient)
            place = self._of_gradients.setdefault(gradient, place)  # another thread may be first
        return place

    def in_step(self) -> Place:
        """This place inside a step that calls a closure: frames tell which of both an op is of."""
        if self._in_step is None:
            place = Place(self.scope, FORWARD, self.caller, {**self.places, OTHER: self})
            place.is_vague = True
            self._in_step = place
        return self._in_step

    def tell_lines(self, lines: GraphLines) -> None:
        """Let ``lines`` tell the rows of the ops that run here, in forward or again."""
        for phase in (FORWARD, RECOMPUTE):
            self.places[phase].lines, self.places[phase].is_vague = lines, True

    def open_places(self) -> Iterator[Place]:
        """This place, its caller, and so on to the block."""
        place: Place | None = self
        while place is not None:
            yield place
            place = place.caller

    def remember(self, module: nn.Module, place: Place, is_call: bool) -> Entered:
        """Remember, while ``module`` lives, where it ran when it was called from here."""
        key, entered = id(module), self.entered
        known = weakref.ref(module, lambda _: entered.pop(key, None)), place, is_call
        entered[key] = known
        return known


Entered = tuple["weakref.ref[nn.Module]", Place, bool]
"""A module, where it ran when it was called, in forward, and whether that counts as a call."""


def _places(scope: Scope, caller: Place | None) -> dict[str, Place]:
    """The places of ``scope``, by phase, where its module is called from ``caller``."""
    places: dict[str, Place] = {}
    for phase in PHASES:
        if phase != OTHER or scope.parent is None:  # it is outside every module
            places[phase] = Place(scope, phase, caller, places)
    return places


class Scope:
    """One row of the report: a module as its owner owns it.

    The outermost scope is the watched block itself; below it are the root modules. A list or dict
    of modules has a row, too, which stands for no module.
    """

    def __init__(self, name: str, parent: Scope | None, module: nn.Module | None = None) -> None:
        self.name = name
        self.parent = parent
        self.path: str = f"{parent.path}.{name}" if parent and parent.path else name
        self.children: dict[str, Scope] = {}
        self.calls = 0
        self.places = _places(self, parent.forward if parent else None)
        self.forward: Place = self.places[FORWARD]
        self.backward = self.places[BACKWARD]
        self._detours: dict[Place, Place] = {}
        self._names: dict[int, str] = {}
        self.type = ""
        self.parameters: Parameters = parent.parameters if parent else Parameters()
        self.params: int | None = 0
        self.trainable: int | None = 0
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
    def top(self) -> Scope:
        """The root module's row that this one is below, or is."""
        *_, top, _ = (self, *self.lineage())
        return top

    def called_from(self, caller: Place) -> Place:
        """Where this row's module runs if ``caller`` calls it, whose module does not own it."""
        place = self._detours.get(caller)
        if place is None and len(self._detours) < DETOUR_LIMIT:
            place = self._detours[caller] = _places(self, caller)[FORWARD]
        return place or self.forward

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
                inner = wrapped(inner)
            self.measure()
        return self

    def measure(self) -> None:
        """Count the parameters. A lazy module has none before its first call, so count again."""
        is_container = self._module is None and self.parent is not None
        holders = self.children.values() if is_container else (self,)
        modules = [module for scope in holders if (module := scope.module) is not None]
        if modules:
            with without_functions(), untraced():
                self.params, self.trainable = self.parameters.count(*modules)

    def child(self, name: str, held: Any) -> Scope:
        """The row ``name`` below this one, for a module, or a list or dict of modules."""
        scope = self.children.get(name)
        if scope is None:
            scope = self.children[name] = Scope(name, self)
        if not isinstance(held, nn.Module):
            scope.type = type(held).__name__
        elif scope.module is not held:
            scope.adopt(held)
        return scope

    def traced_child(self, name: str, held: nn.Module | None) -> Scope:
        """The row ``name`` below this one, of a module that was traced.

        ``held`` holds its parameters, if it has any, and has no class of its own.
        """
        scope = self.children.get(name)
        if scope is None:
            scope = self.children[name] = Scope(name, self, held)
            scope.type = "" if type(held) is nn.Module else scope.type
        return scope

    def way_to(self, module: nn.Module) -> Way:
        """The way from this scope's module down to ``module``, if it has registered it."""
        owner = self.module
        if owner is None:
            return []
        way = way_along(self._names.get(id(module), ""), owner, module)
        if not way:  # first the module's own attributes, which are few; the first of a child wins
            attributes = reversed(owner._modules.items())
            self._names = {id(child): name for name, child in attributes if child is not None}
            way = way_along(self._names.get(id(module), ""), owner, module)
        if not way:
            self._names = {id(inner): path for path, inner in paths_below(owner)}
            way = way_along(self._names.get(id(module), ""), owner, module)
        return way

    def way_through_containers(self, module: nn.Module) -> Way:
        """The same, if the way leads through lists, tuples or dicts that are attributes."""
        owner = self.module
        return way_through_containers(owner, module) if owner is not None else []


WAYS = (Scope.way_to, Scope.way_through_containers)
"""How to find a module that a scope's module owns: what is registered comes first."""


class ModuleTree:
    """The modules that ran, each below its nearest owner.

    Args:
        models: the models that were given, by the names of their roots. Their submodules are found
            where nobody above them ran.
        named: the user's paths begin with these names.
    """

    def __init__(
        self, models: Mapping[str, nn.Module] | None = None, *, named: bool = False
    ) -> None:
        self.root = Scope("", None)  # the watched block itself; below it are the root modules
        self.unattributed = Scope(UNATTRIBUTED, self.root)
        self.models: list[Scope] = []
        for name, model in (models or {}).items():
            self.models.append(self.root.child(name, innermost(model)).wrap(model))
        self.named = named
        self._held: dict[Scope, set[int]] = {}  # what roots lead to, ...
        self._held_in: tuple[Scope, int] | None = None  # ... while this call of a module is open
        self._parameters: dict[int, tuple[weakref.ref[torch.Tensor], Scope]] = {}
        self._lock = threading.RLock()

    def scopes(self) -> Iterator[Scope]:
        """Every scope that is known, parents before their children."""
        waiting = [self.root]
        while waiting:
            scope = waiting.pop()
            yield scope
            waiting.extend(reversed(list(scope.children.values())))

    def other_names(self, shown: Collection[Scope]) -> dict[Scope, list[str]]:
        """The paths of ``shown`` rows' modules that are no rows, because the others are.

        A module that is registered twice has the row of its first name. One that has several rows
        is not told by any further name, unless a row beside it is the one that this name shares.
        """
        paths = {scope.path for scope in shown}
        rows: dict[int, list[Scope]] = {}
        for scope in shown:
            if (module := scope.module) is not None:
                rows.setdefault(id(module), []).append(scope)
        names: dict[Scope, list[str]] = {}
        for root in self.root.children.values():
            owner = root.module
            for name, module in every_name_below(owner) if owner is not None else ():
                path = f"{root.path}.{name}"
                if path not in paths and (own := rows.get(id(module))):
                    beside = [row for row in own if row.parent and row.parent.path == _outer(path)]
                    for row in beside or own[: len(own) == 1]:
                        names.setdefault(row, []).append(path)
        return names

    def forget_calls(self) -> None:
        """Count calls from 0 again."""
        self._held_in = None
        for scope in self.scopes():
            scope.calls = 0

    def find(self, module: nn.Module, caller: Place) -> Entered:
        """Where ``module`` runs when it is called from ``caller``, which remembers it."""
        caller = caller.places[FORWARD]
        known = caller.entered.get(id(module))
        if known is not None and known[0]() is module:
            return known
        if is_graph_of_torchs_own(module):  # a branch of cond, or a part of a compiled step
            return caller.remember(module, caller, False)
        inner = innermost(module)
        with self._lock:
            self._parameters = {}  # this row may own some that an outer row stood in for
            if caller.lines is not None and caller.lines.has_part(inner):
                return caller.remember(module, self._part(inner, caller, caller.lines), False)
            place = self._place(inner, caller)
            place.scope.wrap(module)
            if place.lines is None and (lines := lines_of(inner, place.scope, None)):
                place.tell_lines(lines)
            return caller.remember(module, place, module is inner)

    @staticmethod
    def _part(module: nn.Module, caller: Place, outer: GraphLines) -> Place:
        """Where a part of the graph runs that runs at ``caller``: in the rows of the whole."""
        lines = lines_of(module, outer.base, outer)
        if lines is None:
            return caller
        place = _places(caller.scope, caller)[FORWARD]
        place.tell_lines(lines)
        return place

    def _place(self, module: nn.Module, caller: Place) -> Place:
        for opened in caller.open_places():
            if opened.scope.module is module:  # it is entered again, or a wrapper calls it
                return opened
        owner, row = self._owner_and_row(module, caller)
        is_owners_call = caller is owner.forward or caller is self.root.forward
        return row.forward if is_owners_call else row.called_from(caller)

    def _owner_and_row(self, module: nn.Module, caller: Place) -> tuple[Scope, Scope]:
        """The nearest owner of ``module``, and the row that it has there."""
        if given := self._given(module):
            return self.root, given
        if caller is caller.scope.forward and (way := caller.scope.way_to(module)):
            return caller.scope, self._row_along(way, caller.scope)  # nearly always
        *scopes, _ = (place.scope for place in caller.open_places())
        owners = dict.fromkeys([*scopes, *self.models])
        if self._is_held(module, owners, scopes[-1] if scopes else None):
            # a module that others call and do not own may hold what is theirs
            homes = {*self.models, *(scope.top for scope in scopes[-1:])}
            guests = [scope for scope in owners if scope.top not in homes]
            hosts = [scope for scope in owners if scope.top in homes]
            for group, find_way in product((hosts, guests), WAYS):
                for owner in group:
                    if way := find_way(owner, module):
                        return owner, self._row_along(way, owner)
        return self.root, self._root_module(module)

    def _is_held(self, module: nn.Module, owners: Iterable[Scope], outermost: Scope | None) -> bool:
        """Whether any of ``owners`` leads to ``module``.

        What they lead to is listed once in a call of the outermost module, since modules that are
        made for one call may be many.
        """
        call = (outermost, outermost.calls) if outermost else None
        if call is None or call != self._held_in:
            self._held, self._held_in = {}, call
        for scope in owners:
            root = scope.module if scope.parent is self.root else None
            if root is not None and scope not in self._held:
                self._held[scope] = {id(item) for _, _, item in held_below(root)}
        return any(id(module) in self._held.get(scope, ()) for scope in owners)

    def _given(self, module: Any) -> Scope | None:
        """The root of ``module``, if it is one of the given models."""
        return next((model for model in self.models if model.module is module), None)

    def _row_along(self, way: Way, scope: Scope) -> Scope:
        """The row to which ``way`` leads from ``scope``; a given model has none but its own."""
        for name, held in way:
            inner = innermost(held) if isinstance(held, nn.Module) else held
            if inner is not scope.module:  # the wrapper's row is that of the module it wraps
                scope = self._given(inner) or scope.child(name, inner)
                if inner is not held:
                    scope.wrap(held)
        return scope

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


def _outer(path: str) -> str:
    return path.rpartition(".")[0]
