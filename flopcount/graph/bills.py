"""The call that a node stands for, and the bills for it."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

from torch import fx

from flopcount.formulas import Bill, Decision, Plan, plan_of
from flopcount.formulas.billing import Billing
from flopcount.formulas.plan import symbolic_bill
from flopcount.torch_private.modes import FakeTensorMode, no_autocast
from flopcount.torch_private.ops import has_kernel, schema_of


class NodeCall(NamedTuple):
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
        opened = Billing(plan_of, only=self.only)
        try:
            with nullcontext() if casts else no_autocast(), fakes, opened:
                self.opens(*args, **kwargs)
        except Exception as error:  # the op may need values, which fake tensors do not have
            return self.uncounted(f"it is made of other ops, and fails without data: {error}")
        return opened.bills

    def uncounted(self, reason: str) -> list[Bill]:
        """The bill of a call whose cost is unknown."""
        return [replace(symbolic_bill(self.plan.name), unknown=reason)]


def call_of_op(node: fx.Node, casts: bool) -> NodeCall | None:
    """The call of an op; None for a view, an assertion, or a question about a size."""
    op: Any = node.target
    plan = plan_of(op)
    is_assertion = op.namespace == "aten" and not schema_of(op).returns and not plan.written
    if plan.decision is Decision.VIEW or is_assertion or plan.name.startswith("aten.sym_"):
        return None
    runs_others = casts or has_kernel(op, "CompositeImplicitAutograd")
    return NodeCall(plan, node.args, node.kwargs, result_of(node), op if runs_others else None)


def result_of(node: fx.Node) -> fx.Node | None:
    """``node`` itself; None if it gives nothing, so that its shape is not noted."""
    return node if node.users or "val" in node.meta else None
