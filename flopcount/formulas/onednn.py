"""What oneDNN and MKL run in one kernel: a linear layer or a convolution, and steps after it.

Weights may come in an order of the library's own, which changes no shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from flopcount.cost import ZERO, Cost
from flopcount.formulas.convolution import convolution
from flopcount.formulas.matmul import linear, linear_backward, linear_backward_traffic
from flopcount.formulas.primitives import elementwise
from flopcount.formulas.registry import Gradients, Uncountable, formula, formula_of, free

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


free(
    "aten::mkldnn_reorder_conv2d_weight",
    "aten::mkldnn_reorder_conv3d_weight",
    "mkl::_mkl_reorder_linear_weight",
    "mkldnn::_reorder_convolution_transpose_weight",
    "mkldnn::_reorder_convolution_weight",
    "mkldnn::_reorder_linear_weight",
)
