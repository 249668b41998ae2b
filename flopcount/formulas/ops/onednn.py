"""Kernels of oneDNN and MKL: a linear layer or a convolution, and the steps after it.

The library may keep weights in an order of its own; their shapes stay the same.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from flopcount.cost import ZERO, Cost
from flopcount.formulas.ops.convolution import meetings
from flopcount.formulas.ops.matmul import (
    affine,
    affine_backward,
    linear,
    linear_backward,
    linear_backward_traffic,
)
from flopcount.formulas.registry import Gradients, Uncountable, formula, formula_of, free
from flopcount.formulas.steps import contraction, elementwise

formula("aten::mkldnn_linear")(linear)
formula("aten::mkldnn_linear_backward", traffic=linear_backward_traffic)(linear_backward)


@formula("aten::mkldnn_linear_backward_input")
def linear_backward_input(
    input_size: Sequence[int], grad: Tensor, weight: Tensor, *, out: Tensor
) -> Gradients:
    """g·w."""
    return affine_backward(grad, weight, (True, False, False))


@formula("aten::mkldnn_linear_backward_weights")
def linear_backward_weights(
    grad: Tensor, x: Tensor, weight: Tensor, bias_defined: bool, *, out: Sequence[Tensor]
) -> Gradients:
    """gᵀ·x, and a sum over the rows of g."""
    return affine_backward(grad, weight, (False, True, bias_defined))


STEPS = {"swish": "silu"}
"""Functions that have another name in torch."""

BINARY = {"add": "add", "sum": "add", "sub": "add", "mul": "mul", "div": "div"}
"""How another operand is combined with a result, and the step that this takes."""


def unary(out: Tensor, name: str | None, algorithm: str | None = None) -> Cost:
    """A function of each result, as the op of that name counts it."""
    if name in (None, "none", ""):
        return ZERO
    how = {"approximate": algorithm} if name == "gelu" and algorithm else {}
    cost = formula_of(f"aten::{STEPS.get(name, name)}")(out, out=out, **how)
    if isinstance(cost, Gradients):
        raise Uncountable(f"the function {name}")
    return cost


def binary(out: Tensor, name: str, alpha: float | None = None) -> Cost:
    """Another operand is added to each result, or multiplied with it, after a factor alpha."""
    scaled = elementwise(out, mul=0 if alpha in (None, 1) else 1)
    return scaled + elementwise(out, **{BINARY[name]: 1})


@formula("mkldnn::_linear_pointwise")
def linear_pointwise(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    attr: str,
    scalars: Sequence[float | None],
    algorithm: str | None,
    *,
    out: Tensor,
) -> Cost:
    """φ(x·Wᵀ + b)."""
    return affine(out, weight.shape[-1], bias) + unary(out, attr, algorithm)


@formula("mkldnn::_linear_pointwise.binary")
def linear_binary(
    x: Tensor, other: Tensor, weight: Tensor, bias: Tensor | None, attr: str, *, out: Tensor
) -> Cost:
    """(x·Wᵀ + b) ∘ y."""
    return affine(out, weight.shape[-1], bias) + binary(out, attr)


@formula("mkl::_mkl_linear")
def mkl_linear(
    x: Tensor, packed: Tensor, weight: Tensor, bias: Tensor | None, *args: object, out: Tensor
) -> Cost:
    """x·Wᵀ + b."""
    return affine(out, weight.shape[-1], bias)


# -- convolutions


def convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    settings: Sequence[Sequence[int]],
    out: Tensor,
    *,
    transposed: bool = False,
) -> Cost:
    """A convolution with its stride, padding and dilation, and the bias, if there is one."""
    grid, image, dots = (x, out, 0) if transposed else (out, x, out.numel())
    products = Cost(**meetings(weight, grid, image, *settings), dots=dots)
    return products + elementwise(out, add=int(bias is not None))


@formula("mkldnn::_convolution_pointwise")
def convolution_pointwise(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    attr: str,
    scalars: Sequence[float | None],
    algorithm: str | None,
    *,
    out: Tensor,
) -> Cost:
    """φ of a convolution."""
    cost = convolved(x, weight, bias, (stride, padding, dilation), out)
    return cost + unary(out, attr, algorithm)


@formula("mkldnn::_convolution_transpose_pointwise")
def convolution_transpose_pointwise(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: Sequence[int],
    output_padding: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    *function: Any,
    out: Tensor,
) -> Cost:
    """φ of a transposed convolution."""
    _groups, attr, _scalars, algorithm = function
    cost = convolved(x, weight, bias, (stride, padding, dilation), out, transposed=True)
    return cost + unary(out, attr, algorithm)


def convolution_binary(
    x: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any, out: Tensor
) -> Cost:
    """A convolution, another operand, a function."""
    padding, stride, dilation, _groups, binary_attr, alpha, attr, _scalars, algorithm = settings
    cost = convolved(x, weight, bias, (stride, padding, dilation), out)
    return cost + binary(out, binary_attr, alpha) + unary(out, attr, algorithm)


@formula("mkldnn::_convolution_pointwise.binary")
def convolution_pointwise_binary(x: Tensor, other: Tensor, *args: Any, out: Tensor) -> Cost:
    """φ(y ∘ a convolution)."""
    return convolution_binary(x, *args, out=out)


@formula("mkldnn::_convolution_pointwise_.binary")
def convolution_pointwise_binary_in_place(
    other: Tensor, x: Tensor, *args: Any, out: Tensor
) -> Cost:
    """The same, the result taking the other operand's place."""
    return convolution_binary(x, *args, out=out)


# -- 8-bit integers: products of q with q, a scale for x and one for each channel of the weight


def rescaled(out: Tensor, bias: Tensor | None, after: Cost) -> Cost:
    """A float result is multiplied by the scales, then worked on; with integers nothing counts."""
    if not out.dtype.is_floating_point:
        return ZERO
    return elementwise(out, mul=1, add=int(bias is not None)) + after


@formula("onednn::qlinear_pointwise")
def qlinear_pointwise(
    x: Tensor,
    x_scale: Any,
    x_zero_point: Any,
    weight: Tensor,
    weight_scale: Tensor,
    weight_zero_point: Tensor,
    bias: Tensor | None,
    *results: Any,
    out: Tensor,
) -> Cost:
    """φ(x·Wᵀ + b) of integers."""
    *_, attr, _scalars, algorithm = results
    products = contraction(dots=out.numel(), length=x.shape[-1])
    return products + rescaled(out, bias, unary(out, attr, algorithm))


@formula("onednn::qlinear_pointwise.binary", "onednn::qlinear_pointwise.binary_tensor")
def qlinear_binary(
    x: Tensor,
    x_scale: Any,
    x_zero_point: Any,
    weight: Tensor,
    weight_scale: Tensor,
    weight_zero_point: Tensor,
    other: Tensor | None,
    bias: Tensor | None,
    *results: Any,
    out: Tensor,
) -> Cost:
    """φ(y ∘ (x·Wᵀ + b)) of integers, y being floats or integers."""
    *_, binary_attr, alpha, attr, _scalars, algorithm = results
    products = contraction(dots=out.numel(), length=x.shape[-1])
    after = binary(out, binary_attr, alpha) + unary(out, attr, algorithm)
    return products + rescaled(out, bias, after)


def qconv_products(
    x: Tensor, weight: Tensor, settings: Sequence[Sequence[int]], out: Tensor
) -> Cost:
    """A convolution of integers; of one dimension it is packed as one of two."""
    if weight.dim() == x.dim():
        return convolved(x, weight, None, settings, out)
    stride, padding, dilation = settings
    settings = [1, *stride], [0, *padding], [1, *dilation]
    return convolved(x.unsqueeze(2), weight, None, settings, out.unsqueeze(2))


@formula(
    "onednn::qconv_pointwise",
    "onednn::qconv1d_pointwise",
    "onednn::qconv2d_pointwise",
    "onednn::qconv3d_pointwise",
)
def qconv_pointwise(
    x: Tensor,
    x_scale: Any,
    x_zero_point: Any,
    weight: Tensor,
    weight_scale: Tensor,
    weight_zero_point: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    *results: Any,
    out: Tensor,
) -> Cost:
    """φ of a convolution of integers."""
    *_, attr, _scalars, algorithm = results
    products = qconv_products(x, weight, (stride, padding, dilation), out)
    return products + rescaled(out, bias, unary(out, attr, algorithm))


@formula("onednn::qconv2d_pointwise.binary", "onednn::qconv2d_pointwise.binary_tensor")
def qconv_binary(
    x: Tensor,
    x_scale: Any,
    x_zero_point: Any,
    weight: Tensor,
    weight_scale: Tensor,
    weight_zero_point: Tensor,
    other: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    *results: Any,
    out: Tensor,
) -> Cost:
    """φ(y ∘ a convolution) of integers, y being floats or integers."""
    *_, binary_attr, alpha, attr, _scalars, algorithm = results
    products = qconv_products(x, weight, (stride, padding, dilation), out)
    after = binary(out, binary_attr, alpha) + unary(out, attr, algorithm)
    return products + rescaled(out, bias, after)


@formula("onednn::linear_dynamic_fp16")
def linear_dynamic_fp16(x: Tensor, weight: Tensor, bias: Tensor | None, *, out: Tensor) -> Cost:
    """x·Wᵀ + b; half as many bits for the weight, which is packed as (k, n)."""
    return affine(out, x.shape[-1], bias)


@formula("onednn::linear_relu_dynamic_fp16")
def linear_relu_dynamic_fp16(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, out: Tensor
) -> Cost:
    """max(0, x·Wᵀ + b)."""
    return affine(out, x.shape[-1], bias) + elementwise(out, compare=1)


free("onednn::qadd", "onednn::qadd_relu", "onednn::qmul", "onednn::qbatch_norm2d")
free(
    "onednn::linear_prepack_fp16",
    "onednn::qconv_prepack",
    "onednn::qlinear_prepack",
    "aten::mkldnn_reorder_conv2d_weight",
    "aten::mkldnn_reorder_conv3d_weight",
    "mkl::_mkl_reorder_linear_weight",
    "mkldnn::_reorder_convolution_transpose_weight",
    "mkldnn::_reorder_convolution_weight",
    "mkldnn::_reorder_linear_weight",
)
