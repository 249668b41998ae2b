"""Bytes that an op moves: what it reads of its operands, and what it writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, sparse_bsc, sparse_bsr, sparse_coo, sparse_csc, sparse_csr, strided

from flopcount.torch_private.modes import without_modes
from flopcount.torch_private.ops import COO_PARTS, DENSE_LAYOUTS
from flopcount.torch_private.tensors import tensors_in

__all__ = [
    "accumulated",
    "gathered",
    "is_sparse",
    "nothing",
    "operands_and_results",
    "reading_all_but",
    "refilled",
    "shape_only",
    "size",
    "sparse_parts",
]


def size(tensor: Tensor) -> int:
    """Bytes of the distinct elements of ``tensor``: an expanded dimension is there once.

    oneDNN keeps every element, in an order that it does not tell. Of a sparse tensor those of its
    values and indices are taken, of a nested one the elements of its components.
    """
    if is_sparse(tensor):
        return sum(map(size, sparse_parts(tensor)))
    if tensor.layout not in DENSE_LAYOUTS:
        return 0
    if tensor.layout != strided or tensor.is_nested:
        return tensor.numel() * tensor.dtype.itemsize
    elements = 1
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        if stride != 0 or length == 0:
            elements *= length
    return elements * tensor.dtype.itemsize


PLACES: dict[Any, tuple[Callable[[Tensor], Tensor], ...]] = {
    sparse_coo: COO_PARTS,
    sparse_csr: (Tensor.values, Tensor.crow_indices, Tensor.col_indices),
    sparse_bsr: (Tensor.values, Tensor.crow_indices, Tensor.col_indices),
    sparse_csc: (Tensor.values, Tensor.ccol_indices, Tensor.row_indices),
    sparse_bsc: (Tensor.values, Tensor.ccol_indices, Tensor.row_indices),
}
"""How each sparse layout keeps its values, and where they are."""


def is_sparse(value: Any) -> bool:
    """Whether ``value`` is a tensor of any sparse layout."""
    return isinstance(value, Tensor) and value.layout in PLACES


def sparse_parts(tensor: Tensor) -> list[Tensor]:
    """The values of a sparse tensor, and the indices that place them."""
    with without_modes():
        return [part(tensor) for part in PLACES[tensor.layout]]


def _distinct(values: Iterable[Any]) -> list[Tensor]:
    return list({id(tensor): tensor for tensor in tensors_in(*values)}.values())


def operands_and_results(
    args: Sequence[Any], kwargs: dict[str, Any], out: Any, mutated: Sequence[Any]
) -> tuple[int, int]:
    """Every distinct operand is read once; every result and changed argument is written."""
    read = sum(map(size, _distinct([*args, *kwargs.values()])))
    return read, sum(map(size, _distinct([out, *mutated])))


def refilled(
    args: Sequence[Any], kwargs: dict[str, Any], out: Any, mutated: Sequence[Any]
) -> tuple[int, int]:
    """All operands but the first are read: it is a target, or lends its shape and dtype only."""
    return operands_and_results(args[1:], kwargs, out, mutated)


def reading_all_but(*unread: int) -> Callable[..., tuple[int, int]]:
    """Of the operands at these places nothing is read, or only the shape and dtype."""

    def moved(
        args: Sequence[Any], kwargs: dict[str, Any], out: Any, mutated: Sequence[Any]
    ) -> tuple[int, int]:
        operands = [value for place, value in enumerate(args) if place not in unread]
        return operands_and_results(operands, kwargs, out, mutated)

    return moved


shape_only = reading_all_but(1)
"""A gradient's second operand, the input of the forward pass, only tells its shape."""


def accumulated(
    args: Sequence[Any], kwargs: dict[str, Any], out: Any, mutated: Sequence[Any]
) -> tuple[int, int]:
    """beta·bias + …: with beta = 0 the bias, the first operand, is not read."""
    moved = operands_and_results if kwargs.get("beta", 1) != 0 else refilled
    return moved(args, kwargs, out, mutated)


def gathered(
    args: Sequence[Any], kwargs: dict[str, Any], out: Any, mutated: Sequence[Any]
) -> tuple[int, int]:
    """Of the table, the first operand, only what reaches the result is read, and that once."""
    table, *indices = _distinct([*args, *kwargs.values()])
    written = sum(map(size, _distinct([out, *mutated])))
    return min(written, size(table)) + sum(map(size, indices)), written


def packed(
    args: Sequence[Any], kwargs: dict[str, Any], out: Any, mutated: Sequence[Any]
) -> tuple[int, int]:
    """The tensors of the first operand are copied into a part of the second."""
    read = sum(map(size, _distinct(args[0])))
    return read, read


def nothing(
    args: Sequence[Any], kwargs: dict[str, Any], out: Any, mutated: Sequence[Any]
) -> tuple[int, int]:
    """An op that touches no element: a view, or memory that nobody fills."""
    return 0, 0
