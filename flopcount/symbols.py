"""The symbolic sizes of traced programs, and the numbers that take their place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from flopcount._private import UNBACKED, dimension_names, expression, remainders, traced_range
from flopcount.errors import did_you_mean

__all__ = ["Sizes", "Unsized"]

SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)


class Unsized(Exception):
    """A number depends on values of tensors, and none was given for it."""


class Sizes:
    """Numbers for the symbols of some graphs.

    Args:
        graphs: those that were traced.
        given: numbers by the names of symbols, or by those that ``torch.export.Dim`` gave them.

    Raises:
        TypeError: ``given`` is no mapping to whole numbers.
        ValueError: a symbol has no number, or one that the graph was not traced for; or a name
            is of no symbol.
    """

    def __init__(
        self,
        graphs: Iterable[fx.GraphModule],
        given: Mapping[str, int] | None = None,
    ) -> None:
        self._origins: dict[str, str] = {}
        self._ranges: dict[str, Any] = {}
        self._aliases: dict[str, str] = {}
        self._remainders: set[Any] = set()
        for module in graphs:
            self._learn(module)
        self._aliases = {name: s for name, s in self._aliases.items() if s in self._origins}
        self._values = self._read({} if given is None else given)
        self._numbers: dict[Any, Any] = {}
        names = {symbol: name for name, symbol in self._aliases.items()}
        missing = {
            names.get(symbol, symbol): origin
            for symbol, origin in self._origins.items()
            if symbol not in self._values and not symbol.startswith(UNBACKED)
        }
        if missing:
            example = ", ".join(f"{name!r}: …" for name in missing)
            listed = "; ".join(f"{name} is {origin}" for name, origin in missing.items())
            raise ValueError(f"give each symbol a size, sizes={{{example}}}: {listed}")
        for remainder in self._remainders:
            if self._substitute(remainder) not in (None, 0):
                raise ValueError(
                    f"the graph was traced for {remainder} = 0, which it is not for sizes={given}"
                )

    def number(self, number: Any) -> Any:
        """A symbolic number's value; any other number is its own.

        Raises:
            Unsized: it depends on values of tensors.
        """
        if not isinstance(number, SYMBOLIC):
            return number
        formula = expression(number)
        key = type(number), formula
        if key not in self._numbers:
            self._numbers[key] = self._evaluate(number, formula)
        return self._numbers[key]

    def _evaluate(self, number: Any, formula: Any) -> Any:
        value = self._substitute(formula)
        if value is None:
            name = next(s.name for s in formula.free_symbols if s.name not in self._values)
            raise Unsized(
                f"{name}, {self._origins[name]}, depends on values; sizes={{{name!r}: …}} tells it"
            )
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
        # a dimension of an input tells most
        nodes = sorted((n for g in graphs for n in g.nodes), key=lambda n: n.op != "placeholder")
        found = [item for node in nodes for item in _symbolic(node.meta.get("val"), node)]
        for place, number in sorted(found, key=lambda item: not item[0].startswith("dimension")):
            formula = expression(number)
            for symbol in formula.free_symbols:
                if symbol.name not in self._origins:
                    self._aliases.update(dimension_names(number))
                    self._ranges[symbol.name] = traced_range(number, symbol)
                    self._remainders.update(remainders(number))
                    is_whole = symbol == formula
                    origin = place if is_whole else f"in {place}, which is {formula}"
                    self._origins[symbol.name] = origin

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
            if type(value) is not int or value < 0:
                raise TypeError(f"expected a whole number as the size {name!r}, got {value!r}")
            values[symbol] = value
            traced = self._ranges[symbol]
            if traced is not None and value not in traced:
                raise ValueError(
                    f"{name} = {value} is not in the range from {traced.lower} to {traced.upper} "
                    f"that the graph was traced for"
                )
        return values


def _symbolic(value: Any, node: fx.Node, place: str = "") -> Iterator[tuple[str, Any]]:
    """The symbolic numbers in what a node gives, and where each is."""
    at = f"{place}{'input' if node.op == 'placeholder' else 'result'} {node.name}"
    if isinstance(value, SYMBOLIC):
        yield at, value
    elif isinstance(value, Tensor) and value.layout == torch.strided and not value.is_nested:
        for kind, numbers in (("dimension", value.shape), ("stride", value.stride())):
            for index, number in enumerate(numbers):
                if isinstance(number, SYMBOLIC):
                    yield f"{kind} {index} of {at}", number
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _symbolic(item, node)
