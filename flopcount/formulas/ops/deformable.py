"""Deformable convolution (torchvision): offsets say where the taps of each kernel lie.

Zhu et al., arXiv 1811.11168. Letters: the weight is (f, c / g, *kernel), in g groups; the results
are p places of n images. Channels that share their offsets share the weights of each tap, too.
Shapes do not tell which taps lie outside the image, so no MAC is void.
"""

from typing import Any

from torch import Tensor

from flopcount.cost import ZERO, Cost
from flopcount.formulas.ops.resampling import (
    LINEAR_WEIGHTS,
    coordinate_gradients,
    gather_taps,
    joint_weights,
    scatter_taps,
)
from flopcount.formulas.registry import Gradients, formula
from flopcount.formulas.steps import contraction, elementwise, fold

CORNERS, DIMENSIONS = 4, 2
"""The pixels around a tap; its coordinates, each of which has an offset."""


def column_values(weight: Tensor, result: Tensor, groups: int) -> int:
    """How many values the taps read: c·k at each place."""
    places = result.numel() // result.shape[1]
    return weight[0].numel() * groups * places


def columns(offset: Tensor, values: int, use_mask: bool) -> Cost:
    """The value at each tap: a weighted sum of the pixels around it, times the mask, if any.

    A coordinate is the tap's own place plus its offset; then come the weights of the pixels.
    """
    taps = offset.numel() // DIMENSIONS
    coordinates = offset.numel() * (Cost(arith=1) + LINEAR_WEIGHTS)
    masked = Cost(arith=values if use_mask else 0)
    weights = coordinates + joint_weights(taps, CORNERS, DIMENSIONS)
    return weights + gather_taps(values, CORNERS) + masked


@formula("torchvision::deform_conv2d")
def deform_conv2d(x: Tensor, weight: Tensor, offset: Tensor, *others: Any, out: Tensor) -> Cost:
    """Each output is a dot product of length c·k of interpolated values; a bias, if only of zeros.

    torchvision passes zeros where the caller has no bias, and the kernel adds them.
    """
    *_, groups, _offset_groups, use_mask = others
    products = contraction(dots=out.numel(), length=weight[0].numel())
    values = column_values(weight, out, groups)
    return products + columns(offset, values, use_mask) + elementwise(out, add=1)


@formula("torchvision::_deform_conv2d_backward")
def deform_conv2d_backward(
    grad: Tensor, x: Tensor, weight: Tensor, offset: Tensor, *others: Any, out: Any
) -> Gradients:
    """Those of a convolution, with columns in the place of the image; then through these.

    A column's gradient is a dot product of length f / g. Times the mask it goes to the 4 pixels
    around its tap, and through their weights to both coordinates. The mask's own gradient is a dot
    product over the channels that share it. The weight's needs the columns, computed again.
    """
    *_, groups, offset_groups, use_mask = others
    values, taps = column_values(weight, grad, groups), offset.numel() // DIMENSIONS
    channels = x.shape[1] // offset_groups
    to_columns = contraction(dots=values, length=weight.shape[0] // groups)
    of_mask = Cost(arith=values + taps * fold(2 * channels, 1)) if use_mask else ZERO
    of_image = scatter_taps(values, CORNERS)
    of_offset = coordinate_gradients(taps, channels, CORNERS, DIMENSIONS)
    places = grad.numel() // grad.shape[1]
    return Gradients(
        input=to_columns + of_mask + of_image + of_offset,
        weight=contraction(dots=weight.numel(), length=places),
        bias=Cost(arith=fold(grad.numel(), grad.shape[1])),
        recompute=columns(offset, values, use_mask),
    )
