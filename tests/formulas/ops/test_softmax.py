"""Softmax and its gradients: decompositions, a loop that counts, XLA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import ops

import flopcount
from flopcount import Cost
from tests.formulas.counting import counting, floats, numbers
from tests.formulas.decomposed import decomposed_cost, measured

aten = ops.aten
ROWS, LENGTH = 4, 6
n, m = ROWS * LENGTH, ROWS
x, y, g = torch.rand(3, ROWS, LENGTH, generator=torch.Generator().manual_seed(0)) + 0.5

DECOMPOSED = {
    "softmax": (aten._softmax.default, (x, 1, False)),
    "softmax along the first dimension": (aten._softmax.default, (x, 0, False)),
    "log softmax": (aten._log_softmax.default, (x, 1, False)),
    "safe softmax": (aten._safe_softmax.default, (x, 1)),
    "gradient of softmax": (aten._softmax_backward_data.default, (g, y, 1, torch.float32)),
    "gradient of log softmax": (aten._log_softmax_backward_data.default, (g, y, 1, torch.float32)),
}


@pytest.mark.parametrize("name", DECOMPOSED)
def test_agrees_with_its_decomposition(name: str) -> None:
    op, args = DECOMPOSED[name]
    assert decomposed_cost(op, *args) == measured(op, *args)


def row_softmax(values: np.ndarray) -> np.ndarray:
    e = np.exp(values - values.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def test_agrees_with_a_loop_that_counts() -> None:
    values = numbers(x)
    with counting() as tally:
        result = row_softmax(values)
    np.testing.assert_allclose(floats(result), x.softmax(1), atol=1e-4)
    assert measured(lambda: x.softmax(1)) == tally.cost


wide = torch.rand(64, 1000)

# XLA's cost analysis of 64 rows of 1000: flops and transcendental evaluations together. A root
# is an evaluation there. It starts a maximum of softmax at -inf: 64 comparisons more.
XLA = {
    "softmax": (lambda: wide.softmax(1), 255_936 + 64_000 - 64),
    "log softmax": (lambda: wide.log_softmax(1), 255_936 + 64_064 - 64),
}


@pytest.mark.parametrize(("call", "expected"), XLA.values(), ids=XLA)
def test_agrees_with_xla(call: Callable[[], Any], expected: int) -> None:
    assert measured(call).flops == expected


def test_the_gradient_of_softmax_is_the_inputs() -> None:
    model = torch.nn.Softmax(1)
    report = flopcount.count(model, x.clone().requires_grad_())
    assert report.model.gradients["input"] == Cost(arith=3 * n + n - m)


def test_masked_softmax_selects_before_and_after() -> None:
    mask = torch.zeros(ROWS, LENGTH, dtype=torch.bool)
    softmax = Cost(arith=3 * n - m, compare=n - m, special=n)
    for dim in (1, None):
        cost = measured(aten._masked_softmax.default, x, mask, dim, 2)
        assert cost == softmax + Cost(compare=2 * n)
        cost = measured(aten._masked_softmax_backward.default, g, y, mask, dim)
        assert cost == Cost(arith=4 * n - m, compare=n)


def test_softmax_into_a_place_that_is_there() -> None:
    values, place = torch.rand(3, 4), torch.empty(3, 4)
    # of 12 values in 3 rows: a maximum, differences, exponentials, their sum, quotients
    cost = Cost(compare=12 - 3, arith=12 + (12 - 3) + 12, special=12)
    assert measured(aten.softmax.int_out, values, 1, out=place) == cost
    # differences in place of quotients, and a logarithm for each row
    assert measured(aten.log_softmax.int_out, values, 1, out=place) == cost + Cost(special=3)
