"""Quantised ops: 8-bit integers q that stand for (q - zero_point)·scale.

Contractions keep their MACs, in rows of the integers' dtype. All other work on integers, such as
rescaling a result, counts as bytes alone, like every integer op. There is floating-point arithmetic
only where floats become integers or integers floats.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import ScriptObject, Tensor

from flopcount.cost import ZERO, Cost
from flopcount.formulas import bytes as traffic
from flopcount.formulas.call import Call
from flopcount.formulas.ops.convolution import convolution_products
from flopcount.formulas.ops.lowprecision import quantized_rows
from flopcount.formulas.ops.matmul import affine, linear
from flopcount.formulas.registry import Gradients, formula, free
from flopcount.formulas.steps import contraction, elementwise, of_integers
from flopcount.torch_private.tensors import tensors_in


def operands(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among ``values``, and in the opaque objects among them, packed weights."""
    for value in values:
        opaque: Any = value
        if isinstance(value, (list, tuple)):
            yield from operands(value)
        elif not isinstance(value, ScriptObject):
            yield from tensors_in(value)
        elif not hasattr(value, "unpack"):  # both weights of a recurrent layer
            yield from operands(opaque.__getstate__())
        else:
            weight, bias = opaque.unpack()
            if not weight.is_quantized:  # kept in 16 bits, and unpacked to 32
                weight = torch.empty_like(weight, dtype=torch.half, device="meta")
            yield from tensors_in(weight, bias)


def packed_traffic(call: Call) -> tuple[int, int]:
    """Weights and biases are read too, which come in opaque objects."""
    return traffic.read_and_written(operands(call.operands), call.results)


def packed_products(x: Tensor, packed: Any, out: Tensor) -> Cost:
    """The products of a convolution; its settings are the packed weight's own."""
    weight, _ = packed.unpack()
    stride, padding, dilation = packed.stride(), packed.padding(), packed.dilation()
    if spare := weight.dim() - x.dim():  # a one-dimensional weight is packed as (f, c, 1, k)
        weight = weight.squeeze(2)
        stride, padding, dilation = stride[spare:], padding[spare:], dilation[spare:]
    return convolution_products(
        x, weight, stride, padding, dilation, out, transposed=packed.transpose()
    )


def rescaled(x: Tensor, packed: Any, out: Tensor, relu: bool) -> Cost:
    """The arithmetic around a product of integers whose operand and result are floats.

    x is quantised as one row. A result is multiplied by the scales of x and of its channel, which
    are one factor, and its bias is added.
    """
    _, bias = packed.unpack()
    after = elementwise(out, mul=1, add=int(bias is not None), compare=int(relu))
    return quantized_rows(x, x.numel()) + after


@formula(
    "quantized::conv1d",
    "quantized::conv1d_relu",
    "quantized::conv2d",
    "quantized::conv2d_relu",
    "quantized::conv3d",
    "quantized::conv3d_relu",
    "quantized::conv_transpose1d",
    "quantized::conv_transpose2d",
    "quantized::conv_transpose3d",
    traffic=packed_traffic,
)
def quantized_conv(x: Tensor, packed: Any, *args: object, out: Tensor) -> Cost:
    """A convolution of integers, plain or transposed."""
    return packed_products(x, packed, out)


@formula("quantized::conv2d_add", "quantized::conv2d_add_relu", traffic=packed_traffic)
def quantized_conv_add(x: Tensor, other: Tensor, packed: Any, *args: object, out: Tensor) -> Cost:
    """A convolution of integers, and a sum of integers."""
    return packed_products(x, packed, out)


@formula(
    "quantized::conv1d_dynamic",
    "quantized::conv2d_dynamic",
    "quantized::conv3d_dynamic",
    "quantized::conv_transpose1d_dynamic",
    "quantized::conv_transpose2d_dynamic",
    "quantized::conv_transpose3d_dynamic",
    traffic=packed_traffic,
)
def quantized_conv_dynamic(x: Tensor, packed: Any, *args: object, out: Tensor) -> Gradients:
    """A convolution of integers between a float operand and a float result."""
    return of_integers(packed_products(x, packed, out) + rescaled(x, packed, out, relu=False))


@formula(
    "quantized::linear",
    "quantized::linear_leaky_relu",
    "quantized::linear_relu",
    "quantized::linear_tanh",
    traffic=packed_traffic,
)
def quantized_linear(x: Tensor, packed: Any, *args: object, out: Tensor) -> Cost:
    """(…, k) @ (n, k)ᵀ: a dot product of length k for each element of the result."""
    return contraction(dots=out.numel(), length=x.shape[-1])


@formula("quantized::linear_dynamic", traffic=packed_traffic)
def quantized_linear_dynamic(x: Tensor, packed: Any, *args: object, out: Tensor) -> Gradients:
    """The same for floats, which are quantised before it and the results rescaled after it."""
    products = contraction(dots=out.numel(), length=x.shape[-1])
    return of_integers(products + rescaled(x, packed, out, relu=False))


@formula("quantized::linear_relu_dynamic", traffic=packed_traffic)
def quantized_linear_relu_dynamic(x: Tensor, packed: Any, *args: object, out: Tensor) -> Gradients:
    """The same, and ReLU."""
    products = contraction(dots=out.numel(), length=x.shape[-1])
    return of_integers(products + rescaled(x, packed, out, relu=True))


@formula("quantized::linear_dynamic_fp16", traffic=packed_traffic)
def linear_dynamic_fp16(x: Tensor, packed: Any, *args: object, out: Tensor) -> Cost:
    """x @ Wᵀ + b in floats; the weight is kept in half as many bits."""
    weight, bias = packed.unpack()
    return affine(out, weight.shape[-1], bias)


@formula("quantized::linear_relu_dynamic_fp16", traffic=packed_traffic)
def linear_relu_dynamic_fp16(x: Tensor, packed: Any, *args: object, out: Tensor) -> Cost:
    """And ReLU."""
    weight, bias = packed.unpack()
    return affine(out, weight.shape[-1], bias) + elementwise(out, compare=1)


formula("quantized::linear_dynamic_fp16_unpacked_weight")(linear)


@formula("quantized::matmul")
def quantized_matmul(a: Tensor, b: Tensor, *args: object, out: Tensor) -> Cost:
    """(…, m, k) @ (…, k, n)."""
    return contraction(dots=out.numel(), length=a.shape[-1])


@formula("aten::quantize_per_tensor", "aten::quantize_per_channel")
def quantize(x: Any, *args: object, out: Any) -> Cost:
    """round(x / scale); adding the zero point and clamping are done with integers."""
    return sum((elementwise(t, div=1, compare=1) for t in tensors_in(out)), ZERO)


@formula("aten::dequantize")
def dequantize(q: Any, *, out: Any) -> Cost:
    """(q - zero_point)·scale: a difference of integers, and a product."""
    return sum((elementwise(t, mul=1) for t in tensors_in(out)), ZERO)


# integers made of integers
free("aten::int_repr", "aten::quantized_batch_norm", "aten::quantized_max_pool1d")
free("aten::quantized_max_pool2d", "aten::quantized_max_pool3d")
free("quantized::add", "quantized::add_out", "quantized::add_relu", "quantized::add_relu_out")
free("quantized::add_scalar", "quantized::add_scalar_out")
free("quantized::add_scalar_relu", "quantized::add_scalar_relu_out")
free("quantized::mul", "quantized::mul_out", "quantized::mul_relu", "quantized::mul_relu_out")
free("quantized::mul_scalar", "quantized::mul_scalar_out")
free("quantized::mul_scalar_relu", "quantized::mul_scalar_relu_out")
free("quantized::cat", "quantized::cat_out", "quantized::cat_relu", "quantized::cat_relu_out")
free("quantized::batch_norm", "quantized::batch_norm_relu")
free("quantized::batch_norm1d", "quantized::batch_norm1d_relu")
free("quantized::batch_norm2d", "quantized::batch_norm2d_relu")
free("quantized::batch_norm3d", "quantized::batch_norm3d_relu")
free("quantized::group_norm", "quantized::instance_norm", "quantized::layer_norm")
free("quantized::celu", "quantized::elu", "quantized::leaky_relu", "quantized::prelu")
free("quantized::clamp", "quantized::relu6", "quantized::threshold", "quantized::hardswish")
free("quantized::sigmoid", "quantized::softmax", "quantized::dropout")
free("quantized::max_pool1d", "quantized::max_pool2d")

# weights put into the library's order
free("quantized::linear_prepack", "quantized::linear_prepack_fp16")
free("quantized::conv1d_prepack", "quantized::conv2d_prepack", "quantized::conv3d_prepack")
free("quantized::conv_transpose1d_prepack", "quantized::conv_transpose2d_prepack")
free("quantized::conv_transpose3d_prepack")

free(
    "aten::_empty_affine_quantized",
    "aten::_empty_per_channel_affine_quantized",
    traffic=traffic.nothing,
)
