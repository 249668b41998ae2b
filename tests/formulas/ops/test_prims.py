"""Primitives that decompositions end in: as aten's ops of other names, or by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from flopcount import Cost, FlopCounter
from tests.formulas.decomposed import measured

aten, prims = torch.ops.aten, torch.ops.prims
X = torch.linspace(0.1, 0.9, 12).view(3, 4)  # 48 bytes
Z = torch.complex(X, X)
WHOLE = torch.arange(3)
COMPLEX_POINTS = torch.complex(torch.rand(2, 8), torch.rand(2, 8))


@pytest.mark.parametrize(
    ("primitive", "twin"),
    [
        (prims.bessel_i0, torch.special.i0),
        (prims.bessel_i0e, torch.special.i0e),
        (prims.bessel_i1, torch.special.i1),
        (prims.bessel_j0, torch.special.bessel_j0),
        (prims.erf_inv, torch.special.erfinv),
        (prims.ndtri, torch.special.ndtri),
        (prims.spherical_bessel_j0, torch.special.spherical_bessel_j0),
    ],
    ids=str,
)
def test_a_special_function_under_another_name(primitive: Any, twin: Any) -> None:
    assert measured(primitive, X) == measured(twin, X) == Cost(special=12)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        pytest.param(lambda: prims.cbrt(X), Cost(special=12), id="a cubic root"),
        pytest.param(
            lambda: prims.isfinite(X), Cost(compare=2 * 12), id="|x| < ∞: a modulus, a comparison"
        ),
        pytest.param(lambda: prims.isfinite(Z), Cost(compare=2 * 2 * 12), id="of either part"),
        pytest.param(
            lambda: prims.fft_c2c(COMPLEX_POINTS, dim=[1], forward=True),
            Cost(arith=5 * 16 * 3),
            id="5·N·log₂ N for 2·8 complex points in rows of 2³",
        ),
        pytest.param(
            lambda: prims.fft_r2c(torch.rand(2, 8), dim=[1], onesided=True),
            Cost(arith=5 * 16 * 3 // 2),
            id="half of it for as many real ones",
        ),
        pytest.param(
            lambda: prims.fft_c2r(COMPLEX_POINTS[:, :5], dim=[1], last_dim_size=8),
            Cost(arith=5 * 16 * 3 // 2),
            id="and back",
        ),
    ],
)
def test_a_primitive_of_its_own(call: Callable[[], Any], expected: Cost) -> None:
    assert measured(call) == expected


def test_the_decomposition_into_singular_values_is_that_of_linalg() -> None:
    a = torch.rand(6, 3)
    cost = measured(lambda: prims.svd(a, full_matrices=False))
    assert cost == measured(lambda: aten._linalg_svd(a, False))
    # Golub & Van Loan, figure 8.6.1: 6·m·n² + 20·n³, which is less than 14·m·n² + 8·n³
    assert cost.flops == 6 * 6 * 3**2 + 20 * 3**3


@pytest.mark.parametrize(
    ("call", "read", "written"),
    [
        pytest.param(
            lambda: prims.convert_element_type(X, torch.float64), 48, 96, id="a conversion"
        ),
        pytest.param(lambda: prims.rev(X, [0]), 48, 48, id="a reversal"),
        pytest.param(lambda: prims.reshape(X, [4, 3]), 48, 48, id="a reshape that copies"),
        pytest.param(lambda: prims.collapse(X, 0, 1), 48, 48, id="a collapse that copies"),
        pytest.param(lambda: prims.copy_to(torch.empty(3, 4), X), 48, 48, id="a copy into place"),
        pytest.param(
            lambda: prims.iota(
                5, start=0, step=1, dtype=torch.int64, device="cpu", requires_grad=False
            ),
            0,
            40,
            id="a sequence",
        ),
        pytest.param(lambda: prims.maximum_value(torch.float32), 0, 0, id="a number of a dtype"),
        pytest.param(
            lambda: prims.shift_left(WHOLE, WHOLE),
            24,
            24,
            id="integers",
        ),
    ],
)
def test_what_is_free_moves_bytes(call: Callable[[], Any], read: int, written: int) -> None:
    with FlopCounter(strict=True) as counter:
        call()
    total = counter.report().total
    assert (total.flops, total.read, total.written) == (0, read, written)
