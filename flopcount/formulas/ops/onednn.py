"""What oneDNN and MKL run in one kernel: a linear layer or a convolution, and steps after it.

Weights may come in an order of the library's own, which changes no shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from flopcount.cost import ZERO, Cost
from flopcount.formulas.ops.convolution import convolution
from flopcount.formulas.ops.matmul import linear, linear_backward, linear_backward_traffic
from flopcount.formulas.registry import Gradients, Uncountable, formula, formula_of, free
from flopcount.formulas.steps import contraction, elementwise

formula("aten::mkldnn_linear")(linear)
formula("aten::mkldnn_linear_backward", traffic=linear_backward_traffic)(linear_backward)


@formula("aten::mkldnn_linear_backward_input")
def linear_backward_input(
    input_size: Sequence[int], grad: Tensor, weight: Tensor, *, out: Tensor
) -> Gradients:
    """g·w."""
    return linear_backward(out, grad, weight, (True, False, False), out=[out, None, None])


@formula("aten::mkldnn_linear_backward_weights")
def linear_backward_weights(
    grad: Tensor, x: Tensor, weight: Tensor, bias_defined: bool, *, out: Sequence[Tensor]
) -> Gradients:
    """gᵀ·x, and a sum over the rows of g."""
    return linear_backward(x, grad, weight, (False, True, bias_defined), out=[None, *out])


STEPS = {"swish": "silu"}
"""Functions that oneDNN calls otherwise than torch."""

BINARY = {"add": "add", "sum": "add", "sub": "add", "mul": "mul", "div": "div"}
"""What another operand does to a result, and the kind of step that it is."""


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
    scaled = elementwise(out, mul=int(alpha not in (None, 1)))
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
    return linear(x, weight, bias, out=out) + unary(out, attr, algorithm)


@formula("mkldnn::_linear_pointwise.binary")
def linear_binary(
    x: Tensor, other: Tensor, weight: Tensor, bias: Tensor | None, attr: str, *, out: Tensor
) -> Cost:
    """(x·Wᵀ + b) ∘ y."""
    return linear(x, weight, bias, out=out) + binary(out, attr)


@formula("mkl::_mkl_linear")
def mkl_linear(
    x: Tensor, packed: Tensor, weight: Tensor, bias: Tensor | None, *args: object, out: Tensor
) -> Cost:
    """x·Wᵀ + b."""
    return linear(x, weight, bias, out=out)


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
    cost = convolution(x, weight, bias, stride, padding, dilation, False, [], groups, out=out)
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
    groups: int,
    attr: str,
    scalars: Sequence[float | None],
    algorithm: str | None,
    *,
    out: Tensor,
) -> Cost:
    """φ of a transposed convolution."""
    cost = convolution(x, weight, bias, stride, padding, dilation, True, [], groups, out=out)
    return cost + unary(out, attr, algorithm)


@formula("mkldnn::_convolution_pointwise.binary")
def convolution_binary(
    x: Tensor,
    other: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    binary_attr: str,
    alpha: float | None,
    unary_attr: str | None,
    scalars: Sequence[float | None],
    algorithm: str | None,
    *,
    out: Tensor,
) -> Cost:
    """φ(y ∘ a convolution)."""
    cost = convolution(x, weight, bias, stride, padding, dilation, False, [], groups, out=out)
    return cost + binary(out, binary_attr, alpha) + unary(out, unary_attr, algorithm)


@formula("mkldnn::_convolution_pointwise_.binary")
def convolution_binary_in_place(other: Tensor, x: Tensor, *args: Any, out: Tensor) -> Cost:
    """The same, the result taking the other operand's place."""
    return convolution_binary(x, other, *args, out=out)


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
    output_scale: float,
    output_zero_point: int,
    output_dtype: Any,
    attr: str,
    scalars: Sequence[float | None],
    algorithm: str,
    *,
    out: Tensor,
) -> Cost:
    """φ(x·Wᵀ + b) of integers."""
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
    output_scale: float,
    output_zero_point: int,
    output_dtype: Any,
    other_scale: float,
    other_zero_point: int,
    binary_attr: str,
    alpha: float,
    unary_attr: str,
    scalars: Sequence[float | None],
    algorithm: str,
    *,
    out: Tensor,
) -> Cost:
    """φ(y ∘ (x·Wᵀ + b)) of integers, y being floats or integers."""
    products = contraction(dots=out.numel(), length=x.shape[-1])
    after = binary(out, binary_attr, alpha) + unary(out, unary_attr, algorithm)
    return products + rescaled(out, bias, after)


def qconv_products(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    out: Tensor,
) -> Cost:
    """A convolution of integers; of one dimension it is packed as one of two."""
    spare = weight.dim() - x.dim()
    if spare:
        x, out = x.unsqueeze(2), out.unsqueeze(2)
    settings = [1] * spare + [*stride], [0] * spare + [*padding], [1] * spare + [*dilation]
    return convolution(x, weight, None, *settings, False, [], 1, out=out)


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
    groups: int,
    output_scale: float,
    output_zero_point: int,
    output_dtype: Any,
    attr: str,
    scalars: Sequence[float | None],
    algorithm: str | None,
    *,
    out: Tensor,
) -> Cost:
    """φ of a convolution of integers."""
    products = qconv_products(x, weight, stride, padding, dilation, out)
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
    groups: int,
    output_scale: float,
    output_zero_point: int,
    output_dtype: Any,
    other_scale: float,
    other_zero_point: int,
    binary_attr: str,
    alpha: float | None,
    unary_attr: str | None,
    scalars: Sequence[float | None],
    algorithm: str | None,
    *,
    out: Tensor,
) -> Cost:
    """φ(y ∘ a convolution) of integers, y being floats or integers."""
    products = qconv_products(x, weight, stride, padding, dilation, out)
    after = binary(out, binary_attr, alpha) + unary(out, unary_attr, algorithm)
    return products + rescaled(out, bias, after)


@formula("onednn::linear_dynamic_fp16")
def linear_dynamic_fp16(x: Tensor, weight: Tensor, bias: Tensor | None, *, out: Tensor) -> Cost:
    """x·Wᵀ + b; half as many bits for the weight, which is packed as (k, n)."""
    added = elementwise(out, add=int(bias is not None))
    return contraction(dots=out.numel(), length=x.shape[-1]) + added


@formula("onednn::linear_relu_dynamic_fp16")
def linear_relu_dynamic_fp16(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, out: Tensor
) -> Cost:
    """max(0, x·Wᵀ + b)."""
    return linear_dynamic_fp16(x, weight, bias, out=out) + elementwise(out, compare=1)


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
