"""Reductions, scans, softmax, norms, distances, sorting.

Letters: n values are reduced to m results, so that a reduction is n - m operations (``fold``).
For ops that keep their shape, m counts the rows along the dimension that they work on.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any

import torch
from torch import Tensor, ops

from flopcount.cost import ZERO, Cost
from flopcount.formulas import bytes as traffic
from flopcount.formulas.call import Call
from flopcount.formulas.ops.pointwise import pow as power
from flopcount.formulas.ops.pointwise import product_steps, sum_steps
from flopcount.formulas.registry import Gradients, formula
from flopcount.formulas.steps import contraction, elementwise, fold

aten = ops.aten


def rows(x: Tensor, dim: int) -> int:
    """How many rows ``x`` has along ``dim``."""
    return x.numel() // max(x.shape[dim], 1) if x.dim() else 1


# sums, products, extremes


@formula(aten.sum)
def sum(x: Tensor, *args: Any, out: Tensor, **kwargs: Any) -> Cost:
    """n - m additions."""
    return elementwise(out, fold(x.numel(), out.numel()), add=1)


@formula(aten.nansum)
def nansum(x: Tensor, *args: Any, out: Tensor, **kwargs: Any) -> Cost:
    """A sum of n selects: x or 0."""
    return elementwise(x, compare=1) + sum(x, out=out)


@formula(aten.mean)
def mean(x: Tensor, *args: Any, out: Tensor, **kwargs: Any) -> Cost:
    """A sum, and a division for each result; a complex one by a real number is two."""
    return sum(x, out=out) + Cost(arith=out.numel() * (2 if out.is_complex() else 1))


@formula(aten.prod)
def prod(x: Tensor, *args: Any, out: Tensor, **kwargs: Any) -> Cost:
    """n - m multiplications."""
    return elementwise(out, fold(x.numel(), out.numel()), mul=1)


@formula(aten.trace)
def trace(x: Tensor, *, out: Tensor) -> Cost:
    """The sum of the diagonal."""
    return elementwise(out, fold(min(x.shape), 1), add=1)


@formula(aten.amax, aten.amin, aten.max, aten.min, aten.argmax, aten.argmin)
def amax(x: Tensor, *args: Any, out: Tensor | tuple[Tensor, ...], **kwargs: Any) -> Cost:
    """n - m comparisons, with or without the place of the winner."""
    values = out if isinstance(out, Tensor) else out[0]
    return Cost(compare=fold(x.numel(), values.numel()))


@formula("aten::max.other", "aten::min.other", "aten::max.out", "aten::min.out")
def max_other(a: Tensor, b: Tensor, *, out: Tensor) -> Cost:
    """The larger of two: one comparison for each element."""
    return elementwise(out, compare=1)


@formula(aten.aminmax, aten._aminmax)
def aminmax(x: Tensor, *args: Any, out: tuple[Tensor, Tensor], **kwargs: Any) -> Cost:
    """Both extremes, n - m comparisons each."""
    return 2 * amax(x, out=out)


@formula(aten.any, aten.all, aten.count_nonzero)
def any(x: Tensor, *args: Any, out: Tensor, **kwargs: Any) -> Cost:
    """n comparisons with zero; what follows is boolean or counting."""
    return Cost(compare=x.numel() * (2 if x.is_complex() else 1))  # both parts


# variance


@formula(aten.var, aten.var_mean)
def var(x: Tensor, *args: Any, out: Tensor | tuple[Tensor, ...], **kwargs: Any) -> Cost:
    """Two passes, as in the textbook: Σ(x - mean)² / (k - correction), k = n / m values a group.

    The mean takes k - 1 additions and a division, then k differences, k squares, k - 1 additions
    and a division: 4·k for each group, 4·n in all. Kernels that make one pass (Welford) execute
    more. A complex number has two parts: 2·k for the mean, 2·k for the differences, 3·k for the
    squared moduli, k for the real sum that is left: 8·n.
    """
    return Cost(arith=x.numel() * (8 if x.is_complex() else 4))


@formula(aten.std, aten.std_mean)
def std(x: Tensor, *args: Any, out: Tensor | tuple[Tensor, ...], **kwargs: Any) -> Cost:
    """The root of the variance."""
    deviation = out if isinstance(out, Tensor) else out[0]
    return var(x, out=out) + elementwise(deviation, sqrt=1)


# scans


@formula(aten.cumsum)
def cumsum(x: Tensor, dim: int, *, out: Tensor, **kwargs: Any) -> Cost:
    """An addition for each element of a row but the first."""
    return elementwise(out, fold(x.numel(), rows(x, dim)), add=1)


@formula(aten.cumprod)
def cumprod(x: Tensor, dim: int, *, out: Tensor, **kwargs: Any) -> Cost:
    """A multiplication for each element of a row but the first."""
    return elementwise(out, fold(x.numel(), rows(x, dim)), mul=1)


@formula(aten.cummax, aten.cummin)
def cummax(x: Tensor, dim: int, *, out: tuple[Tensor, Tensor]) -> Cost:
    """A comparison for each element of a row but the first."""
    return Cost(compare=fold(x.numel(), rows(x, dim)))


def first_alone(call: Call) -> tuple[int, int]:
    """Of the operands, all but the first are places for results."""
    return traffic.read_and_written(call.args[:1], call.mutated)


@formula("aten::_cummax_helper", "aten::_cummin_helper", traffic=first_alone)
def cummax_helper(x: Tensor, values: Tensor, indices: Tensor, dim: int, *, out: Any) -> Cost:
    """The same, into places that are there."""
    return cummax(x, dim, out=(values, indices))


# softmax


def softmax_steps(n: int, m: int) -> Cost:
    """e^(x - max) / Σe^(x - max) of n values in m rows.

    n - m comparisons, n differences, n exponentials, n - m additions, n divisions.
    """
    return Cost(compare=fold(n, m), arith=2 * n + fold(n, m), special=n)


def softmax_backward_steps(n: int, m: int) -> Cost:
    """y·g - y·Σ(y·g) of n values in m rows: two products, a sum and a difference."""
    return Cost(arith=3 * n + fold(n, m))


@formula(aten._softmax)
def _softmax(x: Tensor, dim: int, half_to_float: bool, *, out: Tensor) -> Cost:
    """e^(x - max) / Σe^(x - max) along each row."""
    return softmax_steps(x.numel(), rows(x, dim))


@formula(aten._log_softmax)
def _log_softmax(x: Tensor, dim: int, half_to_float: bool, *, out: Tensor) -> Cost:
    """(x - max) - log Σe^(x - max): a logarithm for each row, and no division."""
    n, m = x.numel(), rows(x, dim)
    return softmax_steps(n, m) + Cost(special=m)  # n differences stand for n divisions


@formula("aten::softmax.int_out")
def softmax_into(x: Tensor, dim: int, dtype: Any = None, *, out: Tensor) -> Cost:
    """A softmax into a place that is there; without one it opens itself."""
    return _softmax(x, dim, False, out=out)


@formula("aten::log_softmax.int_out")
def log_softmax_into(x: Tensor, dim: int, dtype: Any = None, *, out: Tensor) -> Cost:
    """Its logarithm, likewise."""
    return _log_softmax(x, dim, False, out=out)


@formula("aten::_safe_softmax")
def _safe_softmax(x: Tensor, dim: int, dtype: Any = None, *, out: Tensor) -> Cost:
    """A softmax that looks for -inf, n comparisons, and clears rows of nothing else, n selects."""
    return softmax_steps(x.numel(), rows(x, dim)) + elementwise(x, compare=2)


@formula("aten::_masked_softmax")
def _masked_softmax(
    x: Tensor, mask: Tensor, dim: int | None = None, mask_type: int | None = None, *, out: Tensor
) -> Cost:
    """A softmax of x or -inf, n selects, that clears rows of nothing else, n selects."""
    m = rows(x, -1 if dim is None else dim)
    return softmax_steps(x.numel(), m) + elementwise(x, compare=2)


@formula(aten._softmax_backward_data)
def _softmax_backward_data(
    grad: Tensor, y: Tensor, dim: int, input_dtype: Any, *, out: Tensor
) -> Gradients:
    """y·g - y·Σ(y·g) along each row."""
    return Gradients(input=softmax_backward_steps(y.numel(), rows(y, dim)))


@formula("aten::_masked_softmax_backward")
def _masked_softmax_backward(
    grad: Tensor, y: Tensor, mask: Tensor, dim: int | None = None, *, out: Tensor
) -> Gradients:
    """A softmax's gradient, and a select for each element."""
    steps = softmax_backward_steps(y.numel(), rows(y, -1 if dim is None else dim))
    return Gradients(input=steps + elementwise(y, compare=1))


@formula(aten._log_softmax_backward_data)
def _log_softmax_backward_data(
    grad: Tensor, y: Tensor, dim: int, input_dtype: Any, *, out: Tensor
) -> Gradients:
    """g - eʸ·Σg: an exponential, a product and a difference for each element, and the sum."""
    steps = elementwise(y, special=1, mul=1, add=1)
    return Gradients(input=steps + Cost(arith=fold(y.numel(), rows(y, dim))))


# norms and distances


def norm_steps(x: Tensor, n: int, m: int, p: float) -> Cost:
    """(Σ|x|ᵖ)^(1/p) of n values in m groups; for ∞, -∞ and 0 there is no root."""
    root = powers(1 / p, m) if p != 0 and abs(p) != inf else ZERO
    return power_sum_steps(x, n, m, p) + root


def power_sum_steps(x: Tensor, n: int, m: int, p: float) -> Cost:
    """Σ|x|ᵖ of n values in m groups; x tells whether they are complex.

    An even power needs no modulus. A complex square is two products and a sum, a modulus its
    root; for ∞ and -∞ there is no power but a comparison, for 0 a comparison with zero.
    """
    even = p % 2 == 0
    modulus = Cost(arith=(3 if even else 4) * n) if x.is_complex() else Cost(compare=n * (not even))
    if abs(p) == inf:
        return modulus + Cost(compare=fold(n, m))
    if p == 0:
        return Cost(compare=n, arith=fold(n, m))
    exponent = p / 2 if even and x.is_complex() else p  # the square is there already
    return modulus + powers(exponent, n) + Cost(arith=fold(n, m))


NUMBER = torch.empty((), device="meta")
"""Stands for one real number."""


def powers(exponent: float, count: int) -> Cost:
    """``count`` times what it takes to raise a number to a power."""
    return count * power(NUMBER, exponent, out=NUMBER)


@formula(aten.linalg_vector_norm, aten.norm)
def linalg_vector_norm(
    x: Tensor, ord: float | None = 2, *args: Any, out: Tensor, **kwargs: Any
) -> Cost:
    """(Σ|x|ᵖ)^(1/p)."""
    return norm_steps(x, x.numel(), out.numel(), 2 if ord is None else ord)


@formula("aten::_foreach_norm")
def _foreach_norm(
    xs: Sequence[Tensor], ord: float = 2, dtype: Any = None, *, out: Sequence[Tensor]
) -> Cost:
    """The norm of each tensor."""
    costs = (linalg_vector_norm(x, ord, out=y) for x, y in zip(xs, out, strict=True))
    return _total(costs)


@formula("aten::linalg__powsum")
def linalg_powsum(x: Tensor, ord: float = 2, *args: Any, out: Tensor, **kwargs: Any) -> Cost:
    """Σ|x|ᵖ."""
    return power_sum_steps(x, x.numel(), out.numel(), ord)


@formula("aten::_foreach_powsum")
def _foreach_powsum(
    xs: Sequence[Tensor], ord: float = 2, dtype: Any = None, *, out: Sequence[Tensor]
) -> Cost:
    """Σ|x|ᵖ of each tensor."""
    return _total(linalg_powsum(x, ord, out=y) for x, y in zip(xs, out, strict=True))


@formula("aten::_foreach_max")
def _foreach_max(xs: Sequence[Tensor], *, out: Sequence[Tensor]) -> Cost:
    """The largest element of each tensor."""
    return _total(amax(x, out=y) for x, y in zip(xs, out, strict=True))


def _total(costs: Any) -> Cost:
    total = ZERO
    for cost in costs:
        total += cost
    return total


@formula(aten.dist)
def dist(a: Tensor, b: Tensor, p: float = 2, *, out: Tensor) -> Cost:
    """The norm of a - b, broadcast."""
    n = torch.broadcast_shapes(a.shape, b.shape).numel()
    return Cost(arith=n * sum_steps(a, b)) + norm_steps(a if a.is_complex() else b, n, 1, p)


@formula(aten.renorm)
def renorm(x: Tensor, p: float, dim: int, maxnorm: float, *, out: Tensor) -> Cost:
    """x times maxnorm / (norm + ε) where a slice's norm is above maxnorm, else times 1."""
    return renorm_steps(x, x.numel(), x.shape[dim], p)


def renorm_steps(x: Tensor, n: int, m: int, p: float) -> Cost:
    """The norms of n values in m slices, their factors, and a product for each part of a value."""
    factors = Cost(compare=2 * m, arith=2 * m)  # norm > maxnorm, select; add, divide
    return norm_steps(x, n, m, p) + factors + Cost(arith=n * product_steps(1.0, x))


@formula(aten._cdist_forward)
def _cdist_forward(
    a: Tensor, b: Tensor, p: float, compute_mode: int | None, *, out: Tensor
) -> Cost:
    """The norm of a difference of k elements for each pair."""
    n = out.numel() * a.shape[-1]
    return elementwise(out, n, add=1) + norm_steps(a, n, out.numel(), p)


@formula(aten._pdist_forward)
def _pdist_forward(x: Tensor, p: float = 2, *, out: Tensor) -> Cost:
    """The norm of a difference of k elements for each of the r·(r - 1) / 2 pairs of rows."""
    return _cdist_forward(x, x, p, None, out=out)


@formula("aten::_cdist_backward")
def _cdist_backward(
    grad: Tensor, a: Tensor, b: Tensor, p: float, distances: Tensor, *, out: Tensor
) -> Gradients:
    """For each row of a, the sum over b of (a - b)·|a - b|^(p - 2)·g / distance^(p - 1)."""
    n = distances.numel() * a.shape[-1]
    return distance_gradient(n, distances.numel(), fold(n, out.numel()), p)


@formula("aten::_pdist_backward")
def _pdist_backward(
    grad: Tensor, x: Tensor, p: float, distances: Tensor, *, out: Tensor
) -> Gradients:
    """As ``_cdist_backward``; a pair's gradient is added to one row, subtracted from the other."""
    n = distances.numel() * x.shape[-1]
    return distance_gradient(n, distances.numel(), fold(2 * n, out.numel()), p)


def distance_gradient(n: int, pairs: int, sums: int, p: float) -> Gradients:
    """(a - b)·|a - b|^(p - 2)·g / distance^(p - 1) of n differences, 0 where the distance is 0.

    g / distance^(p - 1) is taken once for each pair. With p = 1 only the sign of a difference
    is left; with p = ∞ its sign where |a - b| is the distance; with p = 0 nothing, as the
    distance only counts. Then they are summed.
    """
    if p == 0:
        return Gradients()
    # the difference, and its product with the factor of the pair
    cost = Cost(arith=2 * n + sums)
    if p == 1:
        return Gradients(input=cost + Cost(compare=n))
    if p == inf:
        return Gradients(input=cost + Cost(compare=3 * n))
    cost += powers(p - 1, pairs) + Cost(arith=pairs, compare=pairs)
    if p != 2:
        cost += powers(p - 2, n) + Cost(arith=n, compare=n)
    return Gradients(input=cost)


@formula("aten::_euclidean_dist")
def _euclidean_dist(a: Tensor, b: Tensor, *, out: Tensor) -> Cost:
    """√(|a|² + |b|² - 2·a·b), as one product of rows with two columns more.

    (-2·a, |a|², 1) · (b, 1, |b|²): k + 2 long. Before it the squares and their sums, and the
    factor -2; after it a comparison with zero and the root.
    """
    k = a.shape[-1]
    vectors = (a.numel() + b.numel()) // k if k else 0
    norms = Cost(arith=a.numel() + b.numel() + fold(a.numel() + b.numel(), vectors))
    product = contraction(dots=out.numel(), length=k + 2)
    return norms + elementwise(a, mul=1) + product + elementwise(out, compare=1, sqrt=1)


# sorting and selection


def sort_comparisons(length: int, k: int) -> int:
    """Comparisons that find and order the k best of ``length`` values, at most.

    Binary insertion: with k kept in order, each of the others is compared with the worst one
    kept and, in the worst case, placed among the rest by ⌈log₂ k⌉ more; ordering the first k
    takes k·⌈log₂ k⌉. With k = 1 this is length - 1, the maximum; with k = length it is
    length·⌈log₂ length⌉, a merge sort.
    """
    k = min(k, length)
    return length * (k - 1).bit_length() + length - k if k else 0


def _order(x: Tensor, dim: int, k: int | None = None) -> Cost:
    length = x.shape[dim] if x.dim() else 1
    return Cost(compare=rows(x, dim) * sort_comparisons(length, length if k is None else k))


@formula(aten.sort, aten.argsort)
def sort(
    x: Tensor,
    dim: int = -1,
    descending: bool = False,
    *,
    stable: bool | None = None,
    out: Any,
) -> Cost:
    """length·⌈log₂ length⌉ comparisons for each row, at most; stable ones take no more."""
    return _order(x, dim)


@formula(aten.msort)
def msort(x: Tensor, *, out: Tensor) -> Cost:
    """A sort along the first dimension."""
    return _order(x, 0)


@formula(aten.topk)
def topk(x: Tensor, k: int, dim: int = -1, *args: bool, out: tuple[Tensor, Tensor]) -> Cost:
    """length·⌈log₂ k⌉ + length - k comparisons for each row, at most."""
    return _order(x, dim, k)


@formula(aten.kthvalue)
def kthvalue(x: Tensor, k: int, dim: int = -1, *args: bool, out: tuple[Tensor, Tensor]) -> Cost:
    """The worst of the k best, from the nearer end."""
    length = x.shape[dim] if x.dim() else 1
    return _order(x, dim, min(k, length - k + 1))


@formula(aten.median, aten.nanmedian)
def median(x: Tensor, dim: int | None = None, *args: bool, out: Any) -> Cost:
    """The k-th value, k the middle of the row."""
    if dim is None:
        return Cost(compare=sort_comparisons(x.numel(), (x.numel() + 1) // 2))
    length = x.shape[dim] if x.dim() else 1
    return _order(x, dim, (length + 1) // 2)


@formula(aten.mode)
def mode(x: Tensor, dim: int = -1, *args: bool, out: tuple[Tensor, Tensor]) -> Cost:
    """A sort, and a comparison of each element with the one before."""
    return _order(x, dim) + Cost(compare=fold(x.numel(), rows(x, dim)))
