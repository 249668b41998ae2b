"""Custom autograd functions: those around a kernel that no op shows are named.

While a function runs, its ops tell where numbers come from. A result that none of them has written,
and that is not what the function was given, comes from elsewhere.

A checkpoint stops recomputing when all is there that backward needs. It may do so by an exception
when a function saves its tensors: that has run then, but nobody sees what it returned. So it counts
as it did the last time that it was called with such arguments.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from flopcount.attribution.phase import RECOMPUTE
from flopcount.cost import Cost
from flopcount.counter.handlers import CountingMode
from flopcount.counter.origins import Origin, Origins, varies
from flopcount.counter.signature import NO_SIGNATURE, part
from flopcount.counter.tally import Tally
from flopcount.formulas import Bill, Formula, Gradients, Plan, Uncountable
from flopcount.formulas.call import Call
from flopcount.formulas.plan import ask, bill_of, in_domain, symbolic_bill
from flopcount.formulas.registry import Rule, rule_of
from flopcount.torch_private.autograd import running_node
from flopcount.torch_private.compiler import has_symbolic_sizes
from flopcount.torch_private.frames import checkpoint_recomputes
from flopcount.torch_private.functions import (
    function_name,
    function_of,
    runs_program,
    saved_by,
)
from flopcount.torch_private.modes import modes, without_functions
from flopcount.torch_private.tensors import is_foreign, storage_of, tensors_in

BILL_LIMIT = 1 << 12
"""How many bills of functions to remember."""


class FunctionWatch:
    """Watches the custom functions that run where a counter is open."""

    def __init__(self, mode: CountingMode, formulas: Mapping[str, Formula]) -> None:
        self._mode = mode
        self._formulas = formulas
        self._bills: dict[Any, Bill] = {}  # what functions cost that were called so

    def begin(
        self, function: Any, args: tuple[Any, ...], node: Any, alive: weakref.ref[Any]
    ) -> Window | None:
        """Watch one run of ``function``, forward, or of its ``node``."""
        if self._mode not in modes():
            return None
        if node is None:
            self._mode._local.tally.thread.begin_function(alive)
        if runs_program(function):
            return None
        name = function_name(function)
        formula = self._formulas.get(name)
        rule = Rule(formula) if formula else rule_of([name])
        with without_functions():
            tally = self._mode._local.tally
            return Window(tally, function, args, node, alive, rule, self._bills)


class Window:
    """One run of a custom function, forward or backward: what its ops do."""

    def __init__(
        self,
        tally: Tally,
        function: Any,
        args: tuple[Any, ...],
        node: Any,
        alive: weakref.ref[Any],
        rule: Rule | None,
        bills: dict[Any, Bill],
    ) -> None:
        self._bills = bills
        self._is_named = False  # whether something in it was named that no op shows
        self._rule = rule
        self._tally = tally
        self._function = function
        self._args = args
        self._node = node
        self._alive = alive if node is not None else weakref.ref(alive(), self._end)
        self._is_open = True
        self._origins = Origins()
        self._knows_all = True
        self._origins.give(args)
        if node is not None:
            saved, self._knows_all = saved_by(node)
            self._origins.give(saved)
        inputs = (tensor for tensor in tensors_in(args) if storage_of(tensor) is not None)
        # what a wrapper of other tensors hands out was in it before
        self._knows_all &= all(storage_of(tensor) is not None for tensor in tensors_in(args))
        self._versions = [(t, t._version) for t in inputs if not t.is_inference()]
        tally.watch(self)

    @property
    def covers(self) -> bool:
        """Whether a formula counts the whole run, so that its ops are not counted."""
        return self._rule is not None and not self._recomputes()

    def _recomputes(self) -> bool:
        """Whether a checkpoint computes again what the node keeps: that is not its own work."""
        return self._node is not None and checkpoint_recomputes()

    def see_named(self) -> None:
        """Something inside was named; it may be all that no op shows."""
        self._is_named |= not self._recomputes()

    def is_over(self) -> bool:
        """Whether the run has ended, perhaps by an exception."""
        is_dead = self._node is not None and self._alive() is None  # a forward run tells its end
        return is_dead and running_node() is not self._node

    def observe(self, plan: Plan, args: Any, kwargs: Any, out: Any) -> None:
        """Look at one call of an op inside the run."""
        self._origins.observe(plan, args, kwargs, out)

    def __call__(self, results: Any) -> None:
        """The run has ended with ``results``."""
        self._is_open = False
        self._tally.unwatch(self)
        with without_functions():
            self._judge(results)

    def _end(self, _: Any) -> None:
        """The forward run has ended; if it is open, by an exception."""
        if self._is_open:
            self._is_open = False
            self._tally.unwatch(self)
            with without_functions():
                bill = self._bills.get(_key(self._function, self._args))
                if bill and self._tally.place(running_node(), self._args).phase == RECOMPUTE:
                    self._tally.count_shadow(bill, self._args)

    def _judge(self, results: Any) -> None:
        """Count the run if a formula does, or name it if its results come from no op."""
        is_single = self._node is not None and isinstance(results, tuple) and len(results) == 1
        call = Call(self._args, {}, results[0] if is_single else results)
        tensors = list(tensors_in(results))
        if self._rule or (not self._is_named and self._is_unseen(tensors)):
            bill = self._bill(call)
            if self._node is None:
                self._remember(bill)
            self._tally.count_shadow(bill, call.args)
        elif not self._is_named and (filled := self._filled(tensors)):
            # a kernel may have added to what was zero; the numbers tell
            self._tally.count_shadow(self._bill(call), call.args, flags=list(map(varies, filled)))

    def _remember(self, bill: Bill) -> None:
        if len(self._bills) >= BILL_LIMIT:
            self._bills.clear()
        if (key := _key(self._function, self._args)) is not None:
            self._bills[key] = bill

    def _is_unseen(self, results: list[Tensor]) -> bool:
        """Whether something was read or returned that no op has computed."""
        if self._origins.read_empty or self._changed_unseen():
            return True
        origins = [self._origins.of(tensor) for tensor in results]
        if Origin.EMPTY in origins:
            return True
        unseen = [t for t, of in zip(results, origins, strict=True) if of is Origin.UNSEEN]
        if self._node is None:
            # a checkpoint may return a tensor that its function did not take
            return bool(unseen) and self._knows_all and Origin.SEEN not in origins
        return bool(unseen) and (self._knows_all or any(map(is_foreign, unseen)))

    def _filled(self, results: list[Tensor]) -> list[Tensor]:
        return [tensor for tensor in results if self._origins.of(tensor) is Origin.FILLED]

    def _changed_unseen(self) -> bool:
        """Whether an input was marked as changed, and no op has changed it."""
        changed = (tensor for tensor, version in self._versions if tensor._version != version)
        return any(self._origins.of(tensor) is Origin.GIVEN for tensor in changed)

    def _bill(self, call: Call) -> Bill:
        if has_symbolic_sizes([call.args, call.out]):
            return symbolic_bill(self._function.__name__)
        rule = self._rule or Rule(self._uncounted)
        formula = rule.formula

        def answer() -> Gradients:
            return in_domain(ask(formula, call), call.dtype) if formula else Gradients()

        return bill_of(self._function.__name__, call, rule.traffic, answer)

    def _uncounted(self, *args: Any, out: Any) -> Cost:
        """No formula: what computed the results is not known."""
        function, backward = self._function, ""
        if self._node is not None:
            function, backward = function_of(function), ", backward=…"
        raise Uncountable(
            "its result was computed by no op that was seen; "
            f"@flopcount.formula({function.__name__}{backward}) counts it"
        )


def _key(function: Any, args: tuple[Any, ...]) -> Any:
    """What calls of ``function`` have in common that cost the same; None if nothing tells."""
    try:
        key = function, *map(_kind, args)
        hash(key)
    except TypeError:  # a symbolic number has no hash
        return None
    return key


def _kind(value: Any) -> Any:
    try:
        return part(value, [], is_coefficient=False)
    except NO_SIGNATURE:
        return type(value)
