"""Products of few bits: 8- and 4-bit floats or integers with scales, and groups of products.

Shapes are (m, k) @ (k, n). Whole or packed integers keep their MACs, as in every contraction. The
scales are floating-point work: one of a whole operand is a single number, a product for each
element of the result; one of a row, a column or a block of either is a product for each of the
partial sums that it belongs to. Micikevicius et al., arXiv 2209.05433, has the 8-bit floats;
the Open Compute Project's MX specification blocks of 32.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flopcount.cost import Cost
from flopcount.formulas.ops.matmul import mm
from flopcount.formulas.ops.onednn import unary
from flopcount.formulas.registry import Gradients, formula, free
from flopcount.formulas.steps import contraction, dot_products, elementwise, fold, of_integers

formula("aten::_int_mm")(mm)

ROW = 0
"""The span of a scale for a whole row, however long that is."""

SPANS: dict[int, int | None] = {0: None, 1: ROW, 2: 16, 3: 32, 4: 128, 5: 128}
"""How far one scale reaches along k, by torch.nn.functional.ScalingType; None: everywhere."""

Spans = Sequence["int | None"]


def packed_length(x: Tensor, dim: int) -> int:
    """Elements along ``dim``: two of 4 bits share a byte."""
    pair = getattr(torch, "float4_e2m1fn_x2", None)
    return x.shape[dim] * (2 if pair is not None and x.dtype == pair else 1)


def span_of(scale: Tensor, along: int, k: int) -> int | None:
    """How far one scale reaches along k: its dtype tells the formats of small blocks, else shapes.

    Scales of 8 bits are one for 32 elements (MX, powers of two) or one for 16 (NVFP4).
    """
    if scale.numel() == 1:
        return None
    if scale.dtype == torch.float8_e8m0fnu:
        return 32
    if scale.dtype == torch.float8_e4m3fn:
        return 16
    if scale.dim() < 2 or scale.shape[along] <= 1:
        return ROW
    return -(-k // scale.shape[along])


def scaled(out: Tensor, k: int, spans: Spans) -> Cost:
    """Products with the scales: for each result and each span of k; single numbers go in as one."""
    single = [span for span in spans if span is None]
    blocks = sum(-(-k // span) if span else 1 for span in spans if span is not None)
    factors = blocks + (1 if single else 0)
    return elementwise(out, out.numel() * factors + fold(len(single), 1), mul=1)


def finished(out: Tensor, bias: Tensor | None, scale: Tensor | None = None) -> Cost:
    """What follows the product: a bias is added, and a narrow result scaled."""
    return elementwise(out, add=int(bias is not None), mul=int(scale is not None))


@formula("aten::_scaled_mm")
def scaled_mm(
    a: Tensor,
    b: Tensor,
    scale_a: Tensor,
    scale_b: Tensor,
    bias: Tensor | None = None,
    scale_result: Tensor | None = None,
    out_dtype: Any = None,
    use_fast_accum: bool = False,
    *,
    out: Tensor,
) -> Cost:
    """(a @ b)·scale_a·scale_b + bias: m·n dot products of length k, and what scales them."""
    k = packed_length(a, -1)
    spans = [span_of(scale_a, -1, k), span_of(scale_b, -2, k)]
    product = contraction(dots=out.numel(), length=k)
    return product + scaled(out, k, spans) + finished(out, bias, scale_result)


@formula("aten::_scaled_mm_v2")
def scaled_mm_v2(
    a: Tensor,
    b: Tensor,
    scale_a: Sequence[Tensor],
    recipe_a: Sequence[int],
    swizzle_a: Sequence[int],
    scale_b: Sequence[Tensor],
    recipe_b: Sequence[int],
    swizzle_b: Sequence[int],
    bias: Tensor | None = None,
    out_dtype: Any = None,
    contraction_dim: Sequence[int] = (),
    use_fast_accum: bool = False,
    *,
    out: Tensor,
) -> Cost:
    """The same, with scales of one or two levels, whose kinds the recipes name."""
    k = packed_length(a, -1)
    spans = [SPANS[recipe] for recipe in (*recipe_a, *recipe_b)]
    return contraction(dots=out.numel(), length=k) + scaled(out, k, spans) + finished(out, bias)


# -- groups: rows (or columns, or stretches of k) that belong together, each with its own matrix


def group_products(a: Tensor, b: Tensor, out: Tensor) -> Cost:
    """The products of all groups: shapes tell their number, though only values tell where one ends.

    (M, k) @ (g, k, n) is M·n dot products of length k in all groups together, and (g, m, k) @
    (k, N) likewise; (m, K) @ (K, n) has m·n products of length K, which groups part: g·m·n dot
    products. Rows behind the last offset are counted, although no group has them.
    """
    k = packed_length(a, -1)
    if a.dim() == b.dim() == 2:
        return dot_products(macs=a.shape[0] * b.shape[1] * k, dots=out.numel())
    return contraction(dots=out.numel(), length=k)


def group_scales(a: Tensor, b: Tensor, out: Tensor, spans: Spans) -> Cost:
    """Products with the scales of groups, a row's for each of its dot products.

    Where k is what the groups part, so are its blocks: each belongs to one group.
    """
    groups = out.shape[0] if a.dim() == b.dim() == 2 and out.dim() == 3 else 1
    k = packed_length(a, -1)
    blocks = sum(-(-k // span) if span else groups for span in spans if span is not None)
    single = elementwise(out, mul=int(None in spans))
    return single + elementwise(out, out.numel() // max(groups, 1) * blocks, mul=1)


@formula("aten::_grouped_mm")
def grouped_mm(
    a: Tensor,
    b: Tensor,
    offs: Tensor | None = None,
    bias: Tensor | None = None,
    out_dtype: Any = None,
    *,
    out: Tensor,
) -> Cost:
    """One product for each group: of rows, of columns, or of stretches of k."""
    return group_products(a, b, out) + finished(out, bias)


@formula("aten::_scaled_grouped_mm")
def scaled_grouped_mm(
    a: Tensor,
    b: Tensor,
    scale_a: Tensor,
    scale_b: Tensor,
    offs: Tensor | None = None,
    bias: Tensor | None = None,
    scale_result: Tensor | None = None,
    out_dtype: Any = None,
    use_fast_accum: bool = False,
    *,
    out: Tensor,
) -> Cost:
    """One product for each group, scaled by rows and columns, or by blocks of 32."""
    block = scale_a.dtype == torch.float8_e8m0fnu
    spans = [32 if block else ROW] * 2
    scales = group_scales(a, b, out, spans)
    return group_products(a, b, out) + scales + finished(out, bias, scale_result)


@formula("aten::_scaled_grouped_mm_v2")
def scaled_grouped_mm_v2(
    a: Tensor,
    b: Tensor,
    scale_a: Sequence[Tensor],
    recipe_a: Sequence[int],
    swizzle_a: Sequence[int],
    scale_b: Sequence[Tensor],
    recipe_b: Sequence[int],
    swizzle_b: Sequence[int],
    offs: Tensor | None = None,
    bias: Tensor | None = None,
    out_dtype: Any = None,
    contraction_dim: Sequence[int] = (),
    use_fast_accum: bool = False,
    *,
    out: Tensor,
) -> Cost:
    """The same, with scales whose kinds are named, and of which there may be two levels."""
    spans = [SPANS[recipe] for recipe in (*recipe_a, *recipe_b)]
    return group_products(a, b, out) + group_scales(a, b, out, spans) + finished(out, bias)


# -- floats times packed integer weights


@formula("aten::_weight_int8pack_mm")
def weight_int8pack_mm(x: Tensor, weight: Tensor, scales: Tensor, *, out: Tensor) -> Cost:
    """(x @ qᵀ)·scale: a column's scale is a product for each of its results."""
    return contraction(dots=out.numel(), length=x.shape[-1]) + elementwise(out, mul=1)


@formula("aten::_mixed_dtypes_linear")
def mixed_dtypes_linear(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    *,
    bias: Tensor | None = None,
    activation: str | None = None,
    out: Tensor,
) -> Cost:
    """φ((x @ q)·scale + bias), by columns; φ is none, ReLU or SiLU."""
    products = contraction(dots=out.numel(), length=x.shape[-1])
    return products + elementwise(out, mul=1) + finished(out, bias) + unary(out, activation)


@formula("aten::_weight_int4pack_mm", "aten::_weight_int4pack_mm_for_cpu")
def weight_int4pack_mm(
    x: Tensor, packed: Tensor, group_size: int, scales_and_zeros: Tensor, *, out: Tensor
) -> Cost:
    """x @ ((q - 8)·scale + zero)ᵀ: each weight is made once, q - 8 being an integer."""
    weights = elementwise(out, out.shape[-1] * x.shape[-1], add=1, mul=1)
    return contraction(dots=out.numel(), length=x.shape[-1]) + weights


@formula("aten::_weight_int4pack_mm_with_scales_and_zeros")
def weight_int4pack_mm_with_scales_and_zeros(
    x: Tensor, packed: Tensor, group_size: int, scales: Tensor, zeros: Tensor, *, out: Tensor
) -> Cost:
    """x @ ((q - zero)·scale)ᵀ: a difference of integers, unless zeros are floats, and a product."""
    add = int(zeros.is_floating_point())
    weights = elementwise(out, out.shape[-1] * x.shape[-1], add=add, mul=1)
    return contraction(dots=out.numel(), length=x.shape[-1]) + weights


@formula("aten::_dyn_quant_matmul_4bit")
def dyn_quant_matmul_4bit(
    x: Tensor, packed: Tensor, block_size: int, in_features: int, out_features: int, *, out: Tensor
) -> Gradients:
    """x quantised row by row, times 4-bit weights; the sum of a block is scaled, and a result.

    What a bias adds is left out: whether there is one lies in the packed weight.
    """
    blocks = -(-in_features // block_size) if block_size else 1
    product = contraction(dots=out.numel(), length=in_features)
    return of_integers(quantized_rows(x, in_features) + product + elementwise(out, mul=blocks + 1))


def quantizing(values: int, rows: int) -> Cost:
    """round(x / scale), the scale being (max - min) / (levels - 1) of a row; zero is an integer."""
    extremes = Cost(compare=2 * fold(values, rows))
    return extremes + Cost(arith=2 * rows) + Cost(arith=values, compare=values)


def quantized_rows(x: Tensor, length: int) -> Cost:
    """Each row of so many elements with a scale of its own."""
    return quantizing(x.numel(), x.numel() // length if length else 0)


free(
    "aten::_convert_weight_to_int4pack",
    "aten::_convert_weight_to_int4pack_for_cpu",
    "aten::_dyn_quant_pack_4bit_weight",
)
