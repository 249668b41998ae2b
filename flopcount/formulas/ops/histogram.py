"""Histograms: the bin that each value falls into, and the sum of each bin.

n points have d coordinates, and bins have edges. Edges at equal distances are a sequence, which
is free to make, as ``linspace`` is, and a value's bin follows from the distance. Other edges are
searched. Each point adds its weight, or 1, to its bin: the result is floating-point.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import Tensor

from flopcount.cost import ZERO, Cost
from flopcount.formulas.registry import formula
from flopcount.formulas.steps import elementwise, fold


def extent(x: Tensor, dimensions: int) -> Cost:
    """The least and the largest of each coordinate: n - 1 comparisons each."""
    return elementwise(x, 2 * fold(x.numel(), dimensions), compare=1)


def placed(x: Tensor, dimensions: int) -> Cost:
    """min <= x <= max and ⌊(x - min)·f⌋; for each coordinate once f = bins / (max - min)."""
    factor = elementwise(x, dimensions, add=1, div=1)
    return elementwise(x, compare=3, add=1, mul=1) + factor


def searched(x: Tensor, edges: Sequence[Tensor]) -> Cost:
    """A binary search for each coordinate, among m edges ⌈log₂(m + 1)⌉ comparisons."""
    points = x.numel() // max(len(edges), 1)
    steps = sum(axis.numel().bit_length() for axis in edges)
    return elementwise(x, points * steps, compare=1)


def filled(x: Tensor, bins: Sequence[int], density: bool) -> Cost:
    """An addition for each point; a density is divided by the sum and by the bins' sizes.

    A bin's size is the product of its lengths, the differences of edges: the bin is divided by
    one after the other.
    """
    dimensions, cells = len(bins), prod(bins)
    points = elementwise(x, x.numel() // max(dimensions, 1), add=1)
    if not density:
        return points
    total = elementwise(x, fold(cells, 1), add=1)
    lengths = elementwise(x, sum(bins), add=1)
    return points + total + lengths + elementwise(x, cells, div=1 + dimensions)


@formula("aten::histc")
def histc(x: Tensor, bins: int = 100, min: float = 0, max: float = 0, *, out: Tensor) -> Cost:
    """A bin and an addition for each value; with min = max the extent of x is taken first."""
    bounds = extent(x, 1) if min == max else ZERO
    return bounds + placed(x, 1) + filled(x, [bins], density=False)


@formula("aten::histogram")
def histogram(
    x: Tensor,
    bins: int | Tensor = 100,
    *,
    range: Sequence[float] | None = None,
    weight: Tensor | None = None,
    density: bool = False,
    out: Any,
) -> Cost:
    """A histogram of one dimension, over edges in a tensor or at equal distances."""
    if isinstance(bins, Tensor):
        return searched(x, [bins]) + filled(x, [bins.numel() - 1], density)
    bounds = ZERO if range is not None else extent(x, 1)
    return bounds + placed(x, 1) + filled(x, [bins], density)


@formula("aten::_histogramdd_bin_edges")
def histogramdd_bin_edges(
    x: Tensor, bins: Sequence[int], *, range: Sequence[float] | None = None, **options: Any
) -> Cost:
    """The extent of each coordinate, unless a range is passed."""
    return ZERO if range is not None else extent(x, len(bins))


@formula("aten::_histogramdd_from_bin_cts")
def histogramdd_from_bin_cts(
    x: Tensor,
    bins: Sequence[int],
    *,
    range: Sequence[float] | None = None,
    weight: Tensor | None = None,
    density: bool = False,
    out: Tensor,
) -> Cost:
    """A bin for each coordinate, an addition for each point; the extent is taken once more."""
    bounds = ZERO if range is not None else extent(x, len(bins))
    return bounds + placed(x, len(bins)) + filled(x, bins, density)


@formula("aten::_histogramdd_from_bin_tensors")
def histogramdd_from_bin_tensors(
    x: Tensor,
    bins: Sequence[Tensor],
    *,
    weight: Tensor | None = None,
    density: bool = False,
    out: Tensor,
) -> Cost:
    """A search for each coordinate, an addition for each point."""
    return searched(x, bins) + filled(x, [edges.numel() - 1 for edges in bins], density)
