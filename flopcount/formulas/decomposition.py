"""The fallback: an op without a formula costs what the ops of its decomposition cost.

The decomposition runs on meta tensors, which have shapes and no data, outside the program's modes:
it touches nothing that the program computes, draws or watches.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from flopcount.cost import ZERO, Cost
from flopcount.formulas.billing import Billing
from flopcount.formulas.registry import Formula, Uncountable
from flopcount.torch_private.modes import without_modes
from flopcount.torch_private.ops import OpOverload, decomposition_of


def decomposed(func: OpOverload, plan_of: Callable[[Any], Any]) -> Formula | None:
    """The formula of an op that has a decomposition in torch; None if it has none.

    Args:
        func: the overload.
        plan_of: gives the Plan of each op that the decomposition runs.
    """
    decomposition = decomposition_of(func)
    if decomposition is None:
        return None

    def cost(*args: Any, out: Any, **kwargs: Any) -> Cost:
        billing = Billing(plan_of, on_meta=True)
        with without_modes():
            try:
                args, kwargs = _on_meta(args, kwargs)
                with billing:
                    decomposition(*args, **kwargs)
            except Exception as error:  # it depends on values, or an op has no meta kernel
                raise Uncountable(f"its decomposition fails on meta tensors: {error}") from None
        for bill in billing.bills:
            if not bill.counted:
                raise Uncountable(f"it is made of {bill.op}, which has no formula")
        total = sum((bill.cost + bill.integer for bill in billing.bills), ZERO)
        return replace(total, read=0, written=0)

    return cost


def _on_meta(args: Any, kwargs: Any) -> Any:
    """The arguments on the meta device; a tensor that is passed twice stays one tensor."""
    known: dict[int, Tensor] = {}

    def convert(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [convert(item) for item in value]
        if isinstance(value, torch.device):
            return torch.device("meta")
        if not isinstance(value, Tensor):
            return value
        if id(value) not in known:
            known[id(value)] = torch.empty_strided(
                value.size(), value.stride(), dtype=value.dtype, device="meta"
            )
        return known[id(value)]

    return convert(args), {name: convert(value) for name, value in kwargs.items()}
