"""Numbers that count what is done with them: a formula's truth is the textbook's loop, run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flopcount import Cost


@dataclass
class Tally:
    """How many operations were carried out, each kind of arithmetic apart."""

    mul: int = 0
    add: int = 0
    div: int = 0
    root: int = 0
    compare: int = 0
    special: int = 0

    @property
    def arith(self) -> int:
        return self.mul + self.add + self.div + self.root

    @property
    def cost(self) -> Cost:
        return Cost(arith=self.arith, compare=self.compare, special=self.special)


_tally = Tally()


@contextmanager
def counting(into: Tally | None = None) -> Iterator[Tally]:
    """Count in this block: from zero, or on top of a tally's numbers. An outer block waits."""
    global _tally
    outer, _tally = _tally, Tally() if into is None else into
    try:
        yield _tally
    finally:
        _tally = outer


class Number:
    """A float that counts. NumPy's object arrays of it work: sums, maxima, exp, sqrt."""

    def __init__(self, value: float) -> None:
        self.value = float(value)

    def __float__(self) -> float:
        return self.value

    def _added(self, value: float) -> Number:
        _tally.add += 1
        return Number(value)

    def __add__(self, other: Any) -> Number:
        return self._added(self.value + float(other))

    def __sub__(self, other: Any) -> Number:
        return self._added(self.value - float(other))

    def __rsub__(self, other: Any) -> Number:
        return self._added(float(other) - self.value)

    def __mul__(self, other: Any) -> Number:
        _tally.mul += 1
        return Number(self.value * float(other))

    __radd__, __rmul__ = __add__, __mul__

    def _divided(self, value: float) -> Number:
        _tally.div += 1
        return Number(value)

    def __truediv__(self, other: Any) -> Number:
        return self._divided(self.value / float(other))

    def __rtruediv__(self, other: Any) -> Number:
        return self._divided(float(other) / self.value)

    def sqrt(self) -> Number:
        _tally.root += 1
        return Number(math.sqrt(self.value))

    def _compared(self, value: Any) -> Any:
        _tally.compare += 1
        return value

    def __lt__(self, other: Any) -> bool:
        return self._compared(self.value < float(other))

    def __gt__(self, other: Any) -> bool:
        return self._compared(self.value > float(other))

    def __ge__(self, other: Any) -> bool:
        return self._compared(self.value >= float(other))

    def __le__(self, other: Any) -> bool:
        return self._compared(self.value <= float(other))

    def __abs__(self) -> Number:
        return Number(self._compared(abs(self.value)))

    def __neg__(self) -> Number:
        return Number(self._compared(-self.value))

    def floor(self) -> Number:
        return Number(self._compared(math.floor(self.value)))

    def larger(self, other: Any) -> Number:
        return Number(self._compared(max(self.value, float(other))))

    def smaller(self, other: Any) -> Number:
        return Number(self._compared(min(self.value, float(other))))

    def select(self, condition: bool, other: Any) -> Number:
        """Itself or the other, on a comparison of this select's own."""
        return Number(self._compared(self.value if condition else float(other)))

    def _special(self, value: float) -> Number:
        _tally.special += 1
        return Number(value)

    def exp(self) -> Number:
        return self._special(math.exp(self.value))

    def log(self) -> Number:
        return self._special(math.log(self.value))

    def log1p(self) -> Number:
        return self._special(math.log1p(self.value))


def total(terms: Iterable[Number]) -> Number:
    """Their sum: one addition less than there are terms."""
    first, *rest = terms
    for term in rest:
        first = first + term
    return first


def dot(a: Iterable[Number], b: Iterable[Number]) -> Number:
    """K multiplications and K - 1 additions."""
    return total(x * y for x, y in zip(a, b, strict=True))


def numbers(tensor: Tensor) -> Any:
    """``tensor`` as an array of numbers that count."""
    array = tensor.detach().double().numpy()
    return np.vectorize(Number, otypes=[object])(array)


def floats(array: Any) -> Tensor:
    """The values of an array, or of nested lists, of numbers."""
    return torch.as_tensor(np.vectorize(float, otypes=[float])(array))


def opened(cost: Cost) -> Cost:
    """``cost`` as a loop counts it: a dot product of length K is 2·K - 1 operations."""
    arith = 2 * cost.macs - cost.dots + cost.arith
    return Cost(arith=arith, compare=cost.compare, special=cost.special)
