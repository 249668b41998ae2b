"""Which module, and which phase, does the op that is running belong to?

Global forward hooks keep a stack of scopes for each thread. Whenever its top changes they write
down the number that autograd will give to the next node it creates: nodes numbered from a to b
were made in this scope. In backward the number of the running node leads back to its scope. No
tensor is touched, so that any program runs as it would alone.
"""

from __future__ import annotations

import sys
import threading
import weakref
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.nn.parameter import is_lazy
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from flopcount._private import (
    GRADIENT_ORDER,
    NO_SEQUENCE_NR,
    backward_task,
    next_sequence_nr,
    running_node,
    will_execute,
)
from flopcount.ledger import BACKWARD, FORWARD, OPTIMIZER, PHASES, RECOMPUTE

__all__ = ["Attribution", "Place", "Scope", "Thread", "product_gradient", "sum_gradient"]

RECORD_LIMIT = 1 << 17
"""Changes of scope that are remembered, at least, for each thread; older nodes are unattributed."""

WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Attributes behind which torch.compile, FSDP and checkpoint wrappers keep the user's module."""

VIEW_NODES = frozenset(
    f"{op}Backward0"
    for op in ("Expand", "Permute", "Squeeze", "T", "ToCopy", "Transpose", "UnsafeView", "View")
)
"""Nodes that pass a gradient on in another shape or dtype."""


class Place:
    """A scope and a phase. There is one object for each pair, so that it hashes by identity."""

    __slots__ = ("phase", "scope")

    def __init__(self, scope: Scope, phase: str) -> None:
        self.scope = scope
        self.phase = phase


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
        self.places = {phase: Place(self, phase) for phase in PHASES}
        self.forward = self.places[FORWARD]
        self.backward = self.places[BACKWARD]
        # where each module led, by id, when it was called from here, and whether that is a call
        self.entered: dict[int, Entered] = {}
        self._names: dict[int, str] = {}
        self.type = ""
        self.params = 0
        self._module: weakref.ref[nn.Module] | None = None
        if module is not None:
            self.adopt(module)

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
            self.params = sum(p.numel() for p in module.parameters() if not is_lazy(p))

    def child(self, name: str, module: nn.Module) -> Scope:
        """The row ``name`` below this one, for ``module``."""
        scope = self.children.get(name)
        if scope is None:
            scope = self.children[name] = Scope(name, self, module)
        elif scope.module is not module:
            scope.adopt(module)
        return scope

    def owned(self, module: nn.Module) -> Scope | None:
        """The row of ``module`` below this one, if this scope's module owns it."""
        owner = self.module
        if owner is None:
            return None
        steps = _walk(owner, self._names.get(id(module), "?"))
        if not steps or steps[-1][1] is not module:
            self._names = {id(m): name for name, m in owner.named_modules() if name}
            steps = _walk(owner, self._names.get(id(module), "?"))
        if not steps:
            return None
        scope = self
        for name, inner in steps:
            # the wrapper's row is that of the module it wraps
            scope = scope if inner is scope.module else scope.child(name, innermost(inner))
        return scope


Entered = tuple["weakref.ref[nn.Module]", Scope, bool]


def _walk(owner: nn.Module, dotted: str) -> list[tuple[str, nn.Module]]:
    """The modules on the way from ``owner`` to ``dotted``, or nothing if it leads nowhere."""
    steps = []
    for name in dotted.split("."):
        step = owner._modules.get(name)
        if step is None:
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
            inner: Any = module.module
        else:
            inner = next((m for n, m in module._modules.items() if n in WRAPPERS), None)
        if inner is None:
            return module
        module = inner


class Record:
    """Which scope made the autograd nodes of one thread, by their numbers."""

    __slots__ = ("scopes", "starts")

    def __init__(self) -> None:
        self.starts = array("Q")
        self.scopes: list[Scope | None] = []

    def note(self, scope: Scope | None, start: int) -> None:
        """Nodes numbered ``start`` and up are made in ``scope``; None: nobody watches."""
        starts, scopes = self.starts, self.scopes
        if starts:
            if scopes[-1] is scope:
                return
            if starts[-1] >= start:  # the last stretch made no node
                scopes[-1] = scope
                return
        starts.append(start)
        scopes.append(scope)
        if len(starts) >= 2 * RECORD_LIMIT:
            del starts[:RECORD_LIMIT], scopes[:RECORD_LIMIT]

    def owner(self, number: int) -> Scope | None:
        """The scope that made node ``number``, or None if nobody watched."""
        index = bisect_right(self.starts, number)
        return self.scopes[index - 1] if index else None


class Thread:
    """What attribution knows about one thread; ``tally`` is for whoever counts in it."""

    __slots__ = (
        "entries",
        "node_number",
        "node_place",
        "place",
        "product_number",
        "products",
        "recompute_task",
        "record",
        "stack",
        "step_frame",
        "tally",
        "task",
        "tasks_without_graph",
    )

    def __init__(self, attribution: Attribution) -> None:
        self.entries = 0
        self.tally: dict[Any, Any] = {}
        self.place = attribution.root.forward
        # what each open module or optimizer step found when it was entered
        self.stack: list[tuple[object, Place]] = []
        self.step_frame: FrameType | None = None
        self.record = Record()
        # the last backward pass, node and product that were looked up
        self.task = -1
        self.node_number = -1
        self.node_place = attribution.unattributed.backward
        self.product_number = -1
        self.products: Iterator[str] = iter(())
        # backward passes that run modules again, or that autograd does not record
        self.recompute_task = -1
        self.tasks_without_graph: set[int] = set()
        attribution.threads.append(self)


class _Local(threading.local):
    """Gives each thread a Thread of its own."""

    def __init__(self, attribution: Attribution) -> None:
        self.thread = Thread(attribution)


class Attribution:
    """Tells the place of the op that runs at this instant.

    Args:
        model: names the root, and its submodules where nobody above them ran.
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        self.root = Scope("", None)
        self.unattributed = Scope("unattributed", self.root)
        self.threads: list[Thread] = []
        self.model: Scope | None = None
        if model is not None:
            inner = innermost(model)
            self.model = self.root.child(type_name(inner), inner)
        self.local = _Local(self)
        self._parameters: dict[int, tuple[weakref.ref[torch.Tensor], Scope]] = {}
        self._entries = 0
        self._lock = threading.Lock()
        self._hooks: list[Any] = []

    # -- watching

    def enter(self) -> None:
        """Watch this thread. Each call is undone by one of :meth:`exit`."""
        with self._lock:
            self._entries += 1
            if self._entries == 1:
                self._hooks = [
                    register_module_forward_pre_hook(self._enter_module),
                    register_module_forward_hook(self._exit_module, always_call=True),
                    register_optimizer_step_pre_hook(self._enter_step),
                    register_optimizer_step_post_hook(self._exit_step),
                ]
        thread = self.local.thread
        thread.entries += 1
        if thread.entries == 1:
            thread.record.note(self.root, next_sequence_nr())

    def exit(self) -> None:
        """Stop watching; what an exception left on the stack is forgotten."""
        thread = self.local.thread
        thread.entries -= 1
        if thread.entries == 0:
            thread.stack.clear()
            thread.step_frame = None
            thread.place = self.root.forward
            thread.record.note(None, next_sequence_nr())
        with self._lock:
            self._entries -= 1
            if self._entries == 0:
                for hook in self._hooks:
                    hook.remove()
                self._hooks = []

    def _enter_module(self, module: nn.Module, inputs: Any) -> None:
        thread = self.local.thread
        if backward_task() != -1:
            self._enter_recomputed(thread, module)
            return
        if not thread.entries:
            return  # a thread that nobody watches
        if thread.place.phase == OPTIMIZER:
            self._forget_failed_step()
        place = thread.place
        known = place.scope.entered.get(id(module))
        if known is None or known[0]() is not module:
            known = self._find(place.scope, module)
        _, scope, is_call = known
        scope.calls += is_call
        thread.stack.append((module, place))
        thread.place = scope.forward
        thread.record.note(scope, next_sequence_nr())

    def _enter_recomputed(self, thread: Thread, module: nn.Module) -> None:
        place = thread.place
        caller = place.scope if place.phase == RECOMPUTE else self._owner(running_node())
        known = caller.entered.get(id(module))
        if known is None or known[0]() is not module:
            known = self._find(caller, module, in_backward=True)
        scope = known[1]
        thread.recompute_task = backward_task()
        thread.stack.append((module, place))
        thread.place = scope.places[RECOMPUTE]
        thread.record.note(scope, next_sequence_nr())

    def _exit_module(self, module: nn.Module, inputs: Any, output: Any) -> None:
        thread = self.local.thread
        stack = thread.stack
        if not stack:
            return
        opened, place = stack.pop()
        if opened is not module:
            # an exception passed through what was opened last, or the block began in this module
            stack.append((opened, place))
            if not any(opened is module for opened, _ in stack):
                return
            while opened is not module:
                opened, place = stack.pop()
        scope: Scope | None = place.scope
        if thread.place.phase == RECOMPUTE != place.phase:
            # a backward thread of an accelerator makes nodes only while it recomputes
            scope = self._owner(running_node()) if thread.entries else None
        thread.place = place
        thread.record.note(scope, next_sequence_nr())

    def _enter_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        thread = self.local.thread
        if thread.entries:
            self._exit_step(optimizer, args, kwargs)  # an earlier step that raised
            thread.stack.append((optimizer, thread.place))
            thread.step_frame = sys._getframe(1)
            thread.place = thread.place.scope.places[OPTIMIZER]

    def _exit_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        thread = self.local.thread
        if any(opened is optimizer for opened, _ in thread.stack):
            opened: object = None
            while opened is not optimizer:
                opened, thread.place = thread.stack.pop()
        thread.step_frame = None

    def _forget_failed_step(self) -> None:
        """Post hooks of a step that raises do not run; its frame tells whether it still does."""
        thread = self.local.thread
        frame: FrameType | None = sys._getframe(2)
        while frame is not None and frame is not thread.step_frame:
            frame = frame.f_back
        if frame is None:
            optimizer, _ = thread.stack[-1]
            self._exit_step(optimizer, None, None)

    def _find(self, caller: Scope, module: nn.Module, in_backward: bool = False) -> Entered:
        """Where ``module`` leads when it is called from ``caller``; remembered there."""
        self._parameters.clear()  # it may own parameters that an outer row stood in for
        inner = innermost(module)
        scope = self._row(caller, inner, in_backward)
        known = caller.entered[id(module)] = weakref.ref(module), scope, module is inner
        return known

    def _row(self, caller: Scope, module: nn.Module, in_backward: bool) -> Scope:
        scope: Scope | None = caller
        while scope is not None:
            if scope.module is module:  # recursion, or what a wrapper wraps
                return scope
            scope = scope.parent
        scope = caller
        while scope is not None and scope.parent is not None:
            if owned := scope.owned(module):
                return owned
            # what is recomputed may be called from the node of any of its submodules
            scope = scope.parent if in_backward else None
        if self.model and caller is self.root:
            if self.model.module is module:
                return self.model
            if owned := self.model.owned(module):
                return owned
        return self._root_module(module)

    def _root_module(self, module: nn.Module) -> Scope:
        """A row of its own below the block: ``Linear``, then ``Linear#2``.

        A module that is gone gives its row to the next of its class.
        """
        name = base = type_name(module)
        count = 1
        while (scope := self.root.children.get(name)) and scope.module not in (None, module):
            count += 1
            name = f"{base}#{count}"
        return self.root.child(name, module)

    # -- backward

    def in_backward(self, thread: Thread, node: Any, args: Sequence[Any]) -> Place:
        """The place of the op with ``args`` that autograd node ``node`` is running."""
        if thread.place.phase == RECOMPUTE and backward_task() == thread.recompute_task:
            return thread.place
        if torch.is_grad_enabled():
            return self._in_recorded_backward(thread, node, args)
        number = node._sequence_nr()
        if number != thread.node_number or number == NO_SEQUENCE_NR:
            thread.node_number = number
            thread.node_place = self._owner(node).backward
            task = backward_task()
            if task != thread.task:
                thread.task = task
                if len(thread.tasks_without_graph) >= 64:  # far deeper than these nest
                    thread.tasks_without_graph.clear()
                thread.tasks_without_graph.add(task)
        return thread.node_place

    def _in_recorded_backward(self, thread: Thread, node: Any, args: Sequence[Any]) -> Place:
        """Autograd records what this op does: double backward, or recomputation without a module.

        With ``create_graph=True`` grad mode is on from a backward pass's first op; else it is off
        until something is recomputed.
        """
        scope = self._owner(node)
        made = any(isinstance(value, torch.Tensor) and value.requires_grad for value in args)
        thread.record.note(scope, next_sequence_nr() - made)
        recomputes = backward_task() in thread.tasks_without_graph
        return scope.places[RECOMPUTE] if recomputes else scope.backward

    def _owner(self, node: Any) -> Scope:
        """The scope whose forward made ``node``."""
        if node is None:
            return self.unattributed
        number = node._sequence_nr()
        if number == NO_SEQUENCE_NR:
            return self._parameter_owner(node.variable)
        here = self.local.thread
        scope = here.record.owner(number) if number < next_sequence_nr() else None
        if scope is None:  # made by another thread: accelerators run backward in their own
            others = (t.record.owner(number) for t in self.threads if t is not here)
            scope = next(filter(None, others), self.unattributed)
        return scope

    def _parameter_owner(self, parameter: torch.Tensor) -> Scope:
        """The innermost scope that ran and owns ``parameter``; else the block."""
        if not isinstance(parameter, nn.Parameter):
            return self.root
        known = self._parameters.get(id(parameter))
        if known is None or known[0]() is not parameter:
            self._parameters = {}
            for scope in self.scopes():  # parents come before their children
                for owned in scope.module.parameters() if scope.module else ():
                    holder = self._parameters.get(id(owned))
                    if holder is None or scope.path.startswith(f"{holder[1].path}."):
                        self._parameters[id(owned)] = weakref.ref(owned), scope
            known = weakref.ref(parameter), self.root
            known = self._parameters.setdefault(id(parameter), known)
        return known[1]

    def scopes(self) -> Iterator[Scope]:
        """Every scope that is known, parents before their children."""
        waiting = [self.root]
        while waiting:
            scope = waiting.pop()
            yield scope
            waiting.extend(reversed(scope.children.values()))


def product_gradient(thread: Thread, node: Any) -> str | None:
    """Which gradient the product that ``node`` runs now computes: ``input`` or ``weight``.

    A matmul node makes one product for each of its inputs that wants a gradient, in an order
    that is its own. A gradient that flows to a parameter, through views and casts at most, is
    the weight's.
    """
    order = GRADIENT_ORDER.get(type(node).__name__)
    if order is None:
        return None
    number = node._sequence_nr()
    if number != thread.product_number:
        thread.product_number = number
        edges = node.next_functions
        thread.products = iter(
            [
                "weight" if _leads_to_parameter(edge) else "input"
                for index in order
                if (edge := edges[index][0]) is not None and will_execute(edge)
            ]
        )
    return next(thread.products, None)


def sum_gradient(thread: Thread, node: Any) -> str | None:
    """``bias`` if a sum in ``node`` reduces the gradient to the shape of an added parameter."""
    name = type(node).__name__
    if name == "AddmmBackward0":
        return "bias" if _leads_to_parameter(node.next_functions[0][0]) else None
    if name == "AddBackward0":
        edges = node.next_functions
        return "bias" if any(_leads_to_parameter(edge) for edge, _ in edges) else None
    return None


def _leads_to_parameter(node: Any) -> bool:
    while node is not None:
        name = type(node).__name__
        if name == "AccumulateGrad":
            return isinstance(node.variable, nn.Parameter)
        if name not in VIEW_NODES:
            return False
        node = node.next_functions[0][0]
    return False
