"""The signature of a call: all that a formula may look at. Calls with one signature cost the same.

This runs for every op that is not a view. A signature has the shapes, dtypes and strides of the
tensors, since an expanded dimension is read once. It also says which operands are the same tensor,
which is read once too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flopcount.formulas import Plan

Key = tuple[Any, ...]
Sign = Callable[[Any, Plan, Sequence[Any], "Mapping[str, Any] | None", Any], "Key | None"]
"""``(place, plan, args, kwargs, out)`` to the tally's key ``(place, plan, *signature)``; None where
the call has no signature."""

ATOMS = frozenset({str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format})
"""Types of arguments that are part of the signature as they are."""

NUMBERS = frozenset({bool, int, float, complex})
DENSE = frozenset({Tensor, nn.Parameter})
SYMBOLIC = torch.SymInt, torch.SymFloat, torch.SymBool

NO_SIGNATURE = RuntimeError, NotImplementedError
"""Raised by sparse and nested tensors, which have no strides."""

UNUSUAL = AttributeError, IndexError, *NO_SIGNATURE
"""Raised where a leading operand is not a tensor, or has no strides."""


def signer(plan: Plan) -> Sign:
    """The quickest function that makes the keys of calls of ``plan``."""
    if plan.rule.values:
        return _sign_nothing
    # most ops take one to three tensors first, and many take nothing else
    unrolled = {1: _sign_one, 2: _sign_two, 3: _sign_three}
    return _sign if plan.dynamic else unrolled.get(plan.operands, _sign)


# Below, ``is_contiguous() or strides``: a contiguous tensor has no expanded dimension.


def _strides(tensor: Tensor) -> tuple[int, ...]:
    """The strides of a tensor. A COO tensor answers with zeros, but has none: that is an error."""
    strides = tensor.stride()
    if not any(strides) and tensor.layout is not torch.strided:
        raise NotImplementedError("how much a sparse tensor holds is not part of its shape")
    return strides


def _sign_one(place: Any, plan: Plan, args: Any, kwargs: Any, out: Any) -> Key | None:
    try:
        a = args[0]
        key = place, plan, a.shape, a.dtype, a.is_contiguous() or _strides(a)
    except UNUSUAL:
        return _sign(place, plan, args, kwargs, out)
    return _rest(key, 1, args, kwargs) if kwargs or len(args) > 1 else key


def _sign_two(place: Any, plan: Plan, args: Any, kwargs: Any, out: Any) -> Key | None:
    try:
        a = args[0]
        b = args[1]
        cls = type(b)
        if cls is Tensor or cls not in NUMBERS:  # the first is quicker to ask
            key: Key = (
                place, plan, a.shape, a.dtype, a.is_contiguous() or _strides(a),
                b.shape, b.dtype, b.is_contiguous() or _strides(b), a is b,
            )  # fmt: skip
        else:  # x * 2 is aten.mul.Tensor, too
            key = (
                place, plan, a.shape, a.dtype, a.is_contiguous() or _strides(a),
                _coefficient(b) if 1 in plan.coefficients else _number(b),
            )  # fmt: skip
    except UNUSUAL:
        return _sign(place, plan, args, kwargs, out)
    return _rest(key, 2, args, kwargs) if kwargs or len(args) > 2 else key


def _sign_three(place: Any, plan: Plan, args: Any, kwargs: Any, out: Any) -> Key | None:
    try:
        a = args[0]
        b = args[1]
        c = args[2]
        key = (
            place, plan, a.shape, a.dtype, a.is_contiguous() or _strides(a),
            b.shape, b.dtype, b.is_contiguous() or _strides(b), a is b,
            c.shape, c.dtype, c.is_contiguous() or _strides(c), c is a or c is b,
        )  # fmt: skip
    except UNUSUAL:
        return _sign(place, plan, args, kwargs, out)
    return _rest(key, 3, args, kwargs) if kwargs or len(args) > 3 else key


def _sign_nothing(place: Any, plan: Plan, args: Any, kwargs: Any, out: Any) -> None:
    """No key: two calls of one shape may differ in the values of a tensor."""


def _sign(place: Any, plan: Plan, args: Any, kwargs: Any, out: Any) -> Key | None:
    """The key of any call."""
    key = _rest((place, plan), 0, args, kwargs)
    if key is None or not plan.dynamic:
        return key
    return _rest(key, 0, (), {"out": out})


def _rest(key: Key, first: int, args: Sequence[Any], kwargs: Any) -> Key | None:
    """``key`` with the arguments from the ``first`` on; None if one of them has no signature."""
    whole, coefficients = key[1].whole, key[1].coefficients
    seen: list[int] = []  # the ids of their tensors
    try:
        for position in range(first, len(args)):
            value = args[position]
            cls = type(value)
            if cls in DENSE:
                key += value.shape, value.dtype, value.is_contiguous() or _strides(value)
                seen.append(id(value))
            elif cls in ATOMS:
                key += (value,)
            elif position in whole:
                key += (tuple(value) if cls is list else value,)
            else:
                key += (part(value, seen, position in coefficients),)
        if kwargs:
            for name, value in kwargs.items():
                if name in coefficients and type(value) is float:  # an optimizer's alpha=-lr
                    key += name, ZERO_OR_ONE.get(value, float)
                elif name in whole:
                    key += name, tuple(value) if type(value) is list else value
                else:
                    key += name, part(value, seen, name in coefficients)
    except NO_SIGNATURE:
        return None
    if seen:
        seen += map(id, args[:first])
        if len(set(seen)) < len(seen):
            key += (*map(seen.index, seen),)
    return key


def part(value: Any, seen: list[int], is_coefficient: bool) -> Any:
    """What a formula may see of one argument; the ids of its tensors are added to ``seen``."""
    cls = type(value)
    if cls in NUMBERS:
        return _coefficient(value) if is_coefficient else _number(value)
    if cls in DENSE or isinstance(value, Tensor):
        seen.append(id(value))
        return value.shape, value.dtype, value.is_contiguous() or _strides(value)
    if cls in ATOMS:
        return value
    if cls is list or cls is tuple:
        return tuple([part(item, seen, is_coefficient) for item in value])
    if cls is torch.Generator:
        return cls  # no cost depends on its state
    if isinstance(value, SYMBOLIC):
        return value  # it has no hash: the look-up fails, and the counter knows it by that
    raise NotImplementedError(f"{cls.__name__} has no equality that a cost could depend on")


def _number(value: Any) -> Any:
    """A number exactly, with its type: 1, 1.0 and True are equal, and so are 0.0 and -0.0."""
    cls = type(value)
    if cls is int:
        return value
    if cls is complex or (cls is float and (value == 0 or value != value)):
        return cls, repr(value)  # NaN does not equal itself, so its text stands for it
    return cls, value


ZERO_OR_ONE = {0.0: (float, 0.0), 1.0: (float, 1.0)}
"""The floats that a coefficient is told apart as; of any other, only the type is."""


def _coefficient(value: Any) -> Any:
    """A number that matters only as 0, 1, another real number, or a complex one."""
    cls = type(value)
    if cls is float:
        return ZERO_OR_ONE.get(value, float)
    if value == 0 or value == 1:
        return cls, value
    return (cls, "not real") if cls is complex and value.imag != 0 else cls
