"""Factorizations, solvers and decompositions: textbook loops run on numbers that count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, ops
from torch.profiler import profile

import flopcount
from flopcount import Cost
from tests.formulas.counting import Tally, counting, floats, numbers
from tests.formulas.decomposed import decomposed_cost, measured
from tests.formulas.ops import linalg_loops as loops

aten = ops.aten
linalg = torch.linalg


def matrix(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


A = matrix(5, 5)
TALL, WIDE = matrix(6, 4), matrix(4, 6)
POSITIVE = A @ A.T + torch.eye(5, dtype=torch.float64)
L = linalg.cholesky(POSITIVE)
UNIT = L / L.diagonal()
B = matrix(5, 3)
REFLECTED, TAU = torch.geqrf(TALL)
FOUND = loops.qr(numbers(TALL))[1]
LU, PIVOTS = linalg.lu_factor(A)
LD = floats(loops.ldl(numbers(POSITIVE)))


def taus(a: Tensor) -> Tensor:
    return TAU.to(a.dtype).expand(*a.shape[:-2], 4)


def unmoved(b: Tensor) -> Tensor:
    """Pivots of rows that stay in place."""
    return torch.arange(1, 6, dtype=torch.int32).expand(b.shape[:-1])


# an op, tensors and options to call it with, and the loop over the same tensors
LOOPS = {
    "Cholesky's factor": (linalg.cholesky, [POSITIVE], {}, loops.cholesky),
    "triangular system": (
        linalg.solve_triangular,
        [L, B],
        {"upper": False},
        loops.forward,
    ),
    "triangular system with ones on the diagonal": (
        linalg.solve_triangular,
        [UNIT, B],
        {"upper": False, "unitriangular": True},
        lambda t, b: loops.forward(t, b, unit=True),
    ),
    "triangular system from the right": (
        linalg.solve_triangular,
        [L, B.T],
        {"upper": False, "left": False},
        lambda t, b: loops.backward(t.T, b.T).T,
    ),
    "triangular system, old name": (
        lambda t, b: torch.triangular_solve(b, t, upper=False)[0],
        [L, B],
        {},
        loops.forward,
    ),
    "triangular system with ones, old name": (
        lambda t, b: torch.triangular_solve(b, t, upper=False, unitriangular=True)[0],
        [UNIT, B],
        {},
        lambda t, b: loops.forward(t, b, unit=True),
    ),
    "system by Cholesky's factor": (
        lambda t, b: torch.cholesky_solve(b, t),
        [L, B],
        {},
        lambda t, b: loops.backward(t.T, loops.forward(t, b)),
    ),
    "system by LU factors": (
        lambda factors, b: linalg.lu_solve(factors, unmoved(b), b),
        [LU, B],
        {},
        lambda factors, b: loops.backward(factors, loops.forward(factors, b, unit=True)),
    ),
    "system by LDL factors": (
        lambda factors, b: linalg.ldl_solve(factors, unmoved(b), b),
        [LD, B],
        {},
        loops.ldl_solve,
    ),
    "inverse by Cholesky's factor": (torch.cholesky_inverse, [L], {}, loops.inverse_from_cholesky),
    "reflectors and R": (
        lambda a: torch.geqrf(a)[0].triu(),
        [TALL],
        {},
        lambda a: loops.qr(a)[0],
    ),
    "R alone": (lambda a: linalg.qr(a, mode="r")[1], [TALL], {}, lambda a: loops.qr(a)[0][:4]),
    "Q of reduced size": (
        lambda a: linalg.qr(a)[0],
        [TALL],
        {},
        lambda a: loops.generate(loops.qr(a)[1], 6, 4),
    ),
    "Q of full size": (
        lambda a: linalg.qr(a, mode="complete")[0],
        [TALL],
        {},
        lambda a: loops.generate(loops.qr(a)[1], 6, 6),
    ),
    "Q from its reflectors": (
        lambda a: linalg.householder_product(a, taus(a)),
        [REFLECTED],
        {},
        lambda a: loops.generate(FOUND, 6, 4),
    ),
    "Q times a matrix": (
        lambda a, x: torch.ormqr(a, taus(a), x),
        [REFLECTED, matrix(6, 3)],
        {},
        lambda a, x: loops.apply_left(FOUND, x),
    ),
    "a matrix times Q": (
        lambda a, x: torch.ormqr(a, taus(a), x, left=False),
        [REFLECTED, WIDE],
        {},
        lambda a, x: loops.apply_right(FOUND, x),
    ),
    "cross product": (
        linalg.cross,
        [matrix(4, 3), matrix(3, 4).T],
        {},
        lambda a, b: np.stack(
            [a[:, i - 2] * b[:, i - 1] - a[:, i - 1] * b[:, i - 2] for i in range(3)], axis=1
        ),
    ),
}

PIVOTED = {
    "LU factors": (lambda a: linalg.lu_factor_ex(a)[0], [A], lambda a: loops.lu(a)[0]),
    "LU factors of a tall matrix": (
        lambda a: linalg.lu_factor_ex(a)[0],
        [TALL],
        lambda a: loops.lu(a)[0],
    ),
    "LU factors of a wide matrix": (
        lambda a: linalg.lu_factor_ex(a)[0],
        [WIDE],
        lambda a: loops.lu(a)[0],
    ),
    "U alone": (
        lambda a: linalg.lu(a)[2],
        [A],
        lambda a: np.where(np.tri(5).T, loops.lu(a)[0], 0.0),
    ),
    "linear system": (lambda a, b: aten._linalg_solve_ex(a, b)[0], [A, B], loops.solve),
    "inverse": (lambda a: linalg.inv_ex(a)[0], [A], loops.inverse),
    "determinant": (torch.det, [A], loops.determinant),
}


def looped(loop: Callable[..., Any], tensors: Sequence[Tensor]) -> Any:
    """The loop's result and what it cost."""
    arrays = [numbers(tensor) for tensor in tensors]
    with counting() as tally:
        result = loop(*arrays)
    return floats(result), tally


def of_complex(tally: Tally) -> Any:
    """The same operations on complex numbers: 6 for a product, division or root, 2 for a sum."""
    return Cost(arith=6 * (tally.mul + tally.div + tally.root) + 2 * tally.add)


@pytest.mark.filterwarnings("ignore:torch")
@pytest.mark.parametrize(("op", "tensors", "options", "loop"), LOOPS.values(), ids=LOOPS)
def test_an_op_costs_what_the_textbook_loop_costs(
    op: Callable[..., Any], tensors: Sequence[Tensor], options: Any, loop: Callable[..., Any]
) -> None:
    result, tally = looped(loop, tensors)
    torch.testing.assert_close(op(*tensors, **options), result)
    assert measured(op, *tensors, **options) == tally.cost

    batch = [torch.stack([tensor, tensor]) for tensor in tensors]
    assert measured(op, *batch, **options) == 2 * tally.cost
    rotated = [tensor * (1 + 0.5j) for tensor in tensors]
    assert measured(op, *rotated, **options) == of_complex(tally)


@pytest.mark.parametrize(("op", "tensors", "loop"), PIVOTED.values(), ids=PIVOTED)
def test_an_op_that_looks_for_pivots_costs_what_the_textbook_loop_costs(
    op: Callable[..., Any], tensors: Sequence[Tensor], loop: Callable[..., Any]
) -> None:
    result, tally = looped(loop, tensors)
    torch.testing.assert_close(op(*tensors), result)
    assert measured(op, *tensors) == tally.cost
    assert measured(op, *[torch.stack([t, t, t]) for t in tensors]) == 3 * tally.cost
    # of complex numbers |re| + |im| is compared: an absolute value more, and a sum, for each
    m, n = tensors[0].shape
    sizes = sum(m - k for k in range(min(m, n)))
    rotated = [tensor * (1 + 0.5j) for tensor in tensors]
    searched = Cost(arith=sizes, compare=tally.compare + sizes)
    assert measured(op, *rotated) == of_complex(tally) + searched


# LAPACK Working Note 41's own closed forms, as multiplications and additions

THIRD, SIXTH, HALF = Fraction(1, 3), Fraction(1, 6), Fraction(1, 2)


def orgqr(m: int, n: int, k: int) -> Any:
    return (
        k * (2 * m * n + 2 * n - 5 * THIRD + k * (2 * THIRD * k - (m + n) - 1)),
        k * (2 * m * n + n - m + THIRD + k * (2 * THIRD * k - (m + n))),
    )


def geqrf(m: int, n: int) -> Any:
    if m > n:
        return (
            m * n**2 - THIRD * n**3 + m * n + HALF * n**2 + 23 * SIXTH * n,
            m * n**2 - THIRD * n**3 + HALF * n**2 + 5 * SIXTH * n,
        )
    return (
        n * m**2 - THIRD * m**3 + 2 * n * m - HALF * m**2 + 23 * SIXTH * m,
        n * m**2 - THIRD * m**3 + n * m - HALF * m**2 + 5 * SIXTH * m,
    )


def getrf(m: int, n: int) -> Any:
    return (
        HALF * m * n**2 - SIXTH * n**3 + HALF * m * n - HALF * n**2 + 2 * THIRD * n,
        HALF * m * n**2 - SIXTH * n**3 - HALF * m * n + SIXTH * n,
    )


def getri(n: int) -> Any:
    return (
        2 * THIRD * n**3 + HALF * n**2 + 5 * SIXTH * n,
        2 * THIRD * n**3 - 3 * HALF * n**2 + 5 * SIXTH * n,
    )


def blank(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


NOTE = {
    "POTRF": (
        lambda: linalg.cholesky_ex(blank(40, 40)),
        (SIXTH * 40**3 + HALF * 40**2 + THIRD * 40, SIXTH * 40**3 - SIXTH * 40),
    ),
    "POTRI": (
        lambda: torch.cholesky_inverse(blank(40, 40)),
        (
            THIRD * 40**3 + 40**2 + 2 * THIRD * 40,
            THIRD * 40**3 - HALF * 40**2 + SIXTH * 40,
        ),
    ),
    "POTRS": (
        lambda: torch.cholesky_solve(blank(40, 7), blank(40, 40)),
        (7 * 40 * 41, 7 * 40 * 39),
    ),
    "GETRF of a square": (lambda: linalg.lu_factor_ex(blank(40, 40)), getrf(40, 40)),
    "GETRF of a tall matrix": (lambda: linalg.lu_factor_ex(blank(40, 9)), getrf(40, 9)),
    "GETRS": (
        lambda: linalg.lu_solve(blank(40, 40), blank(40, dtype=torch.int32), blank(40, 7)),
        (7 * 40**2, 7 * 40 * 39),
    ),
    "SYTRF": (
        lambda: linalg.ldl_factor_ex(blank(40, 40)),
        (SIXTH * 40**3 + HALF * 40**2 + 10 * THIRD * 40, SIXTH * 40**3 - SIXTH * 40),
    ),
    "GEQRF of a square": (lambda: torch.geqrf(torch.rand(40, 40)), geqrf(40, 40)),
    "GEQRF of a tall matrix": (lambda: torch.geqrf(torch.rand(40, 9)), geqrf(40, 9)),
    "GEQRF of a wide matrix": (lambda: torch.geqrf(torch.rand(9, 40)), geqrf(9, 40)),
    "ORGQR": (
        lambda: linalg.householder_product(blank(40, 20), blank(12)),
        orgqr(40, 20, 12),
    ),
    "ORMQR from the left": (
        lambda: torch.ormqr(blank(40, 12), blank(12), blank(40, 7)),
        (2 * 40 * 7 * 12 - 7 * 12**2 + 2 * 7 * 12, 2 * 40 * 7 * 12 - 7 * 12**2 + 7 * 12),
    ),
    "ORMQR from the right": (
        lambda: torch.ormqr(blank(40, 12), blank(12), blank(7, 40), left=False),
        (
            2 * 7 * 40 * 12 - 7 * 12**2 + 7 * 12 + 40 * 12 - HALF * 12**2 + HALF * 12,
            2 * 7 * 40 * 12 - 7 * 12**2 + 7 * 12,
        ),
    ),
}


@pytest.mark.parametrize(("op", "steps"), NOTE.values(), ids=NOTE)
def test_an_op_costs_what_the_installation_guide_says(
    op: Callable[..., Any], steps: tuple[int, int]
) -> None:
    assert measured(op).arith == sum(steps)


def test_a_full_q_of_a_wide_matrix_is_square() -> None:
    factor, q = geqrf(9, 40), orgqr(9, 9, 9)
    for mode in "reduced", "complete":
        assert measured(linalg.qr, blank(9, 40), mode).arith == sum(factor) + sum(q)
    assert measured(linalg.qr, blank(9, 40), "r").arith == sum(factor)


def test_an_inverse_costs_what_the_installation_guide_says_but_for_n_reciprocals() -> None:
    assert measured(linalg.inv_ex, blank(40, 40)).arith == sum(getrf(40, 40) + getri(40)) - 40


def test_the_search_for_pivots_can_be_left_out() -> None:
    # step k: the absolute values of 5 - k + 1 entries, and 5 - k comparisons
    searched = Cost(compare=5 + 4 + 3 + 2 + 1 + 4 + 3 + 2 + 1)
    unsearched = measured(lambda a: aten.linalg_lu_factor_ex(a, pivot=False), blank(5, 5))
    assert measured(linalg.lu_factor_ex, A) == unsearched + searched
    assert measured(linalg.ldl_factor_ex, A).compare == searched.compare


def test_unpacking_factors_only_moves_them() -> None:
    with flopcount.FlopCounter() as counter:
        torch.lu_unpack(LU, PIVOTS)
    assert counter.report().total.flops == 0
    assert not counter.report().uncounted


def test_the_logarithm_of_a_determinant() -> None:
    factor = measured(linalg.lu_factor_ex, A)
    # 5 signs, their product with the permutation's, 5 sizes, 5 logarithms, 4 additions
    expected = factor + Cost(arith=5 + 4, compare=5 + 5, special=5)
    assert measured(aten._linalg_slogdet, A) == expected
    rotated = A * (1 + 0.5j)
    # 5 moduli (4), quotients by them (2), products (6); 5 logarithms, 4 real additions
    expected = measured(linalg.lu_factor_ex, rotated) + Cost(arith=5 * (4 + 2 + 6) + 4, special=5)
    assert measured(aten._linalg_slogdet, rotated) == expected


# what is made of them


EXECUTED = {
    "Cholesky's factor": (linalg.cholesky_ex, 22_179),
    "inverse, solved for I": (linalg.inv_ex, 178_409),
    "QR": (linalg.qr, 232_370),
}


@pytest.mark.parametrize(("op", "executed"), EXECUTED.values(), ids=EXECUTED)
def test_a_kernel_executes_about_as_much(op: Callable[..., Any], executed: int) -> None:
    """Floating-point instructions of a CPU kernel on a 40 by 40 matrix, FMAs as two."""
    assert 0.7 < executed / measured(op, blank(40, 40)).arith < 1.45


def test_least_squares_are_reflectors_and_a_triangle() -> None:
    tall = sum(geqrf(40, 9)) + (2 * 40 * 7 * 9 - 7 * 81 + 2 * 7 * 9)
    tall += 2 * 40 * 7 * 9 - 7 * 81 + 7 * 9 + 7 * 9**2
    assert measured(linalg.lstsq, torch.rand(40, 9), torch.rand(40, 7)) == Cost(arith=tall)
    assert measured(linalg.lstsq, torch.rand(9, 40), torch.rand(9, 7)) == Cost(arith=tall)
    batch = torch.rand(2, 40, 9), torch.rand(2, 40, 7)
    assert measured(linalg.lstsq, *batch) == 2 * Cost(arith=tall)
    # and the residuals: 31 rows of each column squared and added
    residuals = 7 * (31 + 30)
    gels = measured(lambda a, b: linalg.lstsq(a, b, driver="gels"), *(x[0] for x in batch))
    assert gels == Cost(arith=tall + residuals)
    rotated = [x[0] * (1 + 0.5j) for x in batch]
    squares = measured(lambda a, b: linalg.lstsq(a, b, driver="gels"), *rotated)
    assert squares - measured(linalg.lstsq, *rotated) == Cost(arith=7 * (3 * 31 + 30))


@pytest.mark.parametrize("driver", ["gelsd", "gelss"])
def test_least_squares_by_singular_values(driver: str) -> None:
    a, b = torch.rand(40, 9), torch.rand(40, 7)
    svd = 2 * 40 * 9**2 + 11 * 9**3
    reflected = 2 * (2 * 40 * 7 * 9 - 7 * 81) + 3 * 7 * 9
    scaled, product, residuals = 7 * 9, 2 * 7 * 9**2, 7 * (31 + 30)
    expected = Cost(arith=svd + reflected + scaled + product + residuals)
    assert measured(lambda a, b: linalg.lstsq(a, b, driver=driver), a, b) == expected


def test_a_matrix_exponential_is_five_products() -> None:
    unhalved = A / linalg.matrix_norm(A, 1)  # small enough not to be halved
    products = Cost(macs=5 * 5**3, dots=5 * 5**2)
    # five combinations of five matrices, and three additions
    combined = Cost(macs=5 * 5 * 25, dots=5 * 25, arith=3 * 25)
    assert measured(torch.matrix_exp, unhalved) == products + combined
    with profile() as profiler:
        torch.matrix_exp(unhalved)
    ran = {event.key: event.count for event in profiler.key_averages()}
    assert ran["aten::bmm"] == 5


def test_a_cross_product_costs_what_its_decomposition_does() -> None:
    a, b = matrix(4, 3), matrix(1, 3)
    assert measured(linalg.cross, a, b) == Cost(arith=3 * 12)
    assert decomposed_cost(aten.linalg_cross.default, a, matrix(4, 3)) == Cost(arith=3 * 12)


EMPTY = {
    "Cholesky's factor": lambda: linalg.cholesky_ex(blank(0, 0)),
    "LU factors of nothing": lambda: linalg.lu_factor_ex(blank(3, 0)),
    "a system without columns": lambda: linalg.solve_triangular(
        blank(3, 3), blank(3, 0), upper=True
    ),
    "an empty batch": lambda: linalg.inv_ex(blank(0, 3, 3)),
    "QR": lambda: linalg.qr(blank(4, 0)),
    "singular values": lambda: linalg.svdvals(blank(0, 4)),
}


@pytest.mark.parametrize("op", EMPTY.values(), ids=EMPTY)
def test_nothing_costs_nothing(op: Callable[..., Any]) -> None:
    assert measured(op) == Cost()


@pytest.mark.skipif(not hasattr(aten, "cholesky"), reason="this torch has the new name alone")
def test_the_old_name_of_cholesky_is_the_same_work() -> None:
    assert measured(torch.cholesky, POSITIVE) == measured(linalg.cholesky, POSITIVE)


def test_the_inner_op_of_a_cholesky_solve_is_the_same_work() -> None:
    inner = measured(aten._cholesky_solve_helper, B, L, False)
    assert inner == measured(torch.cholesky_solve, B, L) == Cost(arith=3 * 2 * 5**2)


def test_results_may_be_placed() -> None:
    values = torch.empty(5, dtype=torch.complex128)
    assert measured(aten.linalg_eigvals.out, A, out=values) == Cost(arith=10 * 5**3)
    places = torch.empty(5, 5, dtype=torch.float64), torch.empty(0, dtype=torch.int32)
    placed = measured(lambda: linalg.cholesky_ex(POSITIVE, out=places))
    assert placed == measured(linalg.cholesky_ex, POSITIVE)
