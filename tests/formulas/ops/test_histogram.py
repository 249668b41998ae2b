from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from flopcount import Cost
from tests.formulas.counting import Number, Tally, counting, floats, numbers, total
from tests.formulas.decomposed import measured

aten = torch.ops.aten
X = torch.tensor([0.5, 2.5, 2.75, 7.0, 3.5, 0.0, 8.0])
POINTS = torch.tensor([[0.5, 2.5], [2.75, 7.0], [3.5, 0.0], [8.0, 1.0], [0.0, 8.0]])


def by_distance(columns: Sequence[Any], bins: Sequence[int], low: float, high: float) -> list[Any]:
    """The bin of each point in each dimension; the edges are at equal distances."""
    places = []
    for column, count in zip(columns, bins, strict=True):
        factor = count / (Number(high) - Number(low))
        inside = [x >= low and x <= high for x in column]
        assert all(inside)
        places.append([min(int(((x - low) * factor).floor().value), count - 1) for x in column])
    return list(zip(*places, strict=True))


def fill(places: Sequence[Any], bins: Sequence[int]) -> Any:
    """A bin is raised by one for each point that falls into it."""
    held = numbers(torch.zeros(*bins))
    for place in places:
        held[place] = held[place] + 1
    return held


def extent(x: Sequence[Number]) -> tuple[Number, Number]:
    """The least and the largest, found one after the other."""
    low = high = x[0]
    for value in x[1:]:
        low, high = low.smaller(value), high.larger(value)
    return low, high


def counted(function: Callable[[], Any]) -> tuple[Any, Tally]:
    with counting() as tally:
        result = function()
    return result, tally


def test_a_histogram_of_equal_bins_places_each_value_by_its_distance() -> None:
    held, tally = counted(lambda: fill(by_distance([numbers(X)], [4], 0, 8), [4]))
    assert floats(held).tolist() == torch.histc(X, 4, 0, 8).tolist() == [2, 3, 0, 2]
    # 7 values: 2 comparisons and a rounding each; a difference, a product, and a sum in the bin;
    # and once the factor bins / (max - min)
    assert tally.cost == Cost(compare=3 * 7, arith=3 * 7 + 2)
    assert measured(lambda: torch.histc(X, 4, 0, 8)) == tally.cost
    assert measured(lambda: torch.histogram(X, 4, range=(0, 8))) == tally.cost
    assert measured(lambda: aten.histc.out(X, 4, 0, 8, out=torch.empty(4))) == tally.cost


def test_without_a_range_the_extent_is_found_first() -> None:
    (low, high), found = counted(lambda: extent(list(numbers(X))))
    assert (low.value, high.value) == (0, 8)
    assert found.cost == Cost(compare=2 * (7 - 1))
    given = measured(lambda: torch.histc(X, 4, 0, 8))
    assert measured(lambda: torch.histc(X, 4)) == given + found.cost
    assert measured(lambda: torch.histogram(X, 4)) == given + found.cost
    assert measured(lambda: torch.histc(X, 4, 0.3, 0.7)) == given
    assert measured(lambda: torch.histc(X, 4, 0.3, 0.3)) == given + found.cost


def test_in_more_dimensions_each_coordinate_is_placed_and_each_point_added() -> None:
    bins = [4, 2]
    held, tally = counted(lambda: fill(by_distance(numbers(POINTS).T, bins, 0, 8), bins))
    options: dict[str, Any] = {"range": [0.0, 8, 0, 8]}
    assert torch.equal(floats(held).float(), torch.histogramdd(POINTS, bins, **options).hist)
    assert tally.cost == Cost(compare=3 * 10, arith=2 * 10 + 5 + 2 * 2)
    assert measured(lambda: torch.histogramdd(POINTS, bins, **options)) == tally.cost
    _, found = counted(lambda: [extent(list(column)) for column in numbers(POINTS).T])
    # torch finds the extent for the edges, and again to fill the bins
    assert measured(lambda: torch.histogramdd(POINTS, bins)) == tally.cost + 2 * found.cost
    edges = measured(lambda: aten._histogramdd_bin_edges(POINTS, bins))
    assert edges == found.cost == Cost(compare=2 * 2 * (5 - 1))


def test_given_edges_are_searched() -> None:
    edges = torch.tensor([0.0, 1, 2, 3, 5, 8, 9])
    # seven edges, eight places: three comparisons in every case
    with counting() as tally:
        places = [(bisect_right(numbers(edges), x) - 1,) for x in numbers(X)]
        held = fill(places, [6])
    assert floats(held).tolist() == torch.histogram(X, edges).hist.tolist()
    assert tally.cost == Cost(compare=3 * 7, arith=7)
    assert measured(lambda: torch.histogram(X, edges)) == tally.cost
    pairs = measured(lambda: torch.histogramdd(POINTS, [edges, edges[:4]]))
    assert pairs == Cost(compare=5 * (3 + 3), arith=5)  # 4 edges, 5 places: at most three


@pytest.mark.parametrize(
    ("call", "plain", "cells", "lengths"),
    [
        pytest.param(
            lambda density: torch.histogram(X, 4, range=(0, 8), density=density), 1, 4, 4, id="1-d"
        ),
        pytest.param(
            lambda density: torch.histogram(X, torch.arange(9.0), density=density),
            1,
            8,
            8,
            id="given edges",
        ),
        pytest.param(
            lambda density: torch.histogramdd(POINTS, [4, 2], density=density), 2, 8, 6, id="2-d"
        ),
        pytest.param(
            lambda density: torch.histogramdd(
                POINTS, [torch.arange(9.0), torch.arange(0, 9, 4.0)], density=density
            ),
            2,
            16,
            10,
            id="2-d, given edges",
        ),
    ],
)
def test_a_density_divides_by_the_sum_and_by_the_lengths_of_a_bin(
    call: Callable[[bool], Any], plain: int, cells: int, lengths: int
) -> None:
    hist, edges = call(False)
    dense = measured(lambda: call(True)) + -1 * measured(lambda: call(False))
    with counting() as tally:
        amount = total(numbers(hist).flatten())
        sides = [numbers(each)[1:] - numbers(each)[:-1] for each in _several(edges)]
        held = numbers(hist) / amount
        for axis, side in enumerate(sides):
            held = held / side.reshape([-1 if axis == other else 1 for other in range(len(sides))])
    assert torch.allclose(floats(held).float(), call(True)[0])
    assert dense == tally.cost
    assert dense == Cost(arith=cells - 1 + lengths + cells * (1 + plain))


def _several(edges: Any) -> list[Tensor]:
    return [edges] if isinstance(edges, Tensor) else list(edges)
