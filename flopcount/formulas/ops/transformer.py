"""Whole layers in one op: what torch.nn's transformer layers run when no gradient is needed."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from flopcount.cost import ZERO, Cost
from flopcount.formulas.call import components
from flopcount.formulas.ops.activations import GELU
from flopcount.formulas.ops.attention import Attention
from flopcount.formulas.ops.normalization import normalize
from flopcount.formulas.registry import Uncountable, formula
from flopcount.formulas.steps import contraction, dot_products, elementwise
from flopcount.torch_private.ops import component_shapes


def projected(x: Tensor, vectors: int, length: int, results: int) -> Cost:
    """W·x + b for so many vectors x."""
    dots = vectors * results
    return contraction(dots=dots, length=length) + elementwise(x, dots, add=1)


def attention_layer(x: Tensor, k: int, heads: int, *, masked: bool, averaged: bool) -> Cost:
    """Projections of length e in and out, and attention of q queries in x to k keys between.

    The weights are computed even if nobody asks for them; their mean over h heads takes h - 1
    additions and a division for each.
    """
    (b, q, e), h = x.shape, heads
    selects = 2 if masked else 0  # as aten::_masked_softmax, which the kernel calls
    sizes = {"b": b, "h": h, "g": 1, "q": q, "k": k, "d": e // h, "v": e // h, "hidden": 0}
    attention = Attention(
        **sizes, scaled=True, biased=False, selects=selects, dropout=0, saves=False
    )
    around = projected(x, b * (2 * q + 2 * k), e, e)  # queries, keys, values, results
    mean = elementwise(x, b * q * k, add=h - 1, div=1) if averaged else ZERO
    return around + attention.forward() + mean


def batches(*tensors: Tensor) -> Iterator[tuple[int, Sequence[Tensor]]]:
    """Dense tensors, and how often they come: nested ones are taken apart into components."""
    if not tensors[0].is_nested:
        yield 1, tensors
        return
    yield from components(*tensors)


def padding(sequences: Tensor, num_head: int, size: int) -> Cost:
    """The wasted part of attention's two products, which pad nested sequences to the longest.

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


@formula("aten::_native_multi_head_attention", nested=True, by_name=True)
@formula("aten::_native_multi_head_attention", by_name=True)
def multi_head_attention(
    *,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim: int,
    num_head: int,
    mask: Tensor | None = None,
    need_weights: bool = True,
    average_attn_weights: bool = True,
    out: Any,
    **others: Any,
) -> Cost:
    """Attention between projections, and the mean of its weights; nested, of each sequence."""
    averaged = need_weights and average_attn_weights
    cost = padding(query, num_head, embed_dim // num_head) if query.is_nested else ZERO
    for times, (q, k, _) in batches(query, key, value):
        masked = mask is not None
        cost += times * attention_layer(q, k.shape[1], num_head, masked=masked, averaged=averaged)
    return cost


@formula("aten::_triton_multi_head_attention", by_name=True)
def triton_multi_head_attention(
    *,
    query: Tensor,
    key: Tensor,
    num_head: int,
    mask: Tensor | None = None,
    out: Tensor,
    **others: Any,
) -> Cost:
    """As the native op, whose weights nobody asks for."""
    masked = mask is not None
    return attention_layer(query, key.shape[1], num_head, masked=masked, averaged=False)


@formula("aten::_transform_bias_rescale_qkv", nested=True)
@formula("aten::_transform_bias_rescale_qkv")
def transform_bias_rescale_qkv(
    qkv: Tensor, qkv_bias: Tensor, num_heads: int, *, out: Sequence[Tensor]
) -> Cost:
    """q, k, v + b, and q / √d, which is one product; of nested tensors they are padded before."""
    q, _, _ = out
    return elementwise(q, add=3, mul=1)


@formula("aten::_transformer_encoder_layer_fwd", nested=True, by_name=True)
@formula("aten::_transformer_encoder_layer_fwd", by_name=True)
def transformer_encoder_layer(
    *,
    src: Tensor,
    embed_dim: int,
    num_heads: int,
    use_gelu: bool,
    norm_weight_1: Tensor,
    norm_bias_1: Tensor,
    norm_weight_2: Tensor,
    norm_bias_2: Tensor,
    ffn_weight_1: Tensor,
    mask: Tensor | None = None,
    out: Tensor,
    **others: Any,
) -> Cost:
    """x + attention(x), x + W₂·φ(W₁·x), each with a layer norm; φ is ReLU or GELU, 5 steps."""
    e, wide = embed_dim, ffn_weight_1.shape[0]
    cost = padding(src, num_heads, e // num_heads) if src.is_nested else ZERO
    for times, (part,) in batches(src):
        tokens, length = part.numel() // e, part.shape[1]
        masked = mask is not None
        attention = attention_layer(part, length, num_heads, masked=masked, averaged=False)
        forward = projected(part, tokens, e, wide) + projected(part, tokens, wide, e)
        activation = elementwise(part, tokens * wide, **(GELU if use_gelu else {"compare": 1}))
        norms = normalize(part, tokens, norm_weight_1, norm_bias_1)
        norms += normalize(part, tokens, norm_weight_2, norm_bias_2)
        cost += times * (attention + forward + activation + norms + elementwise(part, add=2))
    return cost
