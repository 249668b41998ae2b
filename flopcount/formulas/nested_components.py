"""A call on nested tensors costs what calls on their components cost.

Components have their own lengths, so nothing is counted for padding.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from flopcount.torch_private.modes import without_modes
from flopcount.torch_private.ops import component_shapes
from flopcount.torch_private.tensors import tensors_in


def components(*values: Any) -> Iterator[tuple[int, list[Any]]]:
    """``values`` with components for nested tensors, and how many components have these shapes.

    Components have no data. Each is a batch of one, so that dimensions keep their numbers. Dense
    tensors, such as a weight, stay whole.
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


def _replaced(value: Any, parts: Mapping[int, Tensor]) -> Any:
    if isinstance(value, (list, tuple)):
        return [_replaced(item, parts) for item in value]
    if isinstance(value, dict):
        return {name: _replaced(item, parts) for name, item in value.items()}
    return parts.get(id(value), value)
