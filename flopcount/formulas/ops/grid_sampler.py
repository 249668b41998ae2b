"""Sampling an image at places that a grid tells, and the grids that affine maps make.

Letters: a result is a weighted sum of t taps, in d dimensions.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import Tensor

from flopcount.cost import Cost
from flopcount.formulas.ops.resampling import (
    CUBIC,
    LINEAR,
    NEAREST,
    TAPS,
    WEIGHTS,
    coordinate_gradients,
    gather_taps,
    joint_weights,
    scatter_taps,
)
from flopcount.formulas.registry import Gradients, formula
from flopcount.formulas.steps import contraction, elementwise

ZEROS, BORDER, REFLECTION = range(3)
"""``padding_mode`` of a grid sampler."""


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


def sampled(grid: Tensor, values: int, mode: int, padding_mode: int, align_corners: bool) -> Cost:
    """A weighted sum of t taps for each of ``values`` results, and the weights of each place."""
    weights = sampling_weights(grid, mode, padding_mode, align_corners)
    if mode == NEAREST:
        return weights
    return weights + gather_taps(values, TAPS[mode] ** grid.shape[-1])


@formula(
    "aten::grid_sampler_2d",
    "aten::grid_sampler_3d",
    "aten::_grid_sampler_2d_cpu_fallback",
    by_name=True,
)
def grid_sampler(
    *,
    grid: Tensor,
    interpolation_mode: int,
    padding_mode: int,
    align_corners: bool,
    out: Tensor,
    **others: Any,
) -> Cost:
    """A weighted sum of t taps for each result, and the weights of each place."""
    return sampled(grid, out.numel(), interpolation_mode, padding_mode, align_corners)


@formula("aten::cudnn_grid_sampler")
def cudnn_grid_sampler(x: Tensor, grid: Tensor, *, out: Tensor) -> Cost:
    """Linear, zeros in the padding, corners aligned."""
    return sampled(grid, out.numel(), LINEAR, ZEROS, align_corners=True)


def sampled_backward(
    grad: Tensor,
    grid: Tensor,
    mode: int,
    padding_mode: int,
    align_corners: bool,
    mask: Sequence[bool] = (True, True),
) -> Gradients:
    """Of the image: t products and t additions for each result. Of the grid, through the weights.

    A coordinate's gradient takes the scale between coordinate and index. A cubic's slopes take
    another t products; the slopes themselves, at the same four arguments as the weights, are
    (3·(a + 2)·x - 2·(a + 3))·x twice and (3·a·x - 10·a)·x + 8·a twice: 2·3 + 2·4. Nearest has
    no slope, and its image takes an addition for each result.
    """
    dimensions, (for_image, for_grid) = grid.shape[-1], mask
    taps = TAPS[mode] ** dimensions
    cost = sampling_weights(grid, mode, padding_mode, align_corners)
    if mode == NEAREST:
        return Gradients(input=cost + elementwise(grad, add=int(for_image)))
    if for_image:
        cost += scatter_taps(grad.numel(), taps)
    if for_grid:
        slope = taps + 2 * 3 + 2 * 4 if mode == CUBIC else 0
        places, channels = grid.numel() // dimensions, grad.shape[1]
        cost += coordinate_gradients(places, channels, taps, dimensions, extra=1 + slope)
    return Gradients(input=cost)


@formula(
    "aten::grid_sampler_2d_backward",
    "aten::grid_sampler_3d_backward",
    "aten::_grid_sampler_2d_cpu_fallback_backward",
    by_name=True,
)
def grid_sampler_backward(
    *,
    grad_output: Tensor,
    grid: Tensor,
    interpolation_mode: int,
    padding_mode: int,
    align_corners: bool,
    output_mask: Sequence[bool] = (True, True),
    out: Any,
    **others: Any,
) -> Gradients:
    """Through the weights of the taps; of the image, of the grid or of both."""
    modes = interpolation_mode, padding_mode
    return sampled_backward(grad_output, grid, *modes, align_corners, output_mask)


@formula("aten::cudnn_grid_sampler_backward")
def cudnn_grid_sampler_backward(x: Tensor, grid: Tensor, grad: Tensor, *, out: Any) -> Gradients:
    """Gradients of both, image and grid; linear, zeros in the padding, corners aligned."""
    return sampled_backward(grad, grid, LINEAR, ZEROS, align_corners=True)


@formula("aten::affine_grid_generator")
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
    return contraction(dots=out.numel(), length=theta.shape[-1])


@formula("aten::cudnn_affine_grid_generator_backward")
def cudnn_affine_grid_generator_backward(
    grad: Tensor, batch: int, channels: int, height: int, width: int, *, out: Tensor
) -> Gradients:
    """gᵀ·(x, y, 1): a dot product over all places for each element of θ."""
    return Gradients(input=contraction(dots=out.numel(), length=height * width))
