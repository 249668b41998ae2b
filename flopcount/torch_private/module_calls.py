"""Hooks on the calls of all modules, which compiled code does not depend on."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any

from torch import nn

from flopcount.torch_private.compiler import leave_to_interpreter, unseen_by_compiler

HOOK = -1
"""The number of our hook. torch counts from 0."""


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
        names: dict[str, Any] = vars(nn.modules.module)
        self._original: Any = nn.Module._call_impl
        self._own: dict[str, dict[int, Any]] = {
            "_global_forward_pre_hooks": {},
            "_global_forward_hooks": {},
            "_global_forward_hooks_always_called": {},
        }
        hooks = {name: ChainMap(own, names[name]) for name, own in self._own.items()}
        self._hooked: Any = FunctionType(self._original.__code__, names | hooks, "_call_impl")

    def hook(self) -> None:
        """Call them from here on."""
        for hooks, hook in zip(self._own.values(), (self._enter, self._leave, True), strict=True):
            hooks[HOOK] = hook
        nn.Module._call_impl = self._hooked  # type: ignore[method-assign]
        self._hook_compiled()

    def unhook(self) -> None:
        """Call them no longer."""
        for hooks in self._own.values():  # a module that was compiled meanwhile has our function
            hooks.clear()
        nn.Module._call_impl = self._original  # type: ignore[method-assign]
        for module, call, ours in self._compiled:
            if module._compiled_call_impl is ours:
                module._compiled_call_impl = call

    def unhook_for_compilation(self, is_first: bool) -> None:
        """Call them no longer, while the compiler reads code for the first time, or again.

        What it reads again may be a call of a compiled module, and depend on the function there.
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
