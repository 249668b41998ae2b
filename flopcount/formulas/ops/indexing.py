"""Ops that look elements up or place them by index. They move bytes, and only additions count."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from flopcount.cost import ZERO, Cost
from flopcount.formulas import bytes as traffic
from flopcount.formulas.call import Call
from flopcount.formulas.ops.movement import moves
from flopcount.formulas.ops.norms import renorm_steps
from flopcount.formulas.ops.pointwise import scaling_steps
from flopcount.formulas.registry import Gradients, Traffic, formula, free
from flopcount.formulas.steps import contraction, elementwise, fold

# -- looked up: only the part of the table that reaches the result is read

moves("embedding", "index_select", "gather", "index", "_unsafe_index", traffic=traffic.gathered)
moves("take", traffic=traffic.gathered)
free(
    "aten::masked_select",
    traffic=traffic.gathered,
    why="elements are picked, none is computed; how many, only the mask's values tell",
)
moves("repeat_interleave.Tensor", "max_unpool2d", "max_unpool3d", "masked_scatter_backward")
moves("embedding_sparse_backward", traffic=traffic.nothing)  # wraps the rows: a sparse gradient


@formula("aten::_unsafe_masked_index", traffic=traffic.gathered)
def unsafe_masked_index(x: Tensor, mask: Tensor, *args: Any, out: Tensor) -> Cost:
    """x[indices] where the mask is true, else a fill value: a select for each part of a result."""
    return Cost(compare=out.numel() * (2 if out.is_complex() else 1))


# -- placed: each value reaches its place in the target once


def placing(
    placed: Callable[..., int], adds: Callable[..., bool] = lambda *args, **kwargs: True
) -> Traffic:
    """Bytes of an op that puts ``placed`` values into its first argument, or into a copy of it.

    In place only the elements that are met are written, and read only if the op ``adds``.
    """

    def placing_traffic(call: Call) -> tuple[int, int]:
        target, *values = call.operands
        read, whole = traffic.read_and_written(values, [target])
        if not any(target is changed for changed in call.mutated):
            return read + whole, traffic.size(call.out)
        written = min(placed(*call.args) * target.dtype.itemsize, whole)
        return read + (written if adds(*call.args, **call.kwargs) else 0), written

    return placing_traffic


def at_index(target: Tensor, dim: int, index: Tensor, *args: Any) -> int:
    """scatter: a value for each element of the index."""
    return index.numel()


def along_index(target: Tensor, dim: int, index: Tensor, *args: Any) -> int:
    """index_add: a slice of the target for each element of the index."""
    return target.numel() // (target.shape[dim] or 1) * index.numel() if target.dim() else 1


def at_indices(target: Tensor, indices: Sequence[Tensor | None], values: Tensor, *args: Any) -> int:
    """target[i, :, j] = values: the indices, broadcast, and the dimensions that have none.

    A mask selects at most the whole target. It is known how many elements it selects only if there
    is a value for each. Such values have as many dimensions as the selection, in which a mask's
    dimensions are one; where one of their lengths is 1 they may be broadcast.
    """
    tensors = [index for index in indices if index is not None]
    if any(index.dtype in (torch.bool, torch.uint8) for index in tensors):
        one_each = len(tensors) == 1 and values.dim() == target.dim() - tensors[0].dim() + 1
        return values.numel() if one_each and 1 not in values.shape else target.numel()
    whole = [n for n, i in zip(target.shape, indices, strict=False) if i is None]
    places: Sequence[int] = torch.broadcast_shapes(*(index.shape for index in tensors))
    return prod(places) * prod(whole) * prod(target.shape[len(indices) :])


def flat(target: Tensor, index: Tensor, *args: Any) -> int:
    """put: the index counts through the flattened target."""
    return index.numel()


def masked(target: Tensor, *args: Any) -> int:
    """A mask selects at most the whole target; how much, its values tell."""
    return target.numel()


def accumulates(
    target: Tensor, index: Any, values: Tensor, accumulate: bool = False, *args: Any
) -> bool:
    """index_put and put add only if ``accumulate`` says so."""
    return accumulate


def _never(*args: Any, **kwargs: Any) -> bool:
    return False


moves("scatter", traffic=placing(at_index, _never))
moves("index_copy", "index_fill", traffic=placing(along_index, _never))
moves("masked_scatter", traffic=placing(masked, _never))


@formula("aten::scatter_add", traffic=placing(at_index))
def scatter_add(target: Tensor, dim: int, index: Tensor, *args: Any, out: Tensor) -> Cost:
    """An addition for each element of the index."""
    return elementwise(target, index.numel(), add=1)


@formula(
    "aten::scatter.reduce",
    "aten::scatter.value_reduce",
    "aten::scatter_.reduce",
    "aten::scatter_.value_reduce",
    "aten::scatter_reduce",
    traffic=placing(at_index),
)
def scatter_reduce(
    target: Tensor,
    dim: int,
    index: Tensor,
    source: Any,
    reduction: str = "",
    *,
    reduce: str = "",
    include_self: bool = True,
    out: Tensor,
) -> Cost:
    """A step for each element of the index; a mean divides each element of the result.

    The target's old element counts as one more value even where ``include_self`` leaves it out,
    because the number of values that meet in an element is not known.
    """
    return _reduced(target, index.numel(), reduction or reduce)


@formula("aten::index_reduce", traffic=placing(along_index))
def index_reduce(
    target: Tensor,
    dim: int,
    index: Tensor,
    source: Tensor,
    reduce: str,
    *,
    include_self: bool = True,
    out: Tensor,
) -> Cost:
    """A step for each element of the source; a mean divides each element of the result."""
    return _reduced(target, source.numel(), reduce)


def _reduced(target: Tensor, values: int, reduce: str) -> Cost:
    if reduce in ("amax", "amin"):
        return elementwise(target, values, compare=1)
    if reduce in ("prod", "multiply"):
        return elementwise(target, values, mul=1)
    mean = elementwise(target, div=1) if reduce == "mean" else ZERO
    return elementwise(target, values, add=1) + mean


@formula("aten::index_add", traffic=placing(along_index))
def index_add(
    target: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: complex = 1, out: Tensor
) -> Cost:
    """target[index] += alpha·source."""
    values = source.numel()
    return elementwise(target, values, add=1) + Cost(arith=values * scaling_steps(alpha, target))


@formula(
    "aten::index_put",
    "aten::_index_put_impl",
    "aten::_unsafe_index_put",
    traffic=placing(at_indices, accumulates),
)
def index_put(
    target: Tensor,
    indices: Sequence[Tensor | None],
    values: Tensor,
    accumulate: bool = False,
    *args: Any,
    out: Tensor,
) -> Cost:
    """target[indices] = values, or += values: an addition for each element that is placed.

    With a mask and values that may be broadcast, the whole target counts: an upper bound.
    """
    return elementwise(target, at_indices(target, indices, values), add=int(accumulate))


@formula("aten::_unsafe_masked_index_put_accumulate")
def unsafe_masked_index_put_accumulate(
    target: Tensor, mask: Tensor, indices: Sequence[Tensor | None], values: Tensor, *, out: Tensor
) -> Cost:
    """target[indices] += values where the mask is true: a select and an addition for each part."""
    parts = values.numel() * (2 if target.is_complex() else 1)
    return Cost(arith=parts, compare=parts)


@formula("aten::put", traffic=placing(flat, accumulates))
def put(
    target: Tensor, index: Tensor, source: Tensor, accumulate: bool = False, *, out: Tensor
) -> Cost:
    """target.flatten()[index] = source, or += source."""
    return elementwise(target, index.numel(), add=int(accumulate))


# -- gradients of look-ups: rows are added where they came from


@formula("aten::embedding_dense_backward", by_name=True)
def embedding_dense_backward(
    *, grad_output: Tensor, scale_grad_by_freq: bool, out: Tensor, **others: Any
) -> Gradients:
    """dW[index] += g, an addition for each element of the gradient; / frequency if scaled.

    The kernel leaves out rows of the padding index; their number is not known.
    """
    return Gradients(weight=elementwise(grad_output, add=1, div=int(scale_grad_by_freq)))


@formula("aten::unfold_backward")
def unfold_backward(grad: Tensor, *args: Any, out: Tensor) -> Gradients:
    """Overlapping windows are added: an addition for each element onto zeros."""
    return Gradients(input=elementwise(grad, add=1))


@formula("aten::col2im")
def col2im(columns: Tensor, *args: Any, out: Tensor) -> Cost:
    """Overlapping patches, padding included, are added onto zeros."""
    return elementwise(columns, add=1)


SUM, MEAN, MAX = 0, 1, 2
"""The modes of embedding_bag."""


def rows_of_bags(call: Call) -> tuple[int, int]:
    """Of the weights, the rows that the bags name are read."""
    weight, indices, *_ = call.args
    read, written = traffic.refilled(call)
    rows = indices.numel() * weight.shape[1] * weight.dtype.itemsize
    return read + min(rows, traffic.size(weight)), written


@formula("aten::_embedding_bag", "aten::_embedding_bag_forward_only", traffic=rows_of_bags)
def embedding_bag(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = SUM,
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    *args: Any,
    out: tuple[Tensor, ...],
) -> Cost:
    """The sum, mean or maximum of the rows of each bag, of which none is empty."""
    bags = out[0]
    steps = fold(indices.numel() * weight.shape[1], bags.numel())
    if mode == MAX:
        return elementwise(weight, steps, compare=1)
    scaled = indices.numel() * weight.shape[1] if per_sample_weights is not None else 0
    mean = elementwise(bags, div=1) if mode == MEAN else ZERO
    return elementwise(weight, steps, add=1) + elementwise(weight, scaled, mul=1) + mean


@formula("aten::_embedding_bag_backward", "aten::_embedding_bag_dense_backward", by_name=True)
def embedding_bag_backward(
    *,
    grad: Tensor,
    indices: Tensor,
    scale_grad_by_freq: bool,
    mode: int,
    per_sample_weights: Tensor | None,
    out: Tensor,
    **others: Any,
) -> Gradients:
    """dW[index] += g of its bag; of a maximum only for one row.

    A mean divides the bag's gradient, a weight or a frequency multiplies or divides each row.
    """
    if mode == MAX:
        return Gradients(weight=elementwise(grad, add=1))
    return bag_rows(grad, indices, mode, per_sample_weights, add=1, div=int(scale_grad_by_freq))


def bag_rows(
    grad: Tensor, indices: Tensor, mode: int, weights: Tensor | None, **steps: int
) -> Gradients:
    """From the gradients of bags to those of their rows, and ``steps`` for each element of these.

    A mean divides the gradient of its bag; weights multiply each row.
    """
    bags = elementwise(grad, div=1) if mode == MEAN else ZERO
    weighted = int(weights is not None)
    rows = elementwise(grad, indices.numel() * grad.shape[-1], mul=weighted, **steps)
    return Gradients(weight=rows + bags)


@formula("aten::_embedding_bag_backward", sparse=True, by_name=True)
def embedding_bag_sparse_backward(
    *,
    grad: Tensor,
    indices: Tensor,
    mode: int,
    per_sample_weights: Tensor | None,
    out: Tensor,
    **others: Any,
) -> Gradients:
    """Rows side by side, none of them added; a mean divides, a weight multiplies."""
    return bag_rows(grad, indices, mode, per_sample_weights)


@formula("aten::_embedding_bag_per_sample_weights_backward")
def embedding_bag_per_sample_weights_backward(
    grad: Tensor, weight: Tensor, indices: Tensor, *args: Any, out: Tensor
) -> Gradients:
    """Each weight's gradient is the dot product of its row and its bag's gradient."""
    return Gradients(weight=contraction(dots=indices.numel(), length=weight.shape[1]))


def named_rows(table: Tensor, indices: Tensor, *args: Any) -> int:
    """Elements of as many rows as there are indices."""
    return indices.numel() * table.shape[1]


@formula("aten::embedding_renorm", traffic=placing(named_rows))
def embedding_renorm(
    table: Tensor, indices: Tensor, max_norm: float, norm_type: float, *, out: Tensor
) -> Cost:
    """``renorm`` of the rows. An index that comes twice counts as two, up to the whole table."""
    rows = min(indices.numel(), table.shape[0])
    return renorm_steps(table, rows * table.shape[1], rows, norm_type)
