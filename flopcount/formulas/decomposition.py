"""The fallback: an op without a formula costs what the ops cost that torch takes it apart into.

It is run on meta tensors, which have shapes and no data, away from all modes of the program:
nothing that the program computes, draws or watches is touched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flopcount.cost import ZERO, Cost
from flopcount.formulas.registry import Decision, Formula, Uncountable
from flopcount.torch_private.modes import TorchDispatchMode, without_modes
from flopcount.torch_private.ops import OpOverload, decomposition_of

if TYPE_CHECKING:
    from flopcount.formulas.plan import Plan

__all__ = ["decomposed"]


def decomposed(func: OpOverload, plan_of: Callable[[Any], Plan]) -> Formula | None:
    """The formula of an op that torch has a decomposition for; None if it has none.

    Args:
        func: the overload.
        plan_of: answers how each of the ops that it is made of is decided.
    """
    decomposition = decomposition_of(func)
    if decomposition is None:
        return None

    def cost(*args: Any, out: Any, **kwargs: Any) -> Cost:
        steps = Steps(plan_of)
        with without_modes():
            try:
                args, kwargs = _on_meta(args, kwargs)
                with steps:
                    decomposition(*args, **kwargs)
            except Uncountable:
                raise
            except Exception as error:  # what depends on values, or has no meta kernel
                raise Uncountable(f"its decomposition fails on meta tensors: {error}") from None
        return steps.cost

    return cost


TAKEN_APART = frozenset({Decision.COMPOSITE, Decision.DECOMPOSED})


class Steps(TorchDispatchMode):
    """Adds up the arithmetic of the ops that run on meta tensors."""

    def __init__(self, plan_of: Callable[[Any], Plan]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's has no annotations
        self.plan_of = plan_of
        self.cost = ZERO

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if any(argument.name == "device" for argument in func._schema.arguments):
            kwargs["device"] = "meta"  # where factories would put data
        plan = self.plan_of(func)
        parts = decomposition_of(func) if plan.decision in TAKEN_APART else None
        if parts is not None:
            with self:
                return parts(*args, **kwargs)
        out = func(*args, **kwargs)
        if plan.decision is not Decision.VIEW:
            bill = plan.bill(args, kwargs, out)
            if not bill.counted:
                raise Uncountable(f"it is made of {bill.op}, which has no formula")
            self.cost += replace(bill.cost, read=0, written=0)
        return out


def _on_meta(args: Any, kwargs: Any) -> Any:
    """The arguments of a call, their tensors without data; one that is passed twice stays one."""
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
