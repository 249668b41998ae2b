"""Iterations: what the textbook expects, and about what kernels were seen to execute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, ops

from flopcount import Cost
from tests.formulas.decomposed import measured

aten = ops.aten
linalg = torch.linalg


def matrix(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


A = matrix(5, 5)
TALL, WIDE = matrix(6, 4), matrix(4, 6)
POSITIVE = A @ A.T + torch.eye(5, dtype=torch.float64)


def blank(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


EXPECTED = {
    "symmetric, values": (lambda: aten._linalg_eigh(blank(6, 6), compute_v=False), 4 * 6**3 // 3),
    "symmetric, with vectors": (lambda: linalg.eigh(blank(6, 6)), 9 * 6**3),
    "three of them": (lambda: linalg.eigh(blank(3, 6, 6)), 3 * 9 * 6**3),
    "Hermitian": (lambda: linalg.eigh(blank(6, 6, dtype=torch.complex64)), 4 * 9 * 6**3),
    "any square, with vectors": (lambda: linalg.eig(blank(6, 6)), 25 * 6**3),
    "any square, values": (lambda: aten._linalg_eigvals(A[:3, :3]), 10 * 3**3),
    "singular values": (
        lambda: aten._linalg_svd(blank(6, 6), compute_uv=False),
        4 * 6**3 - 4 * 6**3 // 3,
    ),
    "singular values of a tall matrix": (
        lambda: aten._linalg_svd(blank(60, 6), compute_uv=False),
        2 * 60 * 6**2 + 2 * 6**3,
    ),
    "singular vectors of a square": (
        lambda: linalg.svd(blank(6, 6), full_matrices=False),
        4 * 6**3 + 8 * 6**3 + 9 * 6**3,
    ),
    "singular vectors of a tall matrix": (
        lambda: linalg.svd(blank(60, 6), full_matrices=False),
        6 * 60 * 6**2 + 20 * 6**3,
    ),
    "singular vectors of one that is taller than wide": (
        lambda: linalg.svd(blank(8, 6), full_matrices=False),
        min(14 * 8 * 6**2 + 8 * 6**3, 4 * 8**2 * 6 + 8 * 8 * 6**2 + 9 * 6**3),
    ),
    "singular vectors of a wide matrix": (
        lambda: linalg.svd(blank(6, 60), full_matrices=False),
        6 * 60 * 6**2 + 20 * 6**3,
    ),
    "all left singular vectors": (
        lambda: linalg.svd(blank(60, 6)),
        4 * 60**2 * 6 + 22 * 6**3,
    ),
}


@pytest.mark.parametrize(("op", "flops"), EXPECTED.values(), ids=EXPECTED)
def test_an_iteration_costs_what_the_textbook_expects(op: Callable[..., Any], flops: int) -> None:
    assert measured(op) == Cost(arith=flops)


EXECUTED = {
    "symmetric eigenvalues with vectors": (linalg.eigh, 510_392),
    "singular vectors": (linalg.svd, 1_016_393),
}


@pytest.mark.parametrize(("op", "executed"), EXECUTED.values(), ids=EXECUTED)
def test_a_kernel_executes_about_as_much(op: Callable[..., Any], executed: int) -> None:
    """Floating-point instructions of a CPU kernel on a 40 by 40 matrix, FMAs as two."""
    assert 0.7 < executed / measured(op, blank(40, 40)).arith < 1.45


def test_a_pseudoinverse_is_the_decomposition_and_a_product() -> None:
    svd, eigh = 4 * 36 * 4 + 8 * 6 * 16 + 9 * 64, 9 * 5**3
    # a tolerance, 4 singular values inverted, V (4, 4) scaled, V @ Uᴴ of (4, 4) and (4, 6)
    tall = Cost(macs=4 * 6 * 4, dots=4 * 6, arith=1 + 4 + 16, compare=1 + 2 * 4)
    thin = min(svd, 14 * 6 * 16 + 8 * 64, 6 * 6 * 16 + 20 * 64)
    assert measured(linalg.pinv, TALL) == tall + Cost(arith=thin)
    # the sizes of 5 values, and the largest of them, too
    square = Cost(macs=5 * 5 * 5, dots=25, arith=1 + 5 + 25, compare=1 + 2 * 5 + 5 + 4)
    hermitian = measured(lambda a: linalg.pinv(a, hermitian=True), POSITIVE)
    assert hermitian == square + Cost(arith=eigh)
    rotated = measured(linalg.pinv, TALL * (1 + 0.5j))
    assert rotated == Cost(
        macs=4 * 96, dots=2 * 24, arith=1 + 4 + 2 * 16 + 4 * thin, compare=1 + 2 * 4
    )


def newer(name: str) -> Any:
    """A function of ``torch.linalg`` that older versions lack."""
    return pytest.param(
        name,
        marks=pytest.mark.skipif(not hasattr(linalg, name), reason=f"this torch has no {name}"),
    )


@pytest.mark.parametrize("name", [newer("matrix_sqrth")])
def test_a_square_root_is_the_eigenvectors_scaled_and_a_product(name: str) -> None:
    root = getattr(linalg, name)
    # 9·5³ for V, 5 roots, V (5, 5) scaled, V @ Vᴴ
    once = Cost(macs=5**3, dots=5**2, arith=9 * 5**3 + 5 + 5**2)
    assert measured(root, POSITIVE) == once
    assert measured(root, torch.stack([POSITIVE, POSITIVE])) == 2 * once
    hermitian = measured(root, POSITIVE.to(torch.complex128))  # a real number scales two parts
    assert hermitian == Cost(macs=4 * 5**3, dots=2 * 5**2, arith=4 * 9 * 5**3 + 5 + 2 * 5**2)


@pytest.mark.parametrize("name", [newer("polar")])
def test_a_polar_decomposition_is_the_singular_vectors_and_two_products(name: str) -> None:
    polar = getattr(linalg, name)
    whole, thin = 4 * 36 * 4 + 8 * 6 * 16 + 9 * 64, min(14 * 6 * 16 + 8 * 64, 6 * 6 * 16 + 20 * 64)
    svd = min(whole, thin)
    # W @ Vᴴ of (6, 4) and (4, 4); V (4, 4) scaled, and V @ Vᴴ
    once = Cost(macs=6 * 4 * 4 + 4**3, dots=6 * 4 + 4**2, arith=svd + 4**2)
    assert measured(polar, TALL) == once
    assert measured(polar, TALL.expand(3, 6, 4)) == 3 * once
    rotated = Cost(macs=4 * once.macs, dots=2 * once.dots, arith=4 * svd + 2 * 4**2)
    assert measured(polar, TALL * (1 + 0.5j)) == rotated
    places = torch.empty(6, 4, dtype=TALL.dtype), torch.empty(4, 4, dtype=TALL.dtype)
    assert measured(lambda: polar(TALL, out=places)) == once
