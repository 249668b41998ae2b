"""Windows, by their textbook formulas, run on numbers that count."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from flopcount import Cost
from tests.formulas.counting import Number, counting, floats
from tests.formulas.decomposed import measured

N, BETA = 7, 12.0


def cos(x: Number) -> Number:
    return x._special(math.cos(x.value))


def bessel(x: Number) -> Number:
    return x._special(float(torch.special.i0(torch.tensor(x.value, dtype=torch.float64))))


def bartlett() -> list[Number]:
    return [1 - abs(Number(n) * (2 / (N - 1)) - 1) for n in range(N)]


def hamming() -> list[Number]:
    return [0.54 - cos(Number(n) * (2 * math.pi / (N - 1))) * 0.46 for n in range(N)]


def blackman() -> list[Number]:
    def value(n: int) -> Number:
        first, second = (cos(Number(n) * (k * math.pi / (N - 1))) for k in (2, 4))
        return 0.42 - first * 0.5 + second * 0.08

    return [value(n) for n in range(N)]


def kaiser() -> list[Number]:
    divisor = bessel(Number(BETA))

    def value(n: int) -> Number:
        x = Number(n) * (2 / (N - 1)) - 1
        return bessel((1 - x * x).sqrt() * BETA) / divisor

    return [value(n) for n in range(N)]


CASES: dict[str, tuple[Any, Callable[[], list[Number]], Cost]] = {
    "1 - |2n/(N - 1) - 1|": (torch.bartlett_window, bartlett, Cost(arith=3 * N, compare=N)),
    "α - β·cos": (torch.hamming_window, hamming, Cost(arith=3 * N, special=N)),
    "two cosines": (torch.blackman_window, blackman, Cost(arith=6 * N, special=2 * N)),
    "I₀(β·√(1 - x²)) / I₀(β)": (torch.kaiser_window, kaiser, Cost(arith=7 * N, special=N + 1)),
}


@pytest.mark.parametrize(("window", "textbook", "expected"), CASES.values(), ids=CASES.keys())
def test_a_window_is_its_formula_at_each_place(window: Any, textbook: Any, expected: Cost) -> None:
    with counting() as tally:
        values = textbook()
    assert torch.allclose(floats(values).float(), window(N, periodic=False), atol=1e-6)
    assert measured(window, N, periodic=False) == tally.cost == expected
    assert measured(window, N) == expected  # the step more of a period is not kept
    assert measured(window, 1) == Cost()


def test_hann_is_hamming_with_other_numbers() -> None:
    assert measured(torch.hann_window, N) == Cost(arith=3 * N, special=N)
