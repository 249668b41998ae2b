"""Hooks on the calls of all modules, which compiled code does not depend on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import FunctionType
from typing import Any

from torch import nn

from flopcount.torch_private.compiler import leave_to_interpreter, unseen_by_compiler

HOOK = -1
"""The number of our hook. torch counts from 0."""

MODULE: Any = nn.Module
"""The class, whose annotations do not let its methods be replaced."""


class Hooks:
    """The hooks on all modules that torch knows, and ours. Each call of a module looks at them."""

    def __init__(self, known: Mapping[int, Any]) -> None:
        self.known = known
        self.ours: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return bool(self.ours or self.known)

    def __contains__(self, number: int) -> bool:
        return number in self.ours or number in self.known

    def items(self) -> list[tuple[int, Any]]:
        """Each with its number, as a dict has them."""
        return [*self.known.items(), *self.ours.items()]


class ModuleCalls:
    """Calls ``enter(module, args)`` and ``leave(module, args, output)`` around calls of modules.

    The second is called also if the call raises. Code that torch compiled depends on which hooks
    all modules have, and on the code of ``Module._call_impl``. So those stay as they are, and
    another function takes its place: it has the same code, and looks up hooks elsewhere.

    Args:
        modules: those of them that ``Module.compile()`` may have compiled. They do not come by
            ``_call_impl``.
    """

    def __init__(
        self,
        enter: Callable[..., None],
        leave: Callable[..., None],
        modules: Iterable[nn.Module] = (),
    ) -> None:
        self._enter, self._leave = unseen_by_compiler(enter), unseen_by_compiler(leave)
        self._compiled = [
            (module, call, self._around(module, call))
            for module in modules
            if (call := module._compiled_call_impl) is not None
        ]
        call_impl = self._call_impl = MODULE._call_impl
        names = call_impl.__globals__
        self._ours = {
            "_global_forward_pre_hooks": self._enter,
            "_global_forward_hooks": self._leave,
            "_global_forward_hooks_always_called": True,
        }
        self._hooks = {name: Hooks(names[name]) for name in self._ours}
        self._hooked = FunctionType(call_impl.__code__, names | self._hooks, call_impl.__name__)

    def hook(self) -> None:
        """Call them from here on."""
        for name, hook in self._ours.items():
            self._hooks[name].ours[HOOK] = hook
        if MODULE._call_impl is self._call_impl:  # the program has not replaced it
            MODULE._call_impl = self._hooked
        self._hook_compiled()

    def unhook(self) -> None:
        """Call them no longer."""
        for hooks in self._hooks.values():  # a module that was compiled meanwhile looks at them
            hooks.ours.clear()
        if MODULE._call_impl is self._hooked:
            MODULE._call_impl = self._call_impl
        for module, call, ours in self._compiled:
            if module._compiled_call_impl is ours:
                module._compiled_call_impl = call

    def unhook_for_compilation(self, is_first: bool) -> None:
        """Call them no longer, while the compiler reads code for the first time, or again.

        What it reads again may be a call of a compiled module, and depend on the function there. So
        that one stays: such code is compiled once more, not at each call.
        """
        self.unhook()
        if not is_first:
            self._hook_compiled()

    def _hook_compiled(self) -> None:
        for module, call, ours in self._compiled:
            if module._compiled_call_impl is call:  # the program has not compiled it again
                module._compiled_call_impl = ours

    def _around(self, module: nn.Module, compiled: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._enter(module, args)
            try:
                return compiled(*args, **kwargs)
            finally:
                self._leave(module, args, None)

        leave_to_interpreter(call)
        return call
