"""The signature of a call: all that a formula may look at, as a key that calls of one cost share.

This runs for every op that is not a view. It takes shapes, dtypes and strides (an expanded
dimension is read once), and which operands are the same tensor (read once, too).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flopcount.formulas import Plan

__all__ = ["sign"]

ATOMS = frozenset(
    {bool, int, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format}
)
"""Types of arguments that stand for themselves."""

NUMBERS = frozenset({bool, int, float, complex})
WHOLE = frozenset({bool, int})
DENSE = frozenset({Tensor, nn.Parameter})

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
        # most ops begin with one to three tensors, and many have nothing else: unrolled. What is
        # contiguous has no expanded dimension, whatever its strides.
        if operands == 2:
            a, b = args[:2]
            if b.__class__ in NUMBERS:  # x * 2 is aten.mul.Tensor, too
                key = (
                    where, plan, a.shape, a.dtype, a.is_contiguous() or a.stride(),
                    b.__class__, _part(b, []),
                )  # fmt: skip
            else:
                key = (
                    where, plan, a.shape, a.dtype, a.is_contiguous() or a.stride(),
                    b.shape, b.dtype, b.is_contiguous() or b.stride(), a is b,
                )  # fmt: skip
        elif operands == 1:
            a = args[0]
            key = (where, plan, a.shape, a.dtype, a.is_contiguous() or a.stride())
        elif operands == 3:
            a, b, c = args[:3]
            key = (
                where, plan, a.shape, a.dtype, a.is_contiguous() or a.stride(),
                b.shape, b.dtype, b.is_contiguous() or b.stride(), a is b,
                c.shape, c.dtype, c.is_contiguous() or c.stride(), c is a or c is b,
            )  # fmt: skip
        else:
            operands, key = 0, (where, plan)
    except AttributeError:  # another number that stands in for a tensor
        operands, key = 0, (where, plan)
    except (RuntimeError, NotImplementedError):  # sparse and nested tensors have no strides
        return (where, plan, object())
    if len(args) == operands and not kwargs and not plan.dynamic:
        return key
    try:
        seen: list[int] = []  # the ids of tensors that are no leading ones
        for value in args[operands:]:
            if value.__class__ in ATOMS:
                key += (value,)
            elif value.__class__ in DENSE:
                key += (value.shape, value.dtype, value.is_contiguous() or value.stride())
                seen.append(id(value))
            elif value.__class__ is list and value and value[0].__class__ in WHOLE:
                key += (tuple(value),)  # a stride, a mask of results
            else:
                key += (_part(value, seen),)
        if kwargs:
            for name, value in kwargs.items():
                if value.__class__ is float and value not in EXACT_FLOATS:
                    key += (name, float)  # a learning rate, say
                else:
                    key += (name, value if value.__class__ in ATOMS else _part(value, seen))
        if seen:
            seen += map(id, args[:operands])
            if len(set(seen)) < len(seen):
                key += (*map(seen.index, seen),)
        return (*key, _part(out, [])) if plan.dynamic else key
    except (RuntimeError, NotImplementedError):  # a tensor without strides, behind the leading ones
        return (where, plan, object())


def _part(value: Any, seen: list[int]) -> Any:
    """What a formula may see of one argument; the ids of its tensors are added to ``seen``."""
    cls = value.__class__
    if cls is float:  # 2.0 equals 2, and makes another dtype
        return (float, value) if value in EXACT_FLOATS else float
    if cls is list or cls is tuple:
        if value and value[0].__class__ in WHOLE:
            return tuple(value)
        return tuple([_part(item, seen) for item in value])
    if cls in ATOMS:
        return value
    if isinstance(value, Tensor):
        seen.append(id(value))
        return (value.shape, value.dtype, value.is_contiguous() or value.stride())
    if cls is complex:
        return (complex, value) if not value.imag and value.real in EXACT_FLOATS else complex
    if isinstance(value, torch.ScriptObject):
        return _Same(value)  # the packed weight of a quantised layer
    return cls  # a generator, say


class _Same:
    """An object that has no equality of its own, as a key; it lives as long as the key does."""

    __slots__ = ("thing",)

    def __init__(self, thing: object) -> None:
        self.thing = thing

    def __hash__(self) -> int:
        return id(self.thing)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.thing is self.thing
