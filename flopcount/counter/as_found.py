"""Leaves a program's state as it was found: gradients, buffers, chance, and objects on request."""

from __future__ import annotations

import random
import sys
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from flopcount.counter.reach import content, reachable, slots
from flopcount.torch_private.modes import without_modes

Undo = Callable[[], Any]


@contextmanager
def as_found(*roots: Any, objects: int = 0) -> Iterator[None]:
    """A context after which what ``roots`` reach is as it was found, even if the block raises.

    Inside, no tensor has a gradient yet. The gradients that were there are put back, the same
    tensors; buffers get their values back in place; the random numbers of torch, Python and NumPy
    go on as if nothing had drawn any.

    Args:
        roots: models, arguments, an optimizer.
        objects: also put back attributes, containers, closures, and the values of tensors with up
            to this many numbers that need no gradient. Lazy parameters are lent others.
    """
    undo: list[Undo] = []
    try:
        with without_modes():
            undo += _random_states()
            found = list(reachable(*roots))
            modules = [value for value in found if isinstance(value, nn.Module)]
            tensors = [value for value in found if isinstance(value, Tensor)]
            for tensor in tensors:
                undo += _gradient(tensor)
            for value in found:
                if objects or type(value) is torch.Generator:
                    undo += _state(value)
            kept = [b for module in modules for b in module._buffers.values() if b is not None]
            if objects:
                kept = [t for t in tensors if not t.requires_grad and t.numel() <= objects]
                undo += map(_memory, filter(_is_dense, tensors))
            undo += [_value(tensor) for tensor in kept if _is_dense(tensor) and _has_memory(tensor)]
            if objects:
                _lend_lazy(modules)
        yield
    finally:
        with without_modes(), torch.no_grad():
            for step in reversed(undo):
                step()


def _gradient(tensor: Tensor) -> list[Undo]:
    if not tensor.is_leaf or not tensor.requires_grad:
        return []
    gradient, tensor.grad = tensor.grad, None
    return [partial(setattr, tensor, "grad", gradient)]


def _is_dense(tensor: Tensor) -> bool:
    """Whether a tensor can be copied and compared; those of other classes are left alone."""
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout is not torch.strided:
        return False
    return not (tensor.is_nested or tensor.is_meta)


def _has_memory(tensor: Tensor) -> bool:
    """Whether a tensor's storage is there: FSDP frees that of parameters between calls."""
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    last = tensor.storage_offset() + sum((size - 1) * stride for size, stride in steps)
    size = (last + 1) * tensor.element_size() if tensor.numel() else 0
    return tensor.untyped_storage().nbytes() >= size


def _value(tensor: Tensor) -> Undo:
    before = tensor.detach().clone()

    def put_back() -> None:
        if _has_memory(tensor) and not torch.equal(tensor, before):
            tensor.data.copy_(before)  # unseen by graphs that need the tensor for their backward

    return put_back


def _memory(tensor: Tensor) -> Undo:
    """Undoes ``tensor.data = …``, ``tensor.unsqueeze_(0)`` and their like."""
    data = tensor.data

    def put_back() -> None:
        now = tensor.data
        if now.device != data.device or now.shape != data.shape or not now.is_set_to(data):
            tensor.data = data

    return put_back


def _random_states() -> list[Undo]:
    states: list[tuple[Callable[[Any], Any], Any]] = [
        (torch.set_rng_state, torch.get_rng_state()),
        (random.setstate, random.getstate()),
    ]
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is not None:
        module: Any = torch.get_device_module(accelerator)
        if getattr(module, "is_initialized", bool)():
            states.append((module.set_rng_state_all, module.get_rng_state_all()))
    if numpy := sys.modules.get("numpy"):
        states.append((numpy.random.set_state, numpy.random.get_state()))
    return [partial(put, state) for put, state in states]


def _lend_lazy(modules: list[nn.Module]) -> None:
    """Give lazy parameters a stand-in: they become ordinary ones in place."""
    for module in modules:
        for held in (module._parameters, module._buffers):
            for name, lazy in held.items():
                if lazy is not None and is_lazy(lazy):
                    stand_in: Any = type(lazy)
                    held[name] = stand_in(lazy.requires_grad, lazy.device, lazy.dtype)


# -- objects of Python


def _state(value: Any) -> list[Undo]:
    """What puts an object of the program back into the state that it has now."""
    undo: list[Undo] = []
    if type(value) is torch.Generator:
        state = value.get_state()
        undo.append(partial(value.set_state, state))
    elif isinstance(value, types.CellType):
        undo.append(_cell(value))
    elif isinstance(value, dict):
        undo.append(_dict(value))
    elif isinstance(value, (list, deque, set)):
        undo.append(_collection(value))
    if isinstance(value, nn.Module):  # a lazy one changes its class
        undo.append(partial(setattr, value, "__class__", type(value)))
    for slot, held in slots(value):
        undo.append(partial(slot.__set__, value, held))
    return undo


def _cell(cell: types.CellType) -> Undo:
    held = content(cell)

    def put_back() -> None:
        if content(cell) is not held:
            cell.cell_contents = held

    return put_back


def _dict(value: dict[Any, Any]) -> Undo:
    kind: Any = OrderedDict if isinstance(value, OrderedDict) else dict  # a subclass may object
    items = list(kind.items(value))

    def put_back() -> None:
        now = list(kind.items(value))
        if len(now) != len(items) or any(
            a is not c or b is not d for (a, b), (c, d) in zip(now, items, strict=True)
        ):
            kind.clear(value)
            kind.update(value, items)

    return put_back


def _collection(value: Any) -> Undo:
    kind: Any = next(kind for kind in (list, deque, set) if isinstance(value, kind))
    items = list(value)

    def put_back() -> None:
        now = list(value)
        if len(now) != len(items) or any(a is not b for a, b in zip(now, items, strict=True)):
            kind.clear(value)
            (kind.update if kind is set else kind.extend)(value, items)

    return put_back
