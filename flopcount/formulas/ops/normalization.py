"""Layer, group, root mean square and weight norm, forward and backward; batch norm has its file.

Letters: x has n elements in m groups that are normalised together (a layer norm's rows), k = n / m
in each; x̂ = (x - mean)·rstd with rstd = 1 / √(variance + ε). g is the output's gradient,
ĝ = g·weight the gradient of x̂.

A backward op posts Σg to the bias, Σg·x̂ to the weight and all else to the input. What several
gradients need is posted to the input, or to the weight where the input has no gradient.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import Tensor

from flopcount.cost import ZERO, Cost
from flopcount.formulas import bytes as traffic
from flopcount.formulas.ops.norms import norm_steps
from flopcount.formulas.registry import Gradients, formula
from flopcount.formulas.steps import elementwise, fold


def normalize(x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None) -> Cost:
    """x̂·weight + bias by the statistics of each group."""
    return statistics(x, groups) + scale_shift(x, weight, bias)


def statistics(x: Tensor, groups: int) -> Cost:
    """Mean and variance in two passes, 4·n (see ``reduction.variance``), and ``inverse_root``."""
    return Cost(arith=4 * x.numel()) + inverse_root(groups)


def inverse_root(groups: int) -> Cost:
    """1 / √(variance + ε): an addition, a root and a division for each group."""
    return Cost(arith=3 * groups)


def scale_shift(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Cost:
    """(x - mean)·rstd·weight + bias."""
    steps = elementwise(x, add=1, mul=1)
    return steps + elementwise(x, mul=int(weight is not None), add=int(bias is not None))


# layer norm


@formula("aten::native_layer_norm")
def native_layer_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    *,
    out: Any,
) -> Cost:
    """x̂·weight + bias, for each row of k elements."""
    return normalize(x, row_count(x, normalized_shape), weight, bias)


def row_count(x: Tensor, normalized_shape: Sequence[int]) -> int:
    """How many rows are normalised, each alone."""
    return prod(x.shape[: x.dim() - len(normalized_shape)])


@formula("aten::native_layer_norm_backward", traffic=traffic.reading_all_but(6))  # the bias
def native_layer_norm_backward(
    grad: Tensor,
    x: Tensor,
    normalized_shape: Sequence[int],
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    output_mask: Sequence[bool],
    *,
    out: Any,
) -> Gradients:
    """dx = (k·ĝ - Σĝ - x̂·Σ(ĝ·x̂))·(rstd / k)."""
    n, m, k = x.numel(), row_count(x, normalized_shape), prod(normalized_shape)
    return layer_norm_backward(n, m, k, output_mask, scaled=weight is not None)


def layer_norm_backward(n: int, m: int, k: int, mask: Sequence[bool], *, scaled: bool) -> Gradients:
    """The gradients of n elements in m rows of k.

    x̂ takes 2·n; ĝ takes n if there is a weight; then for dx: k·ĝ n, Σĝ n - m, ĝ·x̂ n, its sum
    n - m, x̂ times it n, two subtractions 2·n, rstd / k m, and the last product n. dw is a
    product and a sum over rows, db a sum over rows.
    """
    for_input, for_weight, for_bias = mask
    normalized = Cost(arith=2 * n)
    into_input = Cost(arith=(7 if scaled else 6) * n + 2 * fold(n, m) + m)
    into_weight = Cost(arith=n + fold(n, k)) + (ZERO if for_input else normalized)
    return Gradients(
        input=normalized + into_input if for_input else ZERO,
        weight=into_weight if for_weight else ZERO,
        bias=Cost(arith=fold(n, k)) if for_bias else ZERO,
    )


# group norm


@formula("aten::native_group_norm")
def native_group_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    batch: int,
    channels: int,
    positions: int,
    groups: int,
    eps: float,
    *,
    out: Any,
) -> Cost:
    """x̂·weight + bias, for each group of channels of a sample.

    A kernel may fold rstd·weight and bias - mean·rstd·weight into one factor and one summand
    for each channel first, and save up to 2·n.
    """
    return normalize(x, batch * groups, weight, bias)


@formula("aten::native_group_norm_backward")
def native_group_norm_backward(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    batch: int,
    channels: int,
    positions: int,
    groups: int,
    output_mask: Sequence[bool],
    *,
    out: Any,
) -> Gradients:
    """dx = c1·g + c2·x + c3, with factors from s = Σ(g·x) and b = Σg over each channel's positions.

    With p channels and m groups in all samples:

    - s takes n products and n - p additions, b n - p additions.
    - s·weight and b·weight summed over a group: p products and p - m additions each;
      c1 = rstd·weight p.
    - c2 = (b·mean - s)·rstd³ / k: 6·m, the product, the subtraction and four factors.
    - c3 = -c2·mean - b·rstd / k: 4·m, and m negations.
    - c1·g + c2·x + c3: 4·n.
    - dw = Σ (s - b·mean)·rstd over the samples: 3·p, and p - C additions (C
      channels in a sample); db = Σb: p - C.
    """
    n, p, m = x.numel(), batch * channels, batch * groups
    for_input, for_weight, for_bias = output_mask
    products, sums = Cost(arith=n + fold(n, p)), Cost(arith=fold(n, p))
    affine = 0 if weight is None else 3 * p
    into_input = Cost(arith=affine + 2 * fold(p, m) + 10 * m + 4 * n, compare=m)
    into_input += (ZERO if for_weight else products) + (ZERO if for_bias else sums)
    into_weight = products + Cost(arith=3 * p + fold(p, channels))
    into_weight += ZERO if for_input or for_bias else sums
    return Gradients(
        input=into_input if for_input else ZERO,
        weight=into_weight if for_weight else ZERO,
        bias=sums + Cost(arith=fold(p, channels)) if for_bias else ZERO,
    )


# root mean square norm


@formula("aten::_fused_rms_norm")
def _fused_rms_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None,
    eps: float | None,
    *,
    out: Any,
) -> Cost:
    """x·rstd·weight, rstd = 1 / √(Σx² / k + ε): n squares, n - m additions, m divisions."""
    m = row_count(x, normalized_shape)
    squares = elementwise(x, mul=1) + Cost(arith=fold(x.numel(), m) + m)
    return squares + inverse_root(m) + elementwise(x, mul=1 if weight is None else 2)


@formula("aten::_fused_rms_norm_backward")
def _fused_rms_norm_backward(
    grad: Tensor,
    x: Tensor,
    normalized_shape: Sequence[int],
    rstd: Tensor,
    weight: Tensor | None,
    output_mask: Sequence[bool],
    *,
    out: Any,
) -> Gradients:
    """dx = (ĝ - x̂ / k·Σ(ĝ·x̂))·rstd.

    x̂ = x·rstd takes n; ĝ takes n if there is a weight; ĝ·x̂ n, its sum n - m, x̂ / k and the
    product with the sum 2·n, the subtraction n, the last product n. dw is a product and a sum
    over rows.
    """
    n, m, k = x.numel(), row_count(x, normalized_shape), prod(normalized_shape)
    for_input, for_weight = output_mask
    normalized = Cost(arith=n)
    into_input = Cost(arith=(5 if weight is None else 6) * n + fold(n, m))
    into_weight = Cost(arith=n + fold(n, k)) + (ZERO if for_input else normalized)
    return Gradients(
        input=normalized + into_input if for_input else ZERO,
        weight=into_weight if for_weight else ZERO,
    )


# weight norm


@formula("aten::_weight_norm_interface")
def _weight_norm_interface(v: Tensor, g: Tensor, dim: int = 0, *, out: Any) -> Cost:
    """v·(g / |v|), a norm for each slice."""
    slices = v.shape[dim]
    return norm_steps(v, v.numel(), slices, 2) + Cost(arith=slices + v.numel())


@formula("aten::_weight_norm_interface_backward")
def _weight_norm_interface_backward(
    grad: Tensor, v: Tensor, g: Tensor, norms: Tensor, dim: int, *, out: Any
) -> Gradients:
    """dg = s / |v| with s = Σ(grad·v); dv = (g / |v|)·(grad - v·(s / |v|²)).

    s takes n products and n - m additions; the factors of a slice are two divisions, a square
    and a division; dv is 3·n more.
    """
    n, slices = v.numel(), v.shape[dim]
    return Gradients(weight=Cost(arith=4 * n + fold(n, slices) + 4 * slices))
