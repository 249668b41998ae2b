"""The symbolic sizes of traced programs, and the numbers that take their place."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

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

PYTHON_TYPES: dict[type, type] = {torch.SymInt: int, torch.SymFloat: float, torch.SymBool: bool}
"""The types of symbolic numbers, and of the numbers that take their place."""

SYMBOLIC = tuple(PYTHON_TYPES)


@dataclass(frozen=True)
class Unsized:
    """Stands in for a value that depends on symbols without a size."""

    symbols: frozenset[str]


class Symbol(NamedTuple):
    """A place where a symbol stands, such as ``dimension 0 of input x``, and its range if known."""

    place: str
    expression: Any
    range: tuple[int, int | None] | None


class Sizes:
    """A size for each symbol of some graphs, by its name or its ``torch.export.Dim``'s."""

    def __init__(
        self, graphs: Iterable[fx.GraphModule], sizes: Mapping[str, int] | None = None
    ) -> None:
        self._symbols: dict[str, Symbol] = {}
        self._aliases: dict[str, str] = {}
        self._remainders: set[Any] = set()
        self._concrete: dict[Any, Any] = {}
        for graph in graphs:
            self._find_symbols(graph)
        self._aliases = {dim: name for dim, name in self._aliases.items() if name in self._symbols}
        self._labels = {name: dim for dim, name in self._aliases.items()}
        self._sizes = self._by_symbol({} if sizes is None else sizes)
        for remainder in self._remainders:
            if self._substitute(remainder) not in (None, 0):
                raise ValueError(
                    f"the graph was traced for {remainder} = 0, which fails for sizes={sizes}"
                )

    def missing(self, value: Any) -> frozenset[str]:
        """The symbols in ``value`` that have no size."""
        expressions = [expression(number) for _, number in _symbolic_numbers(value)]
        symbols = {symbol.name for term in expressions for symbol in term.free_symbols}
        return frozenset(symbols - self._sizes.keys())

    def concrete(self, value: Any) -> Any:
        """``value`` as a plain number if it is a symbolic one."""
        if not isinstance(value, SYMBOLIC):
            return value
        key = type(value), expression(value)
        if key not in self._concrete:
            self._concrete[key] = PYTHON_TYPES[key[0]](self._substitute(key[1]))
        return self._concrete[key]

    def require(self, symbols: Iterable[str]) -> None:
        """Raise a ValueError if some of ``symbols`` need a size, and do not depend on values."""
        missing = {
            self._labels.get(name, name): self._origin(name)
            for name in self._symbols
            if name in symbols and not name.startswith(UNBACKED)
        }
        if missing:
            example = ", ".join(f"{label!r}: …" for label in missing)
            origins = "; ".join(f"{label} is {origin}" for label, origin in missing.items())
            raise ValueError(f"give each symbol a size, sizes={{{example}}}: {origins}")

    def reason(self, unsized: Unsized) -> str:
        """Why a cost is unknown that depends on values of tensors."""
        name = min(unsized.symbols)
        return f"{name}, {self._origin(name)}, depends on values; pass sizes={{{name!r}: …}}"

    def _substitute(self, term: Any) -> Any:
        """The value of an expression; None if one of its symbols has no size."""
        if any(symbol.name not in self._sizes for symbol in term.free_symbols):
            return None
        return term.subs({symbol: self._sizes[symbol.name] for symbol in term.free_symbols})

    def _find_symbols(self, module: fx.GraphModule) -> None:
        graphs = [inner.graph for inner in module.modules() if isinstance(inner, fx.GraphModule)]
        # a dimension of an input explains a symbol best, and a sum of symbols explains it least
        nodes = sorted((n for g in graphs for n in g.nodes), key=lambda n: n.op != "placeholder")
        labels = {n: f"{'input' if n.op == 'placeholder' else 'result'} {n.name}" for n in nodes}
        places = [
            (place, number, expression(number))
            for node, label in labels.items()
            for place, number in _symbolic_numbers(node.meta.get("val"), label)
        ]
        places.sort(key=lambda item: (not item[2].is_Symbol, not item[0].startswith("dimension")))
        for place, number, term in places:
            for symbol in term.free_symbols:
                if symbol.name not in self._symbols:
                    self._symbols[symbol.name] = Symbol(place, term, traced_range(number, symbol))
                    self._aliases.update(dimension_names(number))
                    self._remainders.update(remainders(number))

    def _origin(self, name: str) -> str:
        """Where a symbol comes from, in words."""
        place, term, _ = self._symbols[name]
        if term.is_Symbol:
            return place
        labels = {s: self._labels.get(s.name, s.name) for s in term.free_symbols}
        return f"in {place}, which is {term.subs(labels)}"

    def _by_symbol(self, sizes: Mapping[str, int]) -> dict[str, int]:
        if not isinstance(sizes, Mapping):
            raise TypeError(f"expected sizes={{symbol: number}}, got {sizes!r}")
        by_symbol = {}
        for label, size in sizes.items():
            name = self._aliases.get(label, label)
            if name not in self._symbols:
                labels = [*self._aliases, *self._symbols]
                hint = did_you_mean(str(label), labels) or (
                    f"; its symbols are {', '.join(labels)}" if labels else "; it has none"
                )
                raise ValueError(f"the graph has no symbol {label!r}{hint}")
            if type(size) is not int:
                raise TypeError(f"expected a whole number as the size {label!r}, got {size!r}")
            _require_traced(label, size, self._symbols[name].range)
            by_symbol[name] = size
        return by_symbol


def _require_traced(label: str, size: int, traced: tuple[int, int | None] | None) -> None:
    if size < 0:
        raise ValueError(f"{label} = {size} is negative; a size is 0 or more")
    least, greatest = traced or (0, None)
    if least <= size and (greatest is None or size <= greatest):
        return
    sizes = f"of {least} or more" if greatest is None else f"from {least} to {greatest}"
    message = f"{label} = {size}, but the graph holds for sizes {sizes}"
    if size < 2 == least:
        message += "; torch specializes on 0 and 1: "
        message += f"to count {size}, trace the program with a size of {size}"
    raise ValueError(message)


def _symbolic_numbers(value: Any, label: str = "") -> Iterator[tuple[str, Any]]:
    """The symbolic numbers in ``value``, and the place of each in what ``label`` names."""
    if isinstance(value, SYMBOLIC):
        yield label, value
    elif isinstance(value, Tensor) and value.layout == torch.strided and not value.is_nested:
        for kind, numbers in (("dimension", value.shape), ("stride", value.stride())):
            for index, number in enumerate(numbers):
                if isinstance(number, SYMBOLIC):
                    yield f"{kind} {index} of {label}", number
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _symbolic_numbers(item, label)
