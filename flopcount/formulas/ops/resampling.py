"""Interpolation on a regular grid, and padding.

An interpolated value is a weighted sum of t taps: t multiplications and t - 1 additions, its
gradient t multiplications and t additions onto the image. Coordinates and weights belong to a
place, not to a channel: they are computed once for all channels (and samples, on a fixed grid).
"""

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import Tensor

from flopcount.cost import Cost
from flopcount.formulas import bytes as traffic
from flopcount.formulas.call import Call
from flopcount.formulas.registry import Formula, Gradients, formula, free
from flopcount.formulas.steps import elementwise, fold

LINEAR, NEAREST, CUBIC = range(3)
"""How aten numbers the modes of interpolation."""

TAPS = {LINEAR: 2, NEAREST: 1, CUBIC: 4}
"""Taps along each dimension."""

# what it takes to weigh the taps of one axis at one place
LINEAR_WEIGHTS = Cost(compare=1, arith=2)  # floor; λ = x - floor, 1 - λ
# floor and t = x - floor, then Keys' cubic at t + 1, t, 1 - t and 2 - t. Between 0 and 1 it is
# ((a + 2)·x - (a + 3))·x·x + 1, 5 steps; between 1 and 2 ((a·x - 5·a)·x + 8·a)·x - 4·a, 6 steps.
# The three arguments other than t take a step each.
CUBIC_WEIGHTS = Cost(compare=1, arith=1 + 3 + 2 * 5 + 2 * 6)
WEIGHTS = {LINEAR: LINEAR_WEIGHTS, NEAREST: Cost(compare=1), CUBIC: CUBIC_WEIGHTS}


def gather_taps(values: int, taps: int) -> Cost:
    """``values`` weighted sums of ``taps`` taps each."""
    return Cost(arith=values * (2 * taps - 1))


def scatter_taps(values: int, taps: int) -> Cost:
    """The transpose: each value times the weight of each of its taps, added there."""
    return Cost(arith=values * 2 * taps)


def coordinate_gradients(
    places: int, channels: int, taps: int, dimensions: int, *, extra: int = 0
) -> Cost:
    """The gradient of each coordinate of each place, through the weights of its taps.

    dw = Σ g·tap over the channels: t dot products of that length at each place. A weight is a
    product of one factor for each of the d dimensions; each coordinate sums dw times the slope
    of its own factor, ±1 where that is linear, times the other factors: t·(d - 1) products and
    t - 1 additions. ``extra`` steps follow for each coordinate.
    """
    per_coordinate = taps * (dimensions - 1) + taps - 1 + extra
    return Cost(arith=places * (taps * fold(2 * channels, 1) + dimensions * per_coordinate))


def joint_weights(places: int, taps: int, dimensions: int) -> Cost:
    """The weight of each tap is a product of one weight for each dimension."""
    return Cost(arith=places * taps * (dimensions - 1))


# resizing


def resized_weights(sizes: Sequence[int], mode: int, align_corners: bool) -> Cost:
    """Coordinates and weights of a resized grid, axis by axis, then their products.

    x = scale·i, or scale·(i + ½) - ½, which linear interpolation keeps from falling below 0.
    """
    coordinate = Cost(arith=1) if align_corners else Cost(arith=3, compare=int(mode == LINEAR))
    taps = TAPS[mode] ** len(sizes)
    axes = sum(sizes) * (coordinate + WEIGHTS[mode])
    return axes + joint_weights(prod(sizes), taps, len(sizes))


def resize(mode: int) -> Formula:
    """The formula of interpolations of this mode, with t the taps of all dimensions."""

    def cost(x: Tensor, output_size: Any, align_corners: bool, *args: Any, out: Tensor) -> Cost:
        """A weighted sum of t taps for each result, and the weights of each place."""
        sizes = out.shape[2:]
        weights = resized_weights(sizes, mode, align_corners)
        return weights + gather_taps(out.numel(), TAPS[mode] ** len(sizes))

    return cost


formula("aten::upsample_linear1d", "aten::upsample_bilinear2d")(resize(LINEAR))
formula("aten::upsample_trilinear3d")(resize(LINEAR))
formula("aten::upsample_bicubic2d")(resize(CUBIC))


def resize_backward(mode: int) -> Formula:
    """The formula of their gradients."""

    def cost(
        grad: Tensor,
        output_size: Any,
        input_size: Any,
        align_corners: bool,
        *args: Any,
        out: Tensor,
    ) -> Gradients:
        """t products and t additions for each result, and the weights of each place."""
        sizes = grad.shape[2:]
        weights = resized_weights(sizes, mode, align_corners)
        return Gradients(input=weights + scatter_taps(grad.numel(), TAPS[mode] ** len(sizes)))

    return cost


formula("aten::upsample_linear1d_backward")(resize_backward(LINEAR))
formula("aten::upsample_bilinear2d_backward")(resize_backward(LINEAR))
formula("aten::upsample_trilinear3d_backward")(resize_backward(LINEAR))
formula("aten::upsample_bicubic2d_backward")(resize_backward(CUBIC))

free("aten::upsample_nearest1d", "aten::upsample_nearest2d", "aten::upsample_nearest3d")
free("aten::_upsample_nearest_exact1d", "aten::_upsample_nearest_exact2d")
free("aten::_upsample_nearest_exact3d")


@formula(
    "aten::upsample_nearest1d_backward",
    "aten::upsample_nearest2d_backward",
    "aten::upsample_nearest3d_backward",
    "aten::_upsample_nearest_exact1d_backward",
    "aten::_upsample_nearest_exact2d_backward",
    "aten::_upsample_nearest_exact3d_backward",
)
def upsample_nearest_backward(grad: Tensor, *args: Any, out: Tensor) -> Gradients:
    """g, added to the element that was copied: an addition for each result."""
    return Gradients(input=elementwise(grad, add=1))


def antialiased_taps(length: int, count: int, radius: int, align_corners: bool) -> int:
    """Taps of all ``count`` places of an axis that is resized with a filter of ``radius``.

    Shrinking widens the filter by the factor s = length / count, or (length - 1) / (count - 1)
    where corners are aligned: the taps of place i are those within radius·s of s·(i + ½), cut off
    at the borders (torch, UpSampleKernel.cpp). A scale factor that is passed beside the sizes is
    ignored.
    """
    scale = length / count
    if align_corners:
        scale = (length - 1) / (count - 1) if count > 1 else 0.0
    support = radius * max(scale, 1.0)
    centers = [scale * (i + 0.5) for i in range(count)]
    return sum(
        min(int(center + support + 0.5), length) - max(int(center - support + 0.5), 0)
        for center in centers
    )


def two_passes(
    small: Tensor, large: Sequence[int], radius: int, align_corners: bool
) -> tuple[int, int]:
    """Taps of a pass along each row and one along each column, and the values that they make."""
    *outer, rows, columns = large
    *_, out_rows, out_columns = small.shape
    across = rows * antialiased_taps(columns, out_columns, radius, align_corners)
    down = out_columns * antialiased_taps(rows, out_rows, radius, align_corners)
    return prod(outer) * (across + down), prod(outer) * (rows + out_rows) * out_columns


def antialias(radius: int) -> Formula:
    """The formula of resizing with a filter of this radius.

    Weights are left out: they are computed once for each axis, not for each row and channel.
    """

    def cost(x: Tensor, output_size: Any, align_corners: bool, *args: Any, out: Tensor) -> Cost:
        """t multiplications and t - 1 additions for each value of each pass."""
        taps, values = two_passes(out, x.shape, radius, align_corners)
        return Cost(arith=2 * taps - values)

    return cost


formula("aten::_upsample_bilinear2d_aa")(antialias(1))
formula("aten::_upsample_bicubic2d_aa")(antialias(2))
formula("aten::_upsample_lanczos2d_aa")(antialias(3))


def antialias_backward(radius: int) -> Formula:
    """The formula of its gradient."""

    def cost(
        grad: Tensor,
        output_size: Any,
        input_size: Sequence[int],
        align_corners: bool,
        *args: Any,
        out: Tensor,
    ) -> Gradients:
        """The passes transposed: t products and t additions for each value."""
        taps, _ = two_passes(grad, input_size, radius, align_corners)
        return Gradients(input=Cost(arith=2 * taps))

    return cost


formula("aten::_upsample_bilinear2d_aa_backward")(antialias_backward(1))
formula("aten::_upsample_bicubic2d_aa_backward")(antialias_backward(2))
formula("aten::_upsample_lanczos2d_aa_backward")(antialias_backward(3))


# padding and reordering


def padded_traffic(call: Call) -> tuple[int, int]:
    """Padding that takes away reads only what is left."""
    read, written = traffic.operands_and_results(call)
    return min(read, written), written


free("aten::constant_pad_nd", traffic=padded_traffic)
free("aten::pixel_shuffle", "aten::pixel_unshuffle")

free("aten::reflection_pad1d", "aten::reflection_pad2d", "aten::reflection_pad3d")
free("aten::replication_pad1d", "aten::replication_pad2d", "aten::replication_pad3d")


@formula(
    "aten::reflection_pad1d_backward",
    "aten::reflection_pad2d_backward",
    "aten::reflection_pad3d_backward",
    "aten::replication_pad1d_backward",
    "aten::replication_pad2d_backward",
    "aten::replication_pad3d_backward",
    traffic=traffic.shape_only,
)
def pad_backward(grad: Tensor, x: Tensor, padding: Sequence[int], *, out: Tensor) -> Gradients:
    """g, added to the element that was copied: an addition for each result."""
    return Gradients(input=elementwise(grad, add=1))
