"""Kernels of oneDNN and MKL: a linear layer or a convolution, and the steps after it.

The library may keep weights in an order of its own; their shapes stay the same.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from flopcount.cost import ZERO, Cost
from flopcount.formulas.ops.convolution import convolution_products
from flopcount.formulas.ops.matmul import (
    affine,
    affine_backward,
    linear,
    linear_backward,
    linear_backward_traffic,
)
from flopcount.formulas.registry import Gradients, Uncountable, formula, formula_of, free
from flopcount.formulas.steps import contraction, elementwise, of_integers

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

SETTINGS = {
    "binary_post_op": "binary_attr",
    "binary_alpha": "alpha",
    "post_op_name": "attr",
    "unary_attr": "attr",
    "unary_post_op": "attr",
    "post_op_algorithm": "algorithm",
    "unary_algorithm": "algorithm",
    "unary_post_op_algorithm": "algorithm",
}
"""Arguments that have other names in some kernels."""


def after(out: Tensor, arguments: Mapping[str, Any]) -> Cost:
    """y ∘ each result, if the kernel has another operand y, and then φ, if it has a function."""
    settings = {SETTINGS.get(name, name): value for name, value in arguments.items()}
    cost = unary(out, settings["attr"], settings["algorithm"])
    if "binary_attr" in settings:
        cost += binary(out, settings["binary_attr"], settings["alpha"])
    return cost


@formula("mkldnn::_convolution_pointwise", by_name=True)
def convolution_pointwise(*, out: Tensor, **arguments: Any) -> Cost:
    """φ of a convolution, or φ(y ∘ a convolution)."""
    return convolved(arguments, out, transposed=False) + after(out, arguments)


@formula("mkldnn::_convolution_transpose_pointwise", by_name=True)
def convolution_transpose_pointwise(*, out: Tensor, **arguments: Any) -> Cost:
    """φ of a transposed convolution."""
    return convolved(arguments, out, transposed=True) + after(out, arguments)


def convolved(arguments: Mapping[str, Any], out: Tensor, *, transposed: bool) -> Cost:
    """A convolution, and the bias, if there is one."""
    x, weight, bias = (arguments[name] for name in ("X", "W", "B"))
    stride, padding, dilation = (arguments[name] for name in ("stride", "padding", "dilation"))
    products = convolution_products(
        x, weight, stride, padding, dilation, out, transposed=transposed
    )
    return products + elementwise(out, add=int(bias is not None))


# -- 8-bit integers: products of q with q, a scale for x and one for each channel of the weight


def rescaled(out: Tensor, bias: Tensor | None, arguments: Mapping[str, Any]) -> Cost:
    """A float result is multiplied by the scales, then worked on; with integers nothing counts."""
    if not out.dtype.is_floating_point:
        return ZERO
    return elementwise(out, mul=1, add=int(bias is not None)) + after(out, arguments)


@formula("onednn::qlinear_pointwise", by_name=True)
def qlinear_pointwise(*, qx: Tensor, bias: Tensor | None, out: Tensor, **others: Any) -> Gradients:
    """φ(x·Wᵀ + b) of integers, or φ(y ∘ (x·Wᵀ + b)), y being floats or integers."""
    products = contraction(dots=out.numel(), length=qx.shape[-1])
    return of_integers(products + rescaled(out, bias, others))


@formula(
    "onednn::qconv_pointwise",
    "onednn::qconv1d_pointwise",
    "onednn::qconv2d_pointwise",
    "onednn::qconv3d_pointwise",
    by_name=True,
)
def qconv_pointwise(
    *,
    qx: Tensor,
    qw: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    out: Tensor,
    **others: Any,
) -> Gradients:
    """φ of a convolution of integers, or φ(y ∘ a convolution), y being floats or integers."""
    after_products = rescaled(out, bias, others)
    if qw.dim() > qx.dim():  # one dimension is packed as two
        qx, out = qx.unsqueeze(2), out.unsqueeze(2)
        stride, padding, dilation = [1, *stride], [0, *padding], [1, *dilation]
    products = convolution_products(qx, qw, stride, padding, dilation, out, transposed=False)
    return of_integers(products + after_products)


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
