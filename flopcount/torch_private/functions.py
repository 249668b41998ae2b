"""Custom autograd functions: who calls one, and which node runs one backward.

torch has no hook on either. But ``Function.apply`` and the engine look up by name what they call
next, so something can stand in its place while a hook is open. It is not on the stack while the
program's own code runs, so tracebacks and warnings name the same lines as without. From torch 2.14
on, ``Function.apply`` is no Python function and looks nothing up. There a frame stands for it, as
torch's own did before.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable
from functools import partial
from itertools import starmap
from types import FunctionType
from typing import Any, ClassVar

import torch
from torch._functorch import utils as functorch_utils
from torch.autograd import function as autograd_function
from torch.utils.checkpoint import CheckpointFunction

from flopcount.torch_private.autograd import running_node

Function: Any = autograd_function.Function
SingleLevel: Any = autograd_function._SingleLevelFunction
Node: Any = autograd_function.BackwardCFunction
"""The class of the nodes that custom functions make; each function has a subclass of its own."""

RUN = torch._C._FunctionBase.__dict__["apply"]
"""Runs a function forward, in C."""

LOOKS_UP = isinstance(vars(Function)["apply"], classmethod)
"""Whether ``Function.apply`` is a Python function, which looks up ``RUN`` by name."""

RUN_NODE = Node.apply
"""Runs a node: a Python function, which looks up the program's own by name."""

ASKS_NODE = hasattr(Node, "_get_user_fn")
"""Whether ``RUN_NODE`` asks the node for the program's function (from torch 2.12 or 2.13 on)."""

Finish = Callable[[Any], None]
"""Takes what a function returned: results, or the gradients that a node passes on."""

Begin = Callable[[Any, tuple[Any, ...], Any, "weakref.ref[Any]"], "Finish | None"]
"""Takes a function's class, its arguments, and None; or a node's class, its gradients, and it.

The reference is dead once the function has returned or raised. If it raises, nobody calls Finish.
"""


def function_of(nodes: Any) -> Any:
    """The Function that makes nodes of this class."""
    return nodes._forward_cls


def node_class(function: Any) -> Any:
    """The class of the nodes that a Function makes."""
    return function._backward_cls


def is_function(value: Any) -> bool:
    """Whether ``value`` is the class of a custom function, or of its nodes."""
    return isinstance(value, type) and issubclass(value, (Function, Node))


def function_name(function: Any) -> str:
    """A name for the class of a custom function, or of its nodes, that no other class has."""
    nodes = function if issubclass(function, Node) else function._backward_cls
    return f"autograd::{function.__name__}#{nodes._autograd_function_id}"


def runs_program(function: Any) -> bool:
    """Whether the function only runs code that it is given, as ops.

    So do a reentrant checkpoint, and the functions of control-flow ops.
    """
    made_by = function_of(function) if issubclass(function, Node) else function
    is_of_op = made_by.__module__.startswith("torch._higher_order_ops.")
    return is_of_op or issubclass(made_by, CheckpointFunction)


def saved_by(node: Any) -> tuple[list[Any], bool]:
    """What a node keeps for its run, and whether that is all.

    It is not all if a program's hooks keep something else in place of tensors. What an earlier run
    has freed is kept no more; a backward that does not ask for it can run again.
    """
    try:
        saved = node._raw_saved_tensors or ()
    except RuntimeError:
        saved = ()
    kept = [tensor.data for tensor in saved if tensor.unpack_hook is None]
    return [*kept, *vars(node).values()], len(kept) == len(saved)


class FunctionHook:
    """Calls ``begin`` before each custom function, forward and backward, until removed."""

    _open: ClassVar[list[FunctionHook]] = []
    _lock = threading.RLock()

    def __init__(self, begin: Begin) -> None:
        self.begin = begin
        with self._lock:
            FunctionHook._open = [*self._open, self]
            if len(self._open) == 1:
                self._install()

    def remove(self) -> None:
        """Stop calling; once all are removed, torch has its own functions back."""
        with self._lock:
            FunctionHook._open = [hook for hook in self._open if hook is not self]
            if not self._open:
                self._uninstall()

    @classmethod
    def renew_lock(cls) -> None:
        """Forget who holds the lock, in a forked process where that thread is not."""
        cls._lock = threading.RLock()

    @classmethod
    def _install(cls) -> None:
        if ASKS_NODE:
            Node._get_user_fn = _function_of_node
        else:
            Node.apply = _Backward()
        if LOOKS_UP:
            functorch_utils.unwrap_dead_wrappers = _unwrap_and_keep
            SingleLevel.apply = _Forward()
        else:
            Function.apply = classmethod(_apply)

    @classmethod
    def _uninstall(cls) -> None:
        if LOOKS_UP:
            del SingleLevel.apply
            functorch_utils.unwrap_dead_wrappers = _unwrap
        else:
            Function.apply = RUN
        if ASKS_NODE:
            Node._get_user_fn = _get_user_fn
        else:
            Node.apply = RUN_NODE


class _Life:
    """Lives as long as a function runs."""


def _begun(life: _Life, function: Any, args: tuple[Any, ...], node: Any) -> list[Finish]:
    alive = weakref.ref(life)
    finishes = (hook.begin(function, args, node, alive) for hook in FunctionHook._open)
    return [finish for finish in finishes if finish is not None]


_unwrap = functorch_utils.unwrap_dead_wrappers
_kept = threading.local()


def _unwrap_and_keep(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Stands for ``unwrap_dead_wrappers``, and keeps the arguments for the next look-up."""
    args, caller = _unwrap(args), sys._getframe(1)
    if caller.f_code is not Function.apply.__func__.__code__ or caller.f_locals["kwargs"]:
        return args
    _kept.args = args
    return ()


class _Forward:
    """Stands for ``RUN``, which ``Function.apply`` calls after it kept the arguments."""

    def __get__(self, _: None, function: Any) -> Any:
        run = RUN.__get__(None, function)
        args = vars(_kept).pop("args", None)
        return run if args is None else _watched(run, function, args)


def _apply(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Stands for ``Function.apply`` where that looks nothing up."""
    run = RUN.__get__(None, function)
    return run(*args, **kwargs) if kwargs else _watched(run, function, args)()


def _watched(run: Any, function: Any, args: tuple[Any, ...]) -> Any:
    """A call of ``run(*args)`` that has no frame of ours."""
    life = _Life()
    finishes = _begun(life, function, args, None)

    def finish(results: Any, life: _Life = life) -> Any:
        for finish in finishes:
            finish(results)
        return results

    return map(finish, starmap(run, [args])).__next__


_get_user_fn: Any = getattr(Node, "_get_user_fn", None)


def _function_of_node(node: Any) -> Any:
    """Stands for ``_get_user_fn``: the program's function, which keeps a life."""
    function, life = partial(_get_user_fn(node)), _Life()
    function.life = life  # type: ignore[attr-defined]
    _begin_node(life, node, sys._getframe(1).f_locals["args"])
    return function


class _Backward:
    """Stands for ``RUN_NODE`` where that asks ``Function`` for the program's function."""

    def __get__(self, node: Any, node_class: Any) -> Any:
        if node is None:
            return RUN_NODE
        names = {**RUN_NODE.__globals__, "Function": _Asked(node)}
        return FunctionType(RUN_NODE.__code__, names).__get__(node)


class _Asked(_Life):
    """Stands for ``Function`` in what runs a node, and lives as long."""

    vjp = staticmethod(Function.vjp)

    def __init__(self, node: Any) -> None:
        self._node = node

    @property
    def backward(self) -> Any:
        """torch's own; the node has its gradients when torch looks it up."""
        _begin_node(self, self._node, sys._getframe(1).f_locals["args"])
        return Function.backward


def _begin_node(life: _Life, node: Any, gradients: tuple[Any, ...]) -> None:
    if running_node() is not node:  # the program calls it by itself
        return
    if len(gradients) == 1 and isinstance(gradients[0], list):  # a function may empty that list
        gradients = tuple(gradients[0])
    if finishes := _begun(life, type(node), gradients, node):

        def finish(results: Any, _: Any) -> None:
            handle.remove()
            for finish in finishes:
                finish(results)

        handle = node.register_hook(finish)
