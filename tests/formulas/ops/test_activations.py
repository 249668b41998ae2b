"""Activations, dropout and their gradients: loops that count, decompositions, XLA."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import flopcount
from flopcount import Cost
from tests.formulas.counting import Number, counting, floats, numbers
from tests.formulas.decomposed import billed, decomposed_cost, measured
from tests.formulas.ops.elementwise import A, B, Function, Loop, compare_with_loop, evaluated, n

aten = torch.ops.aten


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


# (torch's function, its definition) of the numbers a, from -2.3 to 2.2, and b, from 0.9 to 0.15
LOOPS: dict[str, tuple[Function, Loop]] = {
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
    "prelu": (
        lambda a, b: F.prelu(a, torch.tensor(0.1).double()),
        lambda a, b: a.select(float(a) > 0, a * 0.1),
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
}

SAVED = (-A.abs()).exp()


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_that_counts_takes_as_many_steps(name: str) -> None:
    compare_with_loop(*LOOPS[name])


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


def test_the_gradient_of_glu_costs_what_its_decomposition_costs() -> None:
    call = aten.glu_backward.default, B, torch.cat([A, B]), 0
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


x = torch.linspace(-2, 2, n)

# XLA's HloCostAnalysis of the same function, per element: flops, and transcendentals apart.
# It counts a square root as a transcendental; here it is arithmetic.
XLA: dict[str, tuple[Any, int, int]] = {
    "sigmoid: negate, exp, add, divide": (lambda: x.sigmoid(), 3, 1),
    "relu": (lambda: x.relu(), 1, 0),
    "silu: sigmoid and a product": (lambda: F.silu(x), 4, 1),
    "gelu with tanh": (lambda: F.gelu(x, approximate="tanh"), 8, 1),
}


@pytest.mark.parametrize("name", XLA)
def test_counts_per_element_are_those_of_xla(name: str) -> None:
    function, flops, transcendentals = XLA[name]
    cost = measured(function)
    assert (cost.flops - cost.special, cost.special) == (flops * n, transcendentals * n)


DECOMPOSED: dict[str, tuple[Any, ...]] = {
    "gelu": (aten.gelu.default, x),
    "gelu_backward": (aten.gelu_backward.default, x, x),
    "silu": (aten.silu.default, x),
    "sigmoid": (aten.sigmoid.default, x),
    "sigmoid_backward": (aten.sigmoid_backward.default, x, x),
    "tanh_backward": (aten.tanh_backward.default, x, x),
    "hardswish": (aten.hardswish.default, x),
    "hardsigmoid": (aten.hardsigmoid.default, x),
    "hardtanh": (aten.hardtanh.default, x, -1, 1),
    "native_dropout_backward": (aten.native_dropout_backward.default, x, x > 0, 1.5),
}


@pytest.mark.parametrize("name", DECOMPOSED)
def test_a_fused_op_costs_what_its_decomposition_costs(name: str) -> None:
    op, *args = DECOMPOSED[name]
    assert measured(op, *args) == decomposed_cost(op, *args)


def test_the_gradient_of_silu_costs_what_its_steps_cost() -> None:
    """Its decomposition is another one in torch 2.11, where 1 / x is a reciprocal and a product."""

    def steps(g: Tensor, x: Tensor) -> Tensor:
        s = torch.sigmoid(x)
        return g * s * (1 + x * (1 - s))

    g = torch.rand(n)
    torch.testing.assert_close(steps(g, x), aten.silu_backward(g, x))
    assert measured(aten.silu_backward.default, g, x) == measured(steps, g, x)


def test_the_gradient_of_gelu_with_tanh_costs_what_its_decomposition_costs() -> None:
    call = aten.gelu_backward.default, x, x
    assert measured(*call, approximate="tanh") == decomposed_cost(*call, approximate="tanh")


SELECTS: dict[str, tuple[int, tuple[Any, ...]]] = {
    "threshold_backward": (1, (aten.threshold_backward.default, x, x, 0)),
    "hardtanh_backward": (1, (aten.hardtanh_backward.default, x, x, -1, 1)),
    "hardswish_backward": (2, (aten.hardswish_backward.default, x, x)),
    "hardsigmoid_backward": (1, (aten.hardsigmoid_backward.default, x, x)),
    "leaky_relu": (1, (aten.leaky_relu.default, x, 0.1)),
    "leaky_relu_backward": (1, (aten.leaky_relu_backward.default, x, x, 0.1, False)),
    "elu": (1, (aten.elu.default, x)),
    "elu_backward": (1, (aten.elu_backward.default, x, 1, 1, 1, False, x)),
    "elu_backward of the result": (1, (aten.elu_backward.default, x, 1, 1, 1, True, x)),
}


@pytest.mark.parametrize("name", SELECTS)
def test_a_select_on_its_own_comparison_is_one_operation_not_two(name: str) -> None:
    """The decomposition compares, and then selects: one more for each select."""
    selects, (op, *args) = SELECTS[name]
    assert measured(op, *args) == decomposed_cost(op, *args) + Cost(compare=-selects * n)


def test_a_threshold_is_a_comparison_of_each_element() -> None:
    assert measured(F.threshold, x, 0.5, 0.0) == Cost(compare=n)


@pytest.mark.parametrize("training", [True, False])
def test_dropout_multiplies_and_scales_in_training_only(training: bool) -> None:
    data = torch.ones(n, requires_grad=True)
    with flopcount.FlopCounter() as counter:
        F.dropout(data, 0.5, training).sum().backward()
    report = counter.report()
    assert report.uncounted == {}
    # the mask is divided by 1 - p, and the product taken: twice forward, once more backward
    assert report.total.arith == (n - 1) + (3 * n if training else 0)


@pytest.mark.parametrize(("training", "products"), [(True, 2), (None, 2), (False, 0)])
def test_dropout_in_one_op_multiplies_by_the_mask_and_the_scale(
    training: bool | None, products: int
) -> None:
    assert measured(aten.native_dropout.default, x, 0.5, training) == Cost(arith=products * n)


def test_relus_gradient_is_one_select_an_element() -> None:
    data = torch.ones(n, requires_grad=True)
    report = flopcount.count(torch.relu, data)
    assert report.by_operator()["aten.threshold_backward"].flops == n
    assert report.root.gradients["input"].compare == n


def test_a_mask_and_a_factor_are_two_products() -> None:
    assert billed(aten._masked_scale.default, x, x > 0, 2.0, out=x) == Cost(arith=2 * n)
