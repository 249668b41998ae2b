"""Pooling: the largest or the mean of a window, forward and backward.

k is the number of elements of a window. Windows are taken whole: a tap in the padding counts
like any other, as it does in a convolution's ``macs``. What an adaptive pooling takes together
follows from the two lengths alone, and is counted exactly.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import Tensor

from flopcount.cost import Cost
from flopcount.formulas import bytes as traffic
from flopcount.formulas.registry import Formula, Gradients, formula
from flopcount.formulas.steps import elementwise


def window(kernel_size: int | Sequence[int], dimensions: int) -> int:
    """k, of a kernel whose lengths may be one number for all dimensions."""
    lengths = [kernel_size] if isinstance(kernel_size, int) else kernel_size
    return prod(lengths) if len(lengths) == dimensions else lengths[0] ** dimensions


def max_pool(dimensions: int) -> Formula:
    """The formula of poolings of so many dimensions whose windows are all alike."""

    def cost(
        x: Tensor, kernel_size: Sequence[int], *args: Any, out: Tensor | tuple[Tensor, Tensor]
    ) -> Cost:
        """k - 1 comparisons for each result."""
        values = out if isinstance(out, Tensor) else out[0]
        return elementwise(values, compare=max(window(kernel_size, dimensions) - 1, 0))

    return cost


formula("aten::max_pool1d", "aten::max_pool1d_with_indices")(max_pool(1))
formula("aten::max_pool2d", "aten::max_pool2d_with_indices")(max_pool(2))
formula("aten::max_pool3d", "aten::max_pool3d_with_indices")(max_pool(3))
formula("aten::mkldnn_max_pool2d", "aten::fractional_max_pool2d")(max_pool(2))
formula("aten::mkldnn_max_pool3d", "aten::fractional_max_pool3d")(max_pool(3))


def avg_pool(dimensions: int) -> Formula:
    """The formula of means over windows of so many dimensions."""

    def cost(x: Tensor, kernel_size: Sequence[int], *args: Any, out: Tensor) -> Cost:
        """k - 1 additions and a division for each result."""
        return elementwise(out, add=max(window(kernel_size, dimensions) - 1, 0), div=1)

    return cost


formula("aten::avg_pool1d")(avg_pool(1))
formula("aten::avg_pool2d")(avg_pool(2))
formula("aten::avg_pool3d")(avg_pool(3))


def avg_pool_backward(dimensions: int) -> Formula:
    """The formula of their gradients; one dimension is run as two."""

    def cost(
        grad: Tensor, x: Tensor, kernel_size: Sequence[int], *args: Any, out: Tensor
    ) -> Gradients:
        """g / k, once for each result, added to each of the k elements of its window."""
        return Gradients(input=elementwise(grad, div=1, add=window(kernel_size, dimensions)))

    return cost


formula("aten::avg_pool2d_backward", traffic=traffic.shape_only)(avg_pool_backward(2))
formula("aten::avg_pool3d_backward", traffic=traffic.shape_only)(avg_pool_backward(3))


@formula(
    "aten::max_pool2d_with_indices_backward",
    "aten::max_pool3d_with_indices_backward",
    "aten::fractional_max_pool2d_backward",
    "aten::fractional_max_pool3d_backward",
    "aten::adaptive_max_pool2d_backward",
    "aten::adaptive_max_pool3d_backward",
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


def covered(x: Tensor, pooled: Tensor) -> int:
    """How many elements the windows of all results hold, overlaps counted again.

    Window i of a dimension begins at ⌊i·L / O⌋ and ends before ⌈(i + 1)·L / O⌉; where O = L,
    as for samples and channels, it is one element long. Windows are boxes, so the sum over all
    of them is the product of the dimensions' sums.
    """
    return prod(
        sum(-(-(i + 1) * length // count) - i * length // count for i in range(count))
        for length, count in zip(x.shape, pooled.shape, strict=True)
    )


@formula("aten::adaptive_max_pool2d", "aten::adaptive_max_pool3d")
def adaptive_max_pool(x: Tensor, output_size: Sequence[int], *, out: tuple[Tensor, Tensor]) -> Cost:
    """k - 1 comparisons for each result, k its own window's."""
    values, _ = out
    return Cost(compare=covered(x, values) - values.numel())


@formula(
    "aten::_adaptive_avg_pool2d",
    "aten::_adaptive_avg_pool3d",
    "aten::mkldnn_adaptive_avg_pool2d",
    # without a tensor for the result these open themselves
    "aten::adaptive_avg_pool1d.out",
    "aten::adaptive_avg_pool2d.out",
    "aten::adaptive_avg_pool3d.out",
)
def adaptive_avg_pool(x: Tensor, output_size: Sequence[int], *, out: Tensor) -> Cost:
    """k - 1 additions and a division for each result, k its own window's."""
    return Cost(arith=covered(x, out))


@formula(
    "aten::_adaptive_avg_pool2d_backward",
    "aten::_adaptive_avg_pool3d_backward",
    "aten::adaptive_avg_pool3d_backward",
    "aten::mkldnn_adaptive_avg_pool2d_backward",
    traffic=traffic.shape_only,
)
def adaptive_avg_pool_backward(grad: Tensor, x: Tensor, *, out: Tensor) -> Gradients:
    """g / k, once for each result, added to each of the k elements of its window."""
    return Gradients(input=elementwise(grad, div=1) + Cost(arith=covered(x, grad)))
