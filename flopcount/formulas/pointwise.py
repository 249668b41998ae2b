"""Element-wise ops: so many steps for each element of the broadcast result.

A fused op costs the sum of the steps of its textbook definition, written beside it. A select on
a comparison of its own (ReLU's gradient, leaky ReLU) is one comparison.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, ops

from flopcount.cost import ZERO, Cost
from flopcount.formulas.primitives import elementwise
from flopcount.formulas.registry import Gradients, formula

aten = ops.aten


def steps(*names: str, **each: int) -> None:
    """Register aten ops ``names``: the steps in ``each`` for each element of the result."""
    text = " + ".join(f"{count} {step}" if count > 1 else step for step, count in each.items())

    def cost(*args: Any, out: Tensor, **kwargs: Any) -> Cost:
        return elementwise(out, **each)

    cost.__doc__ = f"{text} for each element."
    formula(*(f"aten::{name}" for name in names))(cost)


def gradient_steps(*names: str, **each: int) -> None:
    """Like :func:`steps`, for ops that compute the gradient of an activation's input."""
    text = " + ".join(f"{count} {step}" if count > 1 else step for step, count in each.items())

    def cost(*args: Any, out: Tensor, **kwargs: Any) -> Gradients:
        return Gradients(input=elementwise(out, **each))

    cost.__doc__ = f"{text} for each element of the input's gradient."
    formula(*(f"aten::{name}" for name in names))(cost)


# one operation
steps("mul", "square", mul=1)
steps("div", "true_divide", "reciprocal", div=1)
steps("sqrt", sqrt=1)
steps("rsqrt", sqrt=1, div=1)
steps("neg", "abs", "sgn", "sign", compare=1)
steps("floor", "ceil", "round", "trunc", "frac", compare=1)
steps("maximum", "minimum", "fmax", "fmin", "clamp_min", "clamp_max", compare=1)
steps("eq", "ne", "lt", "le", "gt", "ge", "isnan", compare=1)
steps("isinf", compare=2)  # |x| = inf
steps("where", "masked_fill", compare=1)
steps("logical_not", "logical_and", "logical_or", "logical_xor", compare=1)
steps("bitwise_not", "bitwise_and", "bitwise_or", "bitwise_xor", compare=0)
steps("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", special=1)
steps("sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", special=1)
steps("tanh", "asinh", "acosh", "atanh", "erf", "erfc", "erfinv", "lgamma", "digamma", special=1)

# several operations
steps("hardtanh", compare=2)  # min(max(x, a), b)
steps("lerp", add=2, mul=1)  # a + w · (b - a)
steps("remainder", "fmod", div=1, compare=1, mul=1, add=1)  # a - b · floor(a / b)
steps("floor_divide", div=1, compare=1)  # floor(a / b)

# activations
steps("relu", "threshold", compare=1)  # max(x, 0)
steps("leaky_relu", "_prelu_kernel", compare=1, mul=1)  # x if x > 0 else slope · x
steps("hardsigmoid", add=1, compare=2, div=1)  # clamp(x + 3, 0, 6) / 6
steps("hardswish", add=1, compare=2, mul=1, div=1)  # x · clamp(x + 3, 0, 6) / 6
steps("sigmoid", special=1, compare=1, add=1, div=1)  # 1 / (1 + e^-x)
steps("silu", special=1, compare=1, add=1, div=1, mul=1)  # x · sigmoid(x)
steps("elu", compare=1, special=1, mul=3)  # scale · x, or scale · α · expm1(x · s)

# gradients of activations: g is the output's gradient, y the output
gradient_steps("threshold_backward", compare=1)  # g if x > 0
gradient_steps("hardtanh_backward", compare=2)  # g if a < x < b
gradient_steps("leaky_relu_backward", compare=1, mul=1)  # g, or g · slope
gradient_steps("hardsigmoid_backward", compare=2, mul=1)  # g / 6 if -3 < x < 3
gradient_steps("hardswish_backward", compare=2, div=1, add=1, mul=1)  # g · (x / 3 + 1/2)
gradient_steps("sigmoid_backward", add=1, mul=2)  # g · y · (1 - y)
gradient_steps("tanh_backward", mul=2, add=1)  # g · (1 - y²)
# with s = sigmoid(x), 4 operations: g · s · (1 + x · (1 - s))
gradient_steps("silu_backward", special=1, compare=1, add=3, div=1, mul=3)


@formula(aten.clamp, aten.clip)
def clamp(x: Tensor, min: Any = None, max: Any = None, *, out: Tensor) -> Cost:
    """A comparison for each bound that is given."""
    return elementwise(out, compare=(min is not None) + (max is not None))


@formula(aten.elu_backward)
def elu_backward(
    grad: Tensor,
    alpha: float,
    scale: float,
    input_scale: float,
    is_result: bool,
    y: Tensor,
    *,
    out: Tensor,
) -> Gradients:
    """g·scale, or g·s·scale·α·e^(s·x); with the result in place of x, g·s·(y + scale·α)."""
    if is_result:
        return Gradients(input=elementwise(out, compare=1, mul=3, add=1))
    return Gradients(input=elementwise(out, compare=1, mul=5, special=1))


@formula(aten.add, aten.sub, aten.rsub)
def add(a: Any, b: Any, scale: float = 1, *, alpha: float = 1, out: Tensor) -> Cost:
    """a + alpha·b: one addition, and a multiplication if alpha is not 1."""
    return elementwise(out, add=1, mul=int(alpha != 1 or scale != 1))


@formula(aten.addcmul)
def addcmul(x: Tensor, a: Tensor, b: Tensor, *args: float, value: float = 1, out: Tensor) -> Cost:
    """x + value·a·b."""
    return elementwise(out, add=1, mul=1 + (value != 1 or args not in ((), (1,))))


@formula(aten.addcdiv)
def addcdiv(x: Tensor, a: Tensor, b: Tensor, *args: float, value: float = 1, out: Tensor) -> Cost:
    """x + value·a / b."""
    return elementwise(out, add=1, div=1, mul=int(value != 1 or args not in ((), (1,))))


@formula(aten.pow)
def pow(base: Any, exponent: Any, *, out: Tensor) -> Cost:
    """Products by repeated squaring for a whole exponent, roots for halves, else one evaluation.

    xⁿ takes ⌊log₂ n⌋ squarings and a product for each further 1 among n's binary digits; a
    negative exponent adds a division.
    """
    if isinstance(exponent, Tensor) or not isinstance(base, Tensor):
        return elementwise(out, special=1)
    inverse, n = exponent < 0, abs(exponent)
    if n == 0.5:
        return elementwise(out, sqrt=1, div=int(inverse))
    if n != int(n) or n > MAX_PRODUCTS:
        return elementwise(out, special=1)
    n = int(n)
    products = max(n.bit_length() + n.bit_count() - 2, 0)
    return elementwise(out, mul=products, div=int(inverse))


MAX_PRODUCTS = 16
"""Exponents above this are evaluated as a transcendental function."""


@formula(aten.gelu)
def gelu(x: Tensor, *, approximate: str = "none", out: Tensor) -> Cost:
    """x/2·(1 + erf(x/√2)), or x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³))).

    Hendrycks & Gimpel, arXiv 1606.08415.
    """
    if approximate == "tanh":
        return elementwise(out, mul=6, add=2, special=1)
    return elementwise(out, mul=3, add=1, special=1)


@formula(aten.gelu_backward)
def gelu_backward(grad: Tensor, x: Tensor, *, approximate: str = "none", out: Tensor) -> Gradients:
    """g·(Φ(x) + x·φ(x)); with tanh, g·(½·(1 + t) + ½·x·(1 - t²)·u′(x)), t = tanh(u(x)).

    Φ takes 2 products, a sum and erf; φ = c·exp(-x²/2) takes 3 products and exp. With tanh:
    u 5 steps, u′ = √(2/π)·(1 + 3·0.044715·x²) 3 (x² is there), the rest 9.
    """
    if approximate == "tanh":
        return Gradients(input=elementwise(out, mul=12, add=5, special=1))
    return Gradients(input=elementwise(out, mul=7, add=2, special=2))


@formula(aten.native_dropout)
def native_dropout(x: Tensor, p: float, train: bool | None, *, out: tuple[Tensor, ...]) -> Cost:
    """x·mask / (1 - p): two products. Drawing the mask is free."""
    return elementwise(x, mul=2) if train or train is None else ZERO


@formula(aten.native_dropout_backward)
def native_dropout_backward(grad: Tensor, mask: Tensor, scale: float, *, out: Tensor) -> Gradients:
    """g·mask·scale."""
    return Gradients(input=elementwise(grad, mul=2))
