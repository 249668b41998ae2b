"""A dispatch mode that bills what runs inside it."""

from collections.abc import Callable
from typing import Any

from flopcount.formulas.bill import Bill
from flopcount.formulas.call import with_functions
from flopcount.formulas.registry import Decision
from flopcount.torch_private.modes import TorchDispatchMode
from flopcount.torch_private.ops import composite_kernel, decomposition_of, parameter_names


class Billing(TorchDispatchMode):
    """Bills the ops that run; a composite op is opened, and the ops that it runs are billed.

    Of an op that runs functions, those that they run are billed beside it.

    Args:
        plan_of: the plan of each op.
        only: bill this op alone.
        on_meta: all tensors are on the meta device. Factories put theirs there too, and ops
            without a formula run by their decompositions, as they may have no meta kernel.

    Attributes:
        bills: in the order of the calls.
    """

    supports_higher_order_operators = True

    def __init__(
        self, plan_of: Callable[[Any], Any], *, only: Any = None, on_meta: bool = False
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's has no annotations
        self.plan_of = plan_of
        self.only = only
        self.on_meta = on_meta
        self.bills: list[Bill] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if self.on_meta and "device" in parameter_names(func):
            kwargs["device"] = "meta"
        plan = self.plan_of(func)
        opened = None
        if plan.decision is Decision.COMPOSITE:
            opened = composite_kernel(func)
        elif plan.decision is Decision.DECOMPOSED and self.on_meta:
            opened = decomposition_of(func)
        if opened is not None:
            with self:
                return opened(*args, **kwargs)
        if plan.runs_functions:
            args, call = with_functions(args, self._billed), composite_kernel(func)
        else:
            call = func
        out = call(*args, **kwargs)
        if plan.decision is not Decision.VIEW and self.only in (None, func):
            self.bills.append(plan.bill(args, kwargs, out))
        return out

    def _billed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            with self:
                return function(*args)

        return run
