"""Naive loops over numbers that count their own operations: an oracle that knows no formula."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from tests.formulas.counting import Number, Tally, counting, total


def affine(n: int, d: int, m: int) -> dict[str, Tally]:
    """y = x·w + b for x (n, d) and w (d, m), and its gradients, element by element."""
    x = w = dy = b = Number(1.0)
    passes = {}
    with counting() as passes["forward"]:
        for _ in product(range(n), range(m)):
            total(x * w for _ in range(d))
    with counting() as passes["forward bias"]:
        for _ in product(range(n), range(m)):
            x + b
    with counting() as passes["input"]:
        for _ in product(range(n), range(d)):
            total(dy * w for _ in range(m))
    with counting() as passes["weight"]:
        for _ in product(range(d), range(m)):
            total(x * dy for _ in range(n))
    with counting() as passes["bias"]:
        for _ in range(m):
            total(dy for _ in range(n))
    return passes


def convolution(
    n: int, c: int, f: int, groups: int, kernel: Sequence[int], positions: Sequence[int]
) -> dict[str, Tally]:
    """A plain convolution by im2col, c input and f output channels, and its gradients.

    The input gradient is a product of the weights and the output's gradient, scattered onto the
    padded image by one addition for each of its entries (col2im).
    """
    x = w = dy = b = Number(1.0)
    taps = list(product(range(c // groups), *map(range, kernel)))
    grid = list(product(range(n), *map(range, positions)))
    of_group = f // groups
    passes = {}
    with counting() as passes["forward"]:
        for _ in product(range(f), grid):
            total(x * w for _ in taps)
    with counting() as passes["forward bias"]:
        for _ in product(range(f), grid):
            x + b
    with counting() as passes["weight"]:
        for _ in product(range(f), taps):
            total(dy * x for _ in grid)
    with counting() as passes["input"]:
        for _ in product(range(groups), taps, grid):
            x + total(w * dy for _ in range(of_group))
    with counting() as passes["bias"]:
        for _ in range(f):
            total(dy for _ in grid)
    return passes
