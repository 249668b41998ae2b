"""Special functions: one evaluation each, whatever a kernel does for it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import special

from flopcount import Cost
from tests.formulas.counting import Number
from tests.formulas.decomposed import measured
from tests.formulas.ops.elementwise import B, Function, Loop, compare_with_loop, evaluated

n = 6
x = torch.linspace(0.1, 0.9, n)

OF_ONE = [
    *("airy_ai", "bessel_j0", "bessel_j1", "bessel_y0", "bessel_y1", "digamma", "erf", "erfc"),
    *("erfcx", "erfinv", "gammaln", "i0", "i0e", "i1", "i1e", "log_ndtr", "modified_bessel_i0"),
    *("modified_bessel_i1", "modified_bessel_k0", "modified_bessel_k1", "ndtri"),
    *("scaled_modified_bessel_k0", "scaled_modified_bessel_k1", "spherical_bessel_j0"),
]

OF_TWO = [
    *("gammainc", "gammaincc", "zeta"),
    *(f"chebyshev_polynomial_{kind}" for kind in "tuvw"),
    *(f"shifted_chebyshev_polynomial_{kind}" for kind in "tuvw"),
    *("hermite_polynomial_h", "hermite_polynomial_he"),
    *("laguerre_polynomial_l", "legendre_polynomial_p"),
]


@pytest.mark.parametrize("name", OF_ONE)
def test_a_function_is_one_evaluation(name: str) -> None:
    assert measured(getattr(special, name), x) == Cost(special=n)


@pytest.mark.parametrize("name", OF_TWO)
def test_a_function_of_two_arguments_is_one_evaluation_of_each_pair(name: str) -> None:
    assert measured(getattr(special, name), x, 3 * x[:, None]) == Cost(special=n * n)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_a_derivative_of_digamma_is_one_evaluation(order: int) -> None:
    assert measured(special.polygamma, order, x) == Cost(special=n)


def test_whole_numbers_are_evaluated_in_floating_point() -> None:
    assert measured(special.i0, torch.arange(n)) == Cost(special=n)


@pytest.mark.parametrize(
    "function",
    [torch.gcd, torch.lcm, torch.bitwise_left_shift, torch.bitwise_right_shift, torch.bitwise_and],
    ids=lambda function: function.__name__,
)
def test_arithmetic_of_whole_numbers_is_no_flop(function: object) -> None:
    assert measured(function, torch.arange(n), torch.ones(n, dtype=torch.int64)) == Cost()


def test_taking_a_number_s_bits_apart_is_no_flop() -> None:
    assert measured(torch.frexp, x) == measured(torch.nextafter, x, x.clone()) == Cost()


def test_a_sample_by_its_parameter_is_one_evaluation() -> None:
    assert measured(torch._standard_gamma_grad, x, x) == Cost(special=n)
    assert measured(torch._dirichlet_grad, x, x, x) == Cost(special=n)


def entropy(x: Number) -> Number:
    inside = -(x * x.log())
    return inside.select(float(x) > 0, 0).select(float(x) >= 0, -math.inf)


def multigamma(x: Number) -> Number:
    """log π^(3·2/4) · Γ(x)·Γ(x - ½)·Γ(x - 1), for x + 3."""
    parts = [evaluated(math.lgamma, x + (3 - j / 2)) for j in range(3)]
    return parts[0] + parts[1] + parts[2] + 3 * 2 / 4 * math.log(math.pi)


B_AND_3 = B + 3
LOOPS: dict[str, tuple[Function, Loop]] = {
    "xlog1py": (
        torch.special.xlog1py,
        lambda a, b: (a * b.log1p()).select(float(a) != 0, 0),
    ),
    "entr": (lambda a, b: torch.special.entr(b), lambda a, b: entropy(b)),
    "mvlgamma": (lambda a, b: torch.mvlgamma(B_AND_3, 3), lambda a, b: multigamma(b)),
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_that_counts_takes_as_many_steps(name: str) -> None:
    compare_with_loop(*LOOPS[name])
