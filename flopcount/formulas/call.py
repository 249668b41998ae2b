"""One call of an op, as formulas and counts of bytes see it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from flopcount.torch_private.ops import SPARSE_PARTS
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
