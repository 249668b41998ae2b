"""Logarithms of sums of exponentials, with the largest term taken out of the sum.

The guards of kernels against an infinite largest term are left out. Of complex numbers the
largest is the one with the largest real part.
"""

from typing import Any

from torch import Tensor

from flopcount.cost import Cost
from flopcount.formulas.complex import EXP, LOG, SELECT, SHIFT, SUM
from flopcount.formulas.ops.reduction import rows
from flopcount.formulas.registry import formula
from flopcount.formulas.steps import elementwise, fold


def log_sums(x: Tensor, count: int) -> Cost:
    """log(eᵃ + eᵇ) = max + log1p(e^(min - max)), ``count`` times."""
    if x.is_complex():
        ordered = Cost(compare=1) + 2 * SELECT
        return count * (ordered + SUM + EXP + SHIFT + LOG + SUM)
    return elementwise(x, count, compare=2, add=2, special=2)


@formula("aten::logaddexp")
def logaddexp(a: Tensor, b: Tensor, *, out: Tensor) -> Cost:
    """log(eᵃ + eᵇ)."""
    return log_sums(out, out.numel())


@formula("aten::logaddexp2")
def logaddexp2(a: Tensor, b: Tensor, *, out: Tensor) -> Cost:
    """log₂(2ᵃ + 2ᵇ) = max + log1p(2^(min - max)) / log 2."""
    return log_sums(out, out.numel()) + elementwise(out, div=1)


@formula("aten::logcumsumexp", "aten::_logcumsumexp")
def logcumsumexp(x: Tensor, dim: int, *, out: Tensor) -> Cost:
    """log(eᵃ + eᵇ) for each element of a row but the first."""
    return log_sums(x, fold(x.numel(), rows(x, dim)))


@formula("aten::logsumexp")
def logsumexp(x: Tensor, *args: Any, out: Tensor, **kwargs: Any) -> Cost:
    """max + log Σe^(x - max)."""
    pairs = fold(x.numel(), out.numel())
    if x.is_complex():
        sums = x.numel() * (SHIFT + EXP) + pairs * (Cost(compare=1) + SUM)
        return sums + out.numel() * (LOG + SHIFT)
    sums = elementwise(x, add=1, special=1) + elementwise(x, pairs, compare=1, add=1)
    return sums + elementwise(out, special=1, add=1)
