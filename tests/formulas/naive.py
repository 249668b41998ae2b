"""Naive loops over numbers that count their own operations: an oracle that knows no formula."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

__all__ = ["Number", "Operations", "affine", "convolution"]


@dataclass
class Operations:
    """How many multiplications and additions were carried out."""

    mul: int = 0
    add: int = 0

    def number(self) -> Number:
        return Number(self)

    def take(self) -> Operations:
        """What was counted since the last call."""
        taken = Operations(self.mul, self.add)
        self.mul = self.add = 0
        return taken


@dataclass
class Number:
    """A float without a value: only its operations matter."""

    operations: Operations = field(repr=False)

    def __mul__(self, other: Number) -> Number:
        self.operations.mul += 1
        return self

    def __add__(self, other: Number) -> Number:
        self.operations.add += 1
        return self


def total(numbers: Iterator[Number]) -> Number:
    """Their sum: one addition less than there are numbers."""
    result = next(numbers)
    for number in numbers:
        result = result + number
    return result


def affine(n: int, d: int, m: int) -> dict[str, Operations]:
    """y = x·w + b for x (n, d) and w (d, m), and its gradients, element by element."""
    operations = Operations()
    x = w = dy = b = operations.number()
    passes = {}
    for _ in product(range(n), range(m)):
        total(x * w for _ in range(d))
    passes["forward"] = operations.take()
    for _ in product(range(n), range(m)):
        x + b
    passes["forward bias"] = operations.take()
    for _ in product(range(n), range(d)):
        total(dy * w for _ in range(m))
    passes["input"] = operations.take()
    for _ in product(range(d), range(m)):
        total(x * dy for _ in range(n))
    passes["weight"] = operations.take()
    for _ in range(m):
        total(dy for _ in range(n))
    passes["bias"] = operations.take()
    return passes


def convolution(
    n: int, c: int, f: int, groups: int, kernel: Sequence[int], positions: Sequence[int]
) -> dict[str, Operations]:
    """A plain convolution by im2col, c input and f output channels, and its gradients.

    The input gradient is a product of the weights and the output's gradient, scattered onto the
    padded image by one addition for each of its entries (col2im).
    """
    operations = Operations()
    x = w = dy = b = operations.number()
    taps = list(product(range(c // groups), *map(range, kernel)))
    grid = list(product(range(n), *map(range, positions)))
    of_group = f // groups
    passes = {}
    for _ in product(range(f), grid):
        total(x * w for _ in taps)
    passes["forward"] = operations.take()
    for _ in product(range(f), grid):
        x + b
    passes["forward bias"] = operations.take()
    for _ in product(range(f), taps):
        total(dy * x for _ in grid)
    passes["weight"] = operations.take()
    for _ in product(range(groups), taps, grid):
        x + total(w * dy for _ in range(of_group))
    passes["input"] = operations.take()
    for _ in range(f):
        total(dy for _ in grid)
    passes["bias"] = operations.take()
    return passes
