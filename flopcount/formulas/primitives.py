"""The steps that every formula is a sum of: dot products, element-wise steps, reductions."""

from __future__ import annotations

from torch import Tensor

from flopcount.cost import Cost
from flopcount.formulas.registry import Uncountable

__all__ = ["contraction", "elementwise", "fold"]


def contraction(*, dots: int, length: int) -> Cost:
    """``dots`` dot products of ``length`` multiplications and ``length - 1`` additions each."""
    return Cost(macs=dots * length, dots=dots if length else 0)


def elementwise(
    out: Tensor,
    count: int | None = None,
    *,
    add: int = 0,
    mul: int = 0,
    div: int = 0,
    sqrt: int = 0,
    compare: int = 0,
    special: int = 0,
) -> Cost:
    """So many steps for each element of ``out``, or ``count`` times.

    A complex addition is 2 real operations, a complex multiplication 6 (four products, two
    sums), a division 11 (the numerator's 6, the squared modulus' 3, two divisions). ``add``
    stands for subtraction too, ``compare`` for minimum, maximum, select, negation, absolute
    value and rounding.
    """
    n = out.numel() if count is None else count
    if out.is_complex():
        if sqrt or compare or special:
            raise Uncountable("complex roots, comparisons and transcendental functions")
        return Cost(arith=n * (2 * add + 6 * mul + 11 * div))
    return Cost(arith=n * (add + mul + div + sqrt), compare=n * compare, special=n * special)


def fold(values: int, results: int) -> int:
    """Operations that reduce ``values`` values to ``results``: one less than values, each."""
    return max(values - results, 0)
