"""What a step is: whose method changes parameters, and which code a step is given to call."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable
from types import CodeType
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from flopcount.torch_private.tensors import tensors_in


def is_step_of(code: CodeType, value: Any) -> bool:
    """Whether ``value`` is an optimizer: its method ``step`` changes parameters.

    Schedules of learning rates, solvers, trainers and environments have such a method, too. Most
    need an argument there, which no optimizer does but for a closure.
    """
    methods = [vars(holder)["step"] for holder in type(value).__mro__ if "step" in vars(holder)]
    is_method = code.co_varnames[0] == "self" or code in codes_of(methods)
    if not is_method or isinstance(value, (Optimizer, nn.Module)):
        return is_method and isinstance(value, Optimizer)
    step = inspect.unwrap(methods[0]) if methods else None
    optional = len(getattr(step, "__defaults__", None) or ())
    needed = code.co_varnames[1 : code.co_argcount - optional]
    if needed not in ((), ("closure",)):
        return False
    slots: list[str] = []
    for cls in type(value).__mro__:
        names_of = vars(cls).get("__slots__", ())
        slots += [names_of] if isinstance(names_of, str) else names_of
    own = {**{name: getattr(value, name, None) for name in slots}, **getattr(value, "__dict__", {})}
    names = {*own, *(name for cls in type(value).__mro__ for name in vars(cls))}
    if "param_groups" in names or "zero_grad" in names or any(map(_holds_parameter, own.values())):
        return True
    # a wrapper has an optimizer, and a trainer a model as well
    has_optimizer = any(_holds(Optimizer, item) for item in own.values())
    return has_optimizer and not any(_holds(nn.Module, item) for item in own.values())


def _holds_parameter(value: Any) -> bool:
    return _holds(Tensor, value) and all(t.is_leaf and t.requires_grad for t in tensors_in(value))


def _holds(kind: type, value: Any, depth: int = 3) -> bool:
    """Whether ``value`` is of this kind, or has one in the first items of its containers."""
    if isinstance(value, dict):
        value = list(value.values())
    if depth and isinstance(value, (list, tuple)):
        return any(_holds(kind, item, depth - 1) for item in value[:2])
    return isinstance(value, kind)


def codes_of(values: Iterable[Any]) -> list[CodeType]:
    """The code of each function among ``values``, without what decorates it."""
    codes = []
    for value in values:
        function = value
        while callable(function) and not inspect.isfunction(function):
            function = _called_by(function)
        if function is not None and callable(function):
            codes.append(inspect.unwrap(function).__code__)
    return codes


def _called_by(value: Any) -> Any:
    """What a method, a partial, or another object that can be called calls; None for C's."""
    if isinstance(value, functools.partial):
        return value.func
    if inspect.ismethod(value):
        return value.__func__
    return None if isinstance(value, type) else inspect.getattr_static(value, "__call__", None)
