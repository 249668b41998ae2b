"""Logarithms of sums of exponentials, as loops that count."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import ops

from flopcount import Cost
from tests.formulas.counting import Number
from tests.formulas.decomposed import decomposed_cost, measured
from tests.formulas.ops.elementwise import Function, Loop, compare_with_loop, evaluated
from tests.formulas.ops.reductions import assert_counted_by_loop

aten = ops.aten
ROWS, LENGTH = 4, 6
n, m = ROWS * LENGTH, ROWS
x, y, g = torch.rand(3, ROWS, LENGTH, generator=torch.Generator().manual_seed(0)) + 0.5


def test_logsumexp_leaves_out_the_guard_against_infinity() -> None:
    guard = Cost(compare=3 * m)  # |maximum|, its comparison with infinity, a select
    cost = measured(aten.logsumexp.default, x, [1])
    assert decomposed_cost(aten.logsumexp.default, x, [1]) == cost + guard


def row_logsumexp(values: np.ndarray) -> np.ndarray:
    largest = values.max(axis=1)
    return np.log(np.exp(values - largest[:, None]).sum(axis=1)) + largest


def running_logsumexp(values: np.ndarray) -> np.ndarray:
    result = values.copy()
    for row in result:
        for i in range(1, len(row)):
            a, b = row[i - 1], row[i]
            larger = a if a > b else b
            smaller = b if a >= b else a
            row[i] = larger + np.log1p(np.exp(np.array([smaller - larger])))[0]
    return result


LOOPS = {
    "logsumexp": (row_logsumexp, lambda: x.logsumexp(1), Cost()),
    "running log-sum-exp": (running_logsumexp, lambda: x.logcumsumexp(1), Cost()),
}


@pytest.mark.parametrize(("loop", "call", "also"), LOOPS.values(), ids=LOOPS)
def test_agrees_with_a_loop_that_counts(
    loop: Callable[..., Any], call: Callable[[], Any], also: Cost
) -> None:
    assert_counted_by_loop(loop, x, call, also)


def log_sum(a: Number, b: Number) -> Number:
    largest, least = a.larger(b), a.smaller(b)
    return largest + (least - largest).exp().log1p()


def log2_sum(a: Number, b: Number) -> Number:
    largest, least = a.larger(b), a.smaller(b)
    power = evaluated(lambda d: 2**d, least - largest)
    return largest + power.log1p() / math.log(2)


PAIRS: dict[str, tuple[Function, Loop]] = {
    "logaddexp": (torch.logaddexp, log_sum),
    "logaddexp2": (torch.logaddexp2, log2_sum),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_loop_over_pairs_takes_as_many_steps(name: str) -> None:
    compare_with_loop(*PAIRS[name])
