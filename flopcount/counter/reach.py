"""What a program can reach from its arguments: tensors, modules, and whatever holds them."""

from __future__ import annotations

import functools
import sys
import types
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from flopcount.torch_private.tensors import PLAIN

CLOSED = (type, types.ModuleType, types.BuiltinFunctionType)
"""Classes, modules of Python and functions in C are not the program's own state."""

FOREIGN = sys.stdlib_module_names - {"builtins", "collections", "types"}
"""Python's own objects (locks, threads, loggers, files) are no part of a model."""


def reachable(*roots: Any) -> Iterator[Any]:
    """Every object that can be reached from ``roots`` by attributes, items and closures, once.

    No code of the program runs: attributes are read where they are stored. The globals that a
    function names are followed, too; those of a class's methods are not.
    """
    seen: dict[int, Any] = {}  # the objects themselves, to keep their ids taken
    waiting = list(roots)
    while waiting:
        value = waiting.pop()
        if type(value) in PLAIN or id(value) in seen or isinstance(value, CLOSED):
            continue
        seen[id(value)] = value
        yield value
        waiting.extend(_parts(value))


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, types.FunctionType):
        named = (value.__globals__.get(name) for name in _names(value.__code__))
        return *(value.__closure__ or ()), value.__defaults__, value.__kwdefaults__, *named
    if isinstance(value, types.MethodType):
        return value.__self__, value.__func__
    if isinstance(value, types.CellType):
        return [] if (held := content(value)) is EMPTY else [held]
    if isinstance(value, functools.partial):
        return value.func, value.args, value.keywords
    own = attributes(value)
    if isinstance(value, dict):
        return [*own, *value.values()]
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return [*own, *value]
    return own


def attributes(value: Any) -> list[Any]:
    """The dictionary of an object's attributes, and what its slots hold."""
    cls = type(value)
    if cls.__module__.partition(".")[0] in FOREIGN:
        return []
    try:
        own = object.__getattribute__(value, "__dict__")
    except AttributeError:
        own = None
    found = [own] if type(own) is dict else []
    return found + [held for _, held in slots(value)]


def slots(value: Any) -> Iterator[tuple[Any, Any]]:
    """The slots of an object that hold something: their descriptors, and what they hold."""
    for cls in type(value).__mro__:
        if "__slots__" in vars(cls):
            for slot in vars(cls).values():
                if isinstance(slot, types.MemberDescriptorType):
                    try:
                        yield slot, slot.__get__(value)
                    except AttributeError:
                        continue


EMPTY = object()
"""What a cell has whose variable was not assigned yet."""


def content(cell: types.CellType) -> Any:
    """What a variable of a closure holds, or EMPTY."""
    try:
        return cell.cell_contents
    except ValueError:
        return EMPTY


@functools.cache
def _names(code: types.CodeType) -> frozenset[str]:
    """The globals and attributes that a function and those inside it name."""
    inner = (_names(const) for const in code.co_consts if isinstance(const, types.CodeType))
    return frozenset(code.co_names).union(*inner)
