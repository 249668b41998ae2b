"""FlopCounter: the dispatch mode that sees every op, asks for its cost and place, and posts it."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from flopcount._private import (
    TorchDispatchMode,
    is_traceable_wrapper_subclass_type,
    running_node,
)
from flopcount.attribution import Attribution
from flopcount.errors import UncountedOpError
from flopcount.formulas import Bill, Decision, Formula, Plan, describe, op_name, plan
from flopcount.ledger import RECOMPUTE, Key, Ledger
from flopcount.report import Report, snapshot

__all__ = ["FlopCounter", "count"]

TALLY_LIMIT = 1 << 14
"""Distinct (place, signature) pairs kept before they are folded into the ledger."""

ATOMS = frozenset(
    {bool, int, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format}
)
"""Types of arguments that stand for themselves in a signature."""

EXACT_FLOATS = frozenset([step / 2 for step in range(-32, 33)] + [float("inf"), float("-inf")])
"""Numbers that a formula may tell apart (an exponent, alpha = 1). All others are alike to it, so
that a learning rate that changes at every step does not make every step's ops new."""

GRADIENT_FINDERS: dict[str, Callable[[Attribution, Any], str | None]] = {
    "aten.mm": Attribution.gradient,
    "aten.bmm": Attribution.gradient,
    "aten.sum": Attribution.bias_gradient,
}
"""Ops whose place in the autograd graph says which gradient they compute."""


class _Thread(threading.local):
    """The tally of one thread: (place, signature) -> [calls, place, bill]."""

    def __init__(self, counter: FlopCounter) -> None:
        self.entries = 0
        self.tally: dict[Any, list[Any]] = {}
        counter._tallies.append(self.tally)


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
        self._plans: dict[int, Plan | None] = {}
        self._ops: list[Any] = []
        self._attribution = Attribution(model)
        self._attributed = self._attribution.thread
        self._ledger = Ledger()
        self._bills: dict[Any, Bill] = {}
        self._tallies: list[dict[Any, list[Any]]] = []
        self._lock = threading.Lock()
        self._thread = _Thread(self)

    # -- the user's side

    def __enter__(self) -> FlopCounter:
        # entered again inside itself, a second mode on the stack would count each op twice
        if self._thread.entries == 0:
            self._plans.clear()  # a formula may have been registered since
            self._attribution.enter()
            super().__enter__()
        self._thread.entries += 1
        return self

    def __exit__(self, *exception: Any) -> None:
        self._thread.entries -= 1
        if self._thread.entries == 0:
            super().__exit__(*exception)
            self._attribution.exit()

    def report(self) -> Report:
        """A snapshot of what was counted so far; it does not change any more."""
        ledger = Ledger()
        with self._lock:
            for key, entry in self._ledger.entries.items():
                ledger.post(key, entry.calls, entry.cost, entry.gradients, counted=entry.counted)
        for tally in self._tallies:
            _fold(tally, ledger)
        return snapshot(ledger, self._attribution)

    def reset(self) -> None:
        """Forget what was counted."""
        with self._lock:
            self._ledger = Ledger()
        for tally in self._tallies:
            tally.clear()
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
            plan = self._plans[id(func)]
        except KeyError:
            plan = self._plan(func)
        node = running_node()
        if plan is None:  # a view
            if node is not None and torch.is_grad_enabled():
                self._attribution.in_backward(node, args)
            return func(*args, **kwargs) if kwargs else func(*args)
        if plan.decision is Decision.COMPOSITE:
            super().__enter__()
            try:
                return func.decompose(*args, **(kwargs or {}))
            finally:
                super().__exit__(None, None, None)

        if node is None:
            key: list[Any] = [self._attributed.place, plan]
        else:
            key = [self._attribution.in_backward(node, args), plan]
            if finder := GRADIENT_FINDERS.get(plan.name):
                key.append(finder(self._attribution, node))
        values = args
        if kwargs:
            out = func(*args, **kwargs)
            for item in kwargs.items():
                values += item
        else:
            out = func(*args)
        if plan.dynamic:
            values += (out,)
        first = last = None
        try:
            for value in values:
                cls = value.__class__
                if cls is Tensor or cls is nn.Parameter:
                    key += (value.shape, value.dtype, value.stride())
                    if value is last or value is first:
                        key.append("again")  # what is the same tensor is read once
                    elif first is None:
                        first = value
                    last = value
                elif cls in ATOMS:
                    key.append(value)
                else:
                    _sign(key, value)
            signature = tuple(key)
        except (RuntimeError, NotImplementedError):  # a layout without strides
            signature = (*key[:2], object())
        try:
            self._thread.tally[signature][0] += 1
        except KeyError:
            self._count_new(signature, args, kwargs or {}, out)
        return out

    # -- once per op, or once per signature

    def _plan(self, func: Any) -> Plan | None:
        decided = Plan(func, self._formulas) if self._formulas else plan(func)
        self._ops.append(func)  # while it lives, nothing else has its id()
        self._plans[id(func)] = kept = None if decided.decision is Decision.VIEW else decided
        return kept

    def _count_new(
        self, signature: tuple[Any, ...], args: Sequence[Any], kwargs: dict[str, Any], out: Any
    ) -> None:
        place, decided, gradient, *_ = (*signature, None)
        bill = self._bills.get(signature[1:])
        if bill is None:
            bill = decided.bill(args, kwargs, out)
            if decided.name in GRADIENT_FINDERS and isinstance(gradient, str):
                arithmetic = replace(bill.cost, read=0, written=0)
                bill = replace(bill, gradients={gradient: arithmetic})
            if self.strict and not bill.counted:
                raise UncountedOpError(
                    f"{bill.op} has no formula; it was called with "
                    f"({describe([*args, *kwargs.values()])}) in "
                    f"{place.scope.path or 'no module'}, phase {place.phase}"
                )
            self._bills[signature[1:]] = bill
        tally = self._thread.tally
        if len(tally) >= TALLY_LIMIT:
            with self._lock:
                _fold(tally, self._ledger)
            tally.clear()
            self._bills.clear()
        tally[signature] = [1, place, bill]


def _sign(key: list[Any], value: Any) -> None:
    """Append what a formula may see of ``value`` to ``key``."""
    if isinstance(value, float):
        key.append(value if value in EXACT_FLOATS else float)
    elif isinstance(value, (list, tuple)):
        key.append(len(value))
        for item in value:
            if item.__class__ in ATOMS:
                key.append(item)
            else:
                _sign(key, item)
    elif isinstance(value, Tensor):
        key += (value.shape, value.dtype, value.stride())
    else:
        key.append(type(value))  # a complex number, a generator, a script object


def _fold(tally: Mapping[Any, list[Any]], ledger: Ledger) -> None:
    """Post every bill of ``tally`` as often as it came."""
    for calls, place, bill in list(tally.values()):
        path, phase = place.scope.path, place.phase
        gradients = {name: calls * cost for name, cost in bill.gradients.items()}
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
            loss_of(output).backward()  # type: ignore[no-untyped-call]
        if optimizer is not None:
            optimizer.step()
    return counter.report()


def on_meta(value: Any) -> Any:
    """A deep copy of ``value`` in which every tensor is on the meta device."""
    memo: dict[int, Any] = {}
    for tensor in _reachable_tensors(value):
        meta: Tensor = torch.empty_like(tensor, device="meta", requires_grad=tensor.requires_grad)
        memo[id(tensor)] = nn.Parameter(meta, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else meta
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
