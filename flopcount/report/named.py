"""Dictionaries by name: the error for a name that is not there says which names are near."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, TypeVar

from flopcount.errors import UnknownModuleError, UnknownNameError, did_you_mean

V = TypeVar("V")

FEW = 6
"""The most names that an error lists where none is near."""


class Named(dict[str, V]):
    """A dictionary by name, whose look-ups fail in words.

    >>> Named({"float32": 1}, kind="dtype")["float23"]
    Traceback (most recent call last):
    flopcount.errors.UnknownNameError: no dtype 'float23'; did you mean 'float32'?
    """

    def __init__(
        self, items: Mapping[str, V] | Iterable[tuple[str, V]] = (), *, kind: str = "name"
    ) -> None:
        super().__init__(items)
        self.kind = kind

    def __missing__(self, name: Any) -> NoReturn:
        hint = did_you_mean(str(name), self)
        if not hint and 0 < len(self) <= FEW:
            hint = f"; there is {', '.join(map(repr, self))}"
        raise UnknownNameError(f"no {self.kind} {name!r}{hint}")


class Modules(Named[V]):
    """A dictionary by the paths of modules."""

    def __missing__(self, name: Any) -> NoReturn:
        raise UnknownModuleError(f"no module {name!r} ran{did_you_mean(str(name), self)}")
