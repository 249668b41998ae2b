"""Sums, products, extremes and variances of a whole tensor or its rows, and running ones.

Letters: n values are reduced to m results, so that a reduction is n - m operations (``fold``).
For ops that keep their shape, m counts the rows along the dimension that they work on.
"""

from typing import Any

from torch import Tensor

from flopcount.cost import Cost
from flopcount.formulas import bytes as traffic
from flopcount.formulas.call import Call
from flopcount.formulas.registry import formula
from flopcount.formulas.steps import elementwise, fold


def rows(x: Tensor, dim: int) -> int:
    """How many rows ``x`` has along ``dim``."""
    return x.numel() // max(x.shape[dim], 1) if x.dim() else 1


# sums, products, extremes


def additions(x: Tensor, out: Tensor) -> Cost:
    """n - m additions."""
    return elementwise(out, fold(x.numel(), out.numel()), add=1)


@formula("aten::sum")
def sum(x: Tensor, *args: Any, out: Tensor, **kwargs: Any) -> Cost:
    """n - m additions."""
    return additions(x, out)


@formula("aten::nansum")
def nansum(x: Tensor, *args: Any, out: Tensor, **kwargs: Any) -> Cost:
    """A sum of n selects: x or 0."""
    return elementwise(x, compare=1) + additions(x, out)


@formula("aten::mean")
def mean(x: Tensor, *args: Any, out: Tensor, **kwargs: Any) -> Cost:
    """A sum, and a division for each result; a complex one by a real number is two."""
    return additions(x, out) + Cost(arith=out.numel() * (2 if out.is_complex() else 1))


@formula("aten::prod")
def prod(x: Tensor, *args: Any, out: Tensor, **kwargs: Any) -> Cost:
    """n - m multiplications."""
    return elementwise(out, fold(x.numel(), out.numel()), mul=1)


@formula("aten::trace")
def trace(x: Tensor, *, out: Tensor) -> Cost:
    """The sum of the diagonal."""
    return elementwise(out, fold(min(x.shape), 1), add=1)


@formula("aten::amax", "aten::amin", "aten::max", "aten::min", "aten::argmax", "aten::argmin")
def amax(x: Tensor, *args: Any, out: Tensor | tuple[Tensor, ...], **kwargs: Any) -> Cost:
    """n - m comparisons, with or without the place of the winner."""
    values = out if isinstance(out, Tensor) else out[0]
    return Cost(compare=fold(x.numel(), values.numel()))


@formula("aten::max.other", "aten::min.other", "aten::max.out", "aten::min.out")
def max_other(a: Tensor, b: Tensor, *, out: Tensor) -> Cost:
    """The larger of two: one comparison for each element."""
    return elementwise(out, compare=1)


@formula("aten::aminmax", "aten::_aminmax")
def aminmax(x: Tensor, *args: Any, out: tuple[Tensor, Tensor], **kwargs: Any) -> Cost:
    """Both extremes, n - m comparisons each."""
    return Cost(compare=2 * fold(x.numel(), out[0].numel()))


@formula("aten::any", "aten::all", "aten::count_nonzero")
def any(x: Tensor, *args: Any, out: Tensor, **kwargs: Any) -> Cost:
    """n comparisons with zero; what follows is boolean or counting."""
    return Cost(compare=x.numel() * (2 if x.is_complex() else 1))  # both parts


# variance


def variance(x: Tensor) -> Cost:
    """Two passes, as in the textbook: Σ(x - mean)² / (k - correction), k = n / m values a group.

    The mean takes k - 1 additions and a division, then k differences, k squares, k - 1 additions
    and a division: 4·k for each group, 4·n in all. Kernels that make one pass (Welford) execute
    more. A complex number has two parts: 2·k for the mean, 2·k for the differences, 3·k for the
    squared moduli, k for the real sum that is left: 8·n.
    """
    return Cost(arith=x.numel() * (8 if x.is_complex() else 4))


@formula("aten::var", "aten::var_mean")
def var(x: Tensor, *args: Any, out: Tensor | tuple[Tensor, ...], **kwargs: Any) -> Cost:
    """Σ(x - mean)² / (k - correction), in two passes."""
    return variance(x)


@formula("aten::std", "aten::std_mean")
def std(x: Tensor, *args: Any, out: Tensor | tuple[Tensor, ...], **kwargs: Any) -> Cost:
    """The root of the variance."""
    deviation = out if isinstance(out, Tensor) else out[0]
    return variance(x) + elementwise(deviation, sqrt=1)


# scans


@formula("aten::cumsum")
def cumsum(x: Tensor, dim: int, *, out: Tensor, **kwargs: Any) -> Cost:
    """An addition for each element of a row but the first."""
    return elementwise(out, fold(x.numel(), rows(x, dim)), add=1)


@formula("aten::cumprod")
def cumprod(x: Tensor, dim: int, *, out: Tensor, **kwargs: Any) -> Cost:
    """A multiplication for each element of a row but the first."""
    return elementwise(out, fold(x.numel(), rows(x, dim)), mul=1)


@formula("aten::cummax", "aten::cummin")
def cummax(x: Tensor, dim: int, *, out: tuple[Tensor, Tensor]) -> Cost:
    """A comparison for each element of a row but the first."""
    return Cost(compare=fold(x.numel(), rows(x, dim)))


def first_alone(call: Call) -> tuple[int, int]:
    """Of the operands, all but the first are places for results."""
    return traffic.read_and_written(call.args[:1], call.mutated)


@formula("aten::_cummax_helper", "aten::_cummin_helper", traffic=first_alone)
def cummax_helper(x: Tensor, values: Tensor, indices: Tensor, dim: int, *, out: Any) -> Cost:
    """The same, into tensors for the results."""
    return Cost(compare=fold(x.numel(), rows(x, dim)))
