"""2:4 sparsity: what is stored is multiplied, half of the dense product."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from flopcount import Cost
from flopcount.formulas import plan_of
from tests.formulas.counting import counting, dot, numbers, opened
from tests.formulas.decomposed import plain

aten = torch.ops.aten
M, K, N = 4, 8, 3
STORED, PLACES = torch.rand(M, K // 2).half(), torch.zeros(M, K // 16 + 1, dtype=torch.int16)
B, X = torch.rand(K, N).half(), torch.rand(5, K).half()
RESULT, BIAS = torch.rand(M, N).half(), torch.rand(M, N).half()
PRODUCT = Cost(macs=M * N * K // 2, dots=M * N)


def billed(op: Any, *args: Any, out: Tensor, **options: Any) -> Cost:
    """What a call costs that only an accelerator can make."""
    bill = plan_of(op.default).bill(args, options, out)
    assert bill.counted, bill.unknown
    return plain(bill.cost)


def test_each_stored_value_meets_one_row_of_the_other_factor() -> None:
    left, right = numbers(STORED), numbers(B)
    with counting() as tally:
        for row in left:
            for column in right.T:
                dot(row, column[::2])  # any two of four
    cost = billed(aten._sparse_semi_structured_mm, STORED, PLACES, B, out=RESULT)
    assert cost == PRODUCT
    assert opened(cost) == tally.cost


@pytest.mark.parametrize(
    ("options", "arith"),
    [
        pytest.param({}, 1, id="an addition"),
        pytest.param({"alpha": 2, "beta": 3}, 3, id="both factors"),
        pytest.param({"beta": 0}, 0, id="nothing is added"),
    ],
)
def test_added_to_something(options: Any, arith: int) -> None:
    op = aten._sparse_semi_structured_addmm
    cost = billed(op, BIAS, STORED, PLACES, B, out=RESULT, **options)
    assert cost == PRODUCT + Cost(arith=arith * M * N)


@pytest.mark.parametrize(
    ("options", "more"),
    [
        pytest.param({}, Cost(), id="alone"),
        pytest.param(
            {"bias": torch.rand(M), "activation": "relu"}, Cost(arith=20, compare=20), id="and ReLU"
        ),
    ],
)
def test_a_layer(options: Any, more: Cost) -> None:
    out = torch.rand(5, M).half()
    cost = billed(aten._sparse_semi_structured_linear, X, STORED, PLACES, out=out, **options)
    assert cost == Cost(macs=5 * M * K // 2, dots=5 * M) + more


def test_by_a_library_that_keeps_places_with_values() -> None:
    packed = torch.rand(M, K * 9 // 16).half()
    assert billed(aten._cslt_sparse_mm, packed, B, out=RESULT) == PRODUCT
    scaled = billed(aten._cslt_sparse_mm, packed, B, torch.rand(M), torch.ones(1), out=RESULT)
    assert scaled == PRODUCT + Cost(arith=2 * M * N)


def test_packing_is_no_work() -> None:
    dense = torch.rand(M, K).half()
    assert billed(aten._cslt_compress, dense, out=STORED) == Cost()
    assert billed(aten._to_sparse_semi_structured, dense, out=(STORED, PLACES)) == Cost()
