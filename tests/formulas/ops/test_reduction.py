from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, ops

import flopcount
from flopcount import Cost
from tests.formulas.decomposed import decomposed_cost, measured, plain
from tests.formulas.ops.reductions import assert_counted_by_loop, assert_placed

aten = ops.aten
ROWS, LENGTH = 4, 6
n, m = ROWS * LENGTH, ROWS
x, y, g = torch.rand(3, ROWS, LENGTH, generator=torch.Generator().manual_seed(0)) + 0.5

REDUCTIONS = {
    "sum of all": (lambda: x.sum(), Cost(arith=n - 1)),
    "sum of rows": (lambda: x.sum(1), Cost(arith=n - m)),
    "sum that keeps the dimension": (lambda: x.sum(1, keepdim=True), Cost(arith=n - m)),
    "sum of one number a row": (lambda: x[:, :1].sum(1), Cost()),
    "sum of nothing": (lambda: x[:, :0].sum(1), Cost()),
    "sum of complex numbers, two additions each": (
        lambda: torch.complex(x, y).sum(1),
        Cost(arith=2 * (n - m)),
    ),
    "sum of integers is no floating-point work": (lambda: torch.ones(n, dtype=int).sum(), Cost()),
    "sum without the not-a-numbers": (lambda: x.nansum(1), Cost(arith=n - m, compare=n)),
    "mean of rows": (lambda: x.mean(1), Cost(arith=n - m + m)),
    "mean of complex numbers": (
        lambda: torch.complex(x, y).mean(1),
        Cost(arith=2 * (n - m) + 2 * m),
    ),
    "product of rows": (lambda: x.prod(1), Cost(arith=n - m)),
    "trace": (lambda: x.trace(), Cost(arith=min(ROWS, LENGTH) - 1)),
    "largest of all": (lambda: x.max(), Cost(compare=n - 1)),
    "largest of rows": (lambda: x.max(1), Cost(compare=n - m)),
    "larger of two": (lambda: torch.max(x, y), Cost(compare=n)),
    "smallest of rows": (lambda: x.amin(1), Cost(compare=n - m)),
    "place of the largest": (lambda: x.argmax(1), Cost(compare=n - m)),
    "both extremes": (lambda: torch.aminmax(x, dim=1), Cost(compare=2 * (n - m))),
    "any": (lambda: x.any(1), Cost(compare=n)),
    "any of complex numbers, two parts each": (
        lambda: torch.complex(x, y).any(1),
        Cost(compare=2 * n),
    ),
    "any of booleans": (lambda: torch.ones(5, dtype=torch.bool).any(), Cost()),
    "number of nonzeros": (lambda: x.count_nonzero(1), Cost(compare=n)),
    "variance of rows": (lambda: x.var(1), Cost(arith=4 * n)),
    "variance of all": (lambda: x.var(), Cost(arith=4 * n)),
    "variance of complex numbers": (
        # mean 2·n, differences 2·n, squared moduli 3·n, and their mean n
        lambda: torch.complex(x, y).var(1),
        Cost(arith=2 * n + 2 * n + 3 * n + n),
    ),
    "deviation and mean": (lambda: torch.std_mean(x, 1), Cost(arith=4 * n + m)),
    "running sum": (lambda: x.cumsum(1), Cost(arith=n - m)),
    "running sum of one number": (lambda: torch.tensor(1.0).cumsum(0), Cost()),
    "running sum of nothing": (lambda: x[:, :0].cumsum(1), Cost()),
    "running sum along rows of one number": (lambda: x[:, :1].cumsum(1), Cost()),
    "running product": (lambda: x.cumprod(0), Cost(arith=n - LENGTH)),
    "running maximum": (lambda: x.cummax(1), Cost(compare=n - m)),
    "larger of two, placed": (
        lambda: torch.max(x, y, out=torch.empty(ROWS, LENGTH)),
        Cost(compare=n),
    ),
}


@pytest.mark.parametrize(("call", "expected"), REDUCTIONS.values(), ids=REDUCTIONS)
def test_reduction(call: Callable[[], Any], expected: Cost) -> None:
    assert measured(call) == expected


DECOMPOSED = {
    "sum": (aten.sum.dim_IntList, (x, [1])),
    "mean": (aten.mean.dim, (x, [1])),
    "variance": (aten.var.correction, (x, [1])),
    "variance and mean": (aten.var_mean.correction, (x, [1])),
    "deviation": (aten.std.correction, (x, [1])),
    "trace": (aten.trace.default, (x,)),
}

# where torch writes more than the textbook
ALSO = {
    # its mean is taken once for the variance and once for itself: n - m additions, m divisions
    "variance and mean": Cost(arith=n),
}


@pytest.mark.parametrize("name", DECOMPOSED)
def test_agrees_with_its_decomposition(name: str) -> None:
    op, args = DECOMPOSED[name]
    assert decomposed_cost(op, *args) == measured(op, *args) + ALSO.get(name, Cost())


def row_variance(values: np.ndarray) -> np.ndarray:
    k = values.shape[1]
    difference = values - (values.sum(axis=1) / k)[:, None]
    return (difference * difference).sum(axis=1) / (k - 1)


LOOPS = {
    "variance": (row_variance, lambda: x.var(1), Cost()),
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
    "sum of rows": (lambda: wide.sum(1), 63_936),
    "sum of all": (lambda: wide.sum(), 63_999),
    "mean of rows": (lambda: wide.mean(1), 64_000),
    "mean of all": (lambda: wide.mean(), 64_000),
    "product": (lambda: wide.prod(1), 63_936),
    "maximum": (lambda: wide.amax(1), 63_936),
}


@pytest.mark.parametrize(("call", "expected"), XLA.values(), ids=XLA)
def test_agrees_with_xla(call: Callable[[], Any], expected: int) -> None:
    assert measured(call).flops == expected


def test_what_torch_takes_apart_costs_the_same_called_whole() -> None:
    calls = [lambda: torch.max(x, y), lambda: x.msort(), lambda: x.softmax(1)]
    for call in calls:
        with torch.inference_mode(), flopcount.FlopCounter() as counter:
            call()
        assert plain(counter.report().total) == measured(call)


def places(*shape: int) -> tuple[Tensor, Tensor]:
    return torch.empty(shape), torch.empty(shape, dtype=torch.long)


# each with its bytes written: values of 4 bytes, where they were of 8
PLACED = {
    "largest": (lambda out: torch.max(x, 1, out=out), n - m, places(ROWS)),
    "smallest": (lambda out: torch.min(x, 1, out=out), n - m, places(ROWS)),
    "running maximum": (lambda out: torch.cummax(x, 1, out=out), n - m, places(ROWS, LENGTH)),
}


@pytest.mark.parametrize(("call", "comparisons", "out"), PLACED.values(), ids=PLACED)
def test_results_that_are_placed_are_written_and_not_read(
    call: Callable[..., Any], comparisons: int, out: tuple[Tensor, Tensor]
) -> None:
    assert_placed(call, comparisons, out, read=4 * n)


def test_extremes_so_far_into_places_that_are_there() -> None:
    values = torch.rand(3, 4)
    places = torch.empty(3, 4), torch.empty(3, 4, dtype=torch.int64)
    for helper in (aten._cummax_helper, aten._cummin_helper):
        with flopcount.FlopCounter() as counter:
            helper(values, *places, 1)
        cost = counter.report().total
        assert cost.flops == cost.compare == 3 * (4 - 1)
        assert (cost.read, cost.written) == (48, 48 + 96)
