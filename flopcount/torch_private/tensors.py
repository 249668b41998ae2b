"""The tensors in what ops, modules and programs take and give."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Any

import torch
from torch.multiprocessing import reductions
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


StorageRef = reductions.StorageWeakRef
"""Refers to a tensor's memory, which it does not keep; no other memory gets its ``cdata``."""

PLAIN_TENSORS = frozenset({torch.Tensor, torch.nn.Parameter})


def storage_of(tensor: torch.Tensor) -> torch.UntypedStorage | None:
    """The memory of a dense tensor that holds its own numbers; None for any other tensor."""
    if type(tensor) not in PLAIN_TENSORS or tensor.layout is not torch.strided or tensor.is_meta:
        return None
    try:
        storage = tensor.untyped_storage()
    except (RuntimeError, NotImplementedError):  # a wrapper of torch.func
        return None
    return storage if tensor.numel() else None


def is_foreign(tensor: torch.Tensor) -> bool:
    """Whether another library has allocated the memory of a tensor: NumPy, or one by DLPack."""
    storage = storage_of(tensor)
    return storage is not None and not storage.resizable()
