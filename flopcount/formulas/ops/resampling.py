"""Interpolation, sampling at given places, padding, regions of interest.

An interpolated value is a weighted sum of t taps: t multiplications and t - 1 additions, its
gradient t multiplications and t additions onto the image. Coordinates and weights belong to a
place, not to a channel: they are computed once for all channels (and samples, on a fixed grid).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import Tensor, ops

from flopcount.cost import Cost
from flopcount.formulas import bytes as traffic
from flopcount.formulas.ops.reduction import sort_comparisons
from flopcount.formulas.registry import Formula, Gradients, Uncountable, formula, free
from flopcount.formulas.steps import contraction, elementwise, fold

aten = ops.aten

LINEAR, NEAREST, CUBIC = range(3)
"""``interpolation_mode`` of a grid sampler."""

ZEROS, BORDER, REFLECTION = range(3)
"""``padding_mode`` of a grid sampler."""

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
    at the borders (torch, UpSampleKernel.cpp). A scale factor that was given apart from the sizes
    is not looked at.
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


# sampling at given places


def sampling_weights(grid: Tensor, mode: int, padding_mode: int, align_corners: bool) -> Cost:
    """From the coordinates of each place to the weights of its taps.

    A coordinate in [-1, 1] becomes an index: ((x + 1)·size - 1) / 2, or (x + 1) / 2·(size - 1).
    Padding clips it (2 comparisons), or reflects it first: |x - low| modulo the span (subtract,
    absolute value; divide, floor, multiply, subtract), turned round where ⌊x / span⌋ is odd
    (divide, floor; subtract, select), low added again.
    """
    *places, dimensions = grid.shape
    coordinate = Cost(arith=3 if align_corners else 4) + WEIGHTS[mode]
    if padding_mode != ZEROS:
        coordinate += Cost(compare=2)
    if padding_mode == REFLECTION:
        coordinate += Cost(arith=7, compare=4)
    if mode == NEAREST:  # one tap, and no weight
        return grid.numel() * coordinate
    taps = TAPS[mode] ** dimensions
    return grid.numel() * coordinate + joint_weights(prod(places), taps, dimensions)


@formula(aten.grid_sampler_2d, aten.grid_sampler_3d, "aten::_grid_sampler_2d_cpu_fallback")
def grid_sampler(
    x: Tensor,
    grid: Tensor,
    interpolation_mode: int,
    padding_mode: int,
    align_corners: bool,
    *,
    out: Tensor,
) -> Cost:
    """A weighted sum of t taps for each result, and the weights of each place."""
    weights = sampling_weights(grid, interpolation_mode, padding_mode, align_corners)
    if interpolation_mode == NEAREST:
        return weights
    return weights + gather_taps(out.numel(), TAPS[interpolation_mode] ** grid.shape[-1])


@formula(aten.grid_sampler_2d_backward, aten.grid_sampler_3d_backward)
def grid_sampler_backward(
    grad: Tensor,
    x: Tensor,
    grid: Tensor,
    interpolation_mode: int,
    padding_mode: int,
    align_corners: bool,
    output_mask: Sequence[bool],
    *,
    out: Any,
) -> Gradients:
    """Of the image: t products and t additions for each result. Of the grid, through the weights.

    dw = Σ g·tap over the channels: t dot products of that length at each place. A weight is a
    product of one factor for each of the d dimensions; each coordinate sums dw times the slope
    of its own factor times the other factors, t·(d - 1) products and t - 1 additions, and then
    takes the scale between coordinate and index. A linear factor's slope is ±1. A cubic's take
    another t products; the slopes themselves, at the same four arguments as the weights, are
    (3·(a + 2)·x - 2·(a + 3))·x twice and (3·a·x - 10·a)·x + 8·a twice: 2·3 + 2·4. Nearest has
    no slope, and its image takes an addition for each result.
    """
    mode, taps = interpolation_mode, TAPS[interpolation_mode] ** grid.shape[-1]
    for_image, for_grid = output_mask
    cost = sampling_weights(grid, mode, padding_mode, align_corners)
    if mode == NEAREST:
        return Gradients(input=cost + elementwise(grad, add=1) * for_image)
    if for_image:
        cost += scatter_taps(grad.numel(), taps)
    if for_grid:
        dimensions, channels = grid.shape[-1], grad.shape[1]
        slope = taps + 2 * 3 + 2 * 4 if mode == CUBIC else 0
        per_coordinate = taps * (dimensions - 1) + taps - 1 + 1 + slope
        per_place = taps * fold(2 * channels, 1) + dimensions * per_coordinate
        cost += Cost(arith=grid.numel() // dimensions * per_place)
    return Gradients(input=cost)


@formula("aten::cudnn_grid_sampler")
def cudnn_grid_sampler(x: Tensor, grid: Tensor, *, out: Tensor) -> Cost:
    """Linear, zeros in the padding, corners aligned."""
    return grid_sampler(x, grid, LINEAR, ZEROS, True, out=out)


@formula("aten::cudnn_grid_sampler_backward")
def cudnn_grid_sampler_backward(x: Tensor, grid: Tensor, grad: Tensor, *, out: Any) -> Gradients:
    """Gradients of both, image and grid."""
    return grid_sampler_backward(grad, x, grid, LINEAR, ZEROS, True, (True, True), out=out)


@formula(aten.affine_grid_generator)
def affine_grid_generator(
    theta: Tensor, size: Sequence[int], align_corners: bool, *, out: Tensor
) -> Cost:
    """(x, y, 1)·θᵀ at each place: d dot products of length d + 1.

    The coordinates of each axis are drawn once, evenly from -1 to 1; where these are the edges
    of the outer pixels they are scaled by (size - 1) / size, two steps each.
    """
    length = theta.shape[-1]
    axes = 0 if align_corners else 2 * sum(size[2:])
    return contraction(dots=out.numel(), length=length) + Cost(arith=axes)


@formula("aten::cudnn_affine_grid_generator")
def cudnn_affine_grid_generator(theta: Tensor, *sizes: int, out: Tensor) -> Cost:
    """Corners aligned, in two dimensions."""
    return affine_grid_generator(theta, sizes, True, out=out)


@formula("aten::cudnn_affine_grid_generator_backward")
def cudnn_affine_grid_generator_backward(
    grad: Tensor, batch: int, channels: int, height: int, width: int, *, out: Tensor
) -> Gradients:
    """gᵀ·(x, y, 1): a dot product over all places for each element of θ."""
    return Gradients(input=contraction(dots=out.numel(), length=height * width))


@formula("aten::_grid_sampler_2d_cpu_fallback_backward")
def grid_sampler_fallback_backward(
    grad: Tensor,
    x: Tensor,
    grid: Tensor,
    interpolation_mode: int,
    padding_mode: int,
    align_corners: bool,
    *,
    out: Any,
) -> Gradients:
    """Gradients of both, image and grid."""
    how = interpolation_mode, padding_mode, align_corners
    return grid_sampler_backward(grad, x, grid, *how, (True, True), out=out)


# padding and reordering


def padded_traffic(
    args: Sequence[Any], kwargs: dict[str, Any], out: Any, mutated: Sequence[Any]
) -> tuple[int, int]:
    """Padding that takes away reads only what is left."""
    read, written = traffic.operands_and_results(args, kwargs, out, mutated)
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


# regions of interest (torchvision)


@formula("torchvision::nms")
def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, *, out: Tensor) -> Cost:
    """Sort, then compare each pair of boxes, at most: a suppressed box spares its pairs.

    An area is 2 subtractions and a product. A pair takes 4 maxima and minima, 2 subtractions
    and 2 maxima with 0, the product, two steps for the union, a division, and a comparison with
    the threshold.
    """
    n = boxes.shape[0]
    pairs = n * (n - 1) // 2
    order = Cost(compare=sort_comparisons(n, n))
    return Cost(arith=3 * n) + order + pairs * Cost(arith=2 + 1 + 2 + 1, compare=4 + 2 + 1)


def region_weights(
    rois: Tensor, height: int, width: int, sampling_ratio: int, aligned: bool
) -> Cost:
    """From each region to the weights of its samples.

    - A region: 4 corners scaled (and shifted by ½, if aligned), 2 differences (else at least
      1), 2 divisions by the number of bins.
    - A coordinate, start + bin·size + (sample + ½)·size / ratio: 2 products, a division and 3
      additions, not below 0; then linear weights.
    - The 4 weights of a sample: a product each.
    """
    if sampling_ratio <= 0:
        raise Uncountable("the number of samples depends on the sizes of the regions")
    region = Cost(arith=4 + 4 * aligned + 2 + 2, compare=2 * (not aligned))
    coordinate = Cost(arith=2 + 1 + 3, compare=1) + LINEAR_WEIGHTS
    sizes = (height * sampling_ratio, width * sampling_ratio)
    each = region + sum(sizes) * coordinate + joint_weights(prod(sizes), 4, 2)
    return rois.shape[0] * each


@formula("torchvision::roi_align")
def roi_align(
    x: Tensor,
    rois: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
    *,
    out: Tensor,
) -> Cost:
    """The mean of ratio² samples in each bin, each a weighted sum of 4 taps."""
    samples = sampling_ratio**2
    weights = region_weights(rois, pooled_height, pooled_width, sampling_ratio, aligned)
    mean = elementwise(out, add=samples - 1, div=1)
    return weights + gather_taps(out.numel() * samples, 4) + mean


@formula("torchvision::_roi_align_backward")
def _roi_align_backward(
    grad: Tensor,
    rois: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    batch_size: int,
    channels: int,
    height: int,
    width: int,
    sampling_ratio: int,
    aligned: bool,
    *,
    out: Tensor,
) -> Gradients:
    """g / ratio², once for each result; then 4 products and 4 additions for each sample."""
    samples = sampling_ratio**2
    weights = region_weights(rois, pooled_height, pooled_width, sampling_ratio, aligned)
    mean = elementwise(grad, div=1)
    return Gradients(input=weights + mean + scatter_taps(grad.numel() * samples, 4))


@formula("torchvision::ps_roi_align")
def ps_roi_align(
    x: Tensor,
    rois: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    *,
    out: tuple[Tensor, Tensor],
) -> Cost:
    """A ``roi_align`` whose bins each have channels of their own."""
    values, _ = out
    shape = (pooled_height, pooled_width, sampling_ratio)
    return roi_align(x, rois, spatial_scale, *shape, True, out=values)


@formula("torchvision::_roi_pool_backward")
def _roi_pool_backward(grad: Tensor, *args: Any, out: Tensor) -> Gradients:
    """g, added to the element that was largest in its bin. (Forward depends on the regions.)"""
    return Gradients(input=elementwise(grad, add=1))
