"""Matrix products. Shapes are named as in BLAS: (m, k) @ (k, n), with b for the batch."""

from __future__ import annotations

from torch import Tensor, ops

from flopcount.cost import Cost
from flopcount.formulas import traffic
from flopcount.formulas.primitives import contraction, elementwise
from flopcount.formulas.registry import formula

aten = ops.aten


@formula(aten.mm)
def mm(a: Tensor, b: Tensor, *args: object, out: Tensor) -> Cost:
    """(m, k) @ (k, n): m·n dot products of length k."""
    m, k = a.shape
    _, n = b.shape
    return contraction(dots=m * n, length=k)


@formula(aten.bmm)
def bmm(a: Tensor, b: Tensor, *args: object, out: Tensor) -> Cost:
    """(b, m, k) @ (b, k, n): b·m·n dot products of length k."""
    batch, m, k = a.shape
    _, _, n = b.shape
    return contraction(dots=batch * m * n, length=k)


@formula(aten.mv, aten.dot, aten.vdot)
def mv(a: Tensor, b: Tensor, *, out: Tensor) -> Cost:
    """(m, k) @ (k,), or (k,) @ (k,): a dot product of length k for each element of the result."""
    return contraction(dots=out.numel(), length=b.shape[0])


@formula(aten.addmm, aten.baddbmm, aten.addmv, traffic=traffic.accumulated)
def addmm(
    bias: Tensor,
    a: Tensor,
    b: Tensor,
    *args: object,
    beta: float = 1,
    alpha: float = 1,
    out: Tensor,
) -> Cost:
    """beta·bias + alpha·(a @ b), a being (…, m, k): an addition for each dot product.

    A factor that is not 1 is a product for each; with beta = 0 the bias is not read.
    """
    cost = contraction(dots=out.numel(), length=a.shape[-1])
    cost += elementwise(out, mul=int(alpha != 1))
    return cost + elementwise(out, add=1, mul=int(beta != 1)) if beta != 0 else cost


@formula(aten.linear)
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, out: Tensor) -> Cost:
    """(…, k) @ (n, k)ᵀ + bias, whole: where a backend does not take it apart."""
    cost = contraction(dots=out.numel(), length=weight.shape[-1])
    return cost + elementwise(out, add=1) if bias is not None else cost
