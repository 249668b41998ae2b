"""The tensors in what ops, modules and programs take and give."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Any

import torch
from torch.utils import _pytree as pytree

PLAIN = frozenset({NoneType, bool, int, float, complex, str, torch.dtype, torch.device})
"""Types of most arguments that hold no tensor, to be done with them quickly."""


def tensors_in(*values: Any, modules: bool = False) -> Iterator[torch.Tensor]:
    """The tensors among ``values``, and inside containers among them, in order.

    Containers are lists, tuples, mappings, dataclasses, and what else torch knows as one; with
    ``modules`` also modules, which hold parameters and buffers.
    """
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif type(value) in PLAIN:
            continue
        elif modules and isinstance(value, torch.nn.Module):
            yield from value.parameters()
            yield from value.buffers()
        else:
            yield from tensors_in(*_items(value), modules=modules)


def _items(container: Any) -> Iterable[Any]:
    if isinstance(container, (list, tuple)):
        return container
    if isinstance(container, Mapping):
        return container.values()
    if is_dataclass(container) and not isinstance(container, type):
        return [getattr(container, field.name, None) for field in fields(container)]
    return () if pytree.tree_is_leaf(container) else pytree.tree_leaves(container)
