"""Ops of torchao: products of few bits on a CPU and on accelerators, and blocks of sparse weights.

Most of its quantised tensors open themselves into torch's ops. These are the kernels that do not.
"""

from typing import Any

from torch import Tensor

from flopcount.cost import Cost
from flopcount.formulas.ops.attention import Attention, visible
from flopcount.formulas.ops.indexing import rows_of_bags
from flopcount.formulas.ops.lowprecision import ROW, finished, packed_length, scaled, span_of
from flopcount.formulas.ops.semi_structured import halved
from flopcount.formulas.registry import Gradients, formula, free
from flopcount.formulas.steps import contraction, dot_products, elementwise, fold, of_integers

BLOCK = 32
"""Elements of the MX formats that share a scale."""


def reach(scale: Tensor, rows: int, k: int) -> int | None:
    """How far a scale reaches along k, of a weight or an operand with so many rows."""
    groups = scale.numel() // (rows or 1)
    return None if scale.numel() == 1 else ROW if groups <= 1 else -(-k // groups)


def scaled_linear(
    x: Tensor, x_scale: Tensor, w_scale: Tensor, bias: Tensor | None, out: Tensor
) -> Cost:
    """x @ Wᵀ + bias with scales of x and of the weight, whole, by rows, or by groups along k."""
    k, n = x.shape[-1], out.shape[-1]
    spans = [reach(x_scale, x.numel() // (k or 1), k), reach(w_scale, n, k)]
    return contraction(dots=out.numel(), length=k) + scaled(out, k, spans) + finished(out, bias)


@formula("torchao::float8_linear_cpu")
def float8_linear_cpu(
    x: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    w_scale: Tensor,
    bias: Tensor | None,
    dtype: Any,
    *,
    out: Tensor,
) -> Cost:
    """x @ Wᵀ + bias of 8-bit floats with scales."""
    return scaled_linear(x, x_scale, w_scale, bias, out)


@formula("torchao::da8w4_linear_cpu")
def da8w4_linear_cpu(
    x: Tensor,
    x_scale: Tensor,
    x_zero: Tensor,
    weight: Tensor,
    w_scale: Tensor,
    w_zero: Tensor,
    compensation: Tensor,
    bias: Tensor | None,
    dtype: Any,
    *,
    out: Tensor,
) -> Gradients:
    """x @ Wᵀ + bias of integers of 8 and 4 bits with scales; zero points are integers."""
    return of_integers(scaled_linear(x, x_scale, w_scale, bias, out))


@formula("torchao::int_scaled_matmul")
def int_scaled_matmul(a: Tensor, b: Tensor, scale: Tensor, *, out: Tensor) -> Gradients:
    """(m, k) @ (k, n) of 8-bit integers, each result times the scale of its row."""
    products = contraction(dots=out.numel(), length=a.shape[-1])
    return of_integers(products + elementwise(out, mul=1))


@formula("torchao::int_matmul")
def int_matmul(a: Tensor, b: Tensor, *, out: Tensor) -> Cost:
    """(m, k) @ (k, n) of 8-bit integers."""
    return contraction(dots=out.numel(), length=a.shape[-1])


@formula("torchao::mx_fp8_bf16")
def mx_fp8_bf16(a: Tensor, b: Tensor, *scales: Tensor, out: Tensor) -> Cost:
    """(m, k) @ (k, n) of 8-bit floats, in which 32 share a scale."""
    k = a.shape[1]
    return contraction(dots=out.numel(), length=k) + scaled(out, k, [BLOCK, BLOCK])


@formula("torchao::swizzle_mm")
def swizzle_mm(a: Tensor, b: Tensor, *swizzled: bool, out: Tensor) -> Cost:
    """(m, k) @ (k, n) in the order of a library."""
    return contraction(dots=out.numel(), length=a.shape[1])


@formula("torchao::swizzle_scaled_mm")
def swizzle_scaled_mm(
    a: Tensor,
    b: Tensor,
    a_is_swizzled: bool,
    b_is_swizzled: bool,
    scale_a: Tensor,
    scale_b: Tensor,
    bias: Tensor | None = None,
    scale_result: Tensor | None = None,
    *args: Any,
    out: Tensor,
) -> Cost:
    """The same with scales, and a bias."""
    k = packed_length(a, -1)
    spans = [span_of(scale_a, -1, k), span_of(scale_b, -2, k)]
    product = contraction(dots=out.numel(), length=k)
    return product + scaled(out, k, spans) + finished(out, bias, scale_result)


@formula("torchao::rowwise_scaled_linear_sparse_cutlass_f8f8")
def rowwise_scaled_linear_sparse(
    x: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    places: Tensor,
    w_scale: Tensor,
    bias: Tensor | None = None,
    dtype: Any = None,
    *,
    out: Tensor,
) -> Cost:
    """x @ Wᵀ + bias, W stored by halves, with scales of rows."""
    k = x.shape[-1]
    return halved(out, k) + scaled(out, k, [ROW, ROW]) + finished(out, bias)


@formula("float8_sparse::fp8_sparse_mm")
def fp8_sparse_mm(
    x: Tensor,
    packed: Tensor,
    bias: Tensor | None,
    alpha: Tensor,
    out_features: int,
    min_size: int,
    *args: Any,
    out: Tensor,
) -> Cost:
    """alpha·(x @ Wᵀ) + bias, W stored by halves; rows are padded to a multiple of a size."""
    rows, k = x.shape
    padding = -rows % min_size
    results = (rows + padding) * out_features
    products = dot_products(
        macs=results * (k // 2), dots=results, void_macs=padding * out_features * (k // 2)
    )
    return products + elementwise(out, results, mul=1, add=int(bias is not None))


@formula("torchao::qscaled_dot_product")
def qscaled_dot_product(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    dropout_p: float = 0,
    is_causal: bool = False,
    *args: Any,
    out: Tensor,
    **scales: Any,
) -> Gradients:
    """Attention of integers: products keep their MACs, and a softmax of integers is no FLOP."""
    heads, queries, d = q.shape[-3:]
    keys, length = k.shape[-2], v.shape[-1]
    batch = q.numel() // (heads * queries * d or 1)
    masked = queries * keys - visible(queries, keys, 0) if is_causal else 0
    attention = Attention(
        b=batch,
        h=heads,
        g=heads // k.shape[-3],
        q=queries,
        k=keys,
        d=d,
        v=length,
        hidden=batch * heads * masked,
        scaled=True,
        biased=mask is not None,
        selects=int(is_causal),
        dropout=0,
        saves=False,
    )
    return Gradients(integer=of_integers(attention.forward()).integer)


@formula("torchao::_scaled_embedding_bag", traffic=rows_of_bags)
def scaled_embedding_bag(
    table: Tensor, indices: Tensor, offsets: Tensor, scale: Tensor, *args: Any, out: Tensor
) -> Cost:
    """The sums of bags of 8-bit rows, times a scale."""
    added = fold(indices.numel() * table.shape[1], out.numel())
    return elementwise(out, added, add=1) + elementwise(out, mul=1)


@formula("torchao::quantize_affine_float8_non_decomposed")
def quantize_affine_float8(x: Tensor, scale: Tensor, *args: Any, out: Tensor) -> Cost:
    """x / scale within the bounds of 8-bit floats."""
    return elementwise(x, div=1, compare=2)


@formula("torchao::dequantize_affine_float8_non_decomposed")
def dequantize_affine_float8(x: Tensor, scale: Tensor, *args: Any, out: Tensor) -> Cost:
    """x·scale."""
    return elementwise(out, mul=1)


# -- sparse weights in blocks: only stored values are multiplied


@formula("blocksparse::addmm")
def blocksparse_addmm(
    x: Tensor, crow: Tensor, columns: Tensor, values: Tensor, *args: Any, out: Tensor
) -> Cost:
    """(m, k) @ (k, n): each stored value meets n numbers."""
    return dot_products(macs=values.numel() * x.shape[-1], dots=out.numel())


@formula("blocksparse::int_addmm")
def blocksparse_int_addmm(
    crow: Tensor, columns: Tensor, values: Tensor, x: Tensor, *scales: Tensor, out: Tensor
) -> Gradients:
    """The same of integers; each result is multiplied by the scales of its row and column."""
    products = dot_products(macs=values.numel() * x.shape[-1], dots=out.numel())
    return of_integers(products + elementwise(out, mul=2))


free("blocksparse::bsr_to_dense")
free("torchao::da8w4_linear_prepack_cpu", "torchao::float8_linear_prepack_cpu")
free("torchao::to_sparse_semi_structured_cutlass_sm9x_f8")
