"""Numbers that count what is done to them: the truth for formulas of ops that loops can do."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from flopcount import Cost


class Number:
    """A float whose every operation is counted in a shared tally: arith, compare, special."""

    def __init__(self, value: float, tally: Counter[str]) -> None:
        self.value, self.tally = value, tally

    def _made(self, kind: str, value: float) -> Number:
        self.tally[kind] += 1
        return Number(value, self.tally)

    def __add__(self, other: Any) -> Number:
        return self._made("arith", self.value + float(other))

    def __sub__(self, other: Any) -> Number:
        return self._made("arith", self.value - float(other))

    def __mul__(self, other: Any) -> Number:
        return self._made("arith", self.value * float(other))

    def __truediv__(self, other: Any) -> Number:
        return self._made("arith", self.value / float(other))

    def __neg__(self) -> Number:
        return self._made("compare", -self.value)

    def __abs__(self) -> Number:
        return self._made("compare", abs(self.value))

    def __float__(self) -> float:
        return self.value

    def larger(self, other: Any) -> Number:
        return self._made("compare", max(self.value, float(other)))

    def smaller(self, other: Any) -> Number:
        return self._made("compare", min(self.value, float(other)))

    def select(self, condition: bool, other: Any) -> Number:
        """Itself or the other, on a comparison of this select's own."""
        return self._made("compare", self.value if condition else float(other))

    def sqrt(self) -> Number:
        return self._made("arith", math.sqrt(self.value))

    def exp(self) -> Number:
        return self._made("special", math.exp(self.value))

    def log(self) -> Number:
        return self._made("special", math.log(self.value))

    def log1p(self) -> Number:
        return self._made("special", math.log1p(self.value))


def total(numbers: Iterable[Number]) -> Number:
    """Their sum: one addition less than numbers."""
    first, *rest = numbers
    for number in rest:
        first = first + number
    return first


def dot(a: Iterable[Number], b: Iterable[Number]) -> Number:
    """K multiplications and K - 1 additions."""
    return total(x * y for x, y in zip(a, b, strict=True))


def numbers(tensor: Tensor, tally: Counter[str]) -> Any:
    """The tensor as nested lists of counting numbers."""
    if tensor.dim() == 0:
        return Number(tensor.item(), tally)
    return [numbers(part, tally) for part in tensor]


def values(nested: Any) -> Tensor:
    """Nested lists of numbers as a tensor again."""

    def plain(item: Any) -> Any:
        return [plain(part) for part in item] if isinstance(item, list) else float(item)

    return torch.tensor(plain(nested), dtype=torch.float64)


def counted(tally: Counter[str]) -> tuple[int, int, int]:
    """Arithmetic, comparisons and transcendental functions of a naive computation."""
    return tally["arith"], tally["compare"], tally["special"]


def exactly(cost: Cost) -> tuple[int, int, int]:
    """The same of a Cost, its dot products of length K opened into 2·K - 1 operations."""
    return 2 * cost.macs - cost.dots + cost.arith, cost.compare, cost.special
