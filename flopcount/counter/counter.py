"""FlopCounter: the dispatch mode that sees every op, asks for its cost and place, and posts it."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, is_grad_enabled, nn
from torch.library import Library, register_torch_dispatch

from flopcount.attribution.forward import Attribution
from flopcount.attribution.gradients import finder
from flopcount.attribution.phase import BACKWARD
from flopcount.attribution.thread_state import ThreadState
from flopcount.attribution.tree import Place
from flopcount.counter.control_flow import branch
from flopcount.counter.eager import EAGERLY, captures
from flopcount.counter.signature import signer
from flopcount.errors import UncountedOpError, UncountedOpWarning, UnwatchedThreadWarning
from flopcount.formulas import (
    CONTROL_FLOW,
    Bill,
    Decision,
    Formula,
    Plan,
    describe,
    named,
    plan_of,
    registry,
)
from flopcount.report import snapshot
from flopcount.report.ledger import Ledger
from flopcount.report.report import Report
from flopcount.torch_private.autograd import running_node
from flopcount.torch_private.compiler import has_symbolic_sizes, never_compile
from flopcount.torch_private.frames import sharding_is_planned
from flopcount.torch_private.modes import (
    TorchDispatchMode,
    has_data,
    is_traceable_wrapper_subclass_type,
    may_open_itself,
    modes,
    pop_mode,
    push_mode,
    resolving_views,
)
from flopcount.torch_private.ops import bound_call, composite_kernel, has_nested_kernel
from flopcount.torch_private.tensors import tensors_in

__all__ = ["FlopCounter"]

TALLY_LIMIT = 1 << 14
"""Distinct keys of calls kept before they are folded into the ledger."""

Handler = Callable[["FlopCounter", Any, Any, tuple[Any, ...], dict[str, Any]], Any]
"""Runs an op, and counts it: ``(counter, op, types, args, kwargs)`` to the op's result."""

Tally = dict[tuple[Any, ...], list[Any]]
"""How often a call came, and its bill, by its key, which begins with its place."""

OURS = object()
"""Said of an op that is counted as any other."""


class FlopCounter(TorchDispatchMode):
    """Count every op of the block, forward and backward, per module and phase.

    >>> import torch, flopcount
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    >>> with flopcount.FlopCounter(model) as counter:
    ...     model(torch.ones(4, 8)).sum().backward()
    >>> report = counter.report()
    >>> report.total.macs, report["0"].phases["forward"].macs
    (1408, 512)

    The counter can be entered again and adds up; :meth:`reset` starts afresh. It watches the
    threads that enter it, and the backward passes that they start.

    Args:
        model: names the root of the report; its submodules are found under it even where only
            they are called. Without it each module called from outside every other is a root.
        formulas: formulas for this counter alone, ``{op: function}``; see
            :func:`flopcount.formula`.
        strict: raise at the first op that has no formula, instead of listing it.

    Raises:
        UncountedOpError: under ``strict``, with the op, its arguments and the scope.
    """

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True would wrap __torch_dispatch__, at every call

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Whether torch's compiler may take in a function that is called under a counter.

        It asks before it does so; it may have been loaded since the counter was entered.
        """
        EAGERLY.compiler_was_loaded()
        return captures()

    def __new__(
        cls,
        model: nn.Module | None = None,  # noqa: ARG004  (what __init__ takes)
        *,
        formulas: Mapping[Any, Formula] | None = None,
        strict: bool = False,  # noqa: ARG004
    ) -> FlopCounter:
        """A counter of the class whose handlers torch knows, or of one with none."""
        return super().__new__(TailoredCounter if formulas and cls is FlopCounter else cls)

    def __init__(
        self,
        model: nn.Module | None = None,
        *,
        formulas: Mapping[Any, Formula] | None = None,
        strict: bool = False,
    ) -> None:
        super().__init__()
        if model is not None and not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        self.strict = strict
        self._formulas = named(formulas or {})
        self._handlers = Handlers(self._formulas) if self._formulas else HANDLERS
        self._attribution = Attribution(model)
        self._local = self._attribution.local
        self._ledger = Ledger()
        self._unknown: dict[str, str] = {}  # op -> why it is uncounted; empty: that was said
        self._said: set[str] = set()  # threads whose being unwatched was
        self._lock = threading.Lock()

    # -- the user's side

    def __enter__(self) -> FlopCounter:
        # entered again inside itself, a second mode on the stack would count each op twice
        thread = self._local.thread
        if thread.entries == 0:
            EAGERLY.begin()
            super().__enter__()
        self._attribution.enter()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._attribution.exit()
        thread = self._local.thread
        if thread.entries == 0:
            # an interrupt may have come between a handler's way in and its way out
            open_modes = modes()
            if self not in open_modes:
                push_mode(self)
            while open_modes[-2:] == [self, self]:
                open_modes.pop()
                pop_mode()
            super().__exit__(*exception)
            EAGERLY.end()

    def report(self) -> Report:
        """A snapshot of what was counted so far; it does not change any more.

        >>> import torch, flopcount
        >>> with flopcount.FlopCounter() as counter:
        ...     product = torch.ones(4, 8) @ torch.ones(8, 2)
        ...     so_far = counter.report()
        ...     product = product @ torch.ones(2, 1)
        >>> so_far.total.macs, counter.report().total.macs
        (64, 72)

        Warns:
            UncountedOpWarning: once for each op whose cost is not known, with the reason.
            UnwatchedThreadWarning: once for each thread which had not entered, and in which a
                module, a backward pass or an optimizer's step ran.
        """
        with self._lock:
            ledger = Ledger(self._ledger.rows)
            for thread in self._attribution.threads:
                _fold(thread.tally, ledger)
        for op, reason in list(self._unknown.items()):
            if reason:
                self._unknown[op] = ""
                warnings.warn(f"{op} is uncounted: {reason}", UncountedOpWarning, stacklevel=2)
        for name, what in list(self._attribution.unwatched.items()):
            if name not in self._said:
                self._said.add(name)
                warnings.warn(
                    f"{what} ran in thread {name!r}, which had not entered the counter: nothing "
                    "is counted there; use `with counter:` in that thread, too",
                    UnwatchedThreadWarning,
                    stacklevel=2,
                )
        return snapshot.take(ledger, self._attribution.tree, self._attribution.unwatched)

    def reset(self) -> None:
        """Forget what was counted.

        >>> import torch, flopcount
        >>> with flopcount.FlopCounter() as counter:
        ...     product = torch.ones(4, 8) @ torch.ones(8, 2)
        >>> counter.reset()
        >>> counter.report().total.macs
        0
        """
        with self._lock:
            self._ledger = Ledger()
        self._unknown.clear()
        self._attribution.unwatched.clear()
        self._said.clear()
        for thread in self._attribution.threads:
            thread.tally.clear()
        for scope in self._attribution.tree.scopes():
            scope.calls = 0

    # -- the dispatcher's side

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if _opens_itself(types, (args, *kwargs.values())):
            return NotImplemented  # such an op may not even be known to the dispatcher
        # most others come here once: from then on torch calls the handler by itself
        return self._handlers.find(func)(self, func, types, args, kwargs)

    never_compile(__torch_dispatch__)

    # -- seldom: once per op, once per signature, or for tensors of other kinds

    def _subclasses(self, func: Any, types: Any, args: Any, kwargs: Any, plan: Plan | None) -> Any:
        """The answer for an op on tensors of these classes, if it is no ordinary one, else OURS."""
        if _opens_itself(types, (args, *kwargs.values())):
            return NotImplemented  # a wrapper such as DTensor opens itself; its inner ops count
        if sharding_is_planned():
            return func(*args, **kwargs)  # on shapes alone: not work
        if has_symbolic_sizes(args):  # no formula may ask for their values
            out = func(*args, **kwargs)
            if plan is not None:
                thread = self._local.thread
                self._count_symbolic(thread, thread.place, plan, args, kwargs)
            return out
        return OURS

    def _within(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, whose ops this mode sees; inside a handler it would not."""

        def run(*args: Any, **kwargs: Any) -> Any:
            push_mode(self)
            try:
                with resolving_views():
                    return function(*args, **kwargs)
            finally:
                pop_mode()

        return run

    def _open(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run a composite op by the ops that it is made of."""
        return self._within(composite_kernel(func))(*args, **kwargs)

    def _branch(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an op that calls functions, of which this mode sees those that are called."""
        called = (
            self._within(branch(arg, self._attribution)) if callable(arg) else arg for arg in args
        )
        return func(*called, **kwargs)

    def _count_new(
        self,
        thread: ThreadState,
        key: Any,
        place: Place,
        plan: Plan,
        args: Any,
        kwargs: Any,
        out: Any,
    ) -> None:
        """Count a call that is the first of its kind, or that has no kind (``key`` is None)."""
        signature = key and key[2:]
        bill = plan.bills.get(signature)
        if bill is None:
            bill = plan.bill(args, kwargs, out)
            if not plan.is_lasting(args, kwargs, out):
                key = None
            elif bill.counted and signature:
                plan.remember(signature, bill)
        self._post(thread, key, place, bill, args, kwargs)

    def _count_symbolic(
        self, thread: ThreadState, place: Place, plan: Plan, args: Any, kwargs: Any
    ) -> None:
        """Count a call that says how often, but not what it costs."""
        key = place, plan
        if key in thread.tally:
            thread.tally[key][0] += 1
        else:
            self._post(thread, key, place, plan.symbolic_bill(), args, kwargs)

    def _post(
        self, thread: ThreadState, key: Any, place: Place, bill: Bill, args: Any, kwargs: Any
    ) -> None:
        if self.strict and not bill.counted:
            raise UncountedOpError(
                f"{bill.op} is uncounted: {bill.unknown}; it was called with "
                f"({describe([*args, *kwargs.values()])}) in "
                f"{place.scope.path or 'no module'}, phase {place.phase}"
            ) from None  # the error is no consequence of the tally's having no such key
        if not bill.counted:
            self._unknown.setdefault(bill.op, bill.unknown)
        if key is None:
            with self._lock:
                self._ledger.post(place, bill, 1)
            return
        thread.tally[key] = [1, bill]
        if len(thread.tally) >= TALLY_LIMIT:
            with self._lock:
                _fold(thread.tally, self._ledger)
                thread.tally.clear()


def _opens_itself(types: Iterable[type], arguments: Any) -> bool:
    """Whether a tensor of these ``types`` runs ops on tensors that it wraps."""
    if any(map(is_traceable_wrapper_subclass_type, types)):
        return True
    own = {cls for cls in types if may_open_itself(cls)}
    return bool(own) and any(
        type(tensor) in own and not has_data(tensor) for tensor in tensors_in(arguments)
    )


class TailoredCounter(FlopCounter):
    """A counter with formulas of its own; torch knows one handler for an op and a class."""


# -- the hot path: what follows runs for every op


def _passing(plan: Plan) -> Handler:
    """The handler of a view, which is not counted."""
    call = bound_call(plan.func)

    def handle(
        counter: FlopCounter, func: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if plan.version != registry.version:  # a formula was registered: torch does not ask
            return counter._handlers.find(func)(counter, func, types, args, kwargs)
        if types and types[0] is not Tensor:  # Tensor: autograd detaches a gradient by itself
            answer = counter._subclasses(func, types, args, kwargs, None)
            if answer is not OURS:
                return answer
        if is_grad_enabled() and (node := running_node()) is not None:
            counter._attribution.in_backward(counter._local.thread, node, args)
        return call(*args, **kwargs) if kwargs else call(*args)

    return handle


def _opening(plan: Plan) -> Handler:
    """The handler of an op that is made of others, which are counted."""
    run = FlopCounter._branch if plan.name in CONTROL_FLOW else FlopCounter._open
    # a kernel for nested tensors is not made of others: opened, it would be another
    count_whole = _counting(plan) if has_nested_kernel(plan.func) else None

    def handle(
        counter: FlopCounter, func: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if plan.version != registry.version:  # a formula was registered: torch does not ask
            return counter._handlers.find(func)(counter, func, types, args, kwargs)
        answer = counter._subclasses(func, types, args, kwargs, plan)
        if answer is not OURS:
            return answer
        if count_whole and any(tensor.is_nested for tensor in tensors_in(args)):
            return count_whole(counter, func, types, args, kwargs)
        return run(counter, plan.func, args, kwargs)

    return handle


def _counting(plan: Plan) -> Handler:
    """A handler for an op that has a cost, or should have one."""
    call, sign, find_gradient = bound_call(plan.func), signer(plan), finder(plan.name)

    def handle(
        counter: FlopCounter, func: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if plan.version != registry.version:  # a formula was registered: torch does not ask
            return counter._handlers.find(func)(counter, func, types, args, kwargs)
        if types and types[0] is not Tensor:
            answer = counter._subclasses(func, types, args, kwargs, plan)
            if answer is not OURS:
                return answer
        thread = counter._local.thread
        node = running_node()
        if node is None:
            place = thread.place
        else:
            place = counter._attribution.in_backward(thread, node, args)
            if (
                find_gradient is not None
                and place.phase == BACKWARD
                and (gradient := find_gradient(thread, node))
            ):
                place = place.computing(gradient)
        out = call(*args, **kwargs) if kwargs else call(*args)
        key = sign(place, plan, args, kwargs, out)
        try:
            thread.tally[key][0] += 1
        except KeyError:
            counter._count_new(thread, key, place, plan, args, kwargs, out)
        except TypeError:  # a symbolic number has no hash
            counter._count_symbolic(thread, place, plan, args, kwargs)
        return out

    return handle


class Handlers:
    """The handlers of all ops that came by, made on first use.

    torch itself looks up what a class of modes does with an op, in C++, before it would call
    ``__torch_dispatch__``; there the handlers of ordinary counters are registered. Ops of other
    namespaces than aten may be defined anew under their names; those are looked up here.
    """

    def __init__(self, formulas: dict[str, Formula]) -> None:
        self._formulas = formulas
        self._known: dict[int, tuple[Any, Handler]] = {}  # the op lives, to keep its id()
        self._library: Library | None = None  # when it goes, torch forgets what is registered
        self._version = registry.version
        self._lock = threading.Lock()

    def find(self, func: Any) -> Handler:
        """The handler for an op; all are forgotten when the rules of ops changed."""
        if self._version != registry.version:
            with self._lock:
                self._version = registry.version
                self._known.clear()
                self._library = None
        known = self._known.get(id(func))
        return known[1] if known else self._make(func)

    def _make(self, func: Any) -> Handler:
        decided = Plan(func, self._formulas) if self._formulas else plan_of(func)
        handler = HANDLER_OF.get(decided.decision, _counting)(decided)
        never_compile(handler)
        with self._lock:
            if id(func) not in self._known:
                self._known[id(func)] = func, handler
                if func.namespace == "aten" and not self._formulas:
                    self._library = self._library or Library("aten", "FRAGMENT")
                    register_torch_dispatch(func, FlopCounter, handler, lib=self._library)
        return handler


HANDLER_OF = {Decision.VIEW: _passing, Decision.COMPOSITE: _opening}
"""How an op is handled that is not counted itself."""

HANDLERS = Handlers({})
"""What counters do that have no formulas of their own."""


def _fold(tally: Tally, ledger: Ledger) -> None:
    """Post every bill as often as it came."""
    for (place, *_), (calls, bill) in list(tally.items()):
        ledger.post(place, bill, calls)
