"""The symbolic sizes of traced programs, and the numbers that take their place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from flopcount.errors import did_you_mean
from flopcount.torch_private.compiler import (
    UNBACKED,
    dimension_names,
    expression,
    remainders,
    traced_range,
)

__all__ = ["Sizes", "Unsized"]

SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)


class Unsized(Exception):
    """Symbols have no number.

    Attributes:
        symbols: their names.
    """

    def __init__(self, symbols: Iterable[str]) -> None:
        self.symbols = frozenset(symbols)
        super().__init__(*sorted(self.symbols))


class Sizes:
    """Numbers for the symbols of some graphs.

    Args:
        graphs: those that were traced.
        given: numbers by the names of symbols, or by those that ``torch.export.Dim`` gave them.

    Raises:
        TypeError: ``given`` is no mapping to whole numbers.
        ValueError: a number is not one that the graph was traced for, or a name of no symbol.
    """

    def __init__(
        self,
        graphs: Iterable[fx.GraphModule],
        given: Mapping[str, int] | None = None,
    ) -> None:
        self._origins: dict[str, tuple[str, Any]] = {}
        self._ranges: dict[str, tuple[int, int | None] | None] = {}
        self._aliases: dict[str, str] = {}
        self._remainders: set[Any] = set()
        for module in graphs:
            self._learn(module)
        self._aliases = {name: s for name, s in self._aliases.items() if s in self._origins}
        self._values = self._read({} if given is None else given)
        self._numbers: dict[Any, Any] = {}
        self._names = {symbol: name for name, symbol in self._aliases.items()}
        for remainder in self._remainders:
            if self._substitute(remainder) not in (None, 0):
                raise ValueError(
                    f"the graph was traced for {remainder} = 0, which it is not for sizes={given}"
                )

    def require(self, value: Any) -> None:
        """Check that each symbolic number in ``value`` has a value.

        Raises:
            Unsized: some symbols have none.
        """
        formulas = [expression(number) for _, number in _symbolic(value)]
        used = {symbol.name for formula in formulas for symbol in formula.free_symbols}
        if not used <= self._values.keys():
            raise Unsized(used - self._values.keys())

    def require_given(self, needed: Iterable[str]) -> None:
        """Check that each symbol that is ``needed``, and depends on no values, was given a number.

        Raises:
            ValueError: some were not.
        """
        missing = {
            self._names.get(symbol, symbol): self._origin(symbol)
            for symbol in self._origins
            if symbol in needed and not symbol.startswith(UNBACKED)
        }
        if missing:
            example = ", ".join(f"{name!r}: …" for name in missing)
            listed = "; ".join(f"{name} is {origin}" for name, origin in missing.items())
            raise ValueError(f"give each symbol a size, sizes={{{example}}}: {listed}")

    def reason(self, unknown: Unsized) -> str:
        """Why it is not known what depends on values of tensors."""
        name = min(unknown.symbols)
        return f"{name}, {self._origin(name)}, depends on values; sizes={{{name!r}: …}} tells it"

    def number(self, number: Any) -> Any:
        """A symbolic number's value; any other number is its own."""
        if not isinstance(number, SYMBOLIC):
            return number
        formula = expression(number)
        key = type(number), formula
        if key not in self._numbers:
            self._numbers[key] = self._evaluate(number, formula)
        return self._numbers[key]

    def _evaluate(self, number: Any, formula: Any) -> Any:
        value = self._substitute(formula)
        if isinstance(number, torch.SymBool):
            return bool(value)
        return float(value) if isinstance(number, torch.SymFloat) else int(value)

    def _substitute(self, formula: Any) -> Any:
        """The value of a formula, or None if it is of symbols that have none."""
        symbols = formula.free_symbols
        if any(symbol.name not in self._values for symbol in symbols):
            return None
        return formula.subs({symbol: self._values[symbol.name] for symbol in symbols})

    def _learn(self, module: fx.GraphModule) -> None:
        """Note where each symbol comes from, what it is called, and its range."""
        graphs = [m.graph for m in module.modules() if isinstance(m, fx.GraphModule)]
        # a dimension of an input tells most, and a sum of symbols least
        nodes = sorted((n for g in graphs for n in g.nodes), key=lambda n: n.op != "placeholder")
        symbolic = (
            item for node in nodes for item in _symbolic(node.meta.get("val"), _called(node))
        )
        found = [(place, number, expression(number)) for place, number in symbolic]
        found.sort(key=lambda item: (not item[2].is_Symbol, not item[0].startswith("dimension")))
        for place, number, formula in found:
            for symbol in formula.free_symbols:
                if symbol.name not in self._origins:
                    self._aliases.update(dimension_names(number))
                    self._ranges[symbol.name] = traced_range(number, symbol)
                    self._remainders.update(remainders(number))
                    self._origins[symbol.name] = place, formula

    def _origin(self, symbol: str) -> str:
        """Where a symbol comes from, in words."""
        place, formula = self._origins[symbol]
        if formula.is_Symbol:
            return place
        called = {s: self._names.get(s.name, s.name) for s in formula.free_symbols}
        return f"in {place}, which is {formula.subs(called)}"

    def _read(self, given: Mapping[str, int]) -> dict[str, int]:
        if not isinstance(given, Mapping):
            raise TypeError(f"expected sizes={{symbol: number}}, got {given!r}")
        values = {}
        for name, value in given.items():
            symbol = self._aliases.get(name, name)
            if symbol not in self._origins:
                known = [*self._aliases, *self._origins]
                hint = did_you_mean(str(name), known) or (
                    f"; its symbols are {', '.join(known)}" if known else "; it has none"
                )
                raise ValueError(f"the graph has no symbol {name!r}{hint}")
            if type(value) is not int:
                raise TypeError(f"expected a whole number as the size {name!r}, got {value!r}")
            if value < 0:
                raise ValueError(f"{name} = {value} is negative, which no size is")
            values[symbol] = value
            if (traced := self._ranges[symbol]) is not None:
                _require_within(*traced, name, value)
        return values


def _require_within(least: int, greatest: int | None, name: str, value: int) -> None:
    if least <= value and (greatest is None or value <= greatest):
        return
    sizes = f"of {least} and more" if greatest is None else f"from {least} to {greatest}"
    apart = (
        f"; torch traces 0 and 1 apart: to count {value}, trace the program with a size of {value}"
        if value < 2 == least
        else ""
    )
    raise ValueError(f"{name} = {value}, but the graph holds for sizes {sizes}{apart}")


def _called(node: fx.Node) -> str:
    return f"{'input' if node.op == 'placeholder' else 'result'} {node.name}"


def _symbolic(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """The symbolic numbers in ``value``, and where each is in what is called ``at``."""
    if isinstance(value, SYMBOLIC):
        yield at, value
    elif isinstance(value, Tensor) and value.layout == torch.strided and not value.is_nested:
        for kind, numbers in (("dimension", value.shape), ("stride", value.stride())):
            for index, number in enumerate(numbers):
                if isinstance(number, SYMBOLIC):
                    yield f"{kind} {index} of {at}", number
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _symbolic(item, at)
