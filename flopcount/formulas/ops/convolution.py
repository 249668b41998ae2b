"""Convolutions of any dimension, forward and backward.

Letters: the weight is (f, c, *kernel), c input channels of one group; the grid is the output of
a plain convolution, (n, f, *positions), and the image its input. A transposed convolution is the
input gradient of a plain one: its input is the grid, its output the image.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import Tensor

from flopcount.cost import ZERO, Cost
from flopcount.formulas import bytes as traffic
from flopcount.formulas.call import Call
from flopcount.formulas.registry import Formula, Gradients, formula
from flopcount.formulas.steps import dot_products, elementwise, fold


@formula("aten::convolution", "aten::convolution_overrideable", "aten::_convolution")
def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    *others: Any,
    out: Tensor,
) -> Cost:
    """Each output is a dot product of length c·k, and a bias is added to it."""
    cost = convolution_products(x, weight, stride, padding, dilation, out, transposed=transposed)
    return cost if bias is None else cost + elementwise(out, add=1)


def convolution_products(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    out: Tensor,
    *,
    transposed: bool,
) -> Cost:
    """Each output is a dot product of length c·k.

    A transposed one scatters its products instead, without dot products (see
    ``convolution_gradients``).
    """
    grid, image = (x, out) if transposed else (out, x)
    products = meetings(weight, grid, image, stride, padding, dilation)
    return Cost(**products, dots=0 if transposed else out.numel())


def convolution_backward_traffic(call: Call) -> tuple[int, int]:
    """The weight is read for the input gradient only, the input for the weight's only."""
    grad, x, weight, *_, (for_input, for_weight, _) = call.args
    operands = [grad, x if for_weight else None, weight if for_input else None]
    return traffic.read_and_written(operands, call.results)


@formula(
    "aten::convolution_backward",
    "aten::convolution_backward_overrideable",
    traffic=convolution_backward_traffic,
    by_name=True,
)
def convolution_backward(
    *,
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_mask: Sequence[bool],
    out: Sequence[Tensor | None],
    **others: Any,
) -> Gradients:
    """Input, weight and bias gradients: see ``convolution_gradients``."""
    settings = stride, padding, dilation
    return convolution_gradients(
        grad_output, input, weight, *settings, output_mask, transposed=transposed
    )


def convolution_gradients(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output_mask: Sequence[bool],
    *,
    transposed: bool,
) -> Gradients:
    """Input, weight and bias gradients, each as many MACs as the forward pass.

    With K = c·k and P = n·positions:

    - dw: f·K dot products of length P.
    - dx: K·P dot products of length f for each group, scattered onto the image by as many
      additions (col2im): additions equal multiplications, and no dot product is left. For a
      transposed convolution it is a plain one: one dot product of length K per input.
    - db: a sum over all positions, f·(P - 1) additions.

    Example, one dimension, kernel (a, b), stride 1: y0 = a·x0 + b·x1 and y1 = a·x1 + b·x2 give
    dx1 = b·dy0 + a·dy1 and da = x0·dy0 + x1·dy1: each product of the forward pass comes back
    once in dx and once in dw.
    """
    grid, image = (x, grad) if transposed else (grad, x)
    products = meetings(weight, grid, image, stride, padding, dilation)
    for_input, for_weight, for_bias = output_mask
    return Gradients(
        input=Cost(**products, dots=x.numel() if transposed else 0) if for_input else ZERO,
        weight=dot_products(**products, dots=weight.numel()) if for_weight else ZERO,
        bias=Cost(arith=fold(grad.numel(), grad.shape[1])) if for_bias else ZERO,
    )


@formula("aten::conv_tbc")
def conv_tbc(x: Tensor, weight: Tensor, bias: Tensor, pad: int = 0, *, out: Tensor) -> Cost:
    """(t, b, c) with a weight of (k, c, f): each output is a dot product of length k·c, and a bias.

    Its backward pass arrives as products of slices, which meet no padding.
    """
    x, weight, result = x.permute(1, 2, 0), weight.permute(2, 1, 0), out.permute(1, 2, 0)
    products = convolution_products(x, weight, [1], [pad], [1], result, transposed=False)
    return products + elementwise(out, add=1)


# -- kernels that torch calls inside a convolution, or that a backend has


def kernel(*, transposed: bool = False, relu: bool = False) -> Formula:
    """The formula of a convolution by one kernel, which has some or all of the settings."""

    def cost(
        *,
        weight: Tensor,
        bias: Tensor | None = None,
        z: Tensor | None = None,
        alpha: float | None = None,
        stride: Sequence[int] = (1,),
        padding: Sequence[int] = (0,),
        dilation: Sequence[int] = (1,),
        out: Tensor,
        **others: Any,
    ) -> Cost:
        """A convolution by one kernel: each output is a dot product of length c·k."""
        x = others["self"] if "self" in others else others["input"]
        terms = [term for term in (bias, z) if term is not None]
        scaled = z is not None and alpha not in (None, 1)
        return convolution_products(
            x, weight, stride, padding, dilation, out, transposed=transposed
        ) + elementwise(out, add=len(terms), mul=int(scaled), compare=int(relu))

    return cost


formula(
    "aten::_conv_depthwise2d",
    "aten::_nnpack_spatial_convolution",
    "aten::_slow_conv2d_forward",
    "aten::conv_depthwise3d",
    "aten::cudnn_convolution",
    "aten::miopen_convolution",
    "aten::miopen_depthwise_convolution",
    "aten::mkldnn_convolution",
    "aten::slow_conv3d_forward",
    "aten::slow_conv_dilated2d",
    "aten::slow_conv_dilated3d",
    by_name=True,
)(kernel())

formula(
    "aten::cudnn_convolution_transpose",
    "aten::miopen_convolution_transpose",
    "aten::slow_conv_transpose2d",
    "aten::slow_conv_transpose3d",
    by_name=True,
)(kernel(transposed=True))

formula(
    "aten::cudnn_convolution_add_relu",
    "aten::cudnn_convolution_relu",
    "aten::miopen_convolution_add_relu",
    "aten::miopen_convolution_relu",
    by_name=True,
)(kernel(relu=True))


@formula("aten::_slow_conv2d_backward")
def slow_conv2d_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    output_mask: Sequence[bool] = (True, True, True),
    *,
    out: Sequence[Tensor | None],
) -> Gradients:
    """The gradients of a convolution in two dimensions, without dilation."""
    return convolution_gradients(
        grad, x, weight, stride, padding, [1], output_mask, transposed=False
    )


def meetings(
    weight: Tensor,
    grid: Tensor,
    image: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> dict[str, int]:
    """How often a weight meets an element, in all and in the padding.

    Every weight meets every position of the grid, in each image of the batch.
    """
    n, _, *positions = grid.shape
    lengths = image.shape[-len(positions) :]
    macs = weight.numel() * n * prod(positions)
    f, c, *kernel = weight.shape
    valid = prod(
        taps_inside(*dimension)
        for dimension in zip(
            lengths,
            positions,
            kernel,
            *(per_dimension(setting, len(kernel)) for setting in (stride, padding, dilation)),
            strict=True,
        )
    )
    return {"macs": macs, "void_macs": macs - f * c * n * valid}


def taps_inside(
    length: int, positions: int, kernel: int, stride: int, padding: int, dilation: int
) -> int:
    """How many (tap, position) pairs of one dimension meet the image rather than its padding."""
    inside = 0
    for tap in range(kernel):
        offset = tap * dilation - padding  # the tap meets element position·stride + offset
        first = max(0, -(offset // stride))
        last = min(positions - 1, (length - 1 - offset) // stride)
        inside += max(0, last - first + 1)
    return inside


def per_dimension(setting: Sequence[int], dimensions: int) -> Sequence[int]:
    """A number for each dimension; a single number is for all."""
    return setting if len(setting) == dimensions else list(setting) * dimensions
