"""Numbers that count what is done with them: a formula's truth is the textbook's loop, run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor

from flopcount import Cost


class Tally:
    """How many operations were done so far."""

    arith = compare = special = 0

    @property
    def cost(self) -> Cost:
        return Cost(arith=self.arith, compare=self.compare, special=self.special)


_tally = Tally()


@contextmanager
def counting() -> Iterator[Tally]:
    """Count from zero in this block."""
    global _tally
    _tally = Tally()
    yield _tally


class Number:
    """A float that counts. NumPy's object arrays of it work: sums, maxima, exp, sqrt."""

    def __init__(self, value: float) -> None:
        self.value = float(value)

    def __float__(self) -> float:
        return self.value

    def _arith(self, value: float) -> Number:
        _tally.arith += 1
        return Number(value)

    def __add__(self, other: Any) -> Number:
        return self._arith(self.value + float(other))

    def __sub__(self, other: Any) -> Number:
        return self._arith(self.value - float(other))

    def __rsub__(self, other: Any) -> Number:
        return self._arith(float(other) - self.value)

    def __mul__(self, other: Any) -> Number:
        return self._arith(self.value * float(other))

    def __truediv__(self, other: Any) -> Number:
        return self._arith(self.value / float(other))

    def __rtruediv__(self, other: Any) -> Number:
        return self._arith(float(other) / self.value)

    __radd__, __rmul__ = __add__, __mul__

    def sqrt(self) -> Number:
        return self._arith(math.sqrt(self.value))

    def _compare(self, value: Any) -> Any:
        _tally.compare += 1
        return value

    def __lt__(self, other: Any) -> bool:
        return self._compare(self.value < float(other))

    def __gt__(self, other: Any) -> bool:
        return self._compare(self.value > float(other))

    def __ge__(self, other: Any) -> bool:
        return self._compare(self.value >= float(other))

    def __le__(self, other: Any) -> bool:
        return self._compare(self.value <= float(other))

    def __abs__(self) -> Number:
        return Number(self._compare(abs(self.value)))

    def __neg__(self) -> Number:
        return Number(self._compare(-self.value))

    def floor(self) -> Number:
        return Number(self._compare(math.floor(self.value)))

    def _special(self, value: float) -> Number:
        _tally.special += 1
        return Number(value)

    def exp(self) -> Number:
        return self._special(math.exp(self.value))

    def log(self) -> Number:
        return self._special(math.log(self.value))

    def log1p(self) -> Number:
        return self._special(math.log1p(self.value))


def numbers(tensor: Tensor) -> Any:
    """``tensor`` as an array of numbers that count."""
    array = tensor.detach().double().numpy()
    return np.vectorize(Number, otypes=[object])(array)


def floats(array: Any) -> Any:
    """The values of an array of numbers."""
    return np.vectorize(float, otypes=[float])(array)
