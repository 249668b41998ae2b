"""2:4 sparsity: two of any four neighbours in a matrix are zero.

The two others are stored, with integers that tell their places. A product multiplies only stored
values: half the MACs of the dense product, in as many dot products. Mishra et al., arXiv
2104.08378.
"""

from typing import Any

from torch import Tensor

from flopcount.cost import Cost
from flopcount.formulas import bytes as traffic
from flopcount.formulas.ops.matmul import combined
from flopcount.formulas.ops.movement import moves
from flopcount.formulas.ops.onednn import unary
from flopcount.formulas.registry import formula, free
from flopcount.formulas.steps import contraction, elementwise


def halved(out: Tensor, k: int) -> Cost:
    """(m, k) @ (k, n) with m·k/2 stored values: m·n dot products of length k/2."""
    return contraction(dots=out.numel(), length=k // 2)


@formula("aten::_sparse_semi_structured_mm")
def mm(a: Tensor, places: Tensor, b: Tensor, *, out_dtype: Any = None, out: Tensor) -> Cost:
    """(m, k) @ (k, n), a stored by halves."""
    return halved(out, b.shape[0])


@formula("aten::_sparse_semi_structured_addmm", traffic=traffic.accumulated, by_name=True)
def addmm(*, mat2: Tensor, alpha: float = 1, beta: float = 1, out: Tensor, **others: Any) -> Cost:
    """beta·bias + alpha·(a @ b), a stored by halves."""
    return halved(out, mat2.shape[0]) + combined(out, beta, alpha)


@formula("aten::_sparse_semi_structured_linear", by_name=True)
def linear(
    *,
    input: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    out: Tensor,
    **others: Any,
) -> Cost:
    """φ(x @ Wᵀ + b), W stored by halves."""
    cost = halved(out, input.shape[-1]) + unary(out, activation)
    return cost + elementwise(out, add=int(bias is not None))


@formula("aten::_cslt_sparse_mm")
def cslt_sparse_mm(
    a: Tensor,
    b: Tensor,
    bias: Tensor | None = None,
    alpha: Tensor | None = None,
    *args: Any,
    out: Tensor,
    **options: Any,
) -> Cost:
    """alpha·(a @ b) + bias, a stored by halves, with their places, in the order of a library."""
    cost = halved(out, b.shape[0])
    return cost + elementwise(out, mul=int(alpha is not None), add=int(bias is not None))


# values to store are picked by integers, or because they are not zero
moves("_to_sparse_semi_structured", "_cslt_compress", "_sparse_semi_structured_apply")
moves("_sparse_semi_structured_apply_dense")
free(
    "aten::_cslt_sparse_mm_search",
    why="tries kernels for the same product, to find which one is fast",
)
