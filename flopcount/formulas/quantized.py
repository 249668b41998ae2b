"""Quantised ops: 8-bit integers q that stand for (q - zero_point)·scale.

Contractions keep their MACs, in rows of the integers' dtype. Everything else that is done to
integers, the rescaling of a result included, counts nothing but bytes, as for all integer ops.
Only between floats and integers is there floating-point arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from flopcount.cost import ZERO, Cost
from flopcount.formulas import traffic
from flopcount.formulas.convolution import meetings
from flopcount.formulas.primitives import contraction, elementwise
from flopcount.formulas.registry import formula, free


def packed_traffic(
    args: Sequence[Any], kwargs: dict[str, Any], out: Any, mutated: Sequence[Any]
) -> tuple[int, int]:
    """Weight and bias are read too, which come in one opaque object."""
    x, packed, *rest = args
    return traffic.operands_and_results([x, *packed.unpack(), *rest], kwargs, out, mutated)


@formula(
    "quantized::conv1d",
    "quantized::conv1d_relu",
    "quantized::conv2d",
    "quantized::conv2d_relu",
    "quantized::conv3d",
    "quantized::conv3d_relu",
    traffic=packed_traffic,
)
def quantized_conv(x: Tensor, packed: Any, *args: object, out: Tensor) -> Cost:
    """Each output is a dot product of length c·k; the settings are the packed weight's own."""
    weight, _ = packed.unpack()
    settings = packed.stride(), packed.padding(), packed.dilation()
    if spare := weight.dim() - x.dim():  # a one-dimensional weight is packed as (f, c, 1, k)
        weight = weight.squeeze(2)
        settings = tuple(setting[spare:] for setting in settings)
    return Cost(**meetings(weight, out, x, *settings), dots=out.numel())


@formula("quantized::linear", "quantized::linear_relu", traffic=packed_traffic)
def quantized_linear(x: Tensor, packed: Any, *args: object, out: Tensor) -> Cost:
    """(…, k) @ (n, k)ᵀ: a dot product of length k for each element of the result."""
    return contraction(dots=out.numel(), length=x.shape[-1])


@formula("aten::quantize_per_tensor", "aten::quantize_per_channel")
def quantize(x: Any, *args: object, out: Any) -> Cost:
    """round(x / scale); adding the zero point and clamping are done with integers."""
    return sum((elementwise(t, div=1, compare=1) for t in traffic.tensors([out])), ZERO)


@formula("aten::dequantize")
def dequantize(q: Any, *, out: Any) -> Cost:
    """(q - zero_point)·scale: a difference of integers, and a product."""
    return sum((elementwise(t, mul=1) for t in traffic.tensors([out])), ZERO)


free(
    "aten::int_repr",
    "aten::quantized_max_pool1d",
    "aten::quantized_max_pool2d",
    "aten::quantized_max_pool3d",
    "quantized::add",
    "quantized::add_relu",
    "quantized::cat",
    "quantized::hardswish",
    "quantized::mul",
)
