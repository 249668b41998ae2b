"""The call that a node stands for, and the bills for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

from torch import fx

from flopcount.cost import ZERO
from flopcount.formulas import Bill, Decision, Plan, plan_of
from flopcount.torch_private.modes import FakeTensorMode, TorchDispatchMode, no_autocast
from flopcount.torch_private.ops import composite_kernel, has_kernel, schema_of

__all__ = ["Call", "call_of_op", "result_of"]


class Call(NamedTuple):
    """The call that a node stands for, with other nodes in place of their values.

    If it ``opens`` to a function of its arguments, the ops that this runs are billed instead:
    all, or ``only`` one. ``unknown`` says why the cost is unknown, if the plan does not.
    """

    plan: Plan
    args: Any
    kwargs: Mapping[str, Any]
    out: fx.Node | None = None
    opens: Callable[..., Any] | None = None
    only: Any = None
    unknown: str = ""

    def bills(self, arguments: Any, fakes: FakeTensorMode, casts: bool) -> list[Bill]:
        """The bills for the values of its args, kwargs and out; ``casts`` if autocast is on."""
        args, kwargs, out = arguments
        if self.opens is None:
            bill = self.plan.bill(args, kwargs, out)
            return [replace(bill, unknown=self.unknown or bill.unknown)]
        opened = Opened(self.only)
        try:
            with nullcontext() if casts else no_autocast(), fakes, opened:
                self.opens(*args, **kwargs)
        except Exception as error:  # the op may need values, which fake tensors do not have
            return self.uncounted(f"it is made of other ops, and fails without data: {error}")
        return opened.bills

    def uncounted(self, reason: str) -> list[Bill]:
        """The bill of a call whose cost is unknown."""
        return [replace(self.plan.symbolic_bill(), cost=ZERO, unknown=reason)]


def call_of_op(node: fx.Node, casts: bool) -> Call | None:
    """The call of an op; None for a view, an assertion, or a question about a size."""
    op: Any = node.target
    plan = plan_of(op)
    is_assertion = op.namespace == "aten" and not schema_of(op).returns and not plan.written
    if plan.decision is Decision.VIEW or is_assertion or plan.name.startswith("aten.sym_"):
        return None
    runs_others = casts or has_kernel(op, "CompositeImplicitAutograd")
    return Call(plan, node.args, node.kwargs, result_of(node), op if runs_others else None)


def result_of(node: fx.Node) -> fx.Node | None:
    """``node`` itself; None if it gives nothing, so that its shape is not noted."""
    return node if node.users or "val" in node.meta else None


class Opened(TorchDispatchMode):
    """Bills the ops that run; of a composite op those that it is made of.

    Args:
        only: the op to bill, if others do not count.
    """

    def __init__(self, only: Any = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's has no annotations
        self.only = only
        self.bills: list[Bill] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        decided = plan_of(func)
        if decided.decision is Decision.COMPOSITE:
            with self:
                return composite_kernel(func)(*args, **kwargs)
        out = func(*args, **kwargs)
        if decided.decision is not Decision.VIEW and self.only in (None, func):
            self.bills.append(decided.bill(args, kwargs, out))
        return out
