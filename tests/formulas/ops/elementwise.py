"""Functions of two numbers, held to loops that count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.formulas.counting import Number, counting, floats, numbers
from tests.formulas.decomposed import measured

n = 9
A = torch.linspace(-2.3, 2.2, n).double()
B = torch.linspace(0.15, 0.9, n).double().flip(0)

Function = Callable[[Tensor, Tensor], Tensor]
Loop = Callable[[Number, Number], Any]


def evaluated(function: Callable[..., float], *args: Number) -> Number:
    return args[0]._special(function(*map(float, args)))


def compare_with_loop(function: Function, loop: Loop, a: Tensor = A, b: Tensor = B) -> None:
    """The loop's values are those of torch's function, and its operations those counted."""
    with counting() as tally:
        results = [loop(x, y) for x, y in zip(numbers(a), numbers(b), strict=True)]
    torch.testing.assert_close(floats(results), function(a, b).double())
    assert measured(function, a, b) == tally.cost
