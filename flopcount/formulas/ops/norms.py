"""Norms of vectors and distances between them.

Letters: the norms of n values in m groups are m sums of powers |x|ᵖ, and their roots.
"""

from collections.abc import Sequence
from math import inf
from typing import Any

import torch
from torch import Tensor

from flopcount.cost import ZERO, Cost
from flopcount.formulas.ops.pointwise import product_steps, real_powers, sum_steps
from flopcount.formulas.registry import Gradients, formula
from flopcount.formulas.steps import contraction, elementwise, fold


def norm_steps(x: Tensor, n: int, m: int, p: float) -> Cost:
    """(Σ|x|ᵖ)^(1/p) of n values in m groups; for ∞, -∞ and 0 there is no root."""
    root = real_powers(1 / p, m) if p != 0 and abs(p) != inf else ZERO
    return power_sum_steps(x, n, m, p) + root


def power_sum_steps(x: Tensor, n: int, m: int, p: float) -> Cost:
    """Σ|x|ᵖ of n values in m groups; x tells whether they are complex.

    An even power needs no modulus. A complex square is two products and a sum, a modulus its
    root; for ∞ and -∞ there is no power but a comparison, for 0 a comparison with zero.
    """
    even = p % 2 == 0
    if x.is_complex():
        modulus = Cost(arith=(3 if even else 4) * n)
    else:
        modulus = ZERO if even else Cost(compare=n)
    if abs(p) == inf:
        return modulus + Cost(compare=fold(n, m))
    if p == 0:
        return Cost(compare=n, arith=fold(n, m))
    exponent = p / 2 if even and x.is_complex() else p  # the square is there already
    return modulus + real_powers(exponent, n) + Cost(arith=fold(n, m))


@formula("aten::linalg_vector_norm", "aten::norm")
def linalg_vector_norm(
    x: Tensor, ord: float | None = 2, *args: Any, out: Tensor, **kwargs: Any
) -> Cost:
    """(Σ|x|ᵖ)^(1/p)."""
    return norm_steps(x, x.numel(), out.numel(), 2 if ord is None else ord)


@formula("aten::linalg__powsum")
def linalg_powsum(x: Tensor, ord: float = 2, *args: Any, out: Tensor, **kwargs: Any) -> Cost:
    """Σ|x|ᵖ."""
    return power_sum_steps(x, x.numel(), out.numel(), ord)


@formula("aten::_foreach_powsum")
def _foreach_powsum(
    xs: Sequence[Tensor], ord: float = 2, dtype: Any = None, *, out: Sequence[Tensor]
) -> Cost:
    """Σ|x|ᵖ of each tensor."""
    return sum((power_sum_steps(x, x.numel(), 1, ord) for x in xs), ZERO)


@formula("aten::dist")
def dist(a: Tensor, b: Tensor, p: float = 2, *, out: Tensor) -> Cost:
    """The norm of a - b, broadcast."""
    n = torch.broadcast_shapes(a.shape, b.shape).numel()
    return Cost(arith=n * sum_steps(a, b)) + norm_steps(a if a.is_complex() else b, n, 1, p)


@formula("aten::renorm")
def renorm(x: Tensor, p: float, dim: int, maxnorm: float, *, out: Tensor) -> Cost:
    """x times maxnorm / (norm + ε) where a slice's norm is above maxnorm, else times 1."""
    return renorm_steps(x, x.numel(), x.shape[dim], p)


def renorm_steps(x: Tensor, n: int, m: int, p: float) -> Cost:
    """The norms of n values in m slices, their factors, and a product for each part of a value."""
    factors = Cost(compare=2 * m, arith=2 * m)  # norm > maxnorm, select; add, divide
    return norm_steps(x, n, m, p) + factors + Cost(arith=n * product_steps(1.0, x))


def distances(x: Tensor, pairs: int, p: float) -> Cost:
    """The norm of a difference of k elements for each pair of rows, such as those of ``x``."""
    n = pairs * x.shape[-1]
    return elementwise(x, n, add=1) + norm_steps(x, n, pairs, p)


@formula("aten::_cdist_forward")
def _cdist_forward(
    a: Tensor, b: Tensor, p: float, compute_mode: int | None, *, out: Tensor
) -> Cost:
    """The distance of each row of a from each row of b."""
    return distances(a, out.numel(), p)


@formula("aten::_pdist_forward")
def _pdist_forward(x: Tensor, p: float = 2, *, out: Tensor) -> Cost:
    """The distance of each of the r·(r - 1) / 2 pairs of rows."""
    return distances(x, out.numel(), p)


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
    cost += real_powers(p - 1, pairs) + Cost(arith=pairs, compare=pairs)
    if p != 2:
        cost += real_powers(p - 2, n) + Cost(arith=n, compare=n)
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
