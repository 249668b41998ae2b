"""Ops that look for values, as searches and sorts that count."""

from __future__ import annotations

from bisect import bisect_left

import pytest
import torch

from tests.formulas.reports import only, report_of

aten = torch.ops.aten


# -- searching


class Compared:
    """A value that counts comparisons."""

    count = 0

    def __init__(self, value: float) -> None:
        self.value = value

    def __lt__(self, other: Compared) -> bool:
        Compared.count += 1
        return self.value < other.value


@pytest.mark.parametrize("length", range(1, 20))
def test_a_binary_search_takes_as_many_comparisons_as_it_may(length: int) -> None:
    boundaries = [Compared(float(place)) for place in range(length)]
    most = 0
    for place in range(length + 1):
        Compared.count = 0
        assert bisect_left(boundaries, Compared(place - 0.5)) == place
        most = max(most, Compared.count)
    x, edges = torch.rand(7), torch.arange(float(length))
    searched = only(lambda: torch.bucketize(x, edges))
    assert searched.compare == 7 * most
    rows = edges.expand(2, length).contiguous()
    pairs = torch.rand(2, 3)
    assert only(lambda: torch.searchsorted(rows, pairs)).compare == 6 * most


def test_searching_compares_values() -> None:
    x, tests = torch.rand(4, 5), torch.ones(3)
    assert only(x.nonzero).compare == 20  # x ≠ 0
    assert only(torch.complex(x, x).nonzero).compare == 2 * 20  # either part ≠ 0
    assert only(lambda: torch.isin(x, tests)).compare == 20 * 3
    assert only(lambda: torch.isin(x, 0.5)).compare == 20
    places, weights = torch.arange(6), torch.rand(6)
    assert only(lambda: torch.bincount(places, weights)).arith == 6


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8])
def test_distinct_values_are_found_by_sorting(n: int) -> None:
    """Merge sort needs n·⌈log₂ n⌉ comparisons at most; then each value meets the one before."""
    levels = 0
    while 2**levels < n:
        levels += 1
    x = torch.rand(n)
    assert only(x.unique).compare == n * levels + n - 1
    assert only(x.unique_consecutive).compare == n - 1
    rows = torch.rand(n, 3)
    assert only(lambda: rows.unique(dim=0)).compare == 3 * (n * levels + n - 1)
    assert only(lambda: rows.unique_consecutive(dim=0)).compare == 3 * (n - 1)


def test_integers_are_searched_for_free() -> None:
    x = torch.arange(6)
    for search in (x.nonzero, x.unique, lambda: torch.bucketize(x, x), lambda: x.bincount()):
        assert report_of(search).total.flops == 0


def test_neighbouring_slices_of_any_dimension() -> None:
    x = torch.rand(5, 3)
    cost = only(lambda: aten.unique_dim_consecutive(x, 0))
    assert cost.compare == 4 * 3
