"""Functions of complex numbers, written out in real numbers that count."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import flopcount
from flopcount import Cost
from tests.formulas.counting import Number, counting, numbers, total
from tests.formulas.decomposed import measured

aten = torch.ops.aten
n = 7
X = torch.tensor([0.3, -0.4, 1.2, 0.7, -1.3, 0.2, 2.1]).double()
Y = torch.tensor([0.5, 0.9, -0.6, -1.1, 0.8, 0.1, -0.3]).double()
z = torch.complex(X, Y)


def evaluated(function: Callable[..., float], *args: Number) -> Number:
    return args[0]._special(function(*map(float, args)))


class Complex:
    """A complex number by its parts."""

    def __init__(self, x: Number, y: Number) -> None:
        self.x, self.y = x, y

    def __complex__(self) -> complex:
        return complex(float(self.x), float(self.y))

    def __add__(self, other: Complex | float) -> Complex:
        if isinstance(other, Complex):
            return Complex(self.x + other.x, self.y + other.y)
        return Complex(self.x + other, self.y)

    def __sub__(self, other: Complex) -> Complex:
        return Complex(self.x - other.x, self.y - other.y)

    def from_real(self, a: float) -> Complex:
        """a - z; the sign of the imaginary part is taken into what follows."""
        return Complex(a - self.x, Number(-float(self.y)))

    def __mul__(self, other: Complex | float) -> Complex:
        if isinstance(other, Complex):
            x = self.x * other.x - self.y * other.y
            return Complex(x, self.x * other.y + self.y * other.x)
        return Complex(self.x * other, self.y * other)

    def __truediv__(self, other: Complex) -> Complex:
        """The conjugate's signs are those of the numerator's two sums."""
        x = self.x * other.x + self.y * other.y
        y = self.y * other.x - self.x * other.y
        squared = other.x * other.x + other.y * other.y
        return Complex(x / squared, y / squared)

    def __neg__(self) -> Complex:
        return Complex(-self.x, -self.y)

    def turned(self) -> Complex:
        """i·z."""
        return Complex(-self.y, self.x)

    def turned_back(self) -> Complex:
        """-i·z."""
        return Complex(self.y, -self.x)

    def select(self, condition: bool, other: complex) -> Complex:
        return Complex(self.x.select(condition, other.real), self.y.select(condition, other.imag))

    def inverse(self) -> Complex:
        squared = self.x * self.x + self.y * self.y
        return Complex(self.x / squared, -self.y / squared)

    def modulus(self) -> Number:
        return (self.x * self.x + self.y * self.y).sqrt()

    def sqrt(self) -> Complex:
        r = self.modulus()
        imaginary = ((r - self.x) / 2).sqrt()
        signed = imaginary.select(float(self.y) >= 0, -float(imaginary))
        return Complex(((r + self.x) / 2).sqrt(), signed)

    def exp(self) -> Complex:
        size = self.x.exp()
        return Complex(size * evaluated(math.cos, self.y), size * evaluated(math.sin, self.y))

    def log(self) -> Complex:
        size = (self.x * self.x + self.y * self.y).log() * 0.5
        return Complex(size, evaluated(math.atan2, self.y, self.x))


def sine(a: Complex) -> Complex:
    x = evaluated(math.sin, a.x) * evaluated(math.cosh, a.y)
    return Complex(x, evaluated(math.cos, a.x) * evaluated(math.sinh, a.y))


def cosine(a: Complex) -> Complex:
    x = evaluated(math.cos, a.x) * evaluated(math.cosh, a.y)
    return Complex(x, -(evaluated(math.sin, a.x) * evaluated(math.sinh, a.y)))


def hyperbolic_sine(a: Complex) -> Complex:
    x = evaluated(math.sinh, a.x) * evaluated(math.cos, a.y)
    return Complex(x, evaluated(math.cosh, a.x) * evaluated(math.sin, a.y))


def hyperbolic_cosine(a: Complex) -> Complex:
    x = evaluated(math.cosh, a.x) * evaluated(math.cos, a.y)
    return Complex(x, evaluated(math.sinh, a.x) * evaluated(math.sin, a.y))


def tangent(a: Complex) -> Complex:
    x, y = a.x * 2, a.y * 2
    below = evaluated(math.cos, x) + evaluated(math.cosh, y)
    return Complex(evaluated(math.sin, x) / below, evaluated(math.sinh, y) / below)


def hyperbolic_tangent(a: Complex) -> Complex:
    x, y = a.x * 2, a.y * 2
    below = evaluated(math.cosh, x) + evaluated(math.cos, y)
    return Complex(evaluated(math.sinh, x) / below, evaluated(math.sin, y) / below)


def arcsine(a: Complex) -> Complex:
    return (a.turned() + (a * a).from_real(1).sqrt()).log().turned_back()


def arsinh(a: Complex) -> Complex:
    return (a + (a * a + 1).sqrt()).log()


def arcosh(a: Complex) -> Complex:
    return (a + (a + 1).sqrt() * (a + -1).sqrt()).log()


def artanh(a: Complex) -> Complex:
    return ((a + 1).log() - a.from_real(1).log()) * 0.5


def sigmoid(a: Complex) -> Complex:
    return ((-a).exp() + 1).inverse()


def normalized_sine(a: Complex) -> Complex:
    turns = a * math.pi
    return (sine(turns) / turns).select(complex(a) != 0, 1)


def sign(a: Complex) -> Complex:
    r = a.modulus()
    return Complex(a.x / r, a.y / r).select(float(r) > 0, 0)


def seventh_power(a: Complex) -> Complex:
    square = a * a
    return square * a * (square * square)


def log_sum(a: Complex, b: Complex) -> Complex:
    """max + log(1 + e^(min - max)), by the real parts."""
    order = (a, b) if a.x > b.x else (b, a)
    largest, least = (each.select(True, 0) for each in order)
    return ((least - largest).exp() + 1).log() + largest


def constant(x: float, y: float) -> Complex:
    return Complex(Number(x), Number(y))


FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Complex], Any]]] = {
    "neg": (torch.neg, lambda a: -a),
    "conj": (torch._conj_physical, lambda a: Complex(a.x, -a.y)),
    "reciprocal": (torch.reciprocal, Complex.inverse),
    "sgn": (torch.sgn, sign),
    "angle": (torch.angle, lambda a: evaluated(math.atan2, a.y, a.x)),
    "polar": (
        lambda a: torch.polar(a.real, a.imag),
        lambda a: Complex(a.x * evaluated(math.cos, a.y), a.x * evaluated(math.sin, a.y)),
    ),
    "sqrt": (torch.sqrt, Complex.sqrt),
    "rsqrt": (torch.rsqrt, lambda a: a.sqrt().inverse()),
    "exp": (torch.exp, Complex.exp),
    "exp2": (torch.exp2, lambda a: (a * math.log(2)).exp()),
    "expm1": (torch.expm1, lambda a: a.exp() + -1),
    "log": (torch.log, Complex.log),
    "log2": (torch.log2, lambda a: a.log() * (1 / math.log(2))),
    "log10": (torch.log10, lambda a: a.log() * (1 / math.log(10))),
    "log1p": (torch.log1p, lambda a: (a + 1).log()),
    "sin": (torch.sin, sine),
    "cos": (torch.cos, cosine),
    "tan": (torch.tan, tangent),
    "sinh": (torch.sinh, hyperbolic_sine),
    "cosh": (torch.cosh, hyperbolic_cosine),
    "tanh": (torch.tanh, hyperbolic_tangent),
    "asin": (torch.asin, arcsine),
    "acos": (torch.acos, lambda a: arcsine(a).from_real(math.pi / 2)),
    "atan": (torch.atan, lambda a: artanh(a.turned()).turned_back()),
    "asinh": (torch.asinh, arsinh),
    "acosh": (torch.acosh, arcosh),
    "atanh": (torch.atanh, artanh),
    "sinc": (torch.sinc, normalized_sine),
    "sigmoid": (torch.sigmoid, sigmoid),
    "silu": (F.silu, lambda a: a * sigmoid(a)),
    "z²": (torch.square, lambda a: a * a),
    "z⁷": (lambda a: a**7, seventh_power),
    "√z as a power": (lambda a: a**0.5, Complex.sqrt),
    "1 / √z as a power": (lambda a: a**-0.5, lambda a: a.sqrt().inverse()),
    "1 / z² as a power": (lambda a: a**-2, lambda a: (a * a).inverse()),
    "a real power": (lambda a: a**2.3, lambda a: (a.log() * 2.3).exp()),
    "a complex power": (lambda a: a ** (1 + 2j), lambda a: (a.log() * constant(1, 2)).exp()),
    "a power of a number": (lambda a: 2.3**a, lambda a: (a * math.log(2.3)).exp()),
    "a power of a complex number": (
        lambda a: (1 + 1j) ** a,
        lambda a: (a * constant(math.log(2) / 2, math.pi / 4)).exp(),
    ),
    "a power of itself": (lambda a: a**a, lambda a: (a * a.log()).exp()),
    "a real way": (
        lambda a: torch.lerp(a, ONES, 0.3),
        lambda a: a + (constant(-1, 0) - a) * 0.3,
    ),
    "a complex way": (
        lambda a: torch.lerp(a, ONES, a),
        lambda a: a + (constant(-1, 0) - a) * a,
    ),
    "a product of which three are added": (
        lambda a: torch.addcmul(a, a, a, value=3),
        lambda a: a + a * a * 3,
    ),
    "a quotient of which three are added": (
        lambda a: torch.addcdiv(a, a, ONES, value=3),
        lambda a: a + a / constant(-1, 0) * 3,
    ),
    "places to which three are added": (
        lambda a: a.index_add(0, torch.arange(n), ONES, alpha=3),
        lambda a: a + constant(-1, 0) * 3,
    ),
    "a select": (lambda a: a.masked_fill(LARGE, 2), lambda a: a.select(float(a.x) < 1, 2)),
    "a select of two": (
        lambda a: torch.where(LARGE, FIRST, a),
        lambda a: a.select(float(a.x) < 1, 1),
    ),
    "logaddexp of z and -1": (
        lambda a: torch.logaddexp(a, ONES),
        lambda a: log_sum(a, constant(-1, 0)),
    ),
}
ONES = -torch.ones(n, dtype=z.dtype)
FIRST = torch.ones(n, dtype=z.dtype)
LARGE = X >= 1


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_takes_the_steps_of_its_definition_in_real_numbers(name: str) -> None:
    function, loop = FUNCTIONS[name]
    with counting() as tally:
        results = [loop(Complex(x, y)) for x, y in zip(numbers(X), numbers(Y), strict=True)]
    made = function(z)
    kind = complex if made.is_complex() else float
    torch.testing.assert_close(torch.tensor([kind(each) for each in results]).to(made.dtype), made)
    assert measured(function, z) == tally.cost


@pytest.mark.parametrize(
    ("question", "comparisons"),
    [
        pytest.param(aten.logical_not, 2, id="are both parts 0?"),
        pytest.param(aten.isinf, 2 * 2, id="is a part's size infinite?"),
        pytest.param(lambda a: a.clone().logical_not_(), 2, id="answered in place: 0 or 1 + 0i"),
        pytest.param(lambda a: a.clone().eq_(1), 2, id="equality, answered in place"),
        pytest.param(lambda a: torch.ne(a, 1, out=a.clone()), 2, id="into complex numbers"),
    ],
)
def test_a_question_is_asked_of_both_parts(question: Any, comparisons: int) -> None:
    assert measured(question, z) == Cost(compare=comparisons * n)


def test_a_row_s_log_of_a_sum() -> None:
    """The largest real part m, then m + log Σ e^(z - m)."""
    with counting() as tally:
        row = [Complex(x, y) for x, y in zip(numbers(X), numbers(Y), strict=True)]
        largest = row[0].x
        for each in row[1:]:
            largest = largest.larger(each.x)
        terms = [(each + (-float(largest))).exp() for each in row]
        result = Complex(total(t.x for t in terms), total(t.y for t in terms)).log()
        result = result + float(largest)
    made = torch.logsumexp(z, 0)
    torch.testing.assert_close(torch.tensor(complex(result), dtype=z.dtype), made)
    assert measured(torch.logsumexp, z, 0) == tally.cost


def test_a_running_log_of_a_sum() -> None:
    row = [Complex(x, y) for x, y in zip(numbers(X), numbers(Y), strict=True)]
    sums = row[:1]
    with counting() as tally:
        for each in row[1:]:
            sums.append(log_sum(sums[-1], each))
    torch.testing.assert_close(
        torch.tensor([complex(a) for a in sums], dtype=z.dtype), z.logcumsumexp(0)
    )
    assert measured(torch.logcumsumexp, z, 0) == tally.cost


def test_a_slice_that_is_too_long_is_scaled_in_each_part() -> None:
    with counting() as tally:
        row = [Complex(x, y) for x, y in zip(numbers(X), numbers(Y), strict=True)]
        norm = total(a.x * a.x + a.y * a.y for a in row).sqrt()
        factor = (1 / (norm + 1e-7)).select(norm > 1, 1)
        result = [complex(Complex(a.x * factor, a.y * factor)) for a in row]
    torch.testing.assert_close(torch.tensor(result, dtype=z.dtype), z[None].renorm(2, 0, 1.0)[0])
    assert measured(torch.renorm, z[None], 2, 0, 1.0) == tally.cost


def test_a_function_of_complex_numbers_without_steps_of_its_own_is_uncounted() -> None:
    """No kernel has any: a meta tensor stands for one."""
    plan = flopcount.formulas.plan_of(aten.erf.default)
    assert not plan.bill((z,), {}, z).counted


@pytest.mark.parametrize("exponent", [2, 2.0, 2 + 0j], ids=str)
def test_lists_of_complex_numbers_cost_what_each_does(exponent: complex) -> None:
    one = measured(torch.exp, z) + measured(torch.pow, z, exponent)
    lists = measured(torch._foreach_exp, [z, z]) + measured(torch._foreach_pow, [z, z], exponent)
    assert lists == 2 * one == 2 * Cost(special=3 * n, arith=(2 + 6) * n)


def test_a_complex_gradient_has_nothing_uncounted() -> None:
    leaf = (z * 0.4).requires_grad_()
    for name, (function, _) in FUNCTIONS.items():
        if name == "silu":  # torch has no gradient of it
            continue
        with flopcount.FlopCounter() as counter:
            function(leaf).abs().sum().backward()
        assert not counter.report().uncounted, name
