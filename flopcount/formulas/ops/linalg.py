"""Dense linear algebra: factorizations, solvers and inverses; ``eigenvalues`` has the iterations.

Only plain products of matrices are ``macs``. A factorization's products meet triangles, reflectors
and divisions: they are ``arith``, as the LAPACK literature counts them, so that figures that papers
quote for matrix products keep their meaning. The search for pivots is ``compare``.

The counts follow LAPACK Working Note 41 (Blackford and Dongarra, Installation Guide for LAPACK,
appendix C: LAWN 41), lower-order terms included. They are written as the sums over elimination
steps that they come from, and so hold for the shapes that the note leaves out. Divisions and roots
are among its multiplications; a complex one is 6 real operations, a complex addition 2. Golub and
Van Loan, Matrix Computations (4th edition: GVL), have the methods that the note lacks. Kernels are
blocked, and execute more or fewer operations than the textbook.

Letters: matrices are m by n, r = min(m, n); k runs over the steps 1 … r; c columns are solved for.
"""

from math import prod
from typing import Any

from torch import Tensor

from flopcount.cost import ZERO, Cost
from flopcount.formulas.registry import formula, free
from flopcount.formulas.steps import contraction, elementwise

# sums over the steps of an elimination


def matrices(a: Tensor) -> int:
    """How many matrices the batch ``a`` holds."""
    return prod(a.shape[:-2])


def steps(a: Tensor, *, mul: int, add: int) -> Cost:
    """So many multiplications, divisions and roots, and additions, for each matrix of ``a``."""
    return elementwise(a, matrices(a), mul=mul, add=add)


def expected(a: Tensor, flops: int) -> Cost:
    """A textbook's real operations for each matrix: as many products as sums.

    Complex ones take 4 times as many: (6 + 2) / 2.
    """
    return Cost(arith=matrices(a) * flops * (4 if a.is_complex() else 1))


def margins(m: int, r: int) -> int:
    """Σ (m - k): what the steps leave below the diagonal (or, of n columns, beside it)."""
    return r * m - r * (r + 1) // 2


def corners(m: int, n: int, r: int) -> int:
    """Σ (m - k)·(n - k): the entries of the corners that the steps have still to update."""
    return r * m * n - (m + n) * r * (r + 1) // 2 + r * (r + 1) * (2 * r + 1) // 6


def pivoting(a: Tensor, m: int, r: int) -> Cost:
    """Step k finds the largest of m - k + 1 absolute values; of complex numbers |re| + |im|."""
    absolute = matrices(a) * (margins(m, r) + r)
    larger = matrices(a) * margins(m, r)
    if a.is_complex():
        return Cost(arith=absolute, compare=2 * absolute + larger)
    return Cost(compare=absolute + larger)


# triangular factors


@formula("aten::linalg_cholesky_ex", "aten::cholesky")
def linalg_cholesky_ex(a: Tensor, *args: bool, out: Any, **kwargs: Any) -> Cost:
    """A = L·Lᴴ: step k is a root, n - k divisions, and (n - k)·(n - k + 1) / 2 updates.

    LAWN 41, POTRF: n³/6 + n²/2 + n/3 multiplications and n³/6 - n/6 additions.
    """
    n = a.shape[-1]
    updates = (n**3 - n) // 6
    return steps(a, mul=updates + margins(n, n) + n, add=updates)


def lu_factors(a: Tensor, *, pivot: bool = True) -> Cost:
    """P·A = L·U: step k is a reciprocal, m - k products and (m - k)·(n - k) updates.

    LAWN 41, GETRF, which gives it for m ≥ n only: m·n²/2 - n³/6 + m·n/2 - n²/2 + 2n/3
    multiplications and m·n²/2 - n³/6 - m·n/2 + n/6 additions. To this comes the search for pivots.
    """
    m, n = a.shape[-2:]
    r = min(m, n)
    updates = corners(m, n, r)
    cost = steps(a, mul=updates + margins(m, r) + r, add=updates)
    return cost + pivoting(a, m, r) if pivot else cost


@formula("aten::linalg_lu_factor_ex", "aten::linalg_lu")
def linalg_lu(a: Tensor, *, pivot: bool = True, out: Any, **kwargs: Any) -> Cost:
    """P·A = L·U."""
    return lu_factors(a, pivot=pivot)


free("aten::lu_unpack")
free("aten::_linalg_check_errors", why="looks at what a solver said of itself, not at data")


@formula("aten::linalg_ldl_factor_ex")
def linalg_ldl_factor_ex(a: Tensor, *, out: Any, **kwargs: Any) -> Cost:
    """A = L·D·Lᵀ: like Cholesky's without the root, and with pivots.

    LAWN 41, SYTRF (Bunch and Kaufman): n³/6 + n²/2 + 10n/3 multiplications, 3 in each step to
    decide between pivots, and n³/6 - n/6 additions. Only values tell which pivots are 2 by 2: the
    count, and the search down each column, take all pivots to be single.
    """
    n = a.shape[-1]
    updates = (n**3 - n) // 6
    return steps(a, mul=updates + margins(n, n) + 4 * n, add=updates) + pivoting(a, n, n)


# determinants


def determinant(a: Tensor) -> Cost:
    """U's diagonal multiplied, n - 1 times and by the sign of the permutation."""
    return lu_factors(a) + steps(a, mul=a.shape[-1], add=0)


@formula("aten::_linalg_det")
def linalg_det(a: Tensor, *, out: Any) -> Cost:
    """The product of the diagonal of U, from A = L·U."""
    return determinant(a)


@formula("aten::_linalg_slogdet")
def linalg_slogdet(a: Tensor, *, out: Any) -> Cost:
    """Of the diagonal: n signs, their product and the permutation's, and Σ log|u|.

    The sign of a complex number is u / |u|: 4 operations for the modulus, 2 divisions.
    """
    n, batch = a.shape[-1], matrices(a)
    sums = Cost(arith=batch * max(n - 1, 0), special=batch * n)
    signs = Cost(arith=batch * 6 * n) if a.is_complex() else Cost(compare=batch * 2 * n)
    return determinant(a) + signs + sums


# triangular solves and inverses


def substitution(x: Tensor, n: int, *, unit: bool = False) -> Cost:
    """T·x = b for every column of x: n·(n - 1) / 2 products and differences, n divisions.

    LAWN 41, TRSM. A triangle with a unit diagonal divides nothing.
    """
    pairs = n * (n - 1) // 2
    return elementwise(x, x.numel() // max(n, 1), mul=pairs + (0 if unit else n), add=pairs)


def triangle_inverse(a: Tensor) -> Cost:
    """LAWN 41, TRTRI: n³/6 + n²/2 + n/3 multiplications, n³/6 - n²/2 + n/3 additions."""
    n = a.shape[-1]
    return steps(a, mul=n * (n + 1) * (n + 2) // 6, add=n * (n - 1) * (n - 2) // 6)


@formula("aten::linalg_solve_triangular")
def linalg_solve_triangular(
    a: Tensor, b: Tensor, *, unitriangular: bool = False, out: Tensor, **kwargs: bool
) -> Cost:
    """T·X = B or X·T = B: n² operations for each column, n fewer with a unit diagonal."""
    return substitution(out, a.shape[-1], unit=unitriangular)


@formula("aten::triangular_solve")
def triangular_solve(
    b: Tensor,
    a: Tensor,
    upper: bool = True,
    transpose: bool = False,
    unitriangular: bool = False,
    *,
    out: tuple[Tensor, Tensor],
) -> Cost:
    """T·X = B, the old name."""
    return substitution(out[0], a.shape[-1], unit=unitriangular)


@formula("aten::cholesky_solve", "aten::_cholesky_solve_helper")
def cholesky_solve(b: Tensor, a: Tensor, upper: bool = False, *, out: Tensor) -> Cost:
    """L·Lᴴ·X = B: two substitutions. LAWN 41, POTRS: c·(n² + n) and c·(n² - n)."""
    return 2 * substitution(out, a.shape[-1])


@formula("aten::linalg_lu_solve")
def linalg_lu_solve(a: Tensor, pivots: Tensor, b: Tensor, *, out: Tensor, **kwargs: bool) -> Cost:
    """L·U·X = P·B: two substitutions, L's diagonal being one.

    LAWN 41, GETRS: c·n² multiplications and c·(n² - n) additions.
    """
    return lu_substitutions(out, a.shape[-1])


def lu_substitutions(x: Tensor, n: int) -> Cost:
    """L·U·x = b for every column of x."""
    return substitution(x, n, unit=True) + substitution(x, n)


@formula("aten::linalg_ldl_solve")
def linalg_ldl_solve(a: Tensor, pivots: Tensor, b: Tensor, *, out: Tensor, **kwargs: bool) -> Cost:
    """L·D·Lᵀ·X = B: two substitutions with a unit diagonal, and a division by D of each element.

    c·(2n² - n) in all; LAWN 41's SYTRS has 1 more for each element, its pivots being 2 by 2.
    """
    return 2 * substitution(out, a.shape[-1], unit=True) + elementwise(out, mul=1)


@formula("aten::_linalg_solve_ex")
def linalg_solve_ex(a: Tensor, b: Tensor, *, out: tuple[Tensor, ...], **kwargs: Any) -> Cost:
    """A·X = B by A's factors L·U. LAWN 41, GESV."""
    return lu_factors(a) + lu_substitutions(out[0], a.shape[-1])


@formula("aten::linalg_inv_ex")
def linalg_inv_ex(a: Tensor, *, out: Any, **kwargs: Any) -> Cost:
    """L·U, then U⁻¹, then X·L = U⁻¹ for n rows of X: 2n³ in the leading term.

    LAWN 41, GETRF and GETRI, which counts n more. torch solves A·X = I instead, without regard
    for the zeros of I: 8/3·n³.
    """
    return lu_factors(a) + triangle_inverse(a) + substitution(a, a.shape[-1], unit=True)


@formula("aten::cholesky_inverse")
def cholesky_inverse(a: Tensor, upper: bool = False, *, out: Tensor) -> Cost:
    """(L·Lᴴ)⁻¹ = L⁻ᴴ·L⁻¹: the triangle's inverse, and half of its product with itself.

    LAWN 41, POTRI: n³/3 + n² + 2n/3 multiplications and n³/3 - n²/2 + n/6 additions.
    """
    n = a.shape[-1]
    product = steps(a, mul=n * (n + 1) * (n + 2) // 6, add=(n**3 - n) // 6)
    return triangle_inverse(a) + product


# reflectors


def reflectors(a: Tensor, m: int, n: int) -> Cost:
    """Householder's QR: step k makes a reflector of l = m - k + 1 numbers for n - k columns.

    To make it: the root of l - 1 squares, of two more squares, 3 sums, 2 divisions, l - 1
    products. To apply it to a column: l products and sums for vᵀ·x, one by τ, l for the update.
    LAWN 41, GEQRF, for m > n: m·n² - n³/3 + n²/2 + m·n + 23n/6 multiplications and
    m·n² - n³/3 + n²/2 + 5n/6 additions.
    """
    r = min(m, n)
    below, beside, corner = margins(m, r), margins(n, r), corners(m, n, r)
    return steps(
        a,
        mul=2 * below + 6 * r + 2 * corner + 3 * beside,
        add=below + 2 * r + 2 * corner + 2 * beside,
    )


def generated(a: Tensor, m: int, n: int, r: int) -> Cost:
    """The first n columns of a product of r reflectors. LAWN 41, ORGQR.

    r·(2mn + 2n - 5/3 + r·(2r/3 - m - n - 1)) multiplications and
    r·(2mn + n - m + 1/3 + r·(2r/3 - m - n)) additions: a reflector of l = m - k + 1 numbers for
    n - k columns, l - 1 products by τ, and one difference.
    """
    beside, corner = margins(n, r), corners(m, n, r)
    return steps(a, mul=2 * corner + 3 * beside + margins(m, r), add=2 * corner + 2 * beside + r)


def reflected(x: Tensor, vectors: int, length: int, r: int, *, left: bool = True) -> Cost:
    """r reflectors applied to vectors of ``length`` numbers: LAWN 41, ORMQR.

    l = length - k + 1 products and sums for vᵀ·x and again for the update; τ scales vᵀ·x from the
    left, v from the right.
    """
    lengths = margins(length, r) + r
    products = 2 * vectors * lengths
    return steps(x, mul=products + (vectors * r if left else lengths), add=products)


@formula("aten::geqrf")
def geqrf(a: Tensor, *, out: Any) -> Cost:
    """R and the reflectors of Q."""
    return reflectors(a, *a.shape[-2:])


@formula("aten::linalg_householder_product")
def linalg_householder_product(a: Tensor, tau: Tensor, *, out: Tensor) -> Cost:
    """Q from its reflectors."""
    m, n = a.shape[-2:]
    return generated(a, m, n, tau.shape[-1])


@formula("aten::linalg_qr")
def linalg_qr(a: Tensor, mode: str = "reduced", *, out: Any) -> Cost:
    """R and Q's reflectors, then r columns of Q, or all m; none with mode "r"."""
    m, n = a.shape[-2:]
    r = min(m, n)
    factor = reflectors(a, m, n)
    return factor if mode == "r" else factor + generated(a, m, r if mode == "reduced" else m, r)


@formula("aten::ormqr")
def ormqr(
    a: Tensor, tau: Tensor, x: Tensor, left: bool = True, transpose: bool = False, *, out: Tensor
) -> Cost:
    """Q·X or X·Q by Q's reflectors."""
    m, n = x.shape[-2:]
    vectors, length = (n, m) if left else (m, n)
    return reflected(x, vectors, length, tau.shape[-1], left=left)


# least squares, the exponential and the vector product


@formula("aten::linalg_lstsq")
def linalg_lstsq(
    a: Tensor,
    b: Tensor,
    rcond: float | None = None,
    *,
    driver: str | None = None,
    out: tuple[Tensor, ...],
) -> Cost:
    """Qᴴ·B by reflectors, and R·X = Qᴴ·B; of a wide A the same with the factors of Aᴴ.

    LAWN 41's GEQRF, ORMQR and TRSM, for full rank; the default driver's choice of pivots is not
    counted. The drivers that find singular values: 4mn² + 8n³, or 2mn² + 11n³ (GVL, figure 5.5.1,
    Σ and V), and for each column the reflectors, n divisions and V's product.
    """
    solution, residuals, *_ = out
    short, long = sorted(a.shape[-2:])
    columns = solution.numel() // max(a.shape[-1] * matrices(a), 1)
    cost = reflected(a, columns, long, short)
    if driver in ("gelsd", "gelss"):
        svd = min(4 * long * short**2 + 8 * short**3, 2 * long * short**2 + 11 * short**3)
        products = columns * short**2
        cost += expected(a, svd) + steps(a, mul=products + columns * short, add=products)
    else:
        per_column = short * (short - 1) // 2
        triangle = steps(a, mul=columns * (per_column + short), add=columns * per_column)
        cost += reflectors(a, long, short) + triangle
    return cost + squared_residuals(residuals, long - short, a)


def squared_residuals(residuals: Tensor, rows: int, a: Tensor) -> Cost:
    """The rows of Qᴴ·B below R, squared and added; a squared modulus is 2 products and a sum."""
    if residuals.numel() == 0:
        return ZERO
    square = 3 if a.is_complex() else 1
    return Cost(arith=residuals.numel() * (square * rows + rows - 1))


@formula("aten::linalg_matrix_exp")
def linalg_matrix_exp(a: Tensor, *, out: Tensor) -> Cost:
    """A Taylor polynomial of degree 18 in 5 products (Bader, Blanes and Casas, 2019).

    A², A³ and A⁶ are 3 products; of these, A and I five combinations are formed, with
    coefficients, and 2 more products with 3 additions put them together. A matrix of large norm
    is first halved, and its exponential squared as often, a product each. Only values tell how
    often, so none are counted. A matrix of tiny norm takes fewer products.
    """
    n = a.shape[-1]
    products = contraction(dots=5 * a.numel(), length=n)
    return products + contraction(dots=5 * a.numel(), length=5) + elementwise(a, add=3)


@formula("aten::linalg_cross")
def linalg_cross(a: Tensor, b: Tensor, *, dim: int = -1, out: Tensor) -> Cost:
    """aᵢ·bⱼ - aⱼ·bᵢ: two products and a difference for each element."""
    return elementwise(out, mul=2, add=1)
