"""FlopCounter: the dispatch mode that sees every op, asks for its cost and place, and posts it."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, is_grad_enabled, nn

from flopcount._private import (
    TorchDispatchMode,
    bound_call,
    is_traceable_wrapper_subclass_type,
    never_compile,
    running_node,
)
from flopcount.attribution import Attribution, Thread
from flopcount.compilation import EAGERLY
from flopcount.errors import UncountedOpError
from flopcount.formulas import Bill, Decision, Formula, Plan, describe, op_name, plan
from flopcount.gradients import product_gradient, sum_gradient
from flopcount.ledger import BACKWARD, RECOMPUTE, Key, Ledger
from flopcount.report import Report, snapshot
from flopcount.scope import Place
from flopcount.signature import sign

__all__ = ["FlopCounter", "count"]

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
        self._attribution = Attribution(model)
        self._local = self._attribution.local
        self._ledger = Ledger()
        self._bills: dict[Any, Bill] = {}
        self._lock = threading.Lock()

    # -- the user's side

    def __enter__(self) -> FlopCounter:
        # entered again inside itself, a second mode on the stack would count each op twice
        if self._local.thread.entries == 0:
            self._plans.clear()  # a formula may have been registered since
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
                ledger.post(key, entry.calls, entry.cost, entry.gradients, counted=entry.counted)
            for thread in self._attribution.threads:
                _fold(thread.tally, ledger)
        return snapshot(ledger, self._attribution)

    def reset(self) -> None:
        """Forget what was counted."""
        with self._lock:
            self._ledger = Ledger()
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
        if types and any(map(is_traceable_wrapper_subclass_type, types)):
            return NotImplemented  # a wrapper such as DTensor opens itself; its inner ops count
        try:
            plan, call, find_gradient = self._plans[id(func)]
        except KeyError:
            plan, call, find_gradient = self._plan(func)
        if plan is None:  # a view
            if is_grad_enabled() and (node := running_node()) is not None:
                self._attribution.in_backward(self._local.thread, node, args)
            return call(*args, **kwargs) if kwargs else call(*args)
        if plan.decision is COMPOSITE:
            super().__enter__()
            try:
                return func.decompose(*args, **(kwargs or {}))
            finally:
                super().__exit__(None, None, None)

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
        return out

    never_compile(__torch_dispatch__)

    # -- once per op, or once per signature

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
    ) -> None:
        if len(tally) >= TALLY_LIMIT:
            with self._lock:
                _fold(tally, self._ledger)
                tally.clear()
            self._bills.clear()
        where, decided, *_ = key
        signature = key[1:]
        bill = self._bills.get(signature)
        if bill is None:
            bill = self._bills[signature] = decided.bill(args, kwargs, out)
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
            counted=bill.counted,
        )
        if bill.recompute:  # forward work that a backward kernel does again
            ledger.post(Key(path, RECOMPUTE, bill.op, bill.dtype), 0, calls * bill.recompute)


def count(
    model: Callable[..., Any],
    *args: Any,
    backward: bool = True,
    optimizer: torch.optim.Optimizer | None = None,
    meta: bool = False,
    **kwargs: Any,
) -> Report:
    """Run one step of ``model`` and report what it cost.

    >>> import torch, flopcount
    >>> report = flopcount.count(torch.nn.Linear(8, 2), torch.ones(4, 8), backward=True)
    >>> report.phases["forward"].macs, report.phases["backward"].macs
    (64, 64)

    The step is real: with ``backward`` gradients are added to the parameters', with
    ``optimizer`` they are updated, and layers such as BatchNorm update their statistics. With
    ``meta=True`` the step runs on copies that have shapes and no memory, so that neither the
    model nor the inputs change.

    Args:
        model: a module, or any callable.
        args, kwargs: what it is called with.
        backward: run backward from the sum of all outputs that need a gradient.
        optimizer: an optimizer of the model's parameters, to take a step with after backward.
        meta: run on the meta device.

    Raises:
        ValueError: ``backward`` without an output that needs a gradient; ``optimizer`` without
            ``backward``, or together with ``meta``.
    """
    if optimizer is not None and (not backward or meta):
        raise ValueError("an optimizer steps after backward=True, on real tensors (meta=False)")
    if meta:
        model, args, kwargs = on_meta((model, args, kwargs))
    with FlopCounter(model if isinstance(model, nn.Module) else None) as counter:
        output = model(*args, **kwargs)
        if backward:
            loss_of(output).backward()
        if optimizer is not None:
            optimizer.step()
    return counter.report()


def on_meta(value: Any) -> Any:
    """A deep copy of ``value`` in which every tensor is on the meta device."""
    memo: dict[int, Any] = {}
    for tensor in _reachable_tensors(value):
        meta: Tensor = torch.empty_like(tensor, device="meta", requires_grad=tensor.requires_grad)
        memo[id(tensor)] = (
            nn.Parameter(meta, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else meta
        )
    return copy.deepcopy(value, memo)


def _reachable_tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, nn.Module):
        yield from value.parameters()
        yield from value.buffers()
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _reachable_tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _reachable_tensors(item)


def loss_of(output: Any) -> Tensor:
    """The sum of all tensors in ``output`` that need a gradient: a loss that reaches them all.

    It is linear, so that every gradient that a real loss would need is computed.
    """
    sums = [tensor.sum() for tensor in _reachable_tensors(output) if tensor.requires_grad]
    if not sums:
        raise ValueError("no output of the model needs a gradient: nothing to run backward from")
    return sum(sums[1:], sums[0])
