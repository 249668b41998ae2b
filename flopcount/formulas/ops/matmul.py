"""Matrix products. Shapes are named as in BLAS: (m, k) @ (k, n), with b for the batch."""

from collections.abc import Sequence
from math import prod

from torch import Tensor

from flopcount.cost import ZERO, Cost
from flopcount.formulas import bytes as traffic
from flopcount.formulas.call import Call
from flopcount.formulas.ops.activations import GELU
from flopcount.formulas.ops.pointwise import scaling_steps
from flopcount.formulas.registry import Gradients, formula
from flopcount.formulas.steps import contraction, elementwise, fold


@formula("aten::mm")
def mm(a: Tensor, b: Tensor, *args: object, out: Tensor) -> Cost:
    """(m, k) @ (k, n): m·n dot products of length k."""
    m, k = a.shape
    _, n = b.shape
    return contraction(dots=m * n, length=k)


@formula("aten::bmm")
def bmm(a: Tensor, b: Tensor, *args: object, out: Tensor) -> Cost:
    """(b, m, k) @ (b, k, n): b·m·n dot products of length k."""
    batch, m, k = a.shape
    _, _, n = b.shape
    return contraction(dots=batch * m * n, length=k)


@formula("aten::mv", "aten::dot", "aten::vdot")
def mv(a: Tensor, b: Tensor, *, out: Tensor) -> Cost:
    """(m, k) @ (k,), or (k,) @ (k,): a dot product of length k for each element of the result."""
    return contraction(dots=out.numel(), length=b.shape[0])


# -- products that are added: beta·bias + alpha·(a @ b)


def combined(out: Tensor, beta: complex, alpha: complex) -> Cost:
    """beta·x + alpha·y: an addition for each element of ``out``.

    A factor that is not 1 is a product for each; with beta = 0 there is nothing to add.
    """
    scaled = Cost(arith=out.numel() * scaling_steps(alpha, out))
    if beta == 0:
        return scaled
    return scaled + elementwise(out, add=1) + Cost(arith=out.numel() * scaling_steps(beta, out))


def added(out: Tensor, length: int, beta: float, alpha: float) -> Cost:
    """A dot product for each element of ``out``, added to another tensor."""
    return contraction(dots=out.numel(), length=length) + combined(out, beta, alpha)


@formula("aten::addmm", "aten::baddbmm", "aten::addmv", traffic=traffic.accumulated)
def addmm(
    bias: Tensor,
    a: Tensor,
    b: Tensor,
    *args: object,
    beta: float = 1,
    alpha: float = 1,
    out: Tensor,
) -> Cost:
    """beta·bias + alpha·(a @ b), a being (…, m, k)."""
    return added(out, a.shape[-1], beta, alpha)


@formula("aten::addbmm", traffic=traffic.accumulated)
def addbmm(
    bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1, out: Tensor
) -> Cost:
    """beta·bias + alpha·Σ (a @ b) over the batch: m·n dot products of length b·k."""
    batch, _, k = a.shape
    return added(out, batch * k, beta, alpha)


@formula("aten::_addmm_activation", traffic=traffic.accumulated)
def addmm_activation(
    bias: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    beta: float = 1,
    alpha: float = 1,
    use_gelu: bool = False,
    out: Tensor,
) -> Cost:
    """φ(beta·bias + alpha·(a @ b)), φ being ReLU, one comparison, or GELU by erf."""
    activation = GELU if use_gelu else {"compare": 1}
    return added(out, a.shape[-1], beta, alpha) + elementwise(out, **activation)


@formula("aten::addr", traffic=traffic.accumulated)
def addr(
    bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1, out: Tensor
) -> Cost:
    """beta·bias + alpha·(a ⊗ b): products that nothing sums are no MACs, as in outer()."""
    return elementwise(out, mul=1) + combined(out, beta, alpha)


# -- layers


def affine(out: Tensor, length: int, bias: Tensor | None) -> Cost:
    """A dot product for each element of ``out``, and the bias, if there is one."""
    products = contraction(dots=out.numel(), length=length)
    return products + elementwise(out, add=int(bias is not None))


@formula("aten::linear")
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, out: Tensor) -> Cost:
    """(…, k) @ (n, k)ᵀ + bias, whole: where a backend does not take it apart."""
    return affine(out, weight.shape[-1], bias)


def linear_backward_traffic(call: Call) -> tuple[int, int]:
    """The weight is read for the input gradient only, the input for the weight's only."""
    x, grad, weight, (for_input, for_weight, _) = call.args
    operands = [grad, x if for_weight else None, weight if for_input else None]
    return traffic.read_and_written(operands, call.results)


@formula("aten::linear_backward", traffic=linear_backward_traffic)
def linear_backward(
    x: Tensor,
    grad: Tensor,
    weight: Tensor,
    output_mask: Sequence[bool],
    *,
    out: Sequence[Tensor | None],
) -> Gradients:
    """dx = g·w, dw = gᵀ·x, db = Σ g."""
    return affine_backward(grad, weight, output_mask)


def affine_backward(grad: Tensor, weight: Tensor, mask: Sequence[bool]) -> Gradients:
    """dx: m·k dot products of length n; dw: n·k of length m; db: a sum of m rows.

    If the gradient is nested, m counts the rows of all components.
    """
    n, k = weight.shape
    m = grad.numel() // n if n else 0
    for_input, for_weight, for_bias = mask
    return Gradients(
        input=contraction(dots=m * k, length=n) if for_input else ZERO,
        weight=contraction(dots=n * k, length=m) if for_weight else ZERO,
        bias=elementwise(grad, fold(m * n, n), add=1) if for_bias else ZERO,
    )


@formula("aten::_compute_linear_combination")
def compute_linear_combination(x: Tensor, coefficients: Tensor, *, out: Tensor) -> Cost:
    """(m, k) coefficients times k tensors: a dot product of length k for each element."""
    return contraction(dots=out.numel(), length=x.shape[0])


@formula("aten::_trilinear")
def trilinear(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    expand1: Sequence[int],
    expand2: Sequence[int],
    expand3: Sequence[int],
    sumdim: Sequence[int],
    unroll_dim: int = 1,
    *,
    out: Tensor,
) -> Cost:
    """Σ a·b·c: a·b summed over what c does not have, times c summed over the rest.

    As a bilinear layer and its gradients: Σ (Σ xᵢ·wₒᵢⱼ)·yⱼ. The kernel does it in slices of
    ``unroll_dim``; where those are also what is summed first, it sums later and multiplies more.
    Each operand lacks the dimensions in which it is expanded.
    """
    every = range(a.dim() + len(expand1))
    lengths: dict[int, int] = {}
    for operand, expanded in ((a, expand1), (b, expand2), (c, expand3)):
        lengths |= zip((d for d in every if d not in expanded), operand.shape, strict=True)
    early = [d for d in sumdim if d in expand3]
    first = [d for d in every if not (d in expand1 and d in expand2)]
    cost = sum_of_products(out, first, early, lengths)
    second = [d for d in every if d not in early]
    return cost + sum_of_products(out, second, [d for d in sumdim if d not in early], lengths)


def sum_of_products(
    out: Tensor, along: Sequence[int], summed: Sequence[int], lengths: dict[int, int]
) -> Cost:
    """A product for each index into the dimensions ``along``; some of these are ``summed``.

    Where nothing is summed they are no MACs.
    """
    products = prod(lengths[d] for d in along)
    if not summed:
        return elementwise(out, products, mul=1)
    length = prod(lengths[d] for d in summed)
    return contraction(dots=products // length if length else 0, length=length)
