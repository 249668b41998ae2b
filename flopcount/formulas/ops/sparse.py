"""Sparse tensors: all stored values count, explicit zeros included.

The number of stored values is known without a look at them; their places are not. All layouts
count alike: coordinates (COO), compressed rows or columns (CSR, CSC), and blocks (BSR, BSC), which
are stored whole.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import Tensor

from flopcount.cost import Cost
from flopcount.formulas import bytes as traffic
from flopcount.formulas.call import Call, is_sparse
from flopcount.formulas.ops.matmul import added
from flopcount.formulas.ops.norms import norm_steps
from flopcount.formulas.ops.pointwise import scaling_steps, weighted_sum
from flopcount.formulas.ops.reduction import rows
from flopcount.formulas.ops.softmax import softmax_backward_steps, softmax_steps
from flopcount.formulas.registry import Gradients, Uncountable, formula, formula_of, free
from flopcount.formulas.steps import dot_products, elementwise, fold


def values(value: Any) -> Any:
    """The values that a sparse tensor stores; anything else as it is."""
    if not is_sparse(value):
        return value
    data, *_ = traffic.sparse_parts(value)
    if data.is_meta or type(data) is not Tensor:
        raise Uncountable("a fake sparse tensor does not tell how much the true one stores")
    return data


def stored(tensor: Tensor) -> int:
    """How many values ``tensor`` stores."""
    data: Tensor = values(tensor)
    return data.numel()


# -- products with dense matrices


@formula("aten::mm", "aten::bmm", "aten::mv", sparse=True)
def mm(a: Tensor, b: Tensor, *args: Any, out: Tensor) -> Cost:
    """(…, m, k) @ (…, k, n), one of them sparse."""
    return product(a, b)


def product(a: Tensor, b: Tensor) -> Cost:
    """(…, m, k) @ (…, k, n) with s stored values: s·n MACs, or m·s if the second one is sparse.

    The number of dot products is that of the rows (columns), or of the values if there are fewer:
    no row counts that stores nothing. Shapes do not tell which values of two sparse factors meet.
    """
    if is_sparse(a) == is_sparse(b):
        raise Uncountable("the product of two sparse tensors depends on where their values are")
    if is_sparse(b):
        times, lines = a.shape[-2], b.numel() // max(b.shape[-2], 1)
    else:
        times, lines = b.shape[-1] if b.dim() > 1 else 1, prod(a.shape[:-1])
    s = stored(a if is_sparse(a) else b)
    return Cost(macs=s * times, dots=min(lines, s) * times)


@formula(
    *("aten::addmm", "aten::_sparse_addmm", "aten::addmv", "aten::baddbmm"),
    traffic=traffic.accumulated,
    sparse=True,
)
def added_product(
    bias: Tensor, a: Tensor, b: Tensor, *args: Any, beta: float = 1, alpha: float = 1, out: Tensor
) -> Cost:
    """beta·bias + alpha·(a @ b): an addition for each dot product.

    A factor alpha that is not 1 is a product for each, beta one for each element of the result;
    with beta = 0 the bias is not read.
    """
    if is_sparse(out):
        raise Uncountable("which of the sums are stored depends on where values are")
    cost = product(a, b)
    scaled = cost + Cost(arith=cost.dots * scaling_steps(alpha, out))
    if beta == 0:
        return scaled
    sums = elementwise(out, cost.dots, add=1)
    return scaled + sums + Cost(arith=out.numel() * scaling_steps(beta, out))


@formula("aten::hspmm", sparse=True)
def hspmm(a: Tensor, b: Tensor, *, out: Tensor) -> Cost:
    """A sparse matrix times a dense one; only rows that are not empty are stored."""
    return Cost(macs=stored(a) * b.shape[-1], dots=stored(out))


@formula("aten::sparse_sampled_addmm", sparse=True)
def sampled_addmm(
    x: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1, out: Tensor
) -> Cost:
    """beta·x + alpha·(a @ b) where x stores values: a dot product and an addition for each."""
    return added(values(out), a.shape[-1], beta, alpha)


@formula("aten::_sparse_mm_reduce_impl", sparse=True)
def mm_reduce(a: Tensor, b: Tensor, reduce: str, *, out: tuple[Tensor, Tensor]) -> Cost:
    """A product whose sums are divided by their length (mean), or are maxima or minima instead."""
    cost = product(a, b)
    if reduce in ("amax", "amin"):
        return Cost(arith=cost.macs, compare=cost.macs - cost.dots)
    return cost + Cost(arith=cost.dots if reduce == "mean" else 0)


@formula("aten::_sparse_mm_reduce_impl_backward", sparse=True)
def mm_reduce_backward(
    a: Tensor,
    grad: Tensor,
    b: Tensor,
    reduce: str,
    places: Tensor,
    output_mask: Sequence[bool],
    *,
    out: tuple[Tensor | None, Tensor | None],
) -> Gradients:
    """dA = dC·Bᵀ where A stores values, dB = Aᵀ·dC; a mean divides each value by its row's length.

    Of a maximum each element goes to one value of A and one element of B: a product, added.
    """
    for_a, for_b = output_mask
    wanted = output_mask.count(True)
    if reduce in ("amax", "amin"):
        return Gradients(unsplit=wanted * elementwise(grad, mul=1, add=1))
    s, n = stored(a), grad.shape[-1]
    dots = (s if for_a else 0) + (min(b.shape[0], s) * n if for_b else 0)
    mean = Cost(arith=s * wanted if reduce == "mean" else 0)
    return Gradients(unsplit=dot_products(macs=wanted * s * n, dots=dots) + mean)


# -- element by element


def on_values(*names: str) -> None:
    """Register ops that keep zeros: what they cost on the stored values alone."""
    for name in names:
        formula(name, sparse=True)(_with_values(name))


def _with_values(name: str) -> Any:
    def cost(*args: Any, out: Tensor, **kwargs: Any) -> Cost | Gradients:
        return formula_of(name)(*map(values, args), out=values(out), **kwargs)

    cost.__doc__ = f"{name} of the stored values."
    return cost


on_values("aten::abs", "aten::angle", "aten::neg", "aten::sgn", "aten::sign", "aten::signbit")
on_values("aten::ceil", "aten::floor", "aten::frac", "aten::round", "aten::trunc")
on_values("aten::asin", "aten::atan", "aten::sin", "aten::tan", "aten::rad2deg", "aten::deg2rad")
on_values("aten::asinh", "aten::atanh", "aten::sinh", "aten::tanh", "aten::expm1", "aten::log1p")
on_values("aten::isinf", "aten::isnan", "aten::isneginf", "aten::isposinf", "aten::nan_to_num")
on_values("aten::erf", "aten::erfinv", "aten::relu", "aten::threshold_backward")
on_values("aten::mul", "aten::div", "aten::floor_divide", "aten::pow", "aten::sqrt", "aten::square")


def met(call: Call) -> tuple[int, int]:
    """Of a dense target that is added to in place, only what meets a stored value is touched."""
    target, x, *_ = call.args
    if not call.mutated or is_sparse(target):
        return traffic.operands_and_results(call)
    touched = min(traffic.size(values(x)), traffic.size(target))
    return traffic.size(x) + touched, touched


@formula("aten::add", "aten::sub", traffic=met, sparse=True)
def sum_of(a: Any, b: Any, scale: complex = 1, *, alpha: complex = 1, out: Tensor) -> Cost:
    """a + alpha·b: an addition where values meet, and a product for each value of b if alpha ≠ 1.

    A dense a meets all values of b. Of two sparse ones those meet that the result stores once.
    """
    factor = alpha if scale == 1 else scale
    y = values(b)
    scaling = Cost(arith=y.numel() * scaling_steps(factor, y))
    if is_sparse(a) and is_sparse(b):
        return scaling + elementwise(values(out), fold(stored(a) + stored(b), stored(out)), add=1)
    return scaling + weighted_sum(values(a), y, 1, y if is_sparse(b) else values(a))


@formula("aten::_coalesce", "aten::sum", "aten::_sparse_sum", "aten::_sparse_csr_sum", sparse=True)
def gathered(x: Tensor, *args: Any, out: Tensor, **kwargs: Any) -> Cost:
    """Values that have one place in the result are added: one addition less than values each."""
    return elementwise(values(out), fold(stored(x), stored(out)), add=1)


@formula("aten::_sparse_csr_prod", sparse=True)
def csr_prod(x: Tensor, *args: Any, out: Tensor, **kwargs: Any) -> Cost:
    """Values of a row, or a column, are multiplied: one product less than values each."""
    return elementwise(values(out), fold(stored(x), stored(out)), mul=1)


@formula("aten::native_norm", "aten::norm", sparse=True)
def native_norm(x: Tensor, p: float | None = 2, *args: Any, out: Tensor) -> Cost:
    """(Σ|x|ᵖ)^(1/p) of the stored values."""
    return norm_steps(values(x), stored(x), 1, 2 if p is None else p)


# -- softmax of the stored values: the others are -inf


def stored_rows(x: Tensor, dim: int) -> int:
    """Rows along ``dim`` that store values: all of them, or as many as values if there are fewer.

    In a dimension inside the stored values, which are dense, all rows are whole.
    """
    dim %= x.dim()
    count = stored(x)
    return count // max(x.shape[dim], 1) if dim >= x.sparse_dim() else min(rows(x, dim), count)


@formula("aten::_sparse_softmax", sparse=True)
def sparse_softmax(x: Tensor, dim: int, *args: Any, out: Tensor) -> Cost:
    """e^(x - max) / Σe^(x - max) along each row."""
    return softmax_steps(stored(x), stored_rows(x, dim))


@formula("aten::_sparse_log_softmax", sparse=True)
def sparse_log_softmax(x: Tensor, dim: int, *args: Any, out: Tensor) -> Cost:
    """(x - max) - log Σe^(x - max): a logarithm for each row, and no division."""
    m = stored_rows(x, dim)
    return softmax_steps(stored(x), m) + Cost(special=m)


@formula("aten::_sparse_softmax_backward_data", sparse=True)
def sparse_softmax_backward(
    grad: Tensor, y: Tensor, dim: int, x: Tensor, *, out: Tensor
) -> Gradients:
    """y·g - y·Σ(y·g) along each row."""
    return Gradients(input=softmax_backward_steps(stored(y), stored_rows(y, dim)))


@formula("aten::_sparse_log_softmax_backward_data", sparse=True)
def sparse_log_softmax_backward(
    grad: Tensor, y: Tensor, dim: int, x: Tensor, *, out: Tensor
) -> Gradients:
    """g - eʸ·Σg: an exponential, a product and a difference for each value, and the sum."""
    sums = Cost(arith=fold(stored(y), stored_rows(y, dim)))
    return Gradients(input=elementwise(values(y), special=1, mul=1, add=1) + sums)


# -- copies


def sampled(call: Call) -> tuple[int, int]:
    """The mask lends its indices, and what they name is read of the first operand."""
    _, *indices = traffic.sparse_parts(call.args[1])
    read = traffic.size(values(call.out)) + sum(map(traffic.size, indices))
    return read, traffic.size(call.out)


free("aten::sparse_mask", traffic=sampled)
free("aten::_spdiags", "aten::_sparse_sum_backward", "aten::_sparse_broadcast_to_copy")
free("aten::_convert_indices_from_coo_to_csr", "aten::_convert_indices_from_csr_to_coo")
free(
    "aten::_validate_compressed_sparse_indices",
    why="integers are checked for their order: no arithmetic on data",
)
