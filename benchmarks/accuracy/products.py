"""The products in a call from Python: the number of results × the length of the sum in each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["EXPERTS", "FUSED", "MATRIX", "MEASURES", "VECTOR", "Product"]

MATRIX = "product"
VECTOR = "product with a vector"
FUSED = "fused attention"
EXPERTS = "product with a matrix for each group"


class Product(NamedTuple):
    """One product: its MACs, and how many of its two operands get a gradient."""

    macs: int
    gradients: int
    kind: str = MATRIX
    repeats: int = 0


def needing(*operands: Tensor) -> int:
    """How many of the tensors need a gradient."""
    return sum(operand.requires_grad for operand in operands)


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, out: Tensor
) -> Iterator[Product]:
    yield Product(out.numel() * x.shape[-1], needing(x, weight))


def matmul(a: Tensor, b: Tensor, *, out: Tensor, **_: Any) -> Iterator[Product]:
    """A product, and those of its gradients that have sums.

    A matrix that is multiplied by a vector has an outer product as its gradient, without a sum. Two
    vectors have gradients without a sum, too.
    """
    macs = out.numel() * a.shape[-1]
    if b.dim() > 1:
        yield Product(macs, needing(a, b))
    else:
        yield Product(macs, needing(b) if a.dim() > 1 else 0, VECTOR)


def reversed_matmul(b: Tensor, a: Tensor, *, out: Tensor) -> Iterator[Product]:
    return matmul(a, b, out=out)


def added_matmul(_: Tensor, *operands: Tensor, out: Tensor, **given: Any) -> Iterator[Product]:
    """A product that is added to a tensor; its operands may be given by name."""
    names = ("mat", "vec", "mat1", "mat2", "batch1", "batch2")
    return matmul(*operands, *(given[name] for name in names if name in given), out=out)


def grouped_matmul(a: Tensor, b: Tensor, *, out: Tensor, **_: Any) -> Iterator[Product]:
    """Each row of ``a`` times the matrix of its group."""
    yield Product(out.numel() * a.shape[-1], needing(a, b), EXPERTS)


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    out: Tensor,
) -> Iterator[Product]:
    """Each result is a sum over the channels of its group and the kernel: a row of the weight."""
    yield windows(out.numel() * weight[0].numel(), x, weight, groups)


def transposed_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    out: Tensor,
) -> Iterator[Product]:
    """Each input meets its row of the weight."""
    yield windows(x.numel() * weight[0].numel(), x, weight, groups)


def windows(macs: int, x: Tensor, weight: Tensor, groups: int) -> Product:
    return Product(macs, needing(x, weight), repeats=(groups - 1) * macs * weight.requires_grad)


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    out: Tensor,
) -> Iterator[Product]:
    """Each query times each key, and each score times each value, masked ones too."""
    chosen = torch._fused_sdp_choice(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )
    kind = MATRIX if chosen == torch.nn.attention.SDPBackend.MATH.value else FUSED
    yield from attention(query, key, value, query.shape[:-1].numel() * key.shape[-2], kind)


def attention(
    query: Tensor, key: Tensor, value: Tensor, scores: int, kind: str = MATRIX
) -> Iterator[Product]:
    yield Product(scores * query.shape[-1], needing(query, key), kind)
    weights_need = query.requires_grad or key.requires_grad
    yield Product(scores * value.shape[-1], weights_need + needing(value), kind)


def multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    *rest: Any,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    out: Tensor,
    **settings: Any,
) -> Iterator[Product]:
    """Projections of queries, keys and values, attention, and a projection of its result."""
    if in_proj_weight is None:
        weights = [q_proj_weight, k_proj_weight, v_proj_weight]
    else:
        weights = list(in_proj_weight.chunk(3))
    for x, weight in zip((query, key, value), weights, strict=True):
        assert weight is not None
        yield Product(x.numel() * len(weight), needing(x, weight))
    keys = key.shape[0] + (bias_k is not None) + add_zero_attn
    learned = any(weight is not None and weight.requires_grad for weight in weights)
    for _ in ("scores", "results"):
        yield Product(query.numel() * keys, 2 * learned)
    yield Product(query.numel() * len(out_proj_weight), learned + needing(out_proj_weight))


def einsum(equation: str, *operands: Any, out: Tensor) -> Iterator[Product]:
    """Products of pairs of operands, from the left.

    A pair that shares no summed letter is multiplied without a sum. A letter that only one operand
    has, and the result has not, is summed before.
    """
    tensors: Sequence[Tensor] = operands[0] if isinstance(operands[0], (list, tuple)) else operands
    before, _, after = equation.replace(" ", "").partition("->")
    terms = before.split(",")
    if "->" not in equation:
        after = "".join(sorted(c for c in set(before) - {",", "."} if before.count(c) == 1))
        after = "..." * ("..." in before) + after
    spelled = [letters(term, tensor.dim()) for term, tensor in zip(terms, tensors, strict=True)]
    result = letters(after, out.dim())
    size: dict[str, int] = {}
    for term, tensor in zip(spelled, tensors, strict=True):
        for letter, length in zip(term, tensor.shape, strict=True):
            size[letter] = max(length, size.get(letter, 1))
    left, needs = set(spelled[0]), tensors[0].requires_grad
    for i, (term, tensor) in enumerate(zip(spelled[1:], tensors[1:], strict=True), start=2):
        kept = set(result).union(*spelled[i:])
        right = set(term)
        if (left & right) - kept:
            met = (left & right) | (left & kept) | (right & kept)
            yield Product(prod(size[letter] for letter in met), needs + tensor.requires_grad)
        left, needs = (left | right) & kept, needs or tensor.requires_grad


def letters(term: str, dimensions: int) -> list[str]:
    """A letter for each dimension; an ellipsis has digits, counted from the last dimension."""
    before, dots, after = term.partition("...")
    hidden = dimensions - len(before) - len(after) if dots else 0
    return [*before, *(str(i) for i in reversed(range(hidden))), *after]


def lstm(
    x: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor], *settings: Any, out: Tensor
) -> Iterator[Product]:
    """Every matrix times every vector of the sequence, in one layer, in one direction or both.

    The first state needs no gradient.
    """
    _, _, _, _, _, batch_first = settings
    batch, steps = x.shape[:2] if batch_first else (x.shape[1], x.shape[0])
    matrices = [weight for weight in weights if weight.dim() == 2]
    for of_input, of_state in zip(matrices[::2], matrices[1::2], strict=True):
        yield Product(batch * steps * of_input.numel(), needing(x, of_input))
        first, later = batch * of_state.numel(), batch * (steps - 1) * of_state.numel()
        yield Product(first, needing(state[0], of_state))
        yield Product(later, 1 + needing(of_state))


Measure = Callable[..., Iterator[Product]]

MEASURES: dict[Any, Measure] = {
    F.linear: linear,
    F.scaled_dot_product_attention: scaled_dot_product_attention,
    F.multi_head_attention_forward: multi_head_attention,
    torch.einsum: einsum,
    torch.lstm: lstm,
    Tensor.__matmul__: matmul,
    Tensor.__rmatmul__: reversed_matmul,
    F.grouped_mm: grouped_matmul,
    torch._grouped_mm: grouped_matmul,
    **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d), convolution),
    torch.conv_transpose1d: transposed_convolution,
    torch.conv_transpose2d: transposed_convolution,
    torch.conv_transpose3d: transposed_convolution,
}
for name in ("matmul", "mm", "bmm", "mv", "dot"):
    MEASURES |= dict.fromkeys((getattr(torch, name), getattr(Tensor, name)), matmul)
for name in ("addmm", "baddbmm", "addmv"):
    MEASURES |= dict.fromkeys((getattr(torch, name), getattr(Tensor, name)), added_matmul)
