"""Scaled dot-product attention by every kernel, forward and backward.

Letters: b batch, h query heads, g query heads that share a key head, q queries, k keys, d the
length of a query and a key, v that of a value; n = b·h·q·k scores in m = b·h·q rows.

    S = scale·Q·Kᵀ (+ mask)        P = softmax(S)        O = P·V

Dense, as papers count: masked pairs of a causal kernel are among the MACs, and their void part.
A kernel that works block by block rescales its running sums; that is left out, the textbook's
softmax counts. Dao et al., arXiv 2205.14135, has the algorithm and its backward pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor

from flopcount.cost import ZERO, Cost
from flopcount.formulas.ops.softmax import softmax_steps
from flopcount.formulas.registry import Formula, Gradients, Uncountable, formula
from flopcount.formulas.steps import dot_products, fold, lengths


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """One call: its sizes, and the steps between its products that are optional."""

    b: int
    h: int
    g: int
    q: int
    k: int
    d: int
    v: int
    seen: int  # (query, key) pairs of one head that no structural mask hides
    scaled: bool  # by another number than 1
    biased: bool  # by an additive mask
    selects: int  # of causal masking, for each score
    dropout: int  # 2 if there is one: P·mask / (1 - p)
    saves: bool  # the logsumexp of each row, for the backward pass

    @property
    def rows(self) -> int:
        """Rows of scores, one for each query."""
        return self.b * self.h * self.q

    @property
    def scores(self) -> int:
        """Query meets key so often."""
        return self.rows * self.k

    def product(self, length: int, dots: int) -> Cost:
        """A product in which each (query, key) pair meets ``length`` numbers."""
        hidden = self.b * self.h * (self.q * self.k - self.seen)
        return dot_products(macs=self.scores * length, dots=dots, void_macs=hidden * length)

    def masked_scores(self) -> Cost:
        """S, n dot products of length d, scaled and masked."""
        n = self.scores
        steps = Cost(arith=self.scaled + self.biased, compare=self.selects)
        return self.product(self.d, n) + n * steps

    def forward(self) -> Cost:
        """S, P and O, the latter m·v dot products of length k; max + log Σ for each row."""
        n, m = self.scores, self.rows
        softmax = softmax_steps(n, m) + Cost(arith=self.dropout * n)
        saved = Cost(arith=m, special=m) if self.saves else ZERO
        return self.masked_scores() + softmax + self.product(self.v, m * self.v) + saved

    def backward(self) -> Gradients:
        """dV = Pᵀ·dO, dP = dO·Vᵀ, dS = P·(dP - D), dQ = scale·dS·K, dK = scale·dSᵀ·Q.

        S and P = exp(S - logsumexp) are computed again. D = Σ dO·O along each row, which equals
        softmax's Σ P·dP: m·v products and m·(v - 1) additions. Key heads gather the gradients of
        the g query heads that they serve, in dot products g times as long.
        """
        n, m = self.scores, self.rows
        keys = self.b * self.h // self.g * self.k
        again = self.masked_scores() + Cost(arith=(1 + self.dropout) * n, special=n)
        products = (
            self.product(self.v, keys * self.v)
            + self.product(self.v, n)
            + self.product(self.d, m * self.d)
            + self.product(self.d, keys * self.d)
        )
        row_sums = Cost(arith=m * self.v + fold(m * self.v, m))
        steps = Cost(arith=(2 + self.dropout + self.scaled) * n)  # difference, product
        return Gradients(input=products + row_sums + steps, recompute=again)


def visible(q: int, k: int, offset: int) -> int:
    """How many of q·k pairs have key ≤ query + offset.

    Row i, from 1, sees i + offset keys, but none below 0 and no more than k: a sum of rising
    numbers, less what rises above k.
    """

    def up_to(last: int) -> int:
        """1 + 2 + … + last."""
        return last * (last + 1) // 2 if last > 0 else 0

    above = up_to(q + offset - k) - up_to(offset - k)
    return up_to(q + offset) - up_to(offset) - above


# -- what kernels call their arguments, in their own order


def attention(
    query: Sequence[int],
    key: Sequence[int],
    value: Sequence[int],
    *,
    mask: Tensor | None = None,
    dropout_p: float = 0.0,
    scale: float | None = None,
    is_causal: bool = False,
    is_lower_right: bool = False,
    custom_mask_type: int = 0,
    window_size_left: int | None = None,
    window_size_right: int | None = None,
    saves: bool = True,
    **others: Any,
) -> Attention:
    """The sizes of a call on shapes (b, h, s, d).

    A causal mask begins at the first query and key, or ends at the last ones (``lower_right``);
    windows go with the latter.
    """
    if given := [name for name in PARTIAL if others.get(name) is not None]:
        raise Uncountable(f"what {' and '.join(given)} leave out")
    (b, h, q, d), g, k, v = query, max(query[1], 1) // max(key[1], 1), key[2], value[3]
    diagonal = 0 if is_causal or custom_mask_type == 1 else k - q
    right = 0 if is_causal or is_lower_right or custom_mask_type else window_size_right
    # torch's -1 and None are no bound: one as far away as the longest sequence
    right, left = (
        q + k if bound is None or bound < 0 else bound for bound in (right, window_size_left)
    )
    seen = visible(q, k, diagonal + right) - visible(q, k, diagonal - left - 1)
    return Attention(
        b=b,
        h=h,
        g=g,
        q=q,
        k=k,
        d=d,
        v=v,
        seen=seen,
        scaled=scale != 1,
        biased=mask is not None,
        selects=int(min(left, right) < q + k),
        dropout=2 if dropout_p else 0,
        saves=saves,
    )


PARTIAL = ["cum_seq_q", "cum_seq_k", "seqused_k", "seqlen_k", "block_table", "window_size"]
"""Arguments that leave out a part of the operands, or that no kernel here explains."""

KERNELS = {
    "_scaled_dot_product_flash_attention_for_cpu": "query key value dropout_p is_causal",
    "_scaled_dot_product_flash_attention": "query key value dropout_p is_lower_right _",
    "_scaled_dot_product_flash_attention.quantized": (
        "query key value _ _ _ dropout_p is_lower_right _"
    ),
    "_scaled_dot_product_efficient_attention": "query key value mask saves dropout_p is_causal",
    "_scaled_dot_product_cudnn_attention": "query key value mask saves dropout_p is_causal _",
    "_scaled_dot_product_fused_attention_overrideable": (
        "query key value mask dropout_p is_causal _"
    ),
    "_cudnn_attention_forward": (
        "query key value mask cum_seq_q cum_seq_k _ _ saves dropout_p is_causal _"
    ),
    "_scaled_dot_product_flash_attention_for_cpu_backward": (
        "_ query key value _ _ dropout_p is_causal"
    ),
    "_scaled_dot_product_flash_attention_backward": (
        "_ query key value _ _ _ _ _ _ dropout_p is_lower_right _ _"
    ),
    "_scaled_dot_product_efficient_attention_backward": (
        "_ query key value mask _ _ _ _ dropout_p _ is_causal"
    ),
    "_scaled_dot_product_cudnn_attention_backward": (
        "_ query key value _ _ _ _ mask _ _ _ _ dropout_p is_causal"
    ),
    "_scaled_dot_product_fused_attention_overrideable_backward": (
        "_ query key value mask _ _ _ _ _ _ _ dropout_p is_causal _ _"
    ),
    "_cudnn_attention_backward": (
        "_ query key value _ _ _ _ mask cum_seq_q cum_seq_k _ _ dropout_p is_causal"
    ),
}
"""Kernels on (b, h, s, d) and their positional arguments; ``_`` is without interest here.

The backward passes of scaled_dot_product_attention get lengths of sequences even where all are
equally long.
"""

KERNELS_LENGTH_FIRST = {
    "_flash_attention_forward": (
        "query key value cum_seq_q cum_seq_k max_q max_k dropout_p is_lower_right _"
    ),
    "_flash_attention_forward.quantized": (
        "query key value cum_seq_q cum_seq_k max_q max_k dropout_p is_lower_right _ _ _ _"
    ),
    "_flash_attention_forward_no_dropout_inplace": (
        "_ query key value cum_seq_q cum_seq_k max_q max_k dropout_p is_lower_right _"
    ),
    "_efficient_attention_forward": (
        "query key value mask cum_seq_q cum_seq_k max_q max_k dropout_p custom_mask_type saves"
    ),
    "_flash_attention_backward": (
        "_ query key value _ _ cum_seq_q cum_seq_k max_q max_k dropout_p is_lower_right _ _"
    ),
    "torch_attn::_varlen_attn": (
        "query key value cum_seq_q cum_seq_k max_q max_k is_lower_right scale window_size _ "
        "seqused_k block_table _"
    ),
    "torch_attn::_varlen_attn_out": (
        "_ query key value cum_seq_q cum_seq_k max_q max_k is_lower_right scale window_size _ "
        "seqused_k block_table _"
    ),
    "torch_attn::_varlen_attn_backward": (
        "_ query key value _ _ cum_seq_q cum_seq_k max_q max_k is_lower_right _ scale window_size"
    ),
    "_efficient_attention_backward": (
        "_ query key value mask _ cum_seq_q cum_seq_k max_q max_k _ dropout_p _ _ "
        "custom_mask_type _"
    ),
}
"""Kernels on (b, s, h, d)."""

BATCH_HEADS_LENGTH_SIZE, BATCH_LENGTH_HEADS_SIZE = (0, 1, 2, 3), (0, 2, 1, 3)
"""Where the axes b, h, s, d are."""


def read(parameters: str, axes: Sequence[int], args: Sequence[Any], given: Any) -> list[Attention]:
    """The sizes of a call, whose positional arguments have the names in ``parameters``.

    Sequences of several lengths in one row are as many calls, those of the same lengths one.
    """
    named = dict(zip(parameters.split(), args, strict=False)) | given
    named |= {name: named.pop(alias) for alias, name in ALIASES.items() if alias in named}
    if isinstance(named.get("window_size"), (list, tuple)):
        named["window_size_left"], named["window_size_right"] = named.pop("window_size")
    shapes = [list(named.pop(name).shape) for name in ("query", "key", "value")]
    ends = [named.get(name) for name in ("cum_seq_q", "cum_seq_k")]
    is_batch = len(shapes[0]) == 4 and axes == BATCH_HEADS_LENGTH_SIZE
    if is_batch or any(end is None for end in ends):
        return [attention(*([shape[axis] for axis in axes] for shape in shapes), **named)]
    del named["cum_seq_q"], named["cum_seq_k"]
    tokens = [shape[-3] for shape in shapes[:2]]
    longest = named.get("max_q"), named.get("max_k")
    each = [sequences(*packed) for packed in zip(ends, tokens, longest, strict=True)]
    return [
        attention(*([n, h, s, d] for s, (*_, h, d) in zip((q, k, k), shapes, strict=True)), **named)
        for (q, k), n in Counter(zip(*each, strict=True)).items()
    ]


def sequences(ends: Tensor, tokens: int, longest: int | None) -> list[int]:
    """The lengths of sequences in one row, which end at ``ends``; the first of these is 0.

    They are values, unless all are as long as the longest.
    """
    count = ends.numel() - 1
    if longest is not None and tokens == count * longest:
        return [longest] * count
    return [end - start for start, end in pairwise(lengths(ends))]


ALIASES = {
    "attn_mask": "mask",
    "cu_seq_q": "cum_seq_q",
    "cu_seq_k": "cum_seq_k",
    "cu_seqlens_q": "cum_seq_q",
    "cu_seqlens_k": "cum_seq_k",
    "max_seqlen_q": "max_q",
    "max_seqlen_k": "max_k",
}
"""What some kernels call what others call something else."""


def register(kernels: dict[str, str], axes: Sequence[int]) -> None:
    """Register kernels, forward or backward, with the names of their positional arguments."""
    for kernel, parameters in kernels.items():
        name = kernel if "::" in kernel else f"aten::{kernel}"
        is_packed = "cum_seq_q" in parameters
        formula(name, values=is_packed)(_formula(kernel, parameters, axes))


def _formula(kernel: str, parameters: str, axes: Sequence[int]) -> Formula:
    def forward(*args: Any, out: Any, **given: Any) -> Cost:
        """softmax(q·kᵀ·scale)·v: two products and a softmax, for the pairs that a mask leaves."""
        return sum((each.forward() for each in read(parameters, axes, args, given)), ZERO)

    def backward(*args: Any, out: Any, **given: Any) -> Gradients:
        """Five products, one of which forward did already: dv, dp, dq, dk, and the scores."""
        each = [one.backward() for one in read(parameters, axes, args, given)]
        return sum(each, Gradients())

    return backward if kernel.endswith("_backward") else forward


@formula("aten::_scaled_dot_product_attention_math_for_mps")
def math_for_mps(*args: Any, out: tuple[Tensor, Tensor], **given: Any) -> Cost:
    """The second result is P, there anyhow, and no logsumexp."""
    parameters = "query key value mask dropout_p is_causal _"
    return read(parameters, BATCH_HEADS_LENGTH_SIZE, args, given | {"saves": False})[0].forward()


@formula("aten::_triton_scaled_dot_attention")
def triton_attention(*args: Any, out: Tensor, **given: Any) -> Cost:
    """softmax(scale·Q·Kᵀ)·V, with nothing kept for a backward pass."""
    parameters = "query key value dropout_p"
    return read(parameters, BATCH_HEADS_LENGTH_SIZE, args, given | {"saves": False})[0].forward()


register(KERNELS, BATCH_HEADS_LENGTH_SIZE)
register(KERNELS_LENGTH_FIRST, BATCH_LENGTH_HEADS_SIZE)
