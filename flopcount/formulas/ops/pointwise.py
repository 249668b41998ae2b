"""Element-wise ops: so many steps for each element of the broadcast result.

A fused op costs the sum of the steps of its textbook definition, written beside it.
"""

from typing import Any

from torch import Tensor

from flopcount.cost import ZERO, Cost
from flopcount.formulas import complex as complex_numbers
from flopcount.formulas.registry import Formula, formula, free
from flopcount.formulas.steps import elementwise


def steps(*names: str, **counts: int) -> None:
    """Register aten ops ``names``: so many steps for each element of the result.

    A function of complex numbers has steps of its own.
    """
    for name in names:
        formula(f"aten::{name}")(_with_steps(name, counts))


def _with_steps(name: str, counts: dict[str, int]) -> Formula:
    function = complex_numbers.FUNCTIONS.get(name)

    def cost(*args: Any, out: Tensor, **kwargs: Any) -> Cost:
        if function and out.is_complex():
            return out.numel() * function
        return elementwise(out, **counts)

    cost.__doc__ = f"{in_words(counts)} for each element."
    return cost


def in_words(counts: dict[str, int]) -> str:
    """``2 add + mul``."""
    return " + ".join(f"{count} {step}" if count > 1 else step for step, count in counts.items())


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

# integer arithmetic, and moving bits
free("aten::bitwise_not", "aten::bitwise_and", "aten::bitwise_or", "aten::bitwise_xor")
free("aten::bitwise_left_shift", "aten::bitwise_right_shift", "aten::gcd", "aten::lcm")
free("aten::__lshift__", "aten::__rshift__", "aten::frexp", "aten::nextafter")

# several operations
steps("frac", compare=1, add=1)  # x - trunc(x)
steps("heaviside", compare=2)  # 1 if x > 0, v if x = 0
steps("nan_to_num", compare=3)  # selects on x ≠ x, x = inf and x = -inf
steps("hypot", add=1, mul=2, sqrt=1)  # √(a² + b²)
steps("remainder", "fmod", div=1, compare=1, mul=1, add=1)  # a - b · floor(a / b)
steps("floor_divide", div=1, compare=1)  # floor(a / b)
steps("xlogy", compare=1, special=1, mul=1)  # x · log y, or 0 if x = 0
steps("sinc", mul=1, special=1, div=1, compare=1)  # sin(π · x) / (π · x), or 1 if x = 0


@formula("aten::clamp", "aten::clip")
def clamp(x: Tensor, min: Any = None, max: Any = None, *, out: Tensor) -> Cost:
    """A comparison for each bound that is given."""
    return elementwise(out, compare=len([bound for bound in (min, max) if bound is not None]))


# arithmetic, whose steps depend on which operands are complex


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
    if is_complex(a) and is_complex(b):
        return 6
    return 2 if is_complex(a) or is_complex(b) else 1


def scaling_steps(factor: complex, b: Any) -> int:
    """Operations in factor·b, none if the factor is 1."""
    return product_steps(factor, b) if factor != 1 else 0


def weighted_sum(a: Any, b: Any, factor: complex, out: Tensor) -> Cost:
    """a + factor·b: one addition, and a multiplication if the factor is not 1."""
    return Cost(arith=out.numel() * (sum_steps(a, b) + scaling_steps(factor, b)))


@formula("aten::add", "aten::sub", coefficients=("other", "alpha"))
def add(a: Any, b: Any, scale: complex = 1, *, alpha: complex = 1, out: Tensor) -> Cost:
    """a + alpha·b."""
    return weighted_sum(a, b, alpha if scale == 1 else scale, out)


@formula("aten::rsub", coefficients=("other", "alpha"))
def rsub(a: Any, b: Any, scale: complex = 1, *, alpha: complex = 1, out: Tensor) -> Cost:
    """b - alpha·a."""
    return weighted_sum(b, a, alpha if scale == 1 else scale, out)


@formula("aten::_add_relu", coefficients=("other", "alpha"))
def add_relu(a: Any, b: Any, scale: float = 1, *, alpha: float = 1, out: Tensor) -> Cost:
    """max(a + alpha·b, 0)."""
    sums = weighted_sum(a, b, alpha if scale == 1 else scale, out)
    return sums + elementwise(out, compare=1)


@formula("aten::mul", coefficients=("other",))
def mul(a: Any, b: Any, *, out: Tensor) -> Cost:
    """a·b."""
    return Cost(arith=out.numel() * product_steps(a, b))


@formula("aten::div", "aten::true_divide", coefficients=("other",))
def div(a: Any, b: Any, *, rounding_mode: str | None = None, out: Tensor) -> Cost:
    """a / b, and a rounding if there is a mode.

    A complex divisor takes the product with its conjugate, its squared modulus (2 products and a
    sum) and a division of each part; a real one a division of each part of a.
    """
    if is_complex(b):
        return Cost(arith=out.numel() * (product_steps(a, b) + 3 + 2))
    divided = Cost(arith=out.numel() * (2 if is_complex(a) else 1))
    return divided if rounding_mode is None else divided + elementwise(out, compare=1)


@formula("aten::reciprocal")
def reciprocal(x: Tensor, *, out: Tensor) -> Cost:
    """1 / x."""
    return inverses(out)


def inverses(out: Tensor) -> Cost:
    """1 / x for each result."""
    return out.numel() * complex_numbers.INVERSE if out.is_complex() else elementwise(out, div=1)


@formula("aten::angle")
def angle(x: Tensor, *, out: Tensor) -> Cost:
    """0, or π of a negative number; of a complex number atan2(im, re)."""
    if x.is_complex():
        return elementwise(out, special=1)
    return elementwise(out, compare=1)


@formula("aten::abs")
def absolute(x: Tensor, *, out: Tensor) -> Cost:
    """One operation; of a complex number √(re² + im²): 2 products, a sum and a root."""
    return Cost(arith=4 * x.numel()) if x.is_complex() else elementwise(x, compare=1)


@formula("aten::eq", "aten::ne", "aten::isnan")
@formula("aten::logical_not", "aten::logical_and", "aten::logical_or", "aten::logical_xor")
def eq(a: Any, b: Any = 0, *, out: Tensor) -> Cost:
    """A comparison of a with b, or of x with itself or 0; of complex numbers one of each part."""
    return Cost(compare=out.numel() * (2 if is_complex(a) or is_complex(b) else 1))


@formula("aten::isinf", "prims::isfinite")
def isinf(x: Tensor, *, out: Tensor) -> Cost:
    """|x| = ∞, or not; of a complex number either part."""
    return Cost(compare=2 * out.numel() * (2 if x.is_complex() else 1))


@formula("aten::round")
def round(x: Tensor, *, decimals: int = 0, out: Tensor) -> Cost:
    """A rounding; to d decimals x·10ᵈ is rounded, and divided by 10ᵈ."""
    scaled = int(decimals != 0)
    return elementwise(out, compare=1, mul=scaled, div=scaled)


@formula("aten::addcmul", coefficients=("value",))
def addcmul(x: Tensor, a: Tensor, b: Tensor, value: complex = 1, *, out: Tensor) -> Cost:
    """x + value·a·b."""
    return elementwise(out, add=1, mul=1) + Cost(arith=out.numel() * scaling_steps(value, out))


@formula("aten::addcdiv", coefficients=("value",))
def addcdiv(x: Tensor, a: Tensor, b: Tensor, value: complex = 1, *, out: Tensor) -> Cost:
    """x + value·a / b."""
    return elementwise(out, add=1, div=1) + Cost(arith=out.numel() * scaling_steps(value, out))


@formula("aten::lerp", coefficients=("weight",))
def lerp(a: Tensor, b: Tensor, weight: Any, *, out: Tensor) -> Cost:
    """a + weight·(b - a)."""
    return elementwise(out, add=2) + Cost(arith=out.numel() * product_steps(weight, out))


def power_steps(exponent: float) -> tuple[int, int, int] | None:
    """The products, roots and reciprocals in xⁿ; None if it is evaluated as a whole.

    A whole n takes ⌊log₂ n⌋ squarings and a product for each further 1 among n's binary digits,
    a half is a root, and a negative exponent adds a reciprocal.
    """
    n = abs(exponent)
    if n != 0.5 and (not n <= MAX_PRODUCTS or n % 1 != 0):  # NaN is not ≤ either
        return None
    whole = int(n)
    return max(whole.bit_length() + whole.bit_count() - 2, 0), int(n == 0.5), int(exponent < 0)


MAX_PRODUCTS = 16
"""Exponents above this are evaluated as a transcendental function."""


def real_powers(exponent: float, count: int) -> Cost:
    """xⁿ of ``count`` real numbers."""
    steps = power_steps(exponent)
    return Cost(special=count) if steps is None else Cost(arith=count * sum(steps))


@formula("aten::pow")
def pow(base: Any, exponent: Any, *, out: Tensor) -> Cost:
    """Products by repeated squaring for a whole exponent, roots for halves, else one evaluation."""
    if not isinstance(base, Tensor) or isinstance(exponent, Tensor) or is_complex(exponent):
        return evaluated_power(base, exponent, out)
    steps = power_steps(exponent.real)  # 2 + 0j is real
    if steps is None:
        return evaluated_power(base, exponent, out)
    products, roots, inverted = steps
    return elementwise(out, mul=products, sqrt=roots) + inverted * inverses(out)


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
    products = Cost(arith=out.numel() * product_steps(x, exponent))
    return products + evaluated_power(2.0, exponent, exponent)
