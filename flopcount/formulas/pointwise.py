"""Element-wise ops: so many steps for each element of the broadcast result.

A fused op costs the sum of the steps of its textbook definition, written beside it. A select on
a comparison of its own (ReLU's gradient, leaky ReLU) is one comparison.
"""

from __future__ import annotations

from math import inf
from typing import Any

from torch import Tensor, ops

from flopcount.cost import ZERO, Cost
from flopcount.formulas.primitives import elementwise
from flopcount.formulas.registry import Gradients, Uncountable, formula

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
steps("square", mul=1)
steps("reciprocal", div=1)
steps("sqrt", sqrt=1)
steps("rsqrt", sqrt=1, div=1)
steps("neg", "sgn", "sign", compare=1)
steps("floor", "ceil", "trunc", "frac", compare=1)
steps("maximum", "minimum", "fmax", "fmin", "clamp_min", "clamp_max", compare=1)
steps("lt", "le", "gt", "ge", compare=1)
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


# what may be told of an operand


def told_apart(number: float) -> bool:
    """Multiples of ½ up to 16 in size and infinities; calls with other numbers share a cost."""
    return abs(number) == inf or (abs(number) <= 16 and 2 * number % 1 == 0)


def is_complex(value: Any) -> bool:
    """A complex tensor, or a complex number but for the real ones among those told apart."""
    if isinstance(value, Tensor):
        return value.is_complex()
    return isinstance(value, complex) and (value.imag != 0 or not told_apart(value.real))


def sum_steps(a: Any, b: Any) -> int:
    """Additions in a + b: a real number meets the real part of a complex one only."""
    return 2 if is_complex(a) and is_complex(b) else 1


def product_steps(a: Any, b: Any) -> int:
    """Operations in a·b: a real factor scales each part; complex ones: 4 products and 2 sums."""
    return (1, 2, 6)[is_complex(a) + is_complex(b)]


@formula(aten.add, aten.sub)
def add(a: Any, b: Any, scale: complex = 1, *, alpha: complex = 1, out: Tensor) -> Cost:
    """a + alpha·b: one addition, and a multiplication if alpha is not 1."""
    factor = alpha if scale == 1 else scale
    scaling = product_steps(factor, b) if factor != 1 else 0
    return Cost(arith=out.numel() * (sum_steps(a, b) + scaling))


@formula(aten.rsub)
def rsub(a: Any, b: Any, scale: complex = 1, *, alpha: complex = 1, out: Tensor) -> Cost:
    """b - alpha·a."""
    return add(b, a, scale, alpha=alpha, out=out)


@formula(aten.mul)
def mul(a: Any, b: Any, *, out: Tensor) -> Cost:
    """a·b."""
    return Cost(arith=out.numel() * product_steps(a, b))


@formula(aten.div, "aten::true_divide")
def div(a: Any, b: Any, *, rounding_mode: str | None = None, out: Tensor) -> Cost:
    """a / b, and a rounding if there is a mode.

    A complex divisor takes the product with its conjugate, its squared modulus (2 products and a
    sum) and a division of each part; a real one a division of each part of a.
    """
    steps = product_steps(a, b) + 3 + 2 if is_complex(b) else 1 + is_complex(a)
    return Cost(arith=out.numel() * steps, compare=out.numel() * (rounding_mode is not None))


@formula(aten.abs)
def absolute(x: Tensor, *, out: Tensor) -> Cost:
    """One operation; of a complex number √(re² + im²): 2 products, a sum and a root."""
    return Cost(arith=4 * x.numel()) if x.is_complex() else elementwise(x, compare=1)


@formula(aten.eq, aten.ne)
def eq(a: Any, b: Any, *, out: Tensor) -> Cost:
    """A comparison; of complex numbers one of each part."""
    return elementwise(out, compare=1 + (is_complex(a) or is_complex(b)))


@formula(aten.isnan)
def isnan(x: Tensor, *, out: Tensor) -> Cost:
    """x ≠ x."""
    return eq(x, x, out=out)


@formula(aten.round)
def round(x: Tensor, *, decimals: int = 0, out: Tensor) -> Cost:
    """A rounding; to d decimals that of x·10ᵈ, divided by 10ᵈ."""
    scaled = int(decimals != 0)
    return elementwise(out, compare=1, mul=scaled, div=scaled)


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
    if is_complex(exponent):
        raise Uncountable("complex exponents")
    if isinstance(exponent, Tensor) or not isinstance(base, Tensor):
        return elementwise(out, special=1)
    exponent = exponent.real  # of 2 + 0j, too
    inverse, n = exponent < 0, abs(exponent)
    if n == 0.5:
        return elementwise(base, sqrt=1, div=int(inverse))
    if not n <= MAX_PRODUCTS or n % 1 != 0:  # an exponent that is not a number, too
        return elementwise(base, special=1)
    n = int(n)
    products = max(n.bit_length() + n.bit_count() - 2, 0)
    return elementwise(base, mul=products, div=int(inverse))


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
def native_dropout(
    x: Tensor, p: float, train: bool | None, *, out: tuple[Tensor, ...], **results: Tensor
) -> Cost:
    """x·mask / (1 - p): two products. Drawing the mask is free."""
    return elementwise(x, mul=2) if train or train is None else ZERO


@formula(aten.native_dropout_backward)
def native_dropout_backward(grad: Tensor, mask: Tensor, scale: float, *, out: Tensor) -> Gradients:
    """g·mask·scale."""
    return Gradients(input=elementwise(grad, mul=2))
