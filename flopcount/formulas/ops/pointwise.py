"""Element-wise ops: so many steps for each element of the broadcast result.

A fused op costs the sum of the steps of its textbook definition, written beside it. A select on
a comparison of its own (ReLU's gradient, leaky ReLU) is one comparison.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, ops

from flopcount.cost import ZERO, Cost
from flopcount.formulas import bytes as traffic
from flopcount.formulas import complex as complex_numbers
from flopcount.formulas.registry import Formula, Gradients, formula, free
from flopcount.formulas.steps import elementwise

aten = ops.aten


def steps(*names: str, **each: int) -> None:
    """Register aten ops ``names``: the steps in ``each`` for each element of the result.

    A function of complex numbers has steps of its own.
    """
    for name in names:
        formula(f"aten::{name}")(_with_steps(name, each))


def _with_steps(name: str, each: dict[str, int]) -> Formula:
    function = complex_numbers.FUNCTIONS.get(name)

    def cost(*args: Any, out: Tensor, **kwargs: Any) -> Cost:
        if function and out.is_complex():
            return out.numel() * function
        return elementwise(out, **each)

    cost.__doc__ = f"{_sentence(each)} for each element."
    return cost


def _sentence(each: dict[str, int]) -> str:
    return " + ".join(f"{count} {step}" if count > 1 else step for step, count in each.items())


def gradient_steps(*names: str, **each: int) -> None:
    """Like :func:`steps`, for ops that compute the gradient of an activation's input."""

    def cost(*args: Any, out: Tensor, **kwargs: Any) -> Gradients:
        return Gradients(input=elementwise(out, **each))

    cost.__doc__ = f"{_sentence(each)} for each element of the input's gradient."
    formula(*(f"aten::{name}" for name in names))(cost)


# one operation
steps("square", mul=1)
steps("rad2deg", "deg2rad", mul=1)
steps("sqrt", sqrt=1)
steps("rsqrt", sqrt=1, div=1)
steps("neg", "sgn", "sign", "signbit", "copysign", compare=1)
steps("floor", "ceil", "trunc", compare=1)
steps("maximum", "minimum", "fmax", "fmin", "clamp_min", "clamp_max", compare=1)
steps("lt", "le", "gt", "ge", "isposinf", "isneginf", compare=1)
steps("where", "masked_fill", compare=1)
steps("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", special=1)
steps("sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", special=1)
steps("tanh", "asinh", "acosh", "atanh", special=1)
steps("_conj_physical", "conj_physical", "polar")  # of a real number nothing; polar makes complex

# integer arithmetic, and bits that are moved
free("aten::bitwise_not", "aten::bitwise_and", "aten::bitwise_or", "aten::bitwise_xor")
free("aten::bitwise_left_shift", "aten::bitwise_right_shift", "aten::gcd", "aten::lcm")
free("aten::__lshift__", "aten::__rshift__", "aten::frexp", "aten::nextafter")

# several operations
steps("frac", compare=1, add=1)  # x - trunc(x)
steps("hardtanh", compare=2)  # min(max(x, a), b)
steps("heaviside", compare=2)  # 1 if x > 0, v if x = 0
steps("nan_to_num", compare=3)  # selects on x ≠ x, x = inf and x = -inf
steps("hypot", add=1, mul=2, sqrt=1)  # √(a² + b²)
steps("remainder", "fmod", div=1, compare=1, mul=1, add=1)  # a - b · floor(a / b)
steps("floor_divide", div=1, compare=1)  # floor(a / b)
steps("xlogy", compare=1, special=1, mul=1)  # x · log y, or 0 if x = 0
steps("sinc", mul=1, special=1, div=1, compare=1)  # sin(π · x) / (π · x), or 1 if x = 0

# activations
steps("relu", "threshold", compare=1)  # max(x, 0)
steps("leaky_relu", "_prelu_kernel", compare=1, mul=1)  # x if x > 0 else slope · x
steps("hardshrink", compare=2)  # x if |x| > λ else 0
steps("softshrink", compare=2, add=2)  # x - λ if x > λ, x + λ if x < -λ, else 0
steps("hardsigmoid", add=1, compare=2, div=1)  # clamp(x + 3, 0, 6) / 6
steps("hardswish", add=1, compare=2, mul=1, div=1)  # x · clamp(x + 3, 0, 6) / 6
steps("sigmoid", special=1, compare=1, add=1, div=1)  # 1 / (1 + e^-x)
steps("silu", special=1, compare=1, add=1, div=1, mul=1)  # x · sigmoid(x)
steps("glu", special=1, compare=1, add=1, div=1, mul=1)  # a · sigmoid(b), a and b halves of x
steps("elu", compare=1, special=1, mul=3)  # scale · x, or scale · α · expm1(x · s)
steps("celu", compare=1, special=1, mul=1, div=1)  # x, or α · expm1(x / α)
steps("softplus", compare=1, special=2, mul=1, div=1)  # x, or log1p(e^(β · x)) / β
steps("mish", special=3, mul=1)  # x · tanh(log1p(e^x))

# gradients of activations: g is the output's gradient, y the output
gradient_steps("threshold_backward", compare=1)  # g if x > 0
gradient_steps("hardtanh_backward", compare=2)  # g if a < x < b
gradient_steps("hardshrink_backward", "softshrink_backward", compare=2)  # g if |x| > λ
gradient_steps("leaky_relu_backward", compare=1, mul=1)  # g, or g · slope
gradient_steps("hardsigmoid_backward", compare=2, mul=1)  # g / 6 if -3 < x < 3
gradient_steps("hardswish_backward", compare=2, div=1, add=1, mul=1)  # g · (x / 3 + 1/2)
gradient_steps("sigmoid_backward", add=1, mul=2)  # g · y · (1 - y)
gradient_steps("tanh_backward", mul=2, add=1)  # g · (1 - y²)
gradient_steps("logit_backward", compare=2, add=1, mul=1, div=1)  # g / (x · (1 - x)) within bounds
# with s = sigmoid(x), 4 operations: g · s · (1 + x · (1 - s))
gradient_steps("silu_backward", special=1, compare=1, add=3, div=1, mul=3)
# with z = e^(β · x): g, or g · z / (z + 1)
gradient_steps("softplus_backward", compare=1, special=1, mul=2, add=1, div=1)
# with t = tanh(log1p(e^x)) and s = sigmoid(x): g · (t + x · s · (1 - t²))
gradient_steps("mish_backward", special=4, compare=1, add=3, div=1, mul=4)


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


def is_complex(value: Any) -> bool:
    """A complex tensor, or a complex number that is not real."""
    if isinstance(value, Tensor):
        return value.is_complex()
    return isinstance(value, complex) and value.imag != 0


def sum_steps(a: Any, b: Any) -> int:
    """Additions in a + b: a real number meets the real part of a complex one only."""
    return 2 if is_complex(a) and is_complex(b) else 1


def product_steps(a: Any, b: Any) -> int:
    """Operations in a·b: a real factor scales each part; complex ones: 4 products and 2 sums."""
    return (1, 2, 6)[is_complex(a) + is_complex(b)]


def scaling_steps(factor: complex, b: Any) -> int:
    """Operations in factor·b, none if the factor is 1."""
    return product_steps(factor, b) if factor != 1 else 0


@formula(aten.add, aten.sub, coefficients=("other", "alpha"))
def add(a: Any, b: Any, scale: complex = 1, *, alpha: complex = 1, out: Tensor) -> Cost:
    """a + alpha·b: one addition, and a multiplication if alpha is not 1."""
    factor = alpha if scale == 1 else scale
    return Cost(arith=out.numel() * (sum_steps(a, b) + scaling_steps(factor, b)))


@formula(aten.rsub, coefficients=("other", "alpha"))
def rsub(a: Any, b: Any, scale: complex = 1, *, alpha: complex = 1, out: Tensor) -> Cost:
    """b - alpha·a."""
    return add(b, a, scale, alpha=alpha, out=out)


@formula("aten::_add_relu", coefficients=("other", "alpha"))
def add_relu(a: Any, b: Any, scale: float = 1, *, alpha: float = 1, out: Tensor) -> Cost:
    """max(a + alpha·b, 0)."""
    return add(a, b, scale, alpha=alpha, out=out) + elementwise(out, compare=1)


@formula(aten.mul, coefficients=("other",))
def mul(a: Any, b: Any, *, out: Tensor) -> Cost:
    """a·b."""
    return Cost(arith=out.numel() * product_steps(a, b))


@formula(aten.div, "aten::true_divide", coefficients=("other",))
def div(a: Any, b: Any, *, rounding_mode: str | None = None, out: Tensor) -> Cost:
    """a / b, and a rounding if there is a mode.

    A complex divisor takes the product with its conjugate, its squared modulus (2 products and a
    sum) and a division of each part; a real one a division of each part of a.
    """
    steps = product_steps(a, b) + 3 + 2 if is_complex(b) else 1 + is_complex(a)
    return Cost(arith=out.numel() * steps, compare=out.numel() * (rounding_mode is not None))


@formula("aten::reciprocal")
def reciprocal(x: Tensor, *, out: Tensor) -> Cost:
    """1 / x."""
    return out.numel() * complex_numbers.INVERSE if out.is_complex() else elementwise(out, div=1)


@formula("aten::angle")
def angle(x: Tensor, *, out: Tensor) -> Cost:
    """0, or π of a negative number; of a complex number atan2(im, re)."""
    if x.is_complex():
        return elementwise(out, special=1)
    return elementwise(out, compare=1)


@formula(aten.abs)
def absolute(x: Tensor, *, out: Tensor) -> Cost:
    """One operation; of a complex number √(re² + im²): 2 products, a sum and a root."""
    return Cost(arith=4 * x.numel()) if x.is_complex() else elementwise(x, compare=1)


@formula(aten.eq, aten.ne, aten.isnan)
@formula("aten::logical_not", "aten::logical_and", "aten::logical_or", "aten::logical_xor")
def eq(a: Any, b: Any = 0, *, out: Tensor) -> Cost:
    """A comparison, of x with itself or with 0, too; of complex numbers one of each part."""
    return Cost(compare=out.numel() * (1 + (is_complex(a) or is_complex(b))))


@formula("aten::isinf", "prims::isfinite")
def isinf(x: Tensor, *, out: Tensor) -> Cost:
    """|x| = ∞, or not; of a complex number either part."""
    return Cost(compare=2 * out.numel() * (1 + x.is_complex()))


@formula(aten.round)
def round(x: Tensor, *, decimals: int = 0, out: Tensor) -> Cost:
    """A rounding; to d decimals that of x·10ᵈ, divided by 10ᵈ."""
    scaled = int(decimals != 0)
    return elementwise(out, compare=1, mul=scaled, div=scaled)


@formula(aten.addcmul, coefficients=("value",))
def addcmul(x: Tensor, a: Tensor, b: Tensor, value: complex = 1, *, out: Tensor) -> Cost:
    """x + value·a·b."""
    return elementwise(out, add=1, mul=1) + Cost(arith=out.numel() * scaling_steps(value, out))


@formula(aten.addcdiv, coefficients=("value",))
def addcdiv(x: Tensor, a: Tensor, b: Tensor, value: complex = 1, *, out: Tensor) -> Cost:
    """x + value·a / b."""
    return elementwise(out, add=1, div=1) + Cost(arith=out.numel() * scaling_steps(value, out))


@formula(aten.lerp, coefficients=("weight",))
def lerp(a: Tensor, b: Tensor, weight: Any, *, out: Tensor) -> Cost:
    """a + weight·(b - a)."""
    return elementwise(out, add=2) + Cost(arith=out.numel() * product_steps(weight, out))


@formula(aten.pow)
def pow(base: Any, exponent: Any, *, out: Tensor) -> Cost:
    """Products by repeated squaring for a whole exponent, roots for halves, else one evaluation.

    xⁿ takes ⌊log₂ n⌋ squarings and a product for each further 1 among n's binary digits; a
    negative exponent adds a reciprocal.
    """
    if not isinstance(base, Tensor) or isinstance(exponent, Tensor) or is_complex(exponent):
        return evaluated_power(base, exponent, out)
    n = abs(exponent.real)  # of 2 + 0j, too
    if n != 0.5 and (not n <= MAX_PRODUCTS or n % 1 != 0):  # not a number, too
        return evaluated_power(base, exponent, out)
    whole = int(n)
    products = max(whole.bit_length() + whole.bit_count() - 2, 0)
    cost = elementwise(out, mul=products, sqrt=int(n == 0.5))
    return cost if exponent.real >= 0 else cost + reciprocal(out, out=out)


def evaluated_power(base: Any, exponent: Any, out: Tensor) -> Cost:
    """One evaluation; of complex numbers e^(w·log z), where the logarithm of a number is one."""
    if not out.is_complex():
        return elementwise(out, special=1)
    logarithm = complex_numbers.LOG if isinstance(base, Tensor) else ZERO
    real = not is_complex(exponent) or not (isinstance(base, Tensor) or is_complex(base))
    product = complex_numbers.SCALING if real else complex_numbers.PRODUCT
    return out.numel() * (logarithm + product + complex_numbers.EXP)


@formula("aten::ldexp")
def ldexp(x: Tensor, exponent: Tensor, *, out: Tensor) -> Cost:
    """x·2ᵉ, the powers evaluated before they are broadcast."""
    return mul(x, exponent, out=out) + evaluated_power(2.0, exponent, exponent)


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


@formula("aten::logit")
def logit(x: Tensor, eps: float | None = None, *, out: Tensor) -> Cost:
    """log(x / (1 - x)), of x between eps and 1 - eps if there are bounds."""
    return elementwise(out, add=1, div=1, special=1, compare=2 * (eps is not None))


@formula("aten::log_sigmoid_forward")
def log_sigmoid_forward(x: Tensor, *, out: tuple[Tensor, Tensor]) -> Cost:
    """min(x, 0) - log1p(e^-|x|)."""
    return elementwise(x, compare=3, special=2, add=1)


@formula("aten::log_sigmoid_backward")
def log_sigmoid_backward(grad: Tensor, x: Tensor, z: Tensor, *, out: Tensor) -> Gradients:
    """g·(z / (1 + z)), or g·(1 - z / (1 + z)) if x < 0, with z = e^-|x|, which may be there."""
    slope = elementwise(out, add=2, div=1, compare=1, mul=1)
    return Gradients(
        input=slope, recompute=ZERO if z.numel() else elementwise(out, compare=2, special=1)
    )


@formula("aten::glu_backward")
def glu_backward(grad: Tensor, x: Tensor, dim: int, *, out: Tensor) -> Gradients:
    """g·s and g·a·s·(1 - s), with s = sigmoid(b), for each element of the output."""
    return Gradients(input=elementwise(grad, special=1, compare=1, add=2, div=1, mul=4))


@formula("aten::glu_jvp")
def glu_jvp(y: Tensor, x: Tensor, dx: Tensor, dim: int, *, out: Tensor) -> Cost:
    """da·s + y·(1 - s)·db, with s = sigmoid(b), for each element of the output."""
    return elementwise(out, special=1, compare=1, add=1 + 2, div=1, mul=3)


@formula("aten::glu_backward_jvp")
def glu_backward_jvp(
    grad_x: Tensor, g: Tensor, x: Tensor, dg: Tensor, dx: Tensor, dim: int, *, out: Tensor
) -> Cost:
    """dg·s + g·p·db, and p·(dg·a + g·da) + v·(1 - 2·s)·db, with p = s·(1 - s) and v = g·a·p.

    v is there, half of ``grad_x``. s takes 4 operations and p 2, the first sum 4, the second 9.
    """
    return elementwise(g, special=1, compare=1, add=1 + 1 + 1 + 3, div=1, mul=1 + 3 + 6)


@formula(
    "aten::rrelu_with_noise",
    "aten::rrelu_with_noise_functional",
    traffic=traffic.reading_all_but(1),  # the noise is written
)
def rrelu_with_noise(x: Tensor, noise: Tensor, *args: Any, out: Any, **how: Any) -> Cost:
    """x if x > 0 else slope·x; the slope is drawn, which is free."""
    return elementwise(x, compare=1, mul=1)


@formula("aten::rrelu_with_noise_backward")
def rrelu_with_noise_backward(
    grad: Tensor,
    x: Tensor,
    noise: Tensor,
    lower: float,
    upper: float,
    training: bool,
    *args: bool,
    out: Tensor,
) -> Gradients:
    """g·noise, which is 1 where x > 0; in inference that of leaky ReLU."""
    return Gradients(input=elementwise(out, mul=1, compare=int(not training)))


@formula("aten::_prelu_kernel_backward")
def prelu_kernel_backward(
    grad: Tensor, x: Tensor, weight: Tensor, *, out: tuple[Tensor, Tensor]
) -> Gradients:
    """g, or w·g; of the weight 0, or x·g, yet to be summed."""
    each = elementwise(x, compare=1, mul=1)
    return Gradients(input=each, weight=each)


@formula(aten.native_dropout)
def native_dropout(x: Tensor, p: float, train: bool | None, *, out: tuple[Tensor, ...]) -> Cost:
    """x·mask / (1 - p): two products. Drawing the mask is free."""
    return elementwise(x, mul=2) if train or train is None else ZERO


@formula("aten::_masked_scale")
def masked_scale(x: Tensor, mask: Tensor, scale: float, *, out: Tensor) -> Cost:
    """x·mask·scale: the gradient of a fused dropout, too."""
    return elementwise(out, mul=2)


@formula(aten.native_dropout_backward)
def native_dropout_backward(grad: Tensor, mask: Tensor, scale: float, *, out: Tensor) -> Gradients:
    """g·mask·scale."""
    return Gradients(input=elementwise(grad, mul=2))
