"""Whether two tensors hold the same values."""

from torch import Tensor, broadcast_shapes

from flopcount.cost import ZERO, Cost
from flopcount.formulas.ops.pointwise import product_steps, sum_steps
from flopcount.formulas.registry import formula


@formula("aten::equal")
def equal(a: Tensor, b: Tensor, *, out: bool) -> Cost:
    """A comparison of each pair of elements, of complex ones two; a kernel may stop early."""
    parts = 2 if a.is_complex() else 1
    return Cost(compare=parts * a.numel()) if a.shape == b.shape else ZERO


@formula("aten::allclose")
def allclose(
    a: Tensor,
    b: Tensor,
    rtol: float = 1e-5,
    atol: float = 1e-8,
    equal_nan: bool = False,
    *,
    out: bool,
) -> Cost:
    """a = b, or |a - b| finite and at most atol + |rtol·b|; or both are no numbers.

    As in ``isclose``, x is finite where x = x and |x| ≠ ∞: three comparisons. With both tolerances
    0 only a = b is asked.
    """
    n: int = broadcast_shapes(a.shape, b.shape).numel()
    parts = 2 if a.is_complex() else 1
    cost = Cost(compare=parts * n)
    if equal_nan:
        cost += Cost(compare=parts * (a.numel() + b.numel()))
    if rtol == atol == 0:
        return cost
    modulus = Cost(arith=4) if a.is_complex() else Cost(compare=1)  # √(re² + im²)
    allowed = Cost(arith=product_steps(rtol, b) + 1) + modulus
    actual = Cost(arith=sum_steps(a, b), compare=3 + 1) + modulus
    return cost + b.numel() * allowed + n * actual
