"""Ops on lists of tensors: each is its base op, once for every tensor of the list."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import Any

from torch import Tensor

from flopcount.cost import ZERO, Cost
from flopcount.formulas.registry import formula, formula_of

UNARY = (
    *("abs", "acos", "asin", "atan", "ceil", "cos", "cosh", "erf", "erfc", "exp", "expm1", "floor"),
    *("frac", "lgamma", "log", "log10", "log1p", "log2", "neg", "reciprocal", "round", "rsqrt"),
    *("sigmoid", "sign", "sin", "sinh", "sqrt", "tan", "tanh", "trunc"),
)
OTHERS = (
    *("add", "addcdiv", "addcmul", "clamp_max", "clamp_min", "div", "lerp", "maximum", "minimum"),
    *("mm", "mul", "pow", "sub"),
)

COEFFICIENTS = ("scalar", "scalars", "alpha", "value", "weight")
"""What the ops on lists call the numbers that their base ops multiply by or add."""


def for_each(base: str) -> None:
    """Register ``aten::_foreach_<base>``: the formula of ``aten::<base>`` for every tensor.

    Lists go in step. A number is for all; so is a tensor outside the lists, which holds one
    number, or one for each tensor, whose value is not known.
    """

    def cost(*args: Any, out: Sequence[Tensor], **kwargs: Any) -> Cost:
        one = formula_of(f"aten::{base}")
        total = ZERO
        for index, result in enumerate(out):
            each = one(*(_item(value, index) for value in args), out=result, **kwargs)
            assert isinstance(each, Cost)  # no list is of gradients
            total += each
        return total

    cost.__doc__ = f"{base} for each tensor."
    formula(f"aten::_foreach_{base}", coefficients=COEFFICIENTS)(cost)


def _item(value: Any, index: int) -> Any:
    if isinstance(value, (list, tuple)):
        return value[index]
    return nan if isinstance(value, Tensor) else value


for _base in UNARY + OTHERS:
    for_each(_base)
