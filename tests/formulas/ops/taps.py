"""The taps of interpolation by the textbook, on numbers that count.

For each of the taps of one axis at one place: where it lies, its weight, and what its slope needs.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

from torch import Tensor

A = -0.75  # Keys' parameter, as torch sets it


def linear_taps(position: Any) -> Any:
    low = position.floor()
    fraction = position - low
    first = int(low.value)
    return [first, first + 1], [1 - fraction, fraction], [-1, 1]


def near(x: Tensor) -> Any:
    return ((A + 2) * x - (A + 3)) * x * x + 1


def far(x: Tensor) -> Any:
    return ((A * x - 5 * A) * x + 8 * A) * x - 4 * A


def cubic_taps(position: Any) -> Any:
    low = position.floor()
    t = position - low
    first = int(low.value)
    reach = [t + 1, t, 1 - t, 2 - t]
    weights = [far(reach[0]), near(reach[1]), near(reach[2]), far(reach[3])]
    return range(first - 1, first + 3), weights, reach


def nearest_tap(position: Any) -> Any:
    low = (position - 0.5).floor()
    return [int(low.value)], [], []


def cubic_slopes(reach: Any) -> Any:
    def steep(x: Tensor) -> Any:
        return (3 * A * x - 10 * A) * x + 8 * A

    def flat(x: Tensor) -> Any:
        return (3 * (A + 2) * x - 2 * (A + 3)) * x

    # the last two taps lie on the other side: their sign goes into the sum
    return [steep(reach[0]), flat(reach[1]), flat(reach[2]), steep(reach[3])], [1, 1, -1, -1]


def product(factors: Any) -> Any:
    return functools.reduce(lambda a, b: a * b, factors)


def joint(taps: Any) -> Any:
    """Places and weights of all taps of a place, from those of each axis."""
    places = list(itertools.product(*(indices for indices, _, _ in taps)))
    weights = [product(factors) for factors in itertools.product(*(w for _, w, _ in taps))]
    return places, weights
