"""Whole layers in one op: what torch.nn's transformer layers run when no gradient is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from flopcount.cost import ZERO, Cost
from flopcount.formulas.nested_components import components
from flopcount.formulas.ops.attention import Attention
from flopcount.formulas.ops.normalization import native_layer_norm
from flopcount.formulas.registry import Uncountable, formula
from flopcount.formulas.steps import contraction, dot_products, elementwise
from flopcount.torch_private.ops import component_shapes


def projected(x: Tensor, vectors: int, length: int, results: int) -> Cost:
    """W·x + b for so many vectors x."""
    dots = vectors * results
    return contraction(dots=dots, length=length) + elementwise(x, dots, add=1)


@formula("aten::_native_multi_head_attention")
def multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim: int,
    num_head: int,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    mask: Tensor | None = None,
    need_weights: bool = True,
    average_attn_weights: bool = True,
    mask_type: int | None = None,
    *,
    out: object,
) -> Cost:
    """Projections of length e in and out, and attention between; the weights' mean over heads.

    The weights that are asked for are there anyhow; their mean takes h - 1 additions and a
    division each.
    """
    (b, q, e), k, h = query.shape, key.shape[1], num_head
    attention = Attention(
        b=b,
        h=h,
        g=1,
        q=q,
        k=k,
        d=e // h,
        v=e // h,
        seen=q * k,
        scaled=True,
        biased=False,
        selects=2 * (mask is not None),  # as aten::_masked_softmax, which the kernel calls
        dropout=0,
        saves=False,
    )
    around = projected(query, b * (2 * q + 2 * k), e, e)  # queries, keys, values, results
    averaged = need_weights and average_attn_weights
    mean = elementwise(query, b * q * k, add=h - 1, div=1) if averaged else ZERO
    return around + attention.forward() + mean


@formula("aten::_triton_multi_head_attention")
def triton_multi_head_attention(*args: Any, out: Tensor, **given: Any) -> Cost:
    """As the native op, whose weights nobody wants."""
    given["need_weights"] = False
    return multi_head_attention(*args, **given, out=out)


@formula("aten::_transform_bias_rescale_qkv", nested=True)
@formula("aten::_transform_bias_rescale_qkv")
def transform_bias_rescale_qkv(
    qkv: Tensor, qkv_bias: Tensor, num_heads: int, *, out: Sequence[Tensor]
) -> Cost:
    """q, k, v + b, and q / √d, which is one product; of nested tensors they are padded before."""
    q, _, _ = out
    return elementwise(q, add=3, mul=1)


@formula("aten::_transformer_encoder_layer_fwd")
def transformer_encoder_layer(
    x: Tensor,
    embed_dim: int,
    num_heads: int,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    use_gelu: bool,
    norm_first: bool,
    eps: float,
    norm_weight_1: Tensor,
    norm_bias_1: Tensor,
    norm_weight_2: Tensor,
    norm_bias_2: Tensor,
    ffn_weight_1: Tensor,
    ffn_bias_1: Tensor,
    ffn_weight_2: Tensor,
    ffn_bias_2: Tensor,
    mask: Tensor | None = None,
    mask_type: int | None = None,
    *,
    out: Tensor,
) -> Cost:
    """x + attention(x), x + W₂·φ(W₁·x), each with a layer norm; φ is ReLU or GELU, 5 steps."""
    attention = multi_head_attention(
        *(x, x, x, embed_dim, num_heads, qkv_weight, qkv_bias, proj_weight, proj_bias),
        *(mask, False),
        out=None,
    )
    tokens, e, wide = x.numel() // embed_dim, embed_dim, ffn_weight_1.shape[0]
    forward = projected(x, tokens, e, wide) + projected(x, tokens, wide, e)
    gelu = {"mul": 3, "add": 1, "special": 1}
    activation = elementwise(x, tokens * wide, **(gelu if use_gelu else {"compare": 1}))
    norm = native_layer_norm(x, [e], norm_weight_1, norm_bias_1, eps, out=None)
    return attention + forward + activation + 2 * (norm + elementwise(x, add=1))


# -- on nested tensors


def padding(sequences: Tensor, num_head: int, size: int) -> Cost:
    """What the two products of attention do in vain, since they pad sequences to the longest.

    Of L·L pairs of a query and a key, L being the longest length, t·t are there.

    Raises:
        Uncountable: on accelerators, whose kernels may pad otherwise.
    """
    if sequences.device.type != "cpu":
        raise Uncountable("how far this kernel pads nested tensors is not known")
    lengths = [shape[0] for shape in component_shapes(sequences)]
    longest = max(lengths)
    pairs = num_head * sum(longest**2 - t**2 for t in lengths)
    queries = num_head * sum(longest - t for t in lengths)
    macs = 2 * pairs * size
    return dot_products(macs=macs, dots=pairs + queries * size, void_macs=macs)


@formula("aten::_native_multi_head_attention", nested=True)
def nested_multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim: int,
    num_head: int,
    *others: Any,
    out: object,
    **given: Any,
) -> Cost:
    """Each sequence alone, and padding in the products of attention."""
    cost = padding(query, num_head, embed_dim // num_head)
    for times, (q, k, v) in components(query, key, value):
        alone = multi_head_attention(q, k, v, embed_dim, num_head, *others, **given, out=None)
        cost += times * alone
    return cost


@formula("aten::_transformer_encoder_layer_fwd", nested=True)
def nested_transformer_encoder_layer(
    x: Tensor, embed_dim: int, num_heads: int, *others: Any, out: Tensor, **given: Any
) -> Cost:
    """Each sequence alone, and padding in the products of attention."""
    cost = padding(x, num_heads, embed_dim // num_heads)
    for times, (one,) in components(x):
        alone = transformer_encoder_layer(one, embed_dim, num_heads, *others, **given, out=one)
        cost += times * alone
    return cost
