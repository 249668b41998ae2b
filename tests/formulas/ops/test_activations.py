"""Activations, their gradients and other functions of real numbers, as loops that count."""

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
from tests.formulas.counting import Number, counting, floats, numbers
from tests.formulas.decomposed import decomposed_cost, measured

aten = torch.ops.aten
n = 9
A = torch.linspace(-2.3, 2.2, n).double()
B = torch.linspace(0.15, 0.9, n).double().flip(0)
NAN, INFINITE = math.nan, math.inf


def evaluated(function: Callable[..., float], *args: Number) -> Number:
    return args[0]._special(function(*map(float, args)))


def constant(value: float) -> Number:
    return Number(value)


def sigmoid(x: Number) -> Number:
    return 1 / ((-x).exp() + 1)


def softplus(x: Number) -> Number:
    z = x * 2
    return (z.exp().log1p() / 2).select(float(z) <= 1, float(x))


def softplus_gradient(g: Number, x: Number) -> Number:
    z = (x * 2).exp()
    return (g * z / (z + 1)).select(2 * float(x) <= 1, float(g))


def mish_gradient(g: Number, x: Number) -> Number:
    t, s = evaluated(math.tanh, x.exp().log1p()), sigmoid(x)
    return g * (t + x * s * (1 - t * t))


def softshrink(x: Number) -> Number:
    lower = (x + 0.5).select(float(x) < -0.5, 0)
    return (x - 0.5).select(float(x) > 0.5, float(lower))


def within(value: Number, x: Number, low: float, high: float, other: float) -> Number:
    """A select for each bound."""
    return value.select(float(x) >= low, other).select(low <= float(x) <= high, other)


def log_sigmoid_gradient(g: Number, x: Number) -> Number:
    z = Number(math.exp(-abs(float(x))))  # saved by the forward pass
    ratio = z / (z + 1)
    return g * (1 - ratio).select(float(x) < 0, float(ratio))


def heaviside(x: Number, v: Number) -> Number:
    return v.select(float(x) == 0, 0).select(float(x) <= 0, 1)


def entropy(x: Number) -> Number:
    inside = -(x * x.log())
    return inside.select(float(x) > 0, 0).select(float(x) >= 0, -INFINITE)


def log_sum(a: Number, b: Number) -> Number:
    largest, least = a.larger(b), a.smaller(b)
    return largest + (least - largest).exp().log1p()


def log2_sum(a: Number, b: Number) -> Number:
    largest, least = a.larger(b), a.smaller(b)
    power = evaluated(lambda d: 2**d, least - largest)
    return largest + power.log1p() / math.log(2)


def finite(x: Number) -> Number:
    x = x.select(float(x) == float(x), 0)
    return x.select(float(x) < INFINITE, 3).select(float(x) > -INFINITE, -3)


def multigamma(x: Number) -> Number:
    """log π^(3·2/4) · Γ(x)·Γ(x - ½)·Γ(x - 1), for x + 3."""
    parts = [evaluated(math.lgamma, x + (3 - j / 2)) for j in range(3)]
    return parts[0] + parts[1] + parts[2] + 3 * 2 / 4 * math.log(math.pi)


# (torch's function, its definition) of the numbers a, from -2.3 to 2.2, and b, from 0.9 to 0.15
LOOPS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Number, Number], Any]]] = {
    "mish": (lambda a, b: F.mish(a), lambda a, b: a * evaluated(math.tanh, a.exp().log1p())),
    "mish_backward": (aten.mish_backward, lambda a, b: mish_gradient(a, b)),
    "celu": (
        lambda a, b: F.celu(a, 0.7),
        lambda a, b: a.select(float(a) > 0, float(evaluated(math.expm1, a / 0.7) * 0.7)),
    ),
    "softplus": (lambda a, b: F.softplus(a, 2, 1), lambda a, b: softplus(a)),
    "softplus_backward": (
        lambda a, b: aten.softplus_backward(b, a, 2, 1),
        lambda a, b: softplus_gradient(b, a),
    ),
    "glu": (lambda a, b: F.glu(torch.cat([a, b])), lambda a, b: a * sigmoid(b)),
    "hardshrink": (
        lambda a, b: F.hardshrink(a, 0.5),
        lambda a, b: a.select(float(abs(a)) > 0.5, 0),
    ),
    "hardshrink_backward": (
        lambda a, b: aten.hardshrink_backward(b, a, 0.5),
        lambda a, b: b.select(float(abs(a)) > 0.5, 0),
    ),
    "softshrink": (lambda a, b: F.softshrink(a, 0.5), lambda a, b: softshrink(a)),
    "softshrink_backward": (
        lambda a, b: aten.softshrink_backward(b, a, 0.5),
        lambda a, b: b.select(float(abs(a)) > 0.5, 0),
    ),
    "rrelu in inference": (
        lambda a, b: F.rrelu(a, 0.2, 0.4),
        lambda a, b: a.select(float(a) > 0, float(a * 0.3)),
    ),
    "rrelu in training": (
        lambda a, b: F.rrelu(a, 0.3, 0.3, training=True),
        lambda a, b: a.select(float(a) > 0, float(a * 0.3)),
    ),
    "rrelu's gradient in inference": (
        lambda a, b: aten.rrelu_with_noise_backward(b, a, a, 0.2, 0.4, False, False),
        lambda a, b: b.select(float(a) > 0, float(b * 0.3)),
    ),
    "rrelu's gradient in training": (
        lambda a, b: aten.rrelu_with_noise_backward(b, a, a, 0.2, 0.4, True, False),
        lambda a, b: b * a,
    ),
    "log_sigmoid": (
        lambda a, b: F.logsigmoid(a),
        lambda a, b: a.smaller(0) - (-abs(a)).exp().log1p(),
    ),
    "log_sigmoid_backward": (
        lambda a, b: aten.log_sigmoid_backward(b, a, SAVED),
        lambda a, b: log_sigmoid_gradient(b, a),
    ),
    "logit": (lambda a, b: torch.logit(b), lambda a, b: (b / (1 - b)).log()),
    "logit within bounds": (
        lambda a, b: torch.logit(b, 0.2),
        lambda a, b: ((c := b.larger(0.2).smaller(0.8)) / (1 - c)).log(),
    ),
    "logit_backward": (
        lambda a, b: aten.logit_backward(a, b, 0.2),
        lambda a, b: within(a / (b * (1 - b)), b, 0.2, 0.8, 0),
    ),
    "nan_to_num": (lambda a, b: torch.nan_to_num(a, 0, 3, -3), lambda a, b: finite(a)),
    "copysign": (
        lambda a, b: torch.copysign(b, a),
        lambda a, b: b.select(float(a) > 0, -float(b)),
    ),
    "heaviside": (lambda a, b: torch.heaviside(a, b), heaviside),
    "signbit": (lambda a, b: torch.signbit(a), lambda a, b: a < 0),
    "isposinf": (lambda a, b: torch.isposinf(a), lambda a, b: a >= INFINITE),
    "isneginf": (lambda a, b: torch.isneginf(a), lambda a, b: a <= -INFINITE),
    "angle": (lambda a, b: torch.angle(a), lambda a, b: constant(0).select(float(a) >= 0, math.pi)),
    "deg2rad": (lambda a, b: torch.deg2rad(a), lambda a, b: a * (math.pi / 180)),
    "rad2deg": (lambda a, b: torch.rad2deg(a), lambda a, b: a * (180 / math.pi)),
    "hypot": (torch.hypot, lambda a, b: (a * a + b * b).sqrt()),
    "xlogy": (
        torch.xlogy,
        lambda a, b: (a * b.log()).select(float(a) != 0, 0),
    ),
    "xlog1py": (
        torch.special.xlog1py,
        lambda a, b: (a * b.log1p()).select(float(a) != 0, 0),
    ),
    "entr": (lambda a, b: torch.special.entr(b), lambda a, b: entropy(b)),
    "sinc": (
        lambda a, b: torch.sinc(a),
        lambda a, b: (evaluated(math.sin, t := a * math.pi) / t).select(float(a) != 0, 1),
    ),
    "ldexp": (
        lambda a, b: torch.ldexp(a, b),
        lambda a, b: a * evaluated(lambda e: 2**e, b),
    ),
    "logaddexp": (torch.logaddexp, log_sum),
    "logaddexp2": (torch.logaddexp2, log2_sum),
    "mvlgamma": (lambda a, b: torch.mvlgamma(B_AND_3, 3), lambda a, b: multigamma(b)),
    "cosh": (lambda a, b: torch.cosh(a), lambda a, b: evaluated(math.cosh, a)),
    "conjugate of a real number": (lambda a, b: torch._conj_physical(a), lambda a, b: a),
}
SAVED = (-A.abs()).exp()
B_AND_3 = B + 3


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_that_counts_takes_as_many_steps(name: str) -> None:
    function, loop = LOOPS[name]
    with counting() as tally:
        made = [loop(a, b) for a, b in zip(numbers(A), numbers(B), strict=True)]
    torch.testing.assert_close(floats(made), function(A, B).double())
    assert measured(function, A, B) == tally.cost


def test_the_gradient_of_glu() -> None:
    """g·s and g·a·s·(1 - s), of which the decomposition has no select to leave out."""
    g, x = B, torch.cat([A, B])
    with counting() as tally:
        pairs = []
        for each, a, b in zip(numbers(g), numbers(A), numbers(B), strict=True):
            s = sigmoid(b)
            pairs.append([each * s, each * a * s * (1 - s)])
    torch.testing.assert_close(floats(pairs).T.flatten(), aten.glu_backward(g, x, 0))
    cost = measured(aten.glu_backward.default, g, x, 0)
    assert cost == tally.cost == Cost(arith=(4 + 1 + 2) * n, compare=n, special=n)


def test_the_gradients_of_prelu_are_the_inputs_and_the_weights() -> None:
    """g or w·g, and 0 or x·g: a product and a select each; then the weight's are summed."""
    x = A.clone().requires_grad_()
    w = torch.tensor(0.3).double().requires_grad_()
    with flopcount.FlopCounter() as counter:
        F.prelu(x, w).backward(B)
    report = counter.report()
    assert report.by_operator()["aten._prelu_kernel_backward"].flops == (2 + 2) * n
    assert (report.root.gradients["input"].flops, report.root.gradients["weight"].flops) == (
        2 * n,
        2 * n,
    )


def test_what_the_forward_pass_of_log_sigmoid_did_not_save_is_computed_again() -> None:
    """On an accelerator there is no e^-|x|: an absolute value, a negation, an evaluation."""
    plan = flopcount.formulas.plan_of(aten.log_sigmoid_backward.default)
    saved, empty = (plan.bill((B, A, z), {}, A) for z in (SAVED, A[:0]))
    assert (saved.recompute, empty.recompute.flops) == (Cost(), 3 * n)
    assert empty.cost.flops == saved.cost.flops == (2 + 1 + 1 + 1) * n


@pytest.mark.parametrize(
    "call",
    [
        pytest.param((aten.hypot.default, A, B), id="hypot"),
        pytest.param((aten.glu_backward.default, B, torch.cat([A, B]), 0), id="glu_backward"),
        pytest.param((aten.rad2deg.default, A), id="rad2deg"),
    ],
)
def test_decompositions_agree(call: tuple[Any, ...]) -> None:
    assert measured(*call) == decomposed_cost(*call)


def glu_tangent(a: Number, b: Number, y: Number, da: Number, db: Number) -> Number:
    s = sigmoid(b)
    return da * s + y * (1 - s) * db


def glu_gradient_tangent(
    a: Number, b: Number, v: Number, g: Number, dg: Number, da: Number, db: Number
) -> tuple[Number, Number]:
    s = sigmoid(b)
    p = s * (1 - s)
    return dg * s + g * p * db, p * (dg * a + g * da) + v * (1 - s * 2) * db


def test_tangents_of_a_gated_linear_unit() -> None:
    a, b, da, db, g, dg = torch.randn(6, n, generator=torch.Generator().manual_seed(1)).double()
    x, dx, y = torch.cat([a, b]), torch.cat([da, db]), a * b.sigmoid()
    rows = zip(*map(numbers, (a, b, y, da, db)), strict=True)
    with counting() as tally:
        tangents = [glu_tangent(*row) for row in rows]
    assert torch.allclose(floats(tangents), aten.glu_jvp(y, x, dx, 0))
    assert measured(aten.glu_jvp, y, x, dx, 0) == tally.cost

    grad = aten.glu_backward(g, x, 0)
    rows = zip(*map(numbers, (a, b, grad[n:], g, dg, da, db)), strict=True)
    with counting() as tally:
        pairs = [glu_gradient_tangent(*row) for row in rows]
    expected = floats(pairs).t().reshape(-1)
    assert torch.allclose(expected, aten.glu_backward_jvp(grad, g, x, dg, dx, 0))
    whole = [each.contiguous() for each in (grad, g, x, dg, dx)]
    assert measured(aten.glu_backward_jvp, *whole, 0) == tally.cost


def test_a_leaky_slope_that_is_drawn() -> None:
    noise = torch.empty(n).double()
    assert measured(aten.rrelu_with_noise_functional, A, noise, 0.1, 0.3, True) == Cost(
        arith=n, compare=n
    )
