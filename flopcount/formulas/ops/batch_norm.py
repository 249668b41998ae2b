"""Batch norm, forward and backward, in one process and over several.

Letters: x has n elements in C channels, k = n / C in each; x̂ = (x - mean)·rstd with
rstd = 1 / √(variance + ε); g is the output's gradient.

A backward op posts Σg to the bias and Σg·x̂ to the weight. The input's gradient also needs these
sums, and has them posted to it where the bias or the weight has no gradient.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from flopcount.cost import ZERO, Cost
from flopcount.formulas import bytes as traffic
from flopcount.formulas.call import Call
from flopcount.formulas.ops.normalization import inverse_root, normalize, scale_shift, statistics
from flopcount.formulas.registry import Gradients, formula
from flopcount.formulas.steps import fold


def remember(channels: int, mean: Tensor | None, var: Tensor | None) -> Cost:
    """new = momentum·statistic + (1 - momentum)·old, 3 operations for each channel.

    The variance is first made unbiased, times k / (k - 1).
    """
    steps = (0 if mean is None else 3) + (0 if var is None else 1 + 3)
    return Cost(arith=channels * steps)


AVERAGING = ("momentum", "exponential_average_factor")
"""The weight of the newest batch: 1/n in the n-th batch where all batches weigh the same."""


def batch_norm_traffic(call: Call) -> tuple[int, int]:
    """In training the running statistics are written too, whatever the schema says."""
    _, _, _, mean, var, training, *_ = call.args
    running = [mean, var] if training else []
    return traffic.read_and_written(call.operands, [call.out, *running])


@formula(
    "aten::native_batch_norm",
    "aten::_native_batch_norm_legit",
    "aten::_native_batch_norm_legit_functional",
    "aten::cudnn_batch_norm",
    "aten::miopen_batch_norm",
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
    """x̂·weight + bias, by the batch's statistics in training, else by the running ones."""
    channels = x.shape[1]
    if not training:
        return inverse_root(channels) + scale_shift(x, weight, bias)
    return normalize(x, channels, weight, bias) + remember(channels, running_mean, running_var)


@formula("aten::_native_batch_norm_legit.no_stats")
def batch_norm_no_stats(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, *args: Any, out: Any
) -> Cost:
    """x̂·weight + bias by the statistics of the batch; there are no running ones."""
    return normalize(x, x.shape[1], weight, bias)


@formula(
    "aten::_batch_norm_with_update",
    "aten::_batch_norm_with_update_functional",
    coefficients=("momentum",),
)
def _batch_norm_with_update(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    *args: Any,
    out: Any,
) -> Cost:
    """A batch norm in training."""
    channels = x.shape[1]
    return normalize(x, channels, weight, bias) + remember(channels, running_mean, running_var)


@formula("aten::_native_batch_norm_legit_no_training", "aten::_batch_norm_no_update")
def _native_batch_norm_legit_no_training(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, *args: Any, out: Any
) -> Cost:
    """A batch norm in evaluation."""
    return inverse_root(x.shape[1]) + scale_shift(x, weight, bias)


def channel_sums(n: int, channels: int) -> tuple[Cost, Cost]:
    """Σg, and Σ(g·(x - mean)) with its differences and products, of each channel."""
    return Cost(arith=fold(n, channels)), Cost(arith=2 * n + fold(n, channels))


def batch_norm_backward(
    n: int, channels: int, mask: Sequence[bool], *, from_sums: Cost
) -> Gradients:
    """The two sums, and dx by ``from_sums`` once they are there; dw is another C products."""
    for_input, for_weight, for_bias = mask
    total, projection = channel_sums(n, channels)
    own_sums = (ZERO if for_weight else projection) + (ZERO if for_bias else total)
    return Gradients(
        input=from_sums + own_sums if for_input else ZERO,
        weight=projection + Cost(arith=channels) if for_weight else ZERO,
        bias=total if for_bias else ZERO,
    )


def batch_norm_backward_traffic(call: Call) -> tuple[int, int]:
    """Training reads the batch's statistics, evaluation the running ones."""
    training = call.args[7]
    unread = (3, 4) if training else (5, 6)
    return traffic.reading_all_but(*unread)(call)


@formula(
    "aten::native_batch_norm_backward",
    "aten::batch_norm_backward",
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
    rescale = 0 if weight is None else channels
    if not train:
        return running_gradients(n, channels, output_mask, rescale)
    from_sums = Cost(arith=4 * n + 4 * channels + rescale)
    return batch_norm_backward(n, channels, output_mask, from_sums=from_sums)


def running_gradients(n: int, channels: int, mask: Sequence[bool], rescale: int) -> Gradients:
    """dx = g·rstd·weight by the running statistics; rstd is computed once, for dx if it can be."""
    for_input, for_weight, for_bias = mask
    total, projection = channel_sums(n, channels)
    rstd = inverse_root(channels)
    into_weight = projection + Cost(arith=channels) + (ZERO if for_input else rstd)
    return Gradients(
        input=Cost(arith=n + rescale) + rstd if for_input else ZERO,
        weight=into_weight if for_weight else ZERO,
        bias=total if for_bias else ZERO,
    )


@formula("aten::cudnn_batch_norm_backward", "aten::miopen_batch_norm_backward")
def cudnn_batch_norm_backward(
    x: Tensor, grad: Tensor, weight: Tensor, *args: Any, out: Any
) -> Gradients:
    """All gradients of a batch norm in training."""
    n, channels = x.numel(), x.shape[1]
    from_sums = Cost(arith=4 * n + 5 * channels)
    return batch_norm_backward(n, channels, (True, True, True), from_sums=from_sums)


# over several processes, which exchange their statistics between these ops


@formula("aten::batch_norm_stats")
def batch_norm_stats(x: Tensor, eps: float, *, out: Any) -> Cost:
    """Mean and rstd of each channel."""
    return statistics(x, x.shape[1])


@formula("aten::batch_norm_update_stats")
def batch_norm_update_stats(x: Tensor, mean: Any, var: Any, *args: Any, out: Any) -> Cost:
    """Mean and variance of each channel, 4·n, and the running statistics."""
    return Cost(arith=4 * x.numel()) + remember(x.shape[1], mean, var)


@formula(
    "aten::batch_norm_gather_stats_with_counts",
    "aten::batch_norm_gather_stats",
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
    variances back, 1 / rstd² - ε, 4·w steps, w - 1 additions and a division.
    """
    processes, channels = mean.shape
    steps = (1 + 3 + 4) * processes + 2 * (processes - 1) + 2
    gathered = Cost(arith=channels * steps + fold(processes, 1)) + inverse_root(channels)
    return gathered + remember(channels, running_mean, running_var)


@formula("aten::batch_norm_elemt")
def batch_norm_elemt(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, *args: Any, out: Any
) -> Cost:
    """x̂·weight + bias."""
    return scale_shift(x, weight, bias)


@formula("aten::batch_norm_backward_reduce", by_name=True)
def batch_norm_backward_reduce(
    *, input: Tensor, input_g: bool, weight_g: bool, bias_g: bool, out: Any, **others: Any
) -> Gradients:
    """Σg and Σ(g·(x - mean)) of one process; dx is another op's."""
    mask = input_g, weight_g, bias_g
    return batch_norm_backward(input.numel(), input.shape[1], mask, from_sums=ZERO)


@formula("aten::batch_norm_backward_elemt")
def batch_norm_backward_elemt(
    grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None, *args: Any, out: Any
) -> Gradients:
    """dx of ``native_batch_norm_backward`` from the two sums, x - mean taken anew: 5·n + 5·C."""
    factors = x.shape[1] * (4 if weight is None else 5)
    return Gradients(input=Cost(arith=5 * x.numel() + factors))
