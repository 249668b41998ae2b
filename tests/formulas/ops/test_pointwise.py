"""Element-wise ops against XLA's counts, torch's decompositions, and their definitions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import flopcount
from flopcount import Cost
from tests.formulas.counting import Number, counting, floats, numbers
from tests.formulas.decomposed import decomposed_cost, measured
from tests.formulas.ops.elementwise import Function, Loop, compare_with_loop, evaluated

aten = torch.ops.aten
n = 12
x = torch.linspace(-2, 2, n)
square = x.reshape(3, 4)

# XLA's HloCostAnalysis of the same function, per element: flops, and transcendentals apart.
# It counts a square root as a transcendental; here it is arithmetic.
XLA: dict[str, tuple[Any, int, int]] = {
    "add": (lambda: x + x[:], 1, 0),
    "sub": (lambda: x - x[:], 1, 0),
    "mul": (lambda: x * x[:], 1, 0),
    "div": (lambda: x / x[:], 1, 0),
    "add a number": (lambda: x + 2.5, 1, 0),
    "mul by a number": (lambda: x * 2.5, 1, 0),
    "negative": (lambda: -x, 1, 0),
    "abs": (lambda: x.abs(), 1, 0),
    "exp": (lambda: x.exp(), 0, 1),
    "log": (lambda: x.log(), 0, 1),
    "log1p": (lambda: x.log1p(), 0, 1),
    "expm1": (lambda: x.expm1(), 0, 1),
    "sin": (lambda: x.sin(), 0, 1),
    "cos": (lambda: x.cos(), 0, 1),
    "tanh": (lambda: x.tanh(), 0, 1),
    "erf": (lambda: x.erf(), 0, 1),
    "floor": (lambda: x.floor(), 1, 0),
    "round": (lambda: x.round(), 1, 0),
    "sign": (lambda: x.sign(), 1, 0),
    "atan2": (lambda: torch.atan2(x, x[:]), 0, 1),
    "square": (lambda: x.square(), 1, 0),
    "reciprocal": (lambda: x.reciprocal(), 1, 0),
    "pow 2": (lambda: x**2, 1, 0),
    "pow 3": (lambda: x**3, 2, 0),
    "pow 2.5": (lambda: x**2.5, 0, 1),
    "pow of tensors": (lambda: x ** x[:], 0, 1),
    "clamp": (lambda: x.clamp(-1, 1), 2, 0),
    "maximum": (lambda: torch.maximum(x, x[:]), 1, 0),
    "gt": (lambda: x > x[:], 1, 0),
}


@pytest.mark.parametrize("name", XLA)
def test_counts_per_element_are_those_of_xla(name: str) -> None:
    function, flops, transcendentals = XLA[name]
    cost = measured(function)
    assert (cost.flops - cost.special, cost.special) == (flops * n, transcendentals * n)


DECOMPOSED: dict[str, tuple[Any, ...]] = {
    "rsub": (aten.rsub.Tensor, x, x),
    "hypot": (aten.hypot.default, x, x),
    "rad2deg": (aten.rad2deg.default, x),
}


@pytest.mark.parametrize("name", DECOMPOSED)
def test_a_fused_op_costs_what_its_decomposition_costs(name: str) -> None:
    op, *args = DECOMPOSED[name]
    assert measured(op, *args) == decomposed_cost(op, *args)


def test_an_op_that_torch_takes_apart_costs_the_same_in_inference_mode() -> None:
    """Finite is what equals itself and differs in size from infinity."""
    with torch.inference_mode():
        whole = measured(torch.isfinite, x)
    assert whole == measured(torch.isfinite, x) == Cost(compare=3 * n)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        pytest.param(lambda: x.sqrt(), Cost(arith=n), id="a root is arithmetic"),
        pytest.param(lambda: x.rsqrt(), Cost(arith=2 * n), id="rsqrt: a root and a division"),
        pytest.param(
            lambda: torch.add(x, x[:], alpha=2), Cost(arith=2 * n), id="alpha: a product more"
        ),
        pytest.param(
            lambda: torch.add(x, x[:], alpha=1), Cost(arith=n), id="alpha = 1 is no product"
        ),
        pytest.param(
            lambda: torch.addcmul(x, x, x, value=3), Cost(arith=3 * n), id="addcmul with value"
        ),
        pytest.param(lambda: torch.addcmul(x, x, x), Cost(arith=2 * n), id="addcmul without"),
        pytest.param(
            lambda: torch.addcdiv(x, x, x, value=3), Cost(arith=3 * n), id="addcdiv with value"
        ),
        pytest.param(
            lambda: torch.lerp(x, x[:], 0.3), Cost(arith=3 * n), id="lerp: a + w · (b - a)"
        ),
        pytest.param(lambda: x.clamp(min=0), Cost(compare=n), id="clamp with one bound"),
        pytest.param(lambda: x**0.5, Cost(arith=n), id="x^½ is a root"),
        pytest.param(lambda: x**-0.5, Cost(arith=2 * n), id="x^-½: a root and a division"),
        pytest.param(lambda: x**-2, Cost(arith=2 * n), id="x^-2: a square and a division"),
        pytest.param(
            lambda: x**7, Cost(arith=4 * n), id="x^7 = x·x²·x⁴: two squares, two products"
        ),
        pytest.param(lambda: x**1, Cost(), id="x^1 costs nothing"),
        pytest.param(lambda: x**16, Cost(arith=4 * n), id="x^16: four squares"),
        pytest.param(lambda: x**17, Cost(special=n), id="a higher power is one evaluation"),
        pytest.param(lambda: 2.0**x, Cost(special=n), id="2^x is one evaluation"),
        pytest.param(
            lambda: torch.where(x > 0, x, -x),
            Cost(compare=3 * n),
            id="a comparison, a negation and a select apart are three",
        ),
        pytest.param(lambda: square * square[0], Cost(arith=12), id="broadcasting counts results"),
        pytest.param(lambda: x.long() + 1, Cost(), id="integer arithmetic is no FLOP"),
        pytest.param(
            lambda: x.long() / 2, Cost(arith=n), id="an integer division has a float result"
        ),
        pytest.param(
            lambda: x.logical_and(x[:]), Cost(compare=n), id="logic on floats is a comparison"
        ),
        pytest.param(lambda: x.long() > 0, Cost(), id="nor is an integer comparison"),
        pytest.param(
            lambda: x.to(torch.complex64) * 3j, Cost(arith=6 * n), id="complex: 6 for a product"
        ),
        pytest.param(
            lambda: x.to(torch.complex64) * (3.3 + 0j),
            Cost(arith=2 * n),
            id="complex: 3.3 + 0j is real, and scales each part",
        ),
        pytest.param(
            lambda: x.to(torch.complex64) * 3.3,
            Cost(arith=2 * n),
            id="complex by a real number: a product for each part",
        ),
        pytest.param(
            lambda: torch._foreach_mul([x, x.to(torch.complex64)], [3.3, 3.3]),
            Cost(arith=(1 + 2) * n),
            id="so it is in lists",
        ),
        pytest.param(
            lambda: x.to(torch.complex64) + 1,
            Cost(arith=n),
            id="a real number meets the real part only",
        ),
        pytest.param(
            lambda: 1 - x.to(torch.complex64), Cost(arith=n), id="and the other way round, too"
        ),
        pytest.param(
            lambda: torch.add(x, x.to(torch.complex64), alpha=3),
            Cost(arith=(2 + 1) * n),
            id="alpha scales both parts of what is added",
        ),
        pytest.param(
            lambda: aten.rsub.Tensor(x.to(torch.complex64), x, alpha=3),
            Cost(arith=(2 + 1) * n),
            id="b - alpha·a: alpha scales a",
        ),
        pytest.param(
            lambda: aten.rsub.Tensor(x, x.to(torch.complex64), alpha=3),
            Cost(arith=(1 + 1) * n),
            id="b - alpha·a with a real a",
        ),
        pytest.param(
            lambda: x.to(torch.complex64) ** (2 + 0j),
            Cost(arith=6 * n),
            id="a complex exponent that is real is a real one",
        ),
        pytest.param(
            lambda: x.to(torch.complex64) == x, Cost(compare=2 * n), id="complex: both parts equal"
        ),
        pytest.param(
            lambda: x.to(torch.complex64) != 1, Cost(compare=2 * n), id="complex: a part differs"
        ),
        pytest.param(
            lambda: x.to(torch.complex64).isnan(), Cost(compare=2 * n), id="complex: z ≠ z"
        ),
        pytest.param(
            lambda: x.round(decimals=2),
            Cost(arith=2 * n, compare=n),
            id="to two decimals: round(x · 100) / 100",
        ),
        pytest.param(lambda: x.round(decimals=0), Cost(compare=n), id="to no decimals: round(x)"),
        pytest.param(lambda: x ** float("inf"), Cost(special=n), id="x^∞ is one evaluation"),
        pytest.param(lambda: x**17.0, Cost(special=n), id="x^17 is one evaluation, as x^3.3"),
    ],
)
def test_steps(call: Any, expected: Cost) -> None:
    assert measured(call) == expected


COMPARISONS = [
    *("ceil", "trunc", "floor", "sign", "sgn", "neg", "signbit", "isposinf", "isneginf"),
    *("logical_not", "isnan"),
]

COMPARISONS_OF_TWO = [
    *("minimum", "fmax", "fmin", "clamp_min", "clamp_max", "lt", "le", "ge", "eq", "ne"),
    *("logical_and", "logical_or", "logical_xor", "copysign", "clip"),
]


@pytest.mark.parametrize("name", COMPARISONS + COMPARISONS_OF_TWO)
def test_a_comparison_a_rounding_or_a_sign_is_one_operation(name: str) -> None:
    operands = (x,) if name in COMPARISONS else (x, x[:])
    with torch.inference_mode():  # so that no op is taken apart
        assert measured(getattr(aten, name), *operands) == Cost(compare=n)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        pytest.param((aten.square, x), Cost(arith=n), id="x·x"),
        pytest.param(
            (aten.conj_physical, x.to(torch.complex64)), Cost(compare=n), id="a sign is changed"
        ),
        pytest.param((aten.true_divide, x, x[:]), Cost(arith=n), id="a / b"),
        pytest.param(
            (aten._logcumsumexp, x, 0),
            Cost(arith=2 * 11, compare=2 * 11, special=2 * 11),
            id="max + log1p(e^(min - max)), 11 times",
        ),
    ],
)
def test_an_op_that_is_whole_in_inference_mode(call: tuple[Any, ...], expected: Cost) -> None:
    with torch.inference_mode():
        assert measured(*call) == expected


INFINITE = float("inf")

LOOPS: dict[str, tuple[Function, Loop]] = {
    "remainder": (torch.remainder, lambda a, b: a - b * (a / b).floor()),
    "fmod": (torch.fmod, lambda a, b: a - b * (a / b).floor()),  # of positive numbers
    "floor_divide": (torch.floor_divide, lambda a, b: (a / b).floor()),
    "div that rounds down": (
        lambda a, b: torch.div(a, b, rounding_mode="floor"),
        lambda a, b: (a / b).floor(),
    ),
    "div that truncates": (
        lambda a, b: torch.div(a, b, rounding_mode="trunc"),
        lambda a, b: (a / b).floor(),  # of positive numbers
    ),
    "div with no mode": (
        lambda a, b: torch.div(a, b, rounding_mode=None),
        lambda a, b: a / b,
    ),
    "modulus of a complex number": (
        lambda a, b: torch.complex(a, b).abs(),
        lambda a, b: (a * a + b * b).sqrt(),
    ),
    "lerp": (lambda a, b: torch.lerp(a, b, 0.3), lambda a, b: a + (b - a) * 0.3),
    "frac": (lambda a, b: a.frac(), lambda a, b: a - a.floor()),  # of positive numbers
    "isinf": (lambda a, b: a.isinf(), lambda a, b: abs(a) >= INFINITE),
    "masked_fill": (
        lambda a, b: aten.masked_fill(a, FIRST, 7),
        lambda a, b: a.select(float(a) >= 1, 7),
    ),
}

A, B = torch.linspace(0.3, 2.5, n).double(), torch.linspace(0.4, 1.2, n).double()
FIRST = A < 1


@pytest.mark.parametrize(("function", "loop"), LOOPS.values(), ids=LOOPS)
def test_a_loop_that_counts_takes_as_many_steps(function: Function, loop: Loop) -> None:
    compare_with_loop(function, loop, A, B)


def complex_product(a: Parts, b: Parts) -> Parts:
    if len(a) == len(b) == 2:
        return [a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]]
    return [p * q for p in a for q in b]


def complex_sum(a: Parts, b: Parts) -> Parts:
    longer = a if len(a) > len(b) else b
    return [p + q for p, q in zip(a, b, strict=False)] + longer[min(len(a), len(b)) :]


def complex_quotient(a: Parts, b: Parts) -> Parts:
    if len(b) == 1:
        return [part / b[0] for part in a]
    conjugate = [b[0], numbers(-torch.as_tensor(floats(b[1])))]
    divisor = b[0] * b[0] + b[1] * b[1]
    return [part / divisor for part in complex_product(a, conjugate)]


Parts = list[Any]  # of a real number one, of a complex one two
KINDS = [[A], [B], [A, B], [B, A.flip(0)]]

ARITHMETIC = {
    "sum": (torch.add, complex_sum),
    "product": (torch.mul, complex_product),
    "quotient": (torch.div, complex_quotient),
}


@pytest.mark.parametrize("right", [1, 3], ids=["by real", "by complex"])
@pytest.mark.parametrize("left", [0, 2], ids=["real", "complex"])
@pytest.mark.parametrize(("function", "loop"), ARITHMETIC.values(), ids=ARITHMETIC)
def test_arithmetic_of_complex_and_real_numbers(
    function: Any, loop: Any, left: int, right: int
) -> None:
    """Written out in real numbers; of a real number there is no imaginary part to work on."""
    parts = KINDS[left], KINDS[right]
    with counting() as tally:
        result = loop(*([numbers(part) for part in operand] for operand in parts))
    a, b = (torch.complex(*part) if len(part) == 2 else part[0] for part in parts)
    whole = function(a, b)
    expected = [whole.real, whole.imag] if whole.is_complex() else [whole]
    torch.testing.assert_close([torch.as_tensor(floats(part)) for part in result], expected)
    assert measured(function, a, b) == tally.cost


@pytest.mark.parametrize(("exponent", "product"), [(1j, 6), (2 + 1j, 6), (3.3 + 0j, 2)])
def test_complex_exponents(exponent: complex, product: int) -> None:
    """z^w = e^(w·log z): the logarithm takes 4 and 2 evaluations, the exponential 2 and 3.

    The product takes 6, or 2 where w is real.
    """
    cost = measured(torch.pow, x.to(torch.complex64), exponent)
    assert cost == Cost(arith=(4 + product + 2) * n, special=(2 + 3) * n)


NUMBER = "add sub mul div pow remainder fmod clamp_min clamp_max eq ne lt le gt ge"

FUNCTION = (
    "abs acos asin atan ceil cos cosh erf erfc erfinv exp exp2 expm1 floor frac lgamma log log10 "
    "log1p log2 neg reciprocal relu round rsqrt sgn sigmoid sign sin sinc sinh sqrt square tan "
    "tanh trunc"
)

OTHER = "add sub mul div pow atan2 hypot copysign"
TWO_OTHERS = "addcmul addcdiv lerp clamp"


@pytest.mark.parametrize(
    ("names", "operands"),
    [
        pytest.param(FUNCTION, (), id="functions"),
        pytest.param(NUMBER, (3.0,), id="with a number"),
        pytest.param(OTHER, (x + 1,), id="with a tensor"),
        pytest.param(TWO_OTHERS, (x + 1, x + 2), id="with two tensors"),
    ],
)
def test_every_common_op_costs_the_same_in_place(names: str, operands: tuple[Any, ...]) -> None:
    for name in names.split():
        cost = measured(getattr(torch, name), x, *operands)
        assert cost.flops > 0, name
        assert measured(getattr(x.clone(), f"{name}_"), *operands) == cost, name


@pytest.mark.parametrize(
    ("functional", "in_place"),
    [
        (lambda t: t + 1, lambda t: t.add_(1)),
        (lambda t: t * t, lambda t: t.mul_(t)),
        (torch.relu, torch.relu_),
        (F.silu, lambda t: F.silu(t, inplace=True)),
        (lambda t: t.clamp(0, 1), lambda t: t.clamp_(0, 1)),
        (torch.exp, lambda t: torch.exp(t, out=torch.empty(n))),
    ],
)
def test_in_place_and_out_forms_cost_the_same(functional: Any, in_place: Any) -> None:
    assert measured(functional, x.clone()) == measured(in_place, x.clone())


def test_the_same_tensor_twice_is_read_once() -> None:
    assert flopcount.count(torch.mul, x, x, backward=False).total.read == 4 * n
    assert flopcount.count(torch.mul, x, x.clone(), backward=False).total.read == 8 * n


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        pytest.param(lambda: torch._add_relu(x, x), Cost(arith=n, compare=n), id="an addition"),
        pytest.param(
            lambda: torch._add_relu(x, x, alpha=2), Cost(arith=2 * n, compare=n), id="scaled"
        ),
        pytest.param(
            lambda: torch._add_relu_(x.clone(), x), Cost(arith=n, compare=n), id="in place"
        ),
    ],
)
def test_a_sum_and_relu_at_once(call: Any, expected: Cost) -> None:
    assert measured(call) == expected


def heaviside(x: Number, v: Number) -> Number:
    return v.select(float(x) == 0, 0).select(float(x) <= 0, 1)


def finite(x: Number) -> Number:
    x = x.select(float(x) == float(x), 0)
    return x.select(float(x) < math.inf, 3).select(float(x) > -math.inf, -3)


# (torch's function, its definition)
OF_BOTH_SIGNS: dict[str, tuple[Function, Loop]] = {
    "nan_to_num": (lambda a, b: torch.nan_to_num(a, 0, 3, -3), lambda a, b: finite(a)),
    "copysign": (
        lambda a, b: torch.copysign(b, a),
        lambda a, b: b.select(float(a) > 0, -float(b)),
    ),
    "heaviside": (lambda a, b: torch.heaviside(a, b), heaviside),
    "signbit": (lambda a, b: torch.signbit(a), lambda a, b: a < 0),
    "isposinf": (lambda a, b: torch.isposinf(a), lambda a, b: a >= math.inf),
    "isneginf": (lambda a, b: torch.isneginf(a), lambda a, b: a <= -math.inf),
    "angle": (lambda a, b: torch.angle(a), lambda a, b: Number(0).select(float(a) >= 0, math.pi)),
    "deg2rad": (lambda a, b: torch.deg2rad(a), lambda a, b: a * (math.pi / 180)),
    "rad2deg": (lambda a, b: torch.rad2deg(a), lambda a, b: a * (180 / math.pi)),
    "hypot": (torch.hypot, lambda a, b: (a * a + b * b).sqrt()),
    "xlogy": (
        torch.xlogy,
        lambda a, b: (a * b.log()).select(float(a) != 0, 0),
    ),
    "sinc": (
        lambda a, b: torch.sinc(a),
        lambda a, b: (evaluated(math.sin, t := a * math.pi) / t).select(float(a) != 0, 1),
    ),
    "ldexp": (
        lambda a, b: torch.ldexp(a, b),
        lambda a, b: a * evaluated(lambda e: 2**e, b),
    ),
    "cosh": (lambda a, b: torch.cosh(a), lambda a, b: evaluated(math.cosh, a)),
    "conjugate of a real number": (lambda a, b: torch._conj_physical(a), lambda a, b: a),
}


@pytest.mark.parametrize("name", OF_BOTH_SIGNS)
def test_a_loop_on_numbers_of_both_signs_takes_as_many_steps(name: str) -> None:
    compare_with_loop(*OF_BOTH_SIGNS[name])
