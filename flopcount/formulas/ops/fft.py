"""Discrete Fourier transforms, of any length and number of dimensions.

Counted as FFTW's benchmark does (fftw.org/speed/method.html), whatever the kernel: 5·N·log₂ N for
a complex transform of N points, half of that for a real one. Those are the operations of the
radix-2 algorithm (Cooley & Tukey 1965): log₂ N rounds of N / 2 butterflies, each of a complex
product, 6, and two complex sums, 2 each. Kernels for powers of two execute fewer, those for
large prime factors several times as many. XLA says 8·N·⌊log₂ N⌋.
"""

from collections.abc import Sequence
from decimal import Context, Decimal
from math import prod

from torch import Tensor

from flopcount.cost import Cost
from flopcount.formulas.registry import formula

UNSCALED = 0
"""The normalisation of a transform whose result is not divided by N or √N."""

EXACT = Context(prec=50)
"""More digits than a count has."""


def half_logarithms(count: int, length: int) -> int:
    """The integer nearest to count·log₂(length) / 2; exact for powers of two.

    >>> half_logarithms(10 * 1024, 1024), half_logarithms(2 * 1000, 1000)
    (51200, 9966)
    """
    if length & (length - 1) == 0:
        return count * (length.bit_length() - 1) // 2
    logarithm = EXACT.divide(EXACT.ln(Decimal(length)), EXACT.ln(Decimal(4)))
    return int(EXACT.multiply(Decimal(count), logarithm).to_integral_value(context=EXACT))


def transform(points: int, length: int, normalization: int, *, parts: int) -> Cost:
    """Transforms of ``length`` numbers of so many ``parts`` each, one being half of the work.

    With a normalisation, a product for each part of each of the points.
    """
    scaling = parts * points if normalization != UNSCALED else 0
    return Cost(arith=half_logarithms(5 * parts * points, length) + scaling)


@formula("aten::_fft_c2c")
def fft_c2c(
    x: Tensor, dim: Sequence[int], normalization: int, forward: bool, *, out: Tensor
) -> Cost:
    """5·N·log₂ N for N complex points along all of ``dim``, and 2·N to scale them."""
    return transform(out.numel(), length_of(out, dim), normalization, parts=2)


@formula("aten::_fft_r2c")
def fft_r2c(
    x: Tensor, dim: Sequence[int], normalization: int, onesided: bool, *, out: Tensor
) -> Cost:
    """5/2·N·log₂ N for N real points, and N to scale them; a second side is a copy of the first."""
    return transform(x.numel(), length_of(x, dim), normalization, parts=1)


@formula("aten::_fft_c2r")
def fft_c2r(
    x: Tensor, dim: Sequence[int], normalization: int, last_dim_size: int, *, out: Tensor
) -> Cost:
    """5/2·N·log₂ N for N real points that result, and N to scale them."""
    return transform(out.numel(), length_of(out, dim), normalization, parts=1)


def length_of(x: Tensor, dim: Sequence[int]) -> int:
    """The points of one transform: all dimensions of it count as one."""
    return prod(x.shape[d] for d in dim)
