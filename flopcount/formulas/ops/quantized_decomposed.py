"""Ops between which exported programs keep their products: floats become integers and back.

The integers are plain tensors here, and their zero points and bounds are applied to floats, which
is arithmetic. The steps are those of torch's kernels in Python.
"""

from typing import Any

from torch import Tensor

from flopcount.cost import Cost
from flopcount.formulas.registry import formula, free
from flopcount.formulas.steps import elementwise, fold


def quantized(x: Tensor, scales: int) -> Cost:
    """clamp(round(x·(1 / s)) + z): 1 / s for each of so many scales that come in tensors."""
    return elementwise(x, mul=1, add=1, compare=1 + 2) + Cost(arith=scales)


@formula("quantized_decomposed::quantize_per_tensor")
def quantize_per_tensor(x: Tensor, *args: Any, out: Tensor) -> Cost:
    """clamp(round(x·(1 / s)) + z)."""
    return quantized(x, 0)


@formula(
    "quantized_decomposed::quantize_per_channel",
    "quantized_decomposed::quantize_per_channel_group",
    "quantized_decomposed::quantize_per_token",
)
def quantize_per_channel(x: Tensor, scales: Tensor, *args: Any, out: Tensor) -> Cost:
    """The same with a scale for each channel, group or row."""
    return quantized(x, scales.numel())


@formula("quantized_decomposed::dequantize_per_tensor")
def dequantize_per_tensor(q: Tensor, *args: Any, out: Tensor, **options: Any) -> Cost:
    """(q - z)·s, after q became a float."""
    return elementwise(out, add=1, mul=1)


@formula(
    "quantized_decomposed::dequantize_per_channel",
    "quantized_decomposed::dequantize_per_channel_group",
    "quantized_decomposed::dequantize_per_token",
)
def dequantize_per_channel(
    q: Tensor, scales: Tensor, zero_points: Tensor | None, *args: Any, out: Tensor, **options: Any
) -> Cost:
    """(q - z)·s, or q·s; a difference of integers is no FLOP."""
    floats = zero_points is not None and zero_points.is_floating_point()
    return elementwise(out, add=int(floats), mul=1)


# -- scales and zero points from the extremes of x


@formula("quantized_decomposed::choose_qparams")
def choose_qparams(x: Tensor, *args: Any, out: Any) -> Cost:
    """Minimum, maximum, and 0; s = (high - low) / levels, at least ε; z = low / s, rounded, bound.

    2·(n - 1) comparisons, 2 with 0, 3 operations, and 4; zero points are integers.
    """
    return Cost(arith=3, compare=2 * fold(x.numel(), 1) + 2 + 1 + 1 + 2)


@formula("quantized_decomposed::choose_qparams_symmetric")
def choose_qparams_symmetric(x: Tensor, *args: Any, out: Any) -> Cost:
    """The same with s = max(-low, high) / (levels / 2), at least ε, and z known."""
    return Cost(arith=1, compare=2 * fold(x.numel(), 1) + 2 + 2 + 1)


@formula("quantized_decomposed::choose_qparams_per_token")
def choose_qparams_per_token(x: Tensor, *args: Any, out: tuple[Tensor, Tensor]) -> Cost:
    """max |x| of each row, at least ε, divided by the largest integer."""
    rows = out[0].numel()
    return Cost(arith=rows, compare=x.numel() + fold(x.numel(), rows) + rows)


@formula("quantized_decomposed::choose_qparams_per_token_asymmetric")
def choose_qparams_per_token_asymmetric(x: Tensor, *args: Any, out: tuple[Tensor, Tensor]) -> Cost:
    """The extremes of each row, then s and z from the end that z misses less.

    s = (high - low) / levels, at least ε. low / s and high / s are added to both bounds, the sum of
    the errors is compared with 0, and z is one of two differences, bound and rounded: with s 9
    operations; 2 comparisons with 0, 1 with ε, 2 to choose, 3.
    """
    rows = out[0].numel()
    return Cost(arith=9 * rows, compare=2 * fold(x.numel(), rows) + (2 + 1 + 2 + 3) * rows)


free("quantized_decomposed::convert_element_type")
