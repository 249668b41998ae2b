"""Pooling: the largest or the mean of a window, forward and backward.

k is the number of elements of a window. Windows are taken whole: a tap in the padding counts
like any other, as it does in a convolution's ``macs``. What an adaptive pooling takes together
follows from the two lengths alone, and is counted exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import Tensor, ops

from flopcount.cost import Cost
from flopcount.formulas import bytes as traffic
from flopcount.formulas.registry import Gradients, formula
from flopcount.formulas.steps import elementwise

aten = ops.aten


def fixed_windows(dimensions: int) -> None:
    """Register the poolings of so many dimensions whose windows are all alike."""

    def window(kernel_size: int | Sequence[int]) -> int:
        each = [kernel_size] if isinstance(kernel_size, int) else kernel_size
        return prod(each) if len(each) == dimensions else each[0] ** dimensions

    def max_pool(
        x: Tensor, kernel_size: Sequence[int], *args: Any, out: Tensor | tuple[Tensor, Tensor]
    ) -> Cost:
        """k - 1 comparisons for each result."""
        values = out if isinstance(out, Tensor) else out[0]
        return elementwise(values, compare=max(window(kernel_size) - 1, 0))

    def avg_pool(x: Tensor, kernel_size: Sequence[int], *args: Any, out: Tensor) -> Cost:
        """k - 1 additions and a division for each result."""
        return elementwise(out, add=max(window(kernel_size) - 1, 0), div=1)

    def avg_pool_backward(
        grad: Tensor, x: Tensor, kernel_size: Sequence[int], *args: Any, out: Tensor
    ) -> Gradients:
        """g / k, once for each result, added to each of the k elements of its window."""
        return Gradients(input=elementwise(grad, div=1, add=window(kernel_size)))

    name = f"pool{dimensions}d"
    formula(f"aten::max_{name}", f"aten::max_{name}_with_indices")(max_pool)
    formula(f"aten::fractional_max_{name}", f"aten::mkldnn_max_{name}")(max_pool)
    formula(f"aten::avg_{name}")(avg_pool)
    if dimensions > 1:  # one is run as two
        formula(f"aten::avg_{name}_backward", traffic=traffic.shape_only)(avg_pool_backward)


fixed_windows(1)
fixed_windows(2)
fixed_windows(3)


@formula(
    aten.max_pool2d_with_indices_backward,
    aten.max_pool3d_with_indices_backward,
    aten.fractional_max_pool2d_backward,
    aten.fractional_max_pool3d_backward,
    aten.adaptive_max_pool2d_backward,
    aten.adaptive_max_pool3d_backward,
    traffic=traffic.shape_only,
)
@formula(  # these get no indices, and look at x
    "aten::max_pool2d_backward",
    "aten::mkldnn_max_pool2d_backward",
    "aten::mkldnn_max_pool3d_backward",
)
def max_pool_backward(grad: Tensor, *args: Any, out: Tensor) -> Gradients:
    """g, added to the element that was largest: an addition for each result."""
    return Gradients(input=elementwise(grad, add=1))


# adaptive pooling


def covered(inputs: Sequence[int], outputs: Sequence[int]) -> int:
    """How many elements the windows of all ``outputs`` hold, overlaps counted again.

    Window i of a dimension begins at ⌊i·L / O⌋ and ends before ⌈(i + 1)·L / O⌉. Windows are
    boxes, so that the sum over all of them is the product of the dimensions' sums.
    """
    return prod(
        sum(-(-(i + 1) * length // count) - i * length // count for i in range(count))
        for length, count in zip(inputs, outputs, strict=True)
    )


def adaptive_elements(x: Tensor, pooled: Tensor, dimensions: int) -> int:
    """``covered`` by the windows of all channels of all samples."""
    return prod(x.shape[:-dimensions]) * covered(x.shape[-dimensions:], pooled.shape[-dimensions:])


def adaptive_windows(dimensions: int) -> None:
    """Register the adaptive poolings of so many dimensions."""

    def max_pool(x: Tensor, output_size: Sequence[int], *, out: tuple[Tensor, Tensor]) -> Cost:
        """k - 1 comparisons for each result, k its own window's."""
        values, _ = out
        return Cost(compare=adaptive_elements(x, values, dimensions) - values.numel())

    def avg_pool(x: Tensor, output_size: Sequence[int], *, out: Tensor) -> Cost:
        """k - 1 additions and a division for each result, k its own window's."""
        return Cost(arith=adaptive_elements(x, out, dimensions))

    def avg_pool_backward(grad: Tensor, x: Tensor, *, out: Tensor) -> Gradients:
        """g / k, once for each result, added to each of the k elements of its window."""
        additions = adaptive_elements(x, grad, dimensions)
        return Gradients(input=elementwise(grad, div=1) + Cost(arith=additions))

    # whole pools open themselves, but for those whose result has a place already
    formula(f"aten::adaptive_avg_pool{dimensions}d.out")(avg_pool)
    if dimensions == 1:
        return
    formula(f"aten::adaptive_max_pool{dimensions}d")(max_pool)
    formula(f"aten::_adaptive_avg_pool{dimensions}d")(avg_pool)
    formula(f"aten::mkldnn_adaptive_avg_pool{dimensions}d")(avg_pool)
    backward = f"adaptive_avg_pool{dimensions}d_backward"
    names = (f"aten::{prefix}{backward}" for prefix in ("", "_", "mkldnn_"))
    formula(*names, traffic=traffic.shape_only)(avg_pool_backward)


adaptive_windows(1)
adaptive_windows(2)
adaptive_windows(3)
