"""Normalisation layers, forward and backward.

Letters: x has n elements in m groups that are normalised together (a batch norm's channels, a
layer norm's rows), k = n / m in each; x̂ = (x - mean)·rstd, rstd = 1 / √(variance + ε). g is the
output's gradient, ĝ = g·weight that of x̂.

A backward op posts Σg to the bias, Σg·x̂ to the weight, and all else to the input, these sums
too where only the input needs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import Tensor, ops

from flopcount.cost import ZERO, Cost
from flopcount.formulas import bytes as traffic
from flopcount.formulas.call import Call
from flopcount.formulas.ops.reduction import norm_steps
from flopcount.formulas.registry import Gradients, formula
from flopcount.formulas.steps import elementwise, fold

aten = ops.aten


def statistics(x: Tensor, groups: int) -> Cost:
    """Mean and variance in two passes, 4·n (see ``reduction.var``), and ``inverse_root``."""
    return Cost(arith=4 * x.numel()) + inverse_root(groups)


def inverse_root(groups: int) -> Cost:
    """1 / √(variance + ε): an addition, a root and a division for each group."""
    return Cost(arith=3 * groups)


def apply(x: Tensor, weight: Any, bias: Any) -> Cost:
    """(x - mean)·rstd·weight + bias."""
    steps = elementwise(x, add=1, mul=1)
    return steps + elementwise(x, mul=int(weight is not None), add=int(bias is not None))


# batch norm


AVERAGING = ("momentum", "exponential_average_factor")
"""The weight of the newest batch: 1/n in the n-th batch where all batches weigh the same."""


def batch_norm_traffic(call: Call) -> tuple[int, int]:
    """In training the running statistics are written, too, whatever the schema says."""
    _, _, _, mean, var, training, *_ = call.args
    statistics = [mean, var] if training else []
    return traffic.read_and_written(call.operands, [call.out, *statistics])


@formula(
    aten.native_batch_norm,
    aten._native_batch_norm_legit,
    aten._native_batch_norm_legit_functional,
    aten.cudnn_batch_norm,
    aten.miopen_batch_norm,
    traffic=batch_norm_traffic,
    coefficients=AVERAGING,
)
def native_batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    *,
    out: Any,
) -> Cost:
    """x̂·weight + bias; in training, mean and variance of the batch are taken and remembered.

    new = momentum·statistic + (1 - momentum)·old is 3 operations a channel, and the variance
    is first made unbiased, times k / (k - 1).
    """
    channels = x.shape[1]
    if not training:
        return inverse_root(channels) + apply(x, weight, bias)
    remembered = 3 * (running_mean is not None) + 4 * (running_var is not None)
    return statistics(x, channels) + apply(x, weight, bias) + Cost(arith=channels * remembered)


@formula("aten::_native_batch_norm_legit.no_stats")
def batch_norm_no_stats(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    *,
    out: Any,
) -> Cost:
    """Without running statistics: those of the batch, always."""
    return native_batch_norm(x, weight, bias, None, None, True, momentum, eps, out=out)


@formula(
    aten._batch_norm_with_update,
    aten._batch_norm_with_update_functional,
    coefficients=("momentum",),
)
def _batch_norm_with_update(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    momentum: float,
    eps: float,
    *,
    out: Any,
) -> Cost:
    """A batch norm in training."""
    return native_batch_norm(
        x, weight, bias, running_mean, running_var, True, momentum, eps, out=out
    )


@formula(aten._native_batch_norm_legit_no_training, aten._batch_norm_no_update)
def _native_batch_norm_legit_no_training(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    *,
    out: Any,
) -> Cost:
    """A batch norm in evaluation."""
    return native_batch_norm(
        x, weight, bias, running_mean, running_var, False, momentum, eps, out=out
    )


def batch_norm_backward_traffic(call: Call) -> tuple[int, int]:
    """Training reads the batch's statistics, evaluation the running ones."""
    training = call.args[7]
    unread = (3, 4) if training else (5, 6)
    return traffic.reading_all_but(*unread)(call)


@formula(
    aten.native_batch_norm_backward,
    aten.batch_norm_backward,
    traffic=batch_norm_backward_traffic,
)
def native_batch_norm_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    save_mean: Tensor | None,
    save_rstd: Tensor | None,
    train: bool,
    eps: float,
    output_mask: Sequence[bool],
    *args: Any,
    out: Any,
) -> Gradients:
    """dx = (g - Σg / k - (x - mean)·rstd²·Σ(g·(x - mean)) / k)·rstd·weight, in training.

    x reaches the loss through x̂ directly, through the mean and through the variance. With
    ĝ = g·weight and dx̂/dx = rstd, a channel's mean passes back -rstd·Σĝ to each of its k
    elements, 1 / k of it each; its variance passes back Σĝ·(x - mean)·(-rstd³ / 2), times
    dvar/dx = 2·(x - mean) / k. The sum of the three, rstd·weight taken out, is the line above.
    (The mean's part in the variance is zero: Σ(x - mean) = 0.) Counted from it, for n elements
    in C channels:

    - db = Σg: n - C.
    - dw = rstd·Σ(g·(x - mean)): n differences, n products, n - C additions, C products.
    - dx: with the two sums at hand, 5·C for the factors of a channel (Σg / k; the other sum
      times 1 / k, rstd², and their product; rstd·weight, if there is one), then the products
      of the differences, two subtractions and a product: 4·n.

    8·n + 4·C in all, against 8·n + 10·C forward. torch's decomposition subtracts the mean once
    more, n. In evaluation mean and variance are constants: dx = g·rstd·weight.
    """
    n, channels = x.numel(), x.shape[1]
    for_input, for_weight, for_bias = output_mask
    total = Cost(arith=fold(n, channels))
    projection = Cost(arith=2 * n + fold(n, channels))
    rescale = Cost(arith=channels * (weight is not None))
    if train:
        into_input = Cost(arith=4 * n + 4 * channels) + rescale
        into_input += projection * (not for_weight) + total * (not for_bias)
        rstd = ZERO
    else:
        into_input, rstd = Cost(arith=n) + rescale, inverse_root(channels)
    return Gradients(
        input=(into_input + rstd) * for_input,
        weight=(projection + Cost(arith=channels) + rstd * (not for_input)) * for_weight,
        bias=total * for_bias,
    )


@formula(aten.cudnn_batch_norm_backward, aten.miopen_batch_norm_backward)
def cudnn_batch_norm_backward(
    x: Tensor, grad: Tensor, weight: Tensor, *args: Any, out: Any
) -> Gradients:
    """All gradients of a batch norm in training."""
    mask = (True, True, True)
    return native_batch_norm_backward(
        grad, x, weight, None, None, None, None, True, 0.0, mask, out=out
    )


# batch norm over processes: its statistics are exchanged between these ops


@formula(aten.batch_norm_stats)
def batch_norm_stats(x: Tensor, eps: float, *, out: Any) -> Cost:
    """Mean and rstd of each channel."""
    return statistics(x, x.shape[1])


@formula("aten::batch_norm_update_stats")
def batch_norm_update_stats(x: Tensor, mean: Any, var: Any, *args: Any, out: Any) -> Cost:
    """Mean and variance of each channel, 4·n, remembered as in ``native_batch_norm``."""
    remembered = 3 * (mean is not None) + 4 * (var is not None)
    return Cost(arith=4 * x.numel() + x.shape[1] * remembered)


@formula(
    aten.batch_norm_gather_stats_with_counts,
    aten.batch_norm_gather_stats,
    traffic=traffic.reading_all_but(0),  # x lends its dtype
)
def batch_norm_gather_stats(
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *args: Any,
    out: Any,
) -> Cost:
    """Mean and rstd over all w processes, each with a count of its own.

    mean = Σ count·mean_w / Σ count: w products, w - 1 additions and a division for each of C
    channels. variance = Σ count·(variance_w + (mean_w - mean)²) / Σ count: 3·w to get the
    variances back, 1 / rstd² - ε, 4·w steps, w - 1 additions and a division. The running
    statistics as in ``native_batch_norm``.
    """
    processes, channels = mean.shape
    steps = (1 + 3 + 4) * processes + 2 * (processes - 1) + 2
    steps += 3 * (running_mean is not None) + 4 * (running_var is not None)
    return Cost(arith=channels * steps + fold(processes, 1)) + inverse_root(channels)


@formula(aten.batch_norm_elemt)
def batch_norm_elemt(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    eps: float,
    *,
    out: Any,
) -> Cost:
    """x̂·weight + bias."""
    return apply(x, weight, bias)


@formula(aten.batch_norm_backward_reduce)
def batch_norm_backward_reduce(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    for_input: bool,
    for_weight: bool,
    for_bias: bool,
    *,
    out: Any,
) -> Gradients:
    """Σg and Σ(g·(x - mean)) of one process, as in ``native_batch_norm_backward``."""
    n, channels = x.numel(), x.shape[1]
    total = Cost(arith=fold(n, channels))
    projection = Cost(arith=2 * n + fold(n, channels))
    return Gradients(
        input=(projection * (not for_weight) + total * (not for_bias)) * for_input,
        weight=(projection + Cost(arith=channels)) * for_weight,
        bias=total * for_bias,
    )


@formula(aten.batch_norm_backward_elemt)
def batch_norm_backward_elemt(
    grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None, *args: Any, out: Any
) -> Gradients:
    """dx of ``native_batch_norm_backward`` from the two sums, x - mean taken anew: 5·n + 5·C."""
    channels = x.shape[1]
    return Gradients(input=Cost(arith=5 * x.numel() + channels * (4 + (weight is not None))))


# layer norm


@formula(aten.native_layer_norm)
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
    return statistics(x, row_count(x, normalized_shape)) + apply(x, weight, bias)


def row_count(x: Tensor, normalized_shape: Sequence[int]) -> int:
    """How many rows are normalised, each alone."""
    return prod(x.shape[: x.dim() - len(normalized_shape)])


@formula(aten.native_layer_norm_backward, traffic=traffic.reading_all_but(6))  # the bias
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
    """dx = (k·ĝ - Σĝ - x̂·Σ(ĝ·x̂))·(rstd / k).

    x̂ takes 2·n; ĝ takes n if there is a weight; then for dx: k·ĝ n, Σĝ n - m, ĝ·x̂ n, its sum
    n - m, x̂ times it n, two subtractions 2·n, rstd / k m, and the last product n. dw is a
    product and a sum over rows, db a sum over rows.
    """
    n, m = x.numel(), row_count(x, normalized_shape)
    k = prod(normalized_shape)
    for_input, for_weight, for_bias = output_mask
    normalized = Cost(arith=2 * n)
    into_input = Cost(arith=n * (weight is not None) + 6 * n + 2 * fold(n, m) + m)
    return Gradients(
        input=(normalized + into_input) * for_input,
        weight=(normalized * (not for_input) + Cost(arith=n + fold(n, k))) * for_weight,
        bias=Cost(arith=fold(n, k)) * for_bias,
    )


# group norm


@formula(aten.native_group_norm)
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
    return statistics(x, batch * groups) + apply(x, weight, bias)


@formula(aten.native_group_norm_backward)
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
    products = Cost(arith=n + fold(n, p))
    sums = Cost(arith=fold(n, p))
    affine = 3 * p * (weight is not None)
    into_input = Cost(arith=affine + 2 * fold(p, m) + 10 * m + 4 * n, compare=m)
    into_input += products * (not for_weight) + sums * (not for_bias)
    into_weight = products + Cost(arith=3 * p + fold(p, channels))
    return Gradients(
        input=into_input * for_input,
        weight=(into_weight + sums * (not for_input and not for_bias)) * for_weight,
        bias=(sums + Cost(arith=fold(p, channels))) * for_bias,
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
    return squares + inverse_root(m) + elementwise(x, mul=1 + (weight is not None))


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
    into_input = Cost(arith=n * (weight is not None) + 5 * n + fold(n, m))
    return Gradients(
        input=(normalized + into_input) * for_input,
        weight=(normalized * (not for_input) + Cost(arith=n + fold(n, k))) * for_weight,
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
