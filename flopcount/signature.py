"""The signature of a call: all that a formula may look at, as a key that calls of one cost share.

This runs for every op that is not a view. It takes shapes, dtypes and strides (an expanded
dimension is read once), and which operands are the same tensor (read once, too).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from flopcount.formulas import Plan

__all__ = ["sign"]

ATOMS = frozenset(
    {bool, int, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format}
)
"""Types of arguments that stand for themselves."""

EXACT_FLOATS = frozenset([step / 2 for step in range(-32, 33)] + [float("inf"), float("-inf")])
"""Numbers that a formula may tell apart (an exponent, alpha = 1). All others are alike to it, so
that a learning rate that changes at every step does not make every step's ops new."""


def sign(
    where: Any, plan: Plan, args: Sequence[Any], kwargs: dict[str, Any] | None, out: Any
) -> tuple[Any, ...]:
    """``(where, plan, …)``; a call with a tensor that has no strides gets a key of its own."""
    operands = plan.operands
    key: tuple[Any, ...]
    try:
        # most ops begin with one to three tensors, and many have nothing else: unrolled
        if operands == 2:
            a, b = args[:2]
            key = (where, plan, a.shape, a.dtype, a.stride(), b.shape, b.dtype, b.stride(), a is b)
        elif operands == 1:
            a = args[0]
            key = (where, plan, a.shape, a.dtype, a.stride())
        elif operands == 3:
            a, b, c = args[:3]
            key = (
                where, plan, a.shape, a.dtype, a.stride(), b.shape, b.dtype, b.stride(), a is b,
                c.shape, c.dtype, c.stride(), c is a or c is b,
            )  # fmt: skip
        else:
            operands, key = 0, (where, plan)
        if len(args) > operands:
            key += _items(args[operands:])
        if kwargs:
            key += (*kwargs, *_items(kwargs.values()))
        return key + _items((out,)) if plan.dynamic else key
    except (RuntimeError, NotImplementedError, AttributeError):
        # sparse and nested tensors have no strides; a number may stand in for a tensor
        return (where, plan, object())


def _items(values: Iterable[Any]) -> tuple[Any, ...]:
    items: list[Any] = []
    last = None
    for value in values:
        cls = value.__class__
        if cls in ATOMS:
            items.append(value)
        elif cls is list or cls is tuple:
            items.append(tuple(value) if value and value[0].__class__ is int else _items(value))
        elif cls is float:
            items.append(value if value in EXACT_FLOATS else float)
        elif isinstance(value, Tensor):
            items += (value.shape, value.dtype, value.stride(), value is last)
            last = value
        elif isinstance(value, torch.ScriptObject):
            items.append(_Same(value))  # the packed weight of a quantised layer
        else:
            items.append(cls)  # a complex number, a generator
    return tuple(items)


class _Same:
    """An object that has no equality of its own, as a key; it lives as long as the key does."""

    __slots__ = ("thing",)

    def __init__(self, thing: object) -> None:
        self.thing = thing

    def __hash__(self) -> int:
        return id(self.thing)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.thing is self.thing
