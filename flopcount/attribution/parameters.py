"""How many parameters modules have, as the user wrote them: whole, not packed, each once.

A rank may hold a part of a parameter, a weight may keep several numbers in one element, and a
wrapper may make one flat parameter of many. None of that changes how large the model is.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable
from math import prod
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from flopcount.torch_private.modes import without_modes
from flopcount.torch_private.sharding import (
    FLAT_PARAMETER,
    FSDP_WRAPPED_MODULE,
    flat_parameter,
    originals,
)

PAIRS = getattr(torch, "float4_e2m1fn_x2", None)
"""The dtype of which an element is two numbers."""


class Flattened(NamedTuple):
    """A parameter that became a part of a flat one; ``tensor`` tells whether it is trained."""

    key: Hashable
    size: int
    tensor: weakref.ref[torch.Tensor]


class Parameters:
    """The parameters of the modules of a tree."""

    def __init__(self) -> None:
        self._flattened: dict[int, tuple[weakref.ref[nn.Module], dict[str, Flattened]]] = {}

    def note(self, wrapper: nn.Module) -> None:
        """Learn what ``wrapper`` made of the parameters below it, if it is one that flattens."""
        flat = flat_parameter(wrapper)
        for original in originals(flat) if flat is not None else ():
            known = self._flattened.get(id(original.owner))
            if known is None or known[0]() is not original.owner:
                known = self._flattened[id(original.owner)] = weakref.ref(original.owner), {}
            size = _size_of_packed(original.owner, original.name) or original.size
            tensor = weakref.ref(original.tensor)
            known[1][original.name] = Flattened(original.key, size, tensor)

    def count(self, *roots: nn.Module) -> tuple[int, int]:
        """How many ``roots`` have with all below them, and how many of these are trained."""
        modules = _modules_below(*roots)
        for inner in modules:
            if FSDP_WRAPPED_MODULE in inner._modules:
                self.note(inner)
        if self._flattened:
            return self._count_flattened(modules)
        unique: dict[int, Any] = {}
        for inner in modules:
            for parameter in inner._parameters.values():
                if parameter is not None:
                    unique[id(parameter)] = parameter
        total = trained = 0
        for parameter in unique.values():
            size = size_of(parameter)
            total += size
            if parameter.requires_grad:
                trained += size
        return total, trained

    def _count_flattened(self, modules: list[nn.Module]) -> tuple[int, int]:
        """The same where flat parameters took the place of some of those that modules had."""
        sizes: dict[Hashable, tuple[int, bool]] = {}
        for module in modules:
            owner, flattened = self._flattened.get(id(module), (None, {}))
            flattened = flattened if owner is not None and owner() is module else {}
            for key, size, tensor in flattened.values():
                parameter: Any = tensor()
                sizes[key] = size, parameter is not None and parameter.requires_grad
            for name, parameter in module._parameters.items():
                if parameter is not None and name not in flattened and name != FLAT_PARAMETER:
                    sizes[id(parameter)] = size_of(parameter), parameter.requires_grad
        total = sum(size for size, _ in sizes.values())
        return total, sum(size for size, is_trained in sizes.values() if is_trained)


def _modules_below(*roots: nn.Module) -> list[nn.Module]:
    """``roots`` and each module below them, once; most have none."""
    if not any(root._modules for root in roots):
        return list(roots)
    seen, waiting = {id(root): root for root in roots}, [*roots]
    while waiting:
        for child in waiting.pop()._modules.values():
            if child is not None and id(child) not in seen:
                seen[id(child)] = child
                waiting.append(child)
    return list(seen.values())


def size_of(parameter: Any) -> int:
    """The numbers in a parameter; a lazy one has none before the first call of its module."""
    if type(parameter) is nn.Parameter:
        size: int = parameter.numel()
        return 2 * size if parameter.dtype is PAIRS else size
    if is_lazy(parameter):
        return 0
    if shape := _shape_of_packed(parameter):
        return prod(shape)
    with without_modes():  # tensors of some classes ask modes for their size
        return int(parameter.numel())


def _shape_of_packed(holder: Any) -> Any:
    """The shape that bitsandbytes keeps beside a weight of 4 bits, which is stored in bytes."""
    return getattr(getattr(holder, "quant_state", None), "shape", None)


def _size_of_packed(module: nn.Module, name: str) -> int:
    """The size of a packed weight that was flattened: its module knows it too; else 0."""
    shape = _shape_of_packed(module) if name == "weight" else None
    return prod(shape) if shape else 0
