"""Ops on lists of tensors: each is its base op, once for every tensor of the list."""

from collections.abc import Sequence
from math import nan
from typing import Any

from torch import Tensor

from flopcount.cost import ZERO, Cost
from flopcount.formulas.registry import Formula, formula, formula_of

COEFFICIENTS = ("scalar", "scalars", "alpha", "value", "weight")
"""Names of parameters, in ops on lists, for the numbers that base ops multiply by or add."""


def for_each(*names: str) -> None:
    """Register aten ops ``names``: each costs what its base op, ``add``, costs for every tensor."""
    for name in names:
        formula(f"aten::{name}", coefficients=COEFFICIENTS)(
            _of_each(name.removeprefix("_foreach_"))
        )


def _of_each(base: str) -> Formula:
    """The sum of what ``base`` costs for every tensor.

    Lists are walked together. A number applies to all tensors. So does a tensor outside the lists,
    which holds one number, or one for each tensor; its values are not known.
    """

    def cost(*args: Any, out: Sequence[Tensor], **kwargs: Any) -> Cost:
        base_cost = formula_of(f"aten::{base}")
        total = ZERO
        for index, result in enumerate(out):
            cost = base_cost(*(_item(value, index) for value in args), out=result, **kwargs)
            assert isinstance(cost, Cost)  # no op on lists computes gradients
            total += cost
        return total

    cost.__doc__ = f"{base} for each tensor."
    return cost


def _item(value: Any, index: int) -> Any:
    if isinstance(value, (list, tuple)):
        return value[index]
    return nan if isinstance(value, Tensor) else value


for_each("_foreach_abs", "_foreach_acos", "_foreach_asin", "_foreach_atan", "_foreach_ceil")
for_each("_foreach_cos", "_foreach_cosh", "_foreach_erf", "_foreach_erfc", "_foreach_exp")
for_each("_foreach_expm1", "_foreach_floor", "_foreach_frac", "_foreach_lgamma", "_foreach_log")
for_each("_foreach_log10", "_foreach_log1p", "_foreach_log2", "_foreach_neg", "_foreach_reciprocal")
for_each("_foreach_round", "_foreach_rsqrt", "_foreach_sigmoid", "_foreach_sign", "_foreach_sin")
for_each("_foreach_sinh", "_foreach_sqrt", "_foreach_tan", "_foreach_tanh", "_foreach_trunc")
for_each("_foreach_add", "_foreach_addcdiv", "_foreach_addcmul", "_foreach_clamp_max")
for_each("_foreach_clamp_min", "_foreach_div", "_foreach_lerp", "_foreach_maximum")
for_each("_foreach_minimum", "_foreach_mm", "_foreach_mul", "_foreach_pow", "_foreach_sub")
for_each("_foreach_max", "_foreach_norm")
