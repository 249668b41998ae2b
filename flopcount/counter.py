"""FlopCounter: the dispatch mode that sees every op, asks for its cost and place, and posts it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import is_grad_enabled, nn

from flopcount._private import (
    TorchDispatchMode,
    bound_call,
    has_symbolic_sizes,
    is_traceable_wrapper_subclass_type,
    never_compile,
    running_node,
    sharding_is_planned,
)
from flopcount.attribution import Attribution, Thread
from flopcount.compilation import EAGERLY
from flopcount.errors import UncountedOpError
from flopcount.formulas import Bill, Decision, Formula, Plan, describe, op_name, plan, rule_count
from flopcount.gradients import product_gradient, sum_gradient
from flopcount.ledger import BACKWARD, RECOMPUTE, Key, Ledger
from flopcount.report import Report, snapshot
from flopcount.scope import Place
from flopcount.signature import sign

__all__ = ["FlopCounter"]

TALLY_LIMIT = 1 << 14
"""Distinct (place, signature) pairs kept before they are folded into the ledger."""

GradientFinder = Callable[[Thread, Any], str | None]
PlannedCall = tuple[Plan | None, Callable[..., Any], GradientFinder | None]

GRADIENT_FINDERS: dict[str, GradientFinder] = {
    "aten.mm": product_gradient,
    "aten.bmm": product_gradient,
    "aten.sum": sum_gradient,
}
"""Ops whose place in the autograd graph says which gradient they compute."""

COMPOSITE, VIEW = Decision.COMPOSITE, Decision.VIEW

PLAIN = (torch.Tensor,)
"""The ``types`` of ops that autograd runs by itself; of others they are empty."""

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
        return False  # True would wrap __torch_dispatch__ and cost 0.8 µs an op

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
        self._formulas = {op_name(op): function for op, function in (formulas or {}).items()}
        self._plans: dict[int, PlannedCall] = {}
        self._ops: list[Any] = []
        self._rules = rule_count()
        self._attribution = Attribution(model)
        self._local = self._attribution.local
        self._ledger = Ledger()
        self._bills: dict[Any, Bill] = {}
        self._lock = threading.Lock()

    # -- the user's side

    def __enter__(self) -> FlopCounter:
        # entered again inside itself, a second mode on the stack would count each op twice
        if self._local.thread.entries == 0:
            if self._rules != rule_count():  # a formula was registered since
                self._rules = rule_count()
                self._plans.clear()
                self._ops.clear()
            EAGERLY.begin()
            super().__enter__()
        self._attribution.enter()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._attribution.exit()
        if self._local.thread.entries == 0:
            super().__exit__(*exception)
            EAGERLY.end()

    def report(self) -> Report:
        """A snapshot of what was counted so far; it does not change any more."""
        ledger = Ledger()
        with self._lock:
            for key, entry in self._ledger.entries.items():
                ledger.post(
                    key, entry.calls, entry.cost, entry.gradients, uncounted=entry.uncounted
                )
            for thread in self._attribution.threads:
                _fold(thread.tally, ledger)
        return snapshot(ledger, self._attribution)

    def reset(self) -> None:
        """Forget what was counted."""
        with self._lock:
            self._ledger = Ledger()
        self._bills.clear()
        for thread in self._attribution.threads:
            thread.tally.clear()
        for scope in self._attribution.scopes():
            scope.calls = 0

    # -- the dispatcher's side: everything below runs for every op

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if types and types != PLAIN:
            answer = self._not_ours(func, types, args, kwargs)
            if answer is not OURS:
                return answer
        try:
            plan, call, find_gradient = self._plans[id(func)]
        except KeyError:
            plan, call, find_gradient = self._plan(func)
        if plan is None:  # a view
            if is_grad_enabled() and (node := running_node()) is not None:
                self._attribution.in_backward(self._local.thread, node, args)
            return call(*args, **kwargs) if kwargs else call(*args)
        if plan.decision is COMPOSITE:
            return self._open(func, args, kwargs)

        thread = self._local.thread
        where: Place | tuple[Place, str]
        node = running_node()
        if node is None:
            where = thread.place
        else:
            where = self._attribution.in_backward(thread, node, args)
            if (
                find_gradient is not None
                and where.phase == BACKWARD
                and (gradient := find_gradient(thread, node))
            ):
                where = where, gradient
        out = call(*args, **kwargs) if kwargs else call(*args)
        key = sign(where, plan, args, kwargs, out)
        try:
            thread.tally[key][0] += 1
        except KeyError:
            self._count_new(thread.tally, key, args, kwargs or {}, out)
        except TypeError:  # a symbolic number has no hash
            self._count_new(thread.tally, key, args, kwargs or {}, out, symbolic=True)
        return out

    never_compile(__torch_dispatch__)

    # -- seldom: once per op, once per signature, or for tensors of other kinds

    def _not_ours(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """The answer for an op on tensor subclasses that is not to be counted, else OURS."""
        if any(map(is_traceable_wrapper_subclass_type, types)):
            return NotImplemented  # a wrapper such as DTensor opens itself; its inner ops count
        if sharding_is_planned():
            return func(*args, **(kwargs or {}))  # on shapes alone: not work
        if has_symbolic_sizes(args):
            return self._trace(func, args, kwargs)
        return OURS

    def _trace(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an op whose sizes are symbols, which no formula may ask for their values."""
        out = func(*args, **(kwargs or {}))
        decided, *_ = self._plans.get(id(func)) or self._plan(func)
        if decided is not None:
            thread = self._local.thread
            key = thread.place, decided
            self._count_new(thread.tally, key, args, kwargs or {}, out, symbolic=True)
        return out

    def _open(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run a composite op by the ops that it is made of, which are counted."""
        super().__enter__()
        try:
            return func.decompose(*args, **(kwargs or {}))
        finally:
            super().__exit__(None, None, None)

    def _plan(self, func: Any) -> PlannedCall:
        decided = Plan(func, self._formulas) if self._formulas else plan(func)
        self._ops.append(func)  # while it lives, nothing else has its id()
        planned = self._plans[id(func)] = (
            None if decided.decision is VIEW else decided,
            bound_call(func),
            GRADIENT_FINDERS.get(decided.name),
        )
        return planned

    def _count_new(
        self,
        tally: dict[Any, list[Any]],
        key: tuple[Any, ...],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        out: Any,
        symbolic: bool = False,
    ) -> None:
        if len(tally) >= TALLY_LIMIT:
            with self._lock:
                _fold(tally, self._ledger)
                tally.clear()
        if len(self._bills) >= TALLY_LIMIT:
            self._bills.clear()
        where, decided, *_ = key
        if symbolic:
            key = where, decided
            if key in tally:
                tally[key][0] += 1
                return
        signature = key[1:]
        bill = self._bills.get(signature)
        if bill is None:
            bill = decided.symbolic_bill() if symbolic else decided.bill(args, kwargs, out)
            self._bills[signature] = bill
        place, gradient = where if isinstance(where, tuple) else (where, None)
        if self.strict and not bill.counted:
            raise UncountedOpError(
                f"{bill.op} has no formula; it was called with "
                f"({describe([*args, *kwargs.values()])}) in "
                f"{place.scope.path or 'no module'}, phase {place.phase}"
            )
        tally[key] = [1, place, gradient, bill]


def _fold(tally: Mapping[Any, list[Any]], ledger: Ledger) -> None:
    """Post every bill of ``tally`` as often as it came."""
    for calls, place, gradient, bill in list(tally.values()):
        path, phase = place.scope.path, place.phase
        gradients = {name: calls * cost for name, cost in bill.gradients.items()}
        if gradient:
            gradients = {gradient: calls * replace(bill.cost, read=0, written=0)}
        ledger.post(
            Key(path, phase, bill.op, bill.dtype),
            calls,
            calls * bill.cost,
            gradients,
            uncounted=0 if bill.counted else calls,
        )
        if bill.recompute:  # forward work that a backward kernel does again
            ledger.post(Key(path, RECOMPUTE, bill.op, bill.dtype), 0, calls * bill.recompute)
