"""Bytes that an op moves: what it reads of its operands, and what it writes."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, strided

from flopcount.formulas.call import Call, is_sparse
from flopcount.torch_private.modes import without_modes
from flopcount.torch_private.ops import DENSE_LAYOUTS, SPARSE_PARTS
from flopcount.torch_private.tensors import tensors_in


def size(tensor: Tensor) -> int:
    """Bytes of the distinct elements of ``tensor``: an expanded dimension counts once.

    A sparse tensor has the bytes of its values and indices, a nested one those of its components.
    oneDNN's layout keeps every element, but shows no strides.
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


def sparse_parts(tensor: Tensor) -> list[Tensor]:
    """The values of a sparse tensor, and the indices that place them."""
    with without_modes():
        return [part(tensor) for part in SPARSE_PARTS[tensor.layout]]


def _distinct(values: Iterable[Any]) -> list[Tensor]:
    return list({id(tensor): tensor for tensor in tensors_in(*values)}.values())


def read_and_written(read: Iterable[Any], written: Iterable[Any]) -> tuple[int, int]:
    """Bytes of the distinct tensors in ``read``, and of those in ``written``."""
    return sum(map(size, _distinct(read))), sum(map(size, _distinct(written)))


def operands_and_results(call: Call) -> tuple[int, int]:
    """Every distinct operand is read once; every result and changed argument is written."""
    return read_and_written(call.operands, call.results)


def refilled(call: Call) -> tuple[int, int]:
    """All operands are read except the first, a target that lends only its shape and dtype."""
    return read_and_written(call.operands[1:], call.results)


def reading_all_but(*unread: int) -> Callable[[Call], tuple[int, int]]:
    """All operands are read except those at these places, which lend only their shape and dtype."""

    def traffic(call: Call) -> tuple[int, int]:
        operands = [value for place, value in enumerate(call.args) if place not in unread]
        return read_and_written([*operands, *call.kwargs.values()], call.results)

    return traffic


shape_only = reading_all_but(1)
"""A gradient's second operand, the input of the forward pass, lends only its shape."""


def accumulated(call: Call) -> tuple[int, int]:
    """beta·bias + …: with beta = 0 the bias, the first operand, is not read."""
    return refilled(call) if call.kwargs.get("beta", 1) == 0 else operands_and_results(call)


def gathered(call: Call) -> tuple[int, int]:
    """The first operand is a table: only the part that reaches the result is read, once."""
    table, *indices = _distinct(call.operands)
    written = sum(map(size, _distinct(call.results)))
    return min(written, size(table)) + sum(map(size, indices)), written


def received(call: Call) -> tuple[int, int]:
    """The first operand receives all the others, whatever the op returns."""
    return read_and_written(call.operands[1:], call.operands[:1])


def replaced(call: Call) -> tuple[int, int]:
    """Every operand is read, and the first one receives the result, whatever the op returns."""
    return read_and_written(call.operands, call.operands[:1])


def sent(call: Call) -> tuple[int, int]:
    """Every operand is read and none is written, whatever the op returns."""
    return read_and_written(call.operands, ())


def exchanged(call: Call) -> tuple[int, int]:
    """The first operand says what each tensor of the fourth is for: to be sent, or to receive."""
    directions, _, _, tensors, *_ = call.args
    pairs = list(zip(directions, tensors, strict=True))
    out, back = ([t for way, t in pairs if way == name] for name in ("isend", "irecv"))
    return read_and_written(out, back)


def packed(call: Call) -> tuple[int, int]:
    """The tensors of the first operand are copied into a part of the second."""
    read = sum(map(size, _distinct(call.args[0])))
    return read, read


def nothing(call: Call) -> tuple[int, int]:
    """An op that touches no element: a view, or memory that nobody fills."""
    return 0, 0
