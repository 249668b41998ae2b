"""Hooks on methods of classes of torch's, of other libraries', and of Python's own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

Hook = Callable[[Any], None]
"""It is called with the object whose method is called."""


class Methods(NamedTuple):
    """Methods of a class that the program may import, or not."""

    module: str
    path: str
    names: tuple[str, ...]
    """Each version of the library may have some of them."""

    def owner(self) -> type | None:
        """The class, if the program has imported it."""
        found = sys.modules.get(self.module)
        for name in self.path.split("."):
            found = getattr(found, name, None)
        return found if isinstance(found, type) else None


class MethodHooks:
    """Hooks on methods of many classes. A class that is imported later is hooked then."""

    def __init__(self, hooks: Iterable[tuple[Methods, Hook]]) -> None:
        self._wanted = list(hooks)
        self._made: list[MethodHook] = []
        self._num_modules = 0

    def install(self) -> None:
        """Hook what is there."""
        self._make()
        for hook in self._made:
            hook.install()
        sys.meta_path.insert(0, self)

    def remove(self) -> None:
        """Give all methods their places back."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        for hook in self._made:
            hook.remove()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Find no module. Python asks at each import, and what came before it is hooked."""
        for hook in self._make():
            hook.install()

    def _make(self) -> list[MethodHook]:
        """Make the hooks of classes that were imported since this was asked last."""
        if len(sys.modules) == self._num_modules:
            return []
        self._num_modules = len(sys.modules)
        found = [(owner, *wanted) for wanted in self._wanted if (owner := wanted[0].owner())]
        self._wanted = [wanted for wanted in self._wanted if wanted[0].owner() is None]
        made = [
            MethodHook(owner, name, hook)
            for owner, methods, hook in found
            for name in methods.names
            if name in owner.__dict__
        ]
        self._made += made
        return made


class MethodHook:
    """Calls ``hook`` before each call of a method of ``cls``, while installed.

    No frame is added: the hook runs when Python looks up what to call, and the method itself is
    called by the caller. So tracebacks are as before, and a warning still names the same line.
    """

    def __init__(self, cls: type, name: str, hook: Hook) -> None:
        self.is_installed = False
        self.hook = hook
        self._cls, self._name = cls, name
        self._method: Any = None

    def install(self) -> None:
        """Take the place of the method in its class."""
        if not self.is_installed:
            self.is_installed = True
            self._method = self._cls.__dict__[self._name]
            setattr(self._cls, self._name, self)

    def remove(self) -> None:
        """Give the method its place back, unless the program has replaced it meanwhile."""
        self.is_installed = False
        if self._cls.__dict__.get(self._name) is self:
            setattr(self._cls, self._name, self._method)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        method = self._method.__get__(instance, owner)
        return method if instance is None else HookedMethod(method, self)


class HookedMethod:
    """A bound method whose calls are hooked; whoever looks at it sees the method."""

    __slots__ = ("hook", "method")

    def __init__(self, method: Any, hook: MethodHook) -> None:
        self.method = method
        self.hook = hook

    @property
    def __call__(self) -> Any:
        """The method; Python asks for it at each call."""
        method, hook = _parts(self)
        if hook.is_installed:
            hook.hook(method.__self__)
        return method

    def __getattribute__(self, name: str) -> Any:
        return getattr(_parts(self)[0], name)

    def __eq__(self, other: object) -> bool:
        other = _parts(other)[0] if type(other) is HookedMethod else other
        return bool(_parts(self)[0] == other)

    def __hash__(self) -> int:
        return hash(_parts(self)[0])

    def __repr__(self) -> str:
        return repr(_parts(self)[0])


def _parts(hooked: HookedMethod) -> tuple[Any, MethodHook]:
    get = object.__getattribute__
    return get(hooked, "method"), get(hooked, "hook")
