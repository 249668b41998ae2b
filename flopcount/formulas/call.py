"""One call of an op, as formulas and counts of bytes see it; whole, or by nested components."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from flopcount.torch_private.modes import without_modes
from flopcount.torch_private.ops import SPARSE_PARTS, component_shapes
from flopcount.torch_private.tensors import tensors_in


@dataclass(frozen=True)
class Call:
    """One call of an op.

    Attributes:
        args: the arguments in order.
        kwargs: the arguments by name, without ``out=`` and other places for results.
        out: the result; the first changed argument where the op returns None.
        mutated: the arguments that the op changes, by its schema.
    """

    args: Sequence[Any]
    kwargs: dict[str, Any]
    out: Any
    mutated: Sequence[Any] = ()

    @property
    def operands(self) -> list[Any]:
        """All arguments."""
        return [*self.args, *self.kwargs.values()]

    @property
    def results(self) -> list[Any]:
        """The result and the changed arguments."""
        return [self.out, *self.mutated]

    @cached_property
    def tensors(self) -> list[Tensor]:
        """The tensors in the arguments, and then those in the results."""
        return list(tensors_in(*self.operands, *self.results))

    @property
    def is_sparse(self) -> bool:
        """Whether a tensor is of a sparse layout."""
        return any(map(is_sparse, self.tensors))

    @property
    def is_nested(self) -> bool:
        """Whether a tensor is nested."""
        return any(tensor.is_nested for tensor in self.tensors)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the arithmetic: the first complex one, else the first float, else any."""
        dtypes = [tensor.dtype for tensor in self.tensors]
        complexes = [dtype for dtype in dtypes if dtype.is_complex]
        floats = [dtype for dtype in dtypes if dtype.is_floating_point]
        return next(iter(complexes + floats + dtypes), torch.get_default_dtype())


def is_sparse(value: Any) -> bool:
    """Whether ``value`` is a tensor of any sparse layout."""
    return isinstance(value, Tensor) and value.layout in SPARSE_PARTS


def components(*values: Any) -> Iterator[tuple[int, list[Any]]]:
    """``values`` with components for nested tensors, and how many components have these shapes.

    Components have their own lengths, so that nothing is counted for padding, and no data. Each is
    a batch of one: dimensions keep their numbers. Dense tensors, such as a weight, stay whole.
    """
    nested = {id(tensor): tensor for tensor in tensors_in(*values) if tensor.is_nested}
    shapes_by_component = zip(*map(component_shapes, nested.values()), strict=True)
    for shapes, times in Counter(shapes_by_component).items():
        with without_modes():
            parts = {
                key: torch.empty((1, *shape), dtype=tensor.dtype, device="meta")
                for (key, tensor), shape in zip(nested.items(), shapes, strict=True)
            }
        yield times, [_replaced(value, parts) for value in values]


def with_functions(values: Any, change: Callable[[Any], Any]) -> Any:
    """``values`` with ``change(function)`` for each function among them, also inside tuples."""
    if isinstance(values, tuple):
        return tuple(with_functions(value, change) for value in values)
    return change(values) if callable(values) else values


def _replaced(value: Any, parts: Mapping[int, Tensor]) -> Any:
    if isinstance(value, (list, tuple)):
        return [_replaced(item, parts) for item in value]
    if isinstance(value, dict):
        return {name: _replaced(item, parts) for name, item in value.items()}
    return parts.get(id(value), value)
