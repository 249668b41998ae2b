from __future__ import annotations

import cmath
from collections.abc import Callable, Sequence
from math import pi
from typing import Any

import pytest
import torch
from torch import Tensor

import flopcount
from flopcount import Cost
from flopcount.formulas.ops.fft import half_logarithms
from tests.formulas.counting import Number, counting
from tests.formulas.decomposed import measured

aten = torch.ops.aten


class Complex:
    """A complex number of two numbers that count."""

    def __init__(self, value: complex) -> None:
        self.real, self.imag = Number(value.real), Number(value.imag)

    @classmethod
    def of(cls, real: Number, imag: Number) -> Complex:
        result = cls(0)
        result.real, result.imag = real, imag
        return result

    def __add__(self, other: Complex) -> Complex:
        return self.of(self.real + other.real, self.imag + other.imag)

    def __sub__(self, other: Complex) -> Complex:
        return self.of(self.real - other.real, self.imag - other.imag)

    def __mul__(self, other: Complex) -> Complex:
        real = self.real * other.real - self.imag * other.imag
        return self.of(real, self.real * other.imag + self.imag * other.real)

    def __complex__(self) -> complex:
        return complex(float(self.real), float(self.imag))


def radix_2(x: Sequence[Complex]) -> list[Complex]:
    """The transform of the even and of the odd points, joined by butterflies (Cooley & Tukey)."""
    n = len(x)
    if n == 1:
        return list(x)
    even, odd = radix_2(x[::2]), radix_2(x[1::2])
    turned = [Complex(cmath.exp(-2j * pi * k / n)) * odd[k] for k in range(n // 2)]
    sums = [a + b for a, b in zip(even, turned, strict=True)]
    return sums + [a - b for a, b in zip(even, turned, strict=True)]


def values(x: Sequence[Complex]) -> Tensor:
    return torch.tensor([complex(point) for point in x], dtype=torch.complex128)


def points(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("n", [1, 2, 4, 8, 64])
def test_a_complex_transform_is_the_textbooks_butterflies(n: int) -> None:
    x = points(n)
    with counting() as tally:
        transformed = radix_2([Complex(value) for value in x.tolist()])
    assert torch.allclose(values(transformed), torch.fft.fft(x))
    rounds = n.bit_length() - 1
    assert measured(lambda: torch.fft.fft(x)) == tally.cost == Cost(arith=5 * n * rounds)


def test_two_dimensions_are_transforms_of_the_rows_and_then_of_the_columns() -> None:
    x = points(4, 8)
    with counting() as tally:
        rows = [radix_2([Complex(value) for value in row]) for row in x.tolist()]
        columns = [radix_2(column) for column in zip(*rows, strict=True)]
    transformed = torch.stack([values(column) for column in columns])
    assert torch.allclose(transformed.T, torch.fft.fft2(x))
    assert measured(lambda: torch.fft.fft2(x)) == tally.cost == Cost(arith=5 * 32 * (2 + 3))


def test_a_real_transform_is_half_of_a_complex_one() -> None:
    """Two real sequences fit into one complex transform, as its real and its imaginary part."""
    x, y = points(16).real, points(16).imag
    both = torch.fft.fft(torch.complex(x, y))
    mirrored = both.roll(-1).flip(0).conj()
    assert torch.allclose(torch.fft.fft(x), (both + mirrored) / 2)
    complex_cost = measured(lambda: torch.fft.fft(torch.complex(x, y)))
    assert 2 * measured(lambda: torch.fft.rfft(x)) == complex_cost == Cost(arith=5 * 16 * 4)


REAL, HALF, WHOLE = torch.rand(3, 16), points(3, 9), points(3, 16)


@pytest.mark.parametrize(
    ("call", "arith"),
    [
        pytest.param(lambda: torch.fft.fft(WHOLE), 5 * 48 * 4, id="three complex rows of 2⁴"),
        pytest.param(
            lambda: torch.fft.fft(WHOLE, norm="forward"),
            5 * 48 * 4 + 2 * 48,
            id="each part of each result is divided by n",
        ),
        pytest.param(
            lambda: torch.fft.fft(WHOLE, norm="ortho"),
            5 * 48 * 4 + 2 * 48,
            id="or by the root of n",
        ),
        pytest.param(
            lambda: torch.fft.ifft(WHOLE), 5 * 48 * 4 + 2 * 48, id="an inverse divides by n"
        ),
        pytest.param(lambda: torch.fft.rfft(REAL), 5 * 48 * 4 // 2, id="three real rows"),
        pytest.param(
            lambda: torch.fft.rfft(REAL, norm="ortho"),
            5 * 48 * 4 // 2 + 48,
            id="a real transform is scaled by a product for each point",
        ),
        pytest.param(
            lambda: torch.fft.fft(REAL),
            5 * 48 * 4 // 2,
            id="both sides of a real transform cost what one does: the other is its conjugate",
        ),
        pytest.param(
            lambda: torch.fft.irfft(HALF),
            5 * 48 * 4 // 2 + 48,
            id="nine complex points back to 16 real ones",
        ),
        pytest.param(
            lambda: torch.fft.fftn(points(2, 4, 8)), 5 * 64 * 6, id="in three dimensions: log₂ 64"
        ),
        pytest.param(
            lambda: torch.fft.rfftn(torch.rand(2, 4, 8)), 5 * 64 * 6 // 2, id="and real ones"
        ),
        pytest.param(
            lambda: torch.fft.fft(WHOLE, dim=0),
            380,
            id="three points: 5·48·log₂ 3 = 380.39",
        ),
        pytest.param(
            lambda: aten._fft_c2c.out(WHOLE, [1], 0, True, out=points(3, 16)),
            5 * 48 * 4,
            id="out= the same",
        ),
    ],
)
def test_transforms(call: Callable[[], Any], arith: int) -> None:
    assert measured(call) == Cost(arith=arith)


@pytest.mark.parametrize("length", [3, 7, 100, 1000, 997])
def test_other_lengths_have_the_nearest_integer(length: int) -> None:
    """2^(2c - 1) < n^count < 2^(2c + 1), in integers: c is nearest to count·log₂(n) / 2."""
    for count in (1, 2, 10 * length):
        nearest = half_logarithms(count, length)
        assert 2 ** (2 * nearest - 1) < length**count < 2 ** (2 * nearest + 1)


def test_counts_beyond_the_digits_of_a_float_are_exact() -> None:
    many = 2**60 + 1
    assert half_logarithms(2 * many, 8) == 3 * many
    # log₂ 3 = 1.58496 25007 21156 18145 37389 4…
    assert half_logarithms(2 * 10**24, 3) == 1_584962_500721_156181_453739


def test_a_gradient_is_a_transform_too() -> None:
    x = torch.rand(16, dtype=torch.complex64, requires_grad=True)
    with flopcount.FlopCounter() as counter:
        y = torch.fft.fft(x)
        y.backward(torch.ones_like(y))
    report = counter.report()
    assert not report.uncounted
    assert report.phases["forward"].flops == report.phases["backward"].flops == 5 * 16 * 4
