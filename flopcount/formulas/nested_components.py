"""A call on nested tensors, taken apart: it costs what calls on their components cost.

Components are as long as they really are, so that nothing is counted for what is not there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from flopcount.torch_private.modes import without_modes
from flopcount.torch_private.ops import component_shapes
from flopcount.torch_private.tensors import tensors_in

__all__ = ["components"]

Call = tuple[int, Sequence[Any], Mapping[str, Any], Any]
"""How often, the arguments in order, those by name, and the result."""


def components(args: Sequence[Any], named: Mapping[str, Any], out: Any) -> Iterator[Call]:
    """A call for each component, or for all those of the same shapes, on tensors without data.

    A component is a batch of one, so that dimensions keep their numbers. Dense operands are whole
    in each call: a weight, a scalar.
    """
    nested = {id(x): x for x in tensors_in(args, named, out) if x.is_nested}
    shapes = zip(*map(component_shapes, nested.values()), strict=True)
    for each, times in Counter(shapes).items():
        with without_modes():
            parts = {
                place: torch.empty((1, *shape), dtype=tensor.dtype, device="meta")
                for (place, tensor), shape in zip(nested.items(), each, strict=True)
            }
        by_name = {name: _replaced(value, parts) for name, value in named.items()}
        yield times, _replaced(args, parts), by_name, _replaced(out, parts)


def _replaced(value: Any, parts: Mapping[int, Tensor]) -> Any:
    if isinstance(value, (list, tuple)):
        return [_replaced(item, parts) for item in value]
    return parts.get(id(value), value)
