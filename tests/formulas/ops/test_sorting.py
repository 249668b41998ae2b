"""Sorting and selection, and a bound that no order of the values exceeds."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from flopcount import Cost
from flopcount.formulas.ops.sorting import sort_comparisons
from tests.formulas.counting import Number, counting
from tests.formulas.decomposed import measured
from tests.formulas.ops.reductions import assert_placed

ROWS, LENGTH = 4, 6
n, m = ROWS * LENGTH, ROWS
x, y, g = torch.rand(3, ROWS, LENGTH, generator=torch.Generator().manual_seed(0)) + 0.5
# sorting

SORTS = {
    # 4 rows of 6: ⌈log₂ 6⌉ = 3
    "sort": (lambda: x.sort(1), 4 * 6 * 3),
    "sort of columns": (lambda: x.sort(0), 6 * 4 * 2),
    "stable sort": (lambda: x.sort(dim=0, stable=True), 6 * 4 * 2),
    "order": (lambda: x.argsort(1), 4 * 6 * 3),
    "sort of one number": (lambda: x[0, 0].sort(), 0),
    "one number's only best": (lambda: x[0, 0].kthvalue(1), 0),
    "median of one number": (lambda: x[0, 0].median(0), 0),
    "none of each row": (lambda: x.topk(0), 0),
    "best of each row": (lambda: x.topk(1), 4 * 5),
    "best two": (lambda: x.topk(2), 4 * (6 * 1 + 4)),
    "all of them, ordered": (lambda: x.topk(6), 4 * 6 * 3),
    "second from above": (lambda: x.kthvalue(5), 4 * (6 * 1 + 4)),
    "median of each row": (lambda: x.median(1), 4 * (6 * 2 + 3)),
    "median of all": (lambda: x.median(), 24 * 4 + 12),
    "most frequent": (lambda: x.mode(1), 4 * (6 * 3 + 5)),
}


@pytest.mark.parametrize(("call", "comparisons"), SORTS.values(), ids=SORTS)
def test_sorting(call: Callable[[], Any], comparisons: int) -> None:
    assert measured(call) == Cost(compare=comparisons)


def places(*shape: int) -> tuple[Tensor, Tensor]:
    return torch.empty(shape), torch.empty(shape, dtype=torch.long)


# each with its bytes written: values of 4 bytes, where they were of 8
PLACED = {
    "sort": (lambda out: torch.sort(x, 1, out=out), SORTS["sort"][1], places(ROWS, LENGTH)),
    "stable sort": (
        lambda out: torch.sort(x, stable=True, dim=1, out=out),
        SORTS["order"][1],
        places(ROWS, LENGTH),
    ),
    "best two": (lambda out: torch.topk(x, 2, out=out), SORTS["best two"][1], places(ROWS, 2)),
    "second from above": (
        lambda out: torch.kthvalue(x, 5, out=out),
        SORTS["second from above"][1],
        places(ROWS),
    ),
    "median": (
        lambda out: torch.median(x, 1, out=out),
        SORTS["median of each row"][1],
        places(ROWS),
    ),
    "median but for not-a-numbers": (
        lambda out: torch.nanmedian(x, 1, out=out),
        SORTS["median of each row"][1],
        places(ROWS),
    ),
    "most frequent": (
        lambda out: torch.mode(x, 1, out=out),
        SORTS["most frequent"][1],
        places(ROWS),
    ),
}


@pytest.mark.parametrize(("call", "comparisons", "out"), PLACED.values(), ids=PLACED)
def test_results_that_are_placed_are_written_and_not_read(
    call: Callable[..., Any], comparisons: int, out: tuple[Tensor, Tensor]
) -> None:
    assert_placed(call, comparisons, out, read=4 * n)


def test_what_is_placed_costs_the_same_called_whole() -> None:
    with torch.inference_mode():
        assert measured(lambda: torch.max(x, y, out=torch.empty(ROWS, LENGTH))).compare == n
        assert measured(lambda: x.argsort(dim=1, stable=True)).compare == SORTS["order"][1]


def best(values: list[Number], k: int) -> list[Number]:
    """The k best by the method that ``sort_comparisons`` bounds."""
    kept = []
    for value in values:
        if len(kept) == k:
            if not value > kept[0]:
                continue
            del kept[0]
        bisect.insort(kept, value)
    return kept


@pytest.mark.parametrize("k", range(1, 6))
def test_no_order_of_the_values_takes_more_comparisons_than_counted(k: int) -> None:
    most = 0
    for order in itertools.permutations(range(5)):
        values = [Number(float(value)) for value in order]
        with counting() as tally:
            kept = best(values, k)
        assert [number.value for number in kept] == list(range(5 - k, 5))
        most = max(most, tally.compare)
    assert most <= sort_comparisons(5, k)
    if k == 1:
        assert most == sort_comparisons(5, 1) == 5 - 1
