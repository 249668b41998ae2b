"""Sorting and selection: the comparisons that it takes at most, as only values tell the number."""

from typing import Any

from torch import Tensor

from flopcount.cost import Cost
from flopcount.formulas.ops.reduction import rows
from flopcount.formulas.registry import formula
from flopcount.formulas.steps import fold


def sort_comparisons(length: int, k: int) -> int:
    """Comparisons that find and order the k best of ``length`` values, at most.

    Binary insertion: with k kept in order, each of the others is compared with the worst one
    kept and, in the worst case, placed among the rest by ⌈log₂ k⌉ more; ordering the first k
    takes k·⌈log₂ k⌉. With k = 1 this is length - 1, the maximum; with k = length it is
    length·⌈log₂ length⌉, a merge sort.
    """
    k = min(k, length)
    return length * (k - 1).bit_length() + length - k if k else 0


def _order(x: Tensor, dim: int, k: int | None = None) -> Cost:
    length = x.shape[dim] if x.dim() else 1
    return Cost(compare=rows(x, dim) * sort_comparisons(length, length if k is None else k))


@formula("aten::sort", "aten::argsort")
def sort(
    x: Tensor, dim: int = -1, descending: bool = False, *, stable: bool | None = None, out: Any
) -> Cost:
    """length·⌈log₂ length⌉ comparisons for each row, at most; stable ones take no more."""
    return _order(x, dim)


@formula("aten::msort")
def msort(x: Tensor, *, out: Tensor) -> Cost:
    """A sort along the first dimension."""
    return _order(x, 0)


@formula("aten::topk")
def topk(x: Tensor, k: int, dim: int = -1, *args: bool, out: tuple[Tensor, Tensor]) -> Cost:
    """length·⌈log₂ k⌉ + length - k comparisons for each row, at most."""
    return _order(x, dim, k)


@formula("aten::kthvalue")
def kthvalue(x: Tensor, k: int, dim: int = -1, *args: bool, out: tuple[Tensor, Tensor]) -> Cost:
    """The worst of the k best, from the nearer end."""
    length = x.shape[dim] if x.dim() else 1
    return _order(x, dim, min(k, length - k + 1))


@formula("aten::median", "aten::nanmedian")
def median(x: Tensor, dim: int | None = None, *args: bool, out: Any) -> Cost:
    """The k-th value, k the middle of the row."""
    if dim is None:
        return Cost(compare=sort_comparisons(x.numel(), (x.numel() + 1) // 2))
    length = x.shape[dim] if x.dim() else 1
    return _order(x, dim, (length + 1) // 2)


@formula("aten::mode")
def mode(x: Tensor, dim: int = -1, *args: bool, out: tuple[Tensor, Tensor]) -> Cost:
    """A sort, and a comparison of each element with the one before."""
    return _order(x, dim) + Cost(compare=fold(x.numel(), rows(x, dim)))
