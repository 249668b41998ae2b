"""Eigenvalues, singular values, and matrices that are made from them.

Iterative methods have no exact count. Here it is the number of operations that Golub and Van Loan
expect, Matrix Computations (4th edition: GVL), all of them ``arith``; kernels may use other
iterations. Letters: matrices are m by n, r = min(m, n).
"""

from typing import Any

from torch import Tensor

from flopcount.cost import Cost
from flopcount.formulas.ops.linalg import expected, matrices
from flopcount.formulas.registry import formula
from flopcount.formulas.steps import contraction


def eigenvectors(a: Tensor) -> Cost:
    """Symmetric QR iteration with vectors: 9·n³ (GVL, algorithm 8.3.3)."""
    return expected(a, 9 * a.shape[-1] ** 3)


@formula("aten::_linalg_eigh")
def linalg_eigh(
    a: Tensor, triangle: str = "L", compute_v: bool = True, *, out: Any, **kwargs: Any
) -> Cost:
    """Symmetric QR iteration: 9·n³ with vectors, 4/3·n³ for the values (GVL, algorithm 8.3.3).

    Divide and conquer, which LAPACK prefers for the vectors, executes fewer. Where a dispatch mode
    listens, as it does while FLOPs are counted, ``torch.linalg.eigvalsh`` asks for vectors too.
    """
    return eigenvectors(a) if compute_v else expected(a, 4 * a.shape[-1] ** 3 // 3)


@formula("aten::linalg_eig")
def linalg_eig(a: Tensor, *, out: Any) -> Cost:
    """QR iteration to the Schur form Q·T·Qᴴ: 25·n³ (GVL, algorithm 7.5.2).

    The back substitution for the vectors (4/3·n³) is less than the iterations may vary.
    """
    return expected(a, 25 * a.shape[-1] ** 3)


@formula("aten::_linalg_eigvals", "aten::linalg_eigvals")
def linalg_eigvals(a: Tensor, *, out: Tensor) -> Cost:
    """QR iteration for the eigenvalues alone: 10·n³ (GVL, algorithm 7.5.2)."""
    return expected(a, 10 * a.shape[-1] ** 3)


def singular_vectors(a: Tensor, *, full: bool) -> Cost:
    """Σ, V and U, all of U or its first columns, by the formulas of ``linalg_svd``."""
    n, m = sorted(a.shape[-2:])
    whole = 4 * m**2 * n + min(8 * m * n**2 + 9 * n**3, 22 * n**3)
    thin = min(14 * m * n**2 + 8 * n**3, 6 * m * n**2 + 20 * n**3, whole)
    return expected(a, whole if full else thin)


@formula("aten::_linalg_svd")
def linalg_svd(
    a: Tensor, full_matrices: bool = False, compute_uv: bool = True, *, out: Any, **kwargs: Any
) -> Cost:
    """Golub and Reinsch's iteration, or with QR first, whichever is less (GVL, figure 8.6.1).

    m ≥ n after a transposition. Σ: 4mn² - 4n³/3, or 2mn² + 2n³. Σ, V and n columns of U:
    14mn² + 8n³, or 6mn² + 20n³. All of U: 4m²n + 8mn² + 9n³, or 4m²n + 22n³; its first columns
    are no more work. Divide and conquer, which torch runs on the CPU, executes fewer. Where a
    dispatch mode listens, ``torch.linalg.svdvals`` asks for vectors too.
    """
    if compute_uv:
        return singular_vectors(a, full=full_matrices)
    n, m = sorted(a.shape[-2:])
    return expected(a, min(4 * m * n**2 - 4 * n**3 // 3, 2 * m * n**2 + 2 * n**3))


def recomposed(a: Tensor, rows: int, columns: int, r: int) -> Cost:
    """V·D·Wᴴ of r values: V scaled, rows·r products by real numbers, and dots of length r."""
    batch = matrices(a)
    scaled = Cost(arith=batch * rows * r * (2 if a.is_complex() else 1))
    return scaled + contraction(dots=batch * rows * columns, length=r)


@formula("aten::linalg_pinv.atol_rtol_tensor")
def linalg_pinv(a: Tensor, *, hermitian: bool = False, out: Tensor, **kwargs: Any) -> Cost:
    """V·S⁺·Uᴴ: the decomposition, the reciprocals of what exceeds rtol·max(s), two products.

    For each of r values: a comparison, a division and a select; V is scaled, n·r products (by real
    numbers), and multiplied by Uᴴ: n·m dot products of length r. A Hermitian matrix has the
    eigenvalues of ``eigh`` instead: their absolute values are taken, and the largest is found.
    """
    m, n = a.shape[-2:]
    r, batch = min(m, n), matrices(a)
    tolerance = Cost(arith=batch, compare=batch)
    inverted = Cost(arith=batch * r, compare=2 * batch * r)
    cost = tolerance + inverted + recomposed(a, n, m, r)
    if not hermitian:
        return cost + singular_vectors(a, full=False)
    return cost + eigenvectors(a) + Cost(compare=batch * max(2 * r - 1, 0))


@formula("aten::linalg_matrix_sqrth")
def linalg_matrix_sqrth(a: Tensor, *, out: Tensor) -> Cost:
    """V·√D·Vᴴ: the eigenvalues and vectors of ``eigh``, n roots, and the product."""
    n = a.shape[-1]
    return eigenvectors(a) + Cost(arith=matrices(a) * n) + recomposed(a, n, n, n)


@formula("aten::linalg_polar")
def linalg_polar(a: Tensor, *, out: Any, **kwargs: Any) -> Cost:
    """A = U·H, m ≥ n: of A = W·Σ·Vᴴ with n columns of W, U = W·Vᴴ and H = V·Σ·Vᴴ.

    GVL, 9.4.3. On a GPU torch may iterate instead, by QR decompositions.
    """
    m, n = a.shape[-2:]
    orthogonal = contraction(dots=matrices(a) * m * n, length=n)
    return singular_vectors(a, full=False) + orthogonal + recomposed(a, n, n, n)
