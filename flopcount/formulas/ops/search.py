"""Ops that look for values: which are not zero, which bin one belongs to, which are unique."""

from typing import Any

from torch import Tensor

from flopcount.cost import Cost
from flopcount.formulas.registry import formula
from flopcount.formulas.steps import elementwise, fold


@formula("aten::nonzero", "aten::nonzero_static")
def nonzero(x: Tensor, **options: Any) -> Cost:
    """x ≠ 0, a comparison for each element; of complex ones one of each part."""
    return Cost(compare=x.numel() * (2 if x.is_complex() else 1))


@formula("aten::bucketize")
def bucketize(x: Any, boundaries: Tensor, *, out: Tensor, **options: Any) -> Cost:
    """A binary search for each value: ⌈log₂(m + 1)⌉ comparisons find one of m + 1 buckets."""
    return elementwise(boundaries, out.numel() * boundaries.numel().bit_length(), compare=1)


@formula("aten::searchsorted")
def searchsorted(boundaries: Tensor, x: Any, *, out: Tensor, **options: Any) -> Cost:
    """A binary search for each value, as in bucketize, in its own row of boundaries."""
    return elementwise(boundaries, out.numel() * boundaries.shape[-1].bit_length(), compare=1)


@formula("aten::isin")
def isin(elements: Any, tests: Any, *, out: Tensor, **options: Any) -> Cost:
    """Each element against each test value; for many, a kernel may sort instead."""
    tested = tests.numel() if isinstance(tests, Tensor) else 1
    return elementwise(out, out.numel() * tested, compare=1)


@formula("aten::bincount")
def bincount(x: Tensor, weights: Tensor | None = None, minlength: int = 0, *, out: Tensor) -> Cost:
    """bin[x] += weight; without weights they count, which is integer arithmetic."""
    return elementwise(x, add=int(weights is not None))


@formula("aten::_unique2", "aten::_unique")
def unique(x: Tensor, *args: Any, out: tuple[Tensor, ...]) -> Cost:
    """Sorted, n·⌈log₂ n⌉ comparisons, and each value compared to the one before it.

    A kernel that hashes or counts instead is taken for one that sorts.
    """
    n = x.numel()
    return elementwise(x, n * max(n - 1, 0).bit_length() + max(n - 1, 0), compare=1)


@formula("aten::unique_consecutive")
def unique_consecutive(
    x: Tensor,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
    *,
    out: tuple[Tensor, ...],
) -> Cost:
    """Each value (with dim each slice) is compared to the one before it."""
    return neighbours(x, x.numel() if dim is None else x.shape[dim])


def neighbours(x: Tensor, slices: int) -> Cost:
    """Each slice, but the first, is compared to the one before it, element by element."""
    return elementwise(x, fold(x.numel(), x.numel() // max(slices, 1)), compare=1)


@formula("aten::unique_dim_consecutive")
def unique_dim_consecutive(x: Tensor, dim: int, *args: Any, out: tuple[Tensor, ...]) -> Cost:
    """Each slice is compared to the one before it, whole."""
    return neighbours(x, x.shape[dim])


@formula("aten::unique_dim")
def unique_dim(x: Tensor, dim: int, *args: Any, out: tuple[Tensor, ...]) -> Cost:
    """Slices, sorted and compared like the values of unique: whole slices each time."""
    n = x.shape[dim]
    pairs = n * max(n - 1, 0).bit_length() + max(n - 1, 0)
    return elementwise(x, pairs * (x.numel() // max(n, 1)), compare=1)
