"""Norms and distances: arithmetic by hand, decompositions, a loop that counts, XLA."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import ops

import flopcount
from flopcount import Cost
from tests.formulas.decomposed import decomposed_cost, measured, plain
from tests.formulas.ops.reductions import assert_counted_by_loop

aten = ops.aten
inf = math.inf
ROWS, LENGTH = 4, 6
n, m = ROWS * LENGTH, ROWS
x, y, g = torch.rand(3, ROWS, LENGTH, generator=torch.Generator().manual_seed(0)) + 0.5

REDUCTIONS = {
    "2-norm": (lambda: torch.linalg.vector_norm(x, 2, 1), Cost(arith=n + n - m + m)),
    "2-norm by default": (
        lambda: aten.norm.ScalarOpt_dim(x, None, [1]),
        Cost(arith=n + n - m + m),
    ),
    "old 2-norm": (lambda: x.norm(), Cost(arith=n + n - 1 + 1)),
    "norms of a list": (
        lambda: torch._foreach_norm([x, y]),
        2 * Cost(arith=n + n - 1 + 1),
    ),
    "2-norm of complex numbers": (
        lambda: torch.linalg.vector_norm(torch.complex(x, y), 2, 1),
        Cost(arith=3 * n + n - m + m),
    ),
    "1-norm of complex numbers": (
        lambda: torch.linalg.vector_norm(torch.complex(x, y), 1, 1),
        Cost(arith=4 * n + n - m),
    ),
    "distance of two tensors": (lambda: torch.dist(x, y), Cost(arith=3 * n)),
    "distance of complex tensors": (
        lambda: torch.dist(torch.complex(x, y), torch.complex(y, x)),
        Cost(arith=2 * n + 3 * n + n - 1 + 1),
    ),
    "distance of tensors that broadcast": (
        # (4, 1) against (6,): 4·6 differences, their squares, a sum and a root
        lambda: torch.dist(x[:, :1], y[0]),
        Cost(arith=n + n + n - 1 + 1),
    ),
    "distance of a complex and a real tensor": (
        # of each difference one part, 3 for each squared modulus
        lambda: torch.dist(torch.complex(x, y), y),
        Cost(arith=n + 3 * n + n - 1 + 1),
    ),
}


@pytest.mark.parametrize("p", [17.0, 18.0, -18.0, 0.25, 1 / 3, 17, 18])
@pytest.mark.parametrize(
    "norm",
    [
        pytest.param(lambda p: torch.linalg.vector_norm(x, p, 1), id="norm"),
        pytest.param(lambda p: torch.linalg.vector_norm(torch.complex(x, y), p, 1), id="complex"),
        pytest.param(lambda p: x.norm(p), id="old norm"),
        pytest.param(lambda p: torch._foreach_norm([x], p), id="norms of a list"),
        pytest.param(lambda p: torch.dist(x, y, p), id="distance"),
        pytest.param(lambda p: torch.renorm(x, abs(p), 0, 1.0), id="renormalisation"),
        pytest.param(lambda p: torch.cdist(x, y, abs(p)), id="pairwise distances"),
        pytest.param(
            lambda p: aten._cdist_backward(g[:, :4].contiguous(), x, y, abs(p), y[:, :4]),
            id="gradient of pairwise distances",
        ),
    ],
)
def test_norms_of_two_numbers_cost_the_same_in_either_order(
    norm: Callable[[float], Any], p: float
) -> None:
    with flopcount.FlopCounter() as counter:
        norm(3.3)
        norm(p)
        norm(3.3)
    assert plain(counter.report().total) == 2 * measured(norm, 3.3) + measured(norm, p)


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        # an even power needs no modulus; above 16 a power is one evaluation, and so is its root
        (17.0, Cost(compare=n, special=n + m, arith=n - m)),
        (18.0, Cost(special=n + m, arith=n - m)),
        (-18.0, Cost(special=n + m, arith=n - m)),
        # the root of a fourth root's sum is its fourth power, two squarings
        (0.25, Cost(compare=n, special=n, arith=n - m + 2 * m)),
        (1 / 3, Cost(compare=n, special=n, arith=n - m + 2 * m)),  # a cube, two products
        (3.3, Cost(compare=n, special=n + m, arith=n - m)),
    ],
)
def test_norms_of_unusual_numbers(p: float, expected: Cost) -> None:
    assert measured(torch.linalg.vector_norm, x, p, 1) == expected


@pytest.mark.parametrize(("call", "expected"), REDUCTIONS.values(), ids=REDUCTIONS)
def test_norm(call: Callable[[], Any], expected: Cost) -> None:
    assert measured(call) == expected


DECOMPOSED = {
    "0-norm": (aten.linalg_vector_norm.default, (x, 0, [1])),
    "1-norm": (aten.linalg_vector_norm.default, (x, 1, [1])),
    "2-norm": (aten.linalg_vector_norm.default, (x, 2, [1])),
    "3-norm": (aten.linalg_vector_norm.default, (x, 3, [1])),
    "4-norm": (aten.linalg_vector_norm.default, (x, 4, [1])),
    "2.5-norm": (aten.linalg_vector_norm.default, (x, 2.5, [1])),
    "largest absolute value": (aten.linalg_vector_norm.default, (x, inf, [1])),
    "smallest absolute value": (aten.linalg_vector_norm.default, (x, -inf, [1])),
    "distance": (aten.dist.default, (x, y, 3)),
    "renormalisation": (aten.renorm.default, (x, 2, 0, 1.0)),
    "distances by a product": (aten._euclidean_dist.default, (x, y[:3])),
}

# where torch writes more than the textbook
ALSO = {
    # a number divided by a tensor is a reciprocal and a product
    "renormalisation": Cost(arith=ROWS),
}


@pytest.mark.parametrize("name", DECOMPOSED)
def test_agrees_with_its_decomposition(name: str) -> None:
    op, args = DECOMPOSED[name]
    assert decomposed_cost(op, *args) == measured(op, *args) + ALSO.get(name, Cost())


def pair_distances(values: np.ndarray) -> np.ndarray:
    return np.sqrt(((values[:, None] - values) * (values[:, None] - values)).sum(axis=2))


LOOPS = {
    # the loop takes each difference twice
    "pairwise distances": (
        pair_distances,
        lambda: torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist"),
        Cost(arith=ROWS * ROWS * LENGTH),
    ),
}


@pytest.mark.parametrize(("loop", "call", "also"), LOOPS.values(), ids=LOOPS)
def test_agrees_with_a_loop_that_counts(
    loop: Callable[..., Any], call: Callable[[], Any], also: Cost
) -> None:
    assert_counted_by_loop(loop, x, call, also)


wide = torch.rand(64, 1000)

# XLA's cost analysis of 64 rows of 1000: flops and transcendental evaluations together. A root
# is an evaluation there. It starts a maximum of softmax at -inf: 64 comparisons more.
XLA = {
    "norm": (lambda: torch.linalg.vector_norm(wide, dim=1), 127_936 + 64),
}


@pytest.mark.parametrize(("call", "expected"), XLA.values(), ids=XLA)
def test_agrees_with_xla(call: Callable[[], Any], expected: int) -> None:
    assert measured(call).flops == expected


# gradients


@pytest.mark.parametrize(
    ("p", "pair", "element"),
    [
        pytest.param(1, Cost(), Cost(compare=1), id="p = 1, a sign"),
        pytest.param(2, Cost(arith=1, compare=1), Cost(), id="p = 2, a division a pair"),
        pytest.param(inf, Cost(), Cost(compare=3), id="p = ∞, the winner's sign"),
        pytest.param(
            5,
            Cost(arith=2 + 1, compare=1),  # distance⁴ by two squarings, a division
            Cost(compare=1, arith=2 + 1),  # |a - b|³ by two products, times the difference
            id="p = 5",
        ),
    ],
)
def test_gradient_of_distances(p: float, pair: Cost, element: Cost) -> None:
    a, b = x.clone().requires_grad_(), y[:3]
    with flopcount.FlopCounter() as counter:
        torch.cdist(a, b, p).sum().backward()
    cost = plain(counter.report().by_operator()["aten._cdist_backward"])
    pairs, values = ROWS * 3, ROWS * 3 * LENGTH
    # the difference, its product with the pair's factor, and the sum over b
    steps = Cost(arith=values + values + values - ROWS * LENGTH)
    assert cost == steps + pairs * pair + values * element


def test_a_distance_that_counts_differences_has_no_gradient() -> None:
    for p, cost in ((0.0, Cost()), (1.0, Cost(arith=2 * 18 + 18 - 6, compare=18))):
        assert measured(aten._cdist_backward, g[:1, :3], x[:1], y[:3], p, y[:1, :3]) == cost
    assert not aten._cdist_backward(g[:1, :3], x[:1], y[:3], 0.0, y[:1, :3]).any()


def test_gradient_of_distances_within_a_set_goes_to_both_rows() -> None:
    a = x.clone().requires_grad_()
    with flopcount.FlopCounter() as counter:
        torch.nn.functional.pdist(a).sum().backward()
    pairs, values = 6, 6 * LENGTH
    operators = counter.report().by_operator()
    assert plain(operators["aten._pdist_forward"]) == Cost(arith=3 * values)
    backward = Cost(arith=2 * values + 2 * values - n) + pairs * Cost(arith=1, compare=1)
    assert plain(operators["aten._pdist_backward"]) == backward


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (2, Cost(arith=12 + 11)),  # squares, and their sum
        (3, Cost(compare=12, arith=2 * 12 + 11)),  # moduli, two products each
        (0, Cost(compare=12, arith=11)),  # x ≠ 0
    ],
    ids=["of squares", "of cubes", "of ones"],
)
def test_a_sum_of_powers_is_a_norm_without_its_root(p: float, expected: Cost) -> None:
    values = torch.linspace(-1, 1, 12)
    assert measured(aten.linalg__powsum, values, p) == expected
    assert measured(aten._foreach_powsum, [values, values], p) == 2 * expected
