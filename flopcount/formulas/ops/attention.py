"""Scaled dot-product attention by every kernel, forward and backward.

Letters: b batch, h query heads, g query heads that share a key head, q queries, k keys, d the
length of a query and a key, v that of a value; n = b·h·q·k scores in m = b·h·q rows.

    S = scale·Q·Kᵀ (+ mask)        P = softmax(S)        O = P·V

The count is dense, as in papers: pairs that a causal kernel masks are MACs, and void MACs. A kernel
that works block by block rescales its running sums; the count is that of the textbook's softmax,
without these steps. Dao et al., arXiv 2205.14135, has the algorithm and its backward pass.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor

from flopcount.cost import ZERO, Cost
from flopcount.formulas.ops.softmax import softmax_steps
from flopcount.formulas.registry import Gradients, Uncountable, formula
from flopcount.formulas.steps import dot_products, fold, lengths


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """One call: its sizes, and the optional steps between its products."""

    b: int
    h: int
    g: int
    q: int
    k: int
    d: int
    v: int
    hidden: int  # of all scores, those that a structural mask hides
    scaled: bool  # by a number other than 1
    biased: bool  # by an additive mask
    selects: int  # per score, for causal masking
    dropout: int  # steps per score: 2 for P·mask / (1 - p), else 0
    saves: bool  # keeps the logsumexp of each row for the backward pass

    @property
    def rows(self) -> int:
        """Rows of scores, one for each query."""
        return self.b * self.h * self.q

    @property
    def scores(self) -> int:
        """Pairs of a query and a key."""
        return self.rows * self.k

    def product(self, length: int, dots: int) -> Cost:
        """A product in which each (query, key) pair meets ``length`` numbers."""
        macs, void_macs = self.scores * length, self.hidden * length
        return dot_products(macs=macs, dots=dots, void_macs=void_macs)

    def masked_scores(self) -> Cost:
        """S, n dot products of length d, scaled and masked."""
        n = self.scores
        steps = Cost(arith=self.scaled + self.biased, compare=self.selects)
        return self.product(self.d, n) + n * steps

    def forward(self) -> Cost:
        """S, P and O, which is m·v dot products of length k; max + log Σ for each row."""
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
            self.product(self.v, keys * self.v)  # dV
            + self.product(self.v, n)  # dP
            + self.product(self.d, m * self.d)  # dQ
            + self.product(self.d, keys * self.d)  # dK
        )
        row_sums = Cost(arith=m * self.v + fold(m * self.v, m))
        steps = Cost(arith=(2 + self.dropout + self.scaled) * n)  # difference, product
        return Gradients(input=products + row_sums + steps, recompute=again)


def visible(q: int, k: int, offset: int) -> int:
    """How many of q·k pairs have key ≤ query + offset.

    Row i, from 1, sees i + offset keys, at least 0 and at most k. The sum is that without the upper
    bound, less what exceeds k.
    """

    def up_to(last: int) -> int:
        """1 + 2 + … + last."""
        return last * (last + 1) // 2 if last > 0 else 0

    above = up_to(q + offset - k) - up_to(offset - k)
    return up_to(q + offset) - up_to(offset) - above


def between(q: int, k: int, low: int, high: int) -> int:
    """How many of q·k pairs have query + low < key ≤ query + high."""
    return visible(q, k, high) - visible(q, k, low)


# -- from a kernel's arguments to its sizes


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

    A causal mask begins at the first query and key (``custom_mask_type`` 1), or ends at the last
    ones (``is_lower_right``, ``custom_mask_type`` 2). Windows go with the latter.
    """
    if partial := [name for name in PARTIAL if others.get(name) is not None]:
        raise Uncountable(f"what {' and '.join(partial)} leave out")
    (b, h, q, d), k, v = query, key[2], value[3]
    diagonal = 0 if is_causal or custom_mask_type == 1 else k - q
    right = 0 if is_causal or is_lower_right or custom_mask_type else window_size_right
    # torch's -1 and None mean no bound; q + k is farther than any key
    right, left = (
        q + k if bound is None or bound < 0 else bound for bound in (right, window_size_left)
    )
    return Attention(
        b=b,
        h=h,
        g=max(h, 1) // max(key[1], 1),
        q=q,
        k=k,
        d=d,
        v=v,
        hidden=b * h * (q * k - between(q, k, diagonal - left - 1, diagonal + right)),
        scaled=scale != 1,
        biased=mask is not None,
        selects=int(min(left, right) < q + k),
        dropout=2 if dropout_p else 0,
        saves=saves,
    )


PARTIAL = ["cum_seq_q", "cum_seq_k", "seqused_k", "seqlen_k", "block_table", "window_size"]
"""Arguments that leave out a part of the operands in ways that no formula here counts."""

RENAMES = {
    "q": "query",
    "k": "key",
    "v": "value",
    "attn_bias": "mask",
    "attn_mask": "mask",
    "bias": "mask",
    "compute_log_sumexp": "saves",
    "cu_seq_q": "cum_seq_q",
    "cu_seq_k": "cum_seq_k",
    "cu_seqlens_q": "cum_seq_q",
    "cu_seqlens_k": "cum_seq_k",
    "max_seqlen_q": "max_q",
    "max_seqlen_k": "max_k",
}
"""Arguments that have other names in some kernels."""

BATCH_HEADS_LENGTH_SIZE, BATCH_LENGTH_HEADS_SIZE = (0, 1, 2, 3), (0, 2, 1, 3)
"""The places of b, h, s and d in a shape."""


def calls_of(arguments: Mapping[str, Any], axes: Sequence[int]) -> list[Attention]:
    """The sizes of the calls that one call of a kernel stands for.

    Sequences that are packed into one row are a call each; those of the same lengths are one call.
    """
    arguments = {RENAMES.get(name, name): value for name, value in arguments.items()}
    if isinstance(arguments.get("window_size"), (list, tuple)):
        left, right = arguments.pop("window_size")
        arguments |= {"window_size_left": left, "window_size_right": right}
    shapes = [list(arguments.pop(name).shape) for name in ("query", "key", "value")]
    ends: list[Any] = [arguments.get(name) for name in ("cum_seq_q", "cum_seq_k")]
    is_batch = len(shapes[0]) == 4 and axes == BATCH_HEADS_LENGTH_SIZE
    if is_batch or any(end is None for end in ends):
        return [attention(*([shape[axis] for axis in axes] for shape in shapes), **arguments)]
    del arguments["cum_seq_q"], arguments["cum_seq_k"]
    tokens = [shape[-3] for shape in shapes[:2]]
    longest = arguments.get("max_q"), arguments.get("max_k")
    rows = zip(ends, tokens, longest, strict=True)
    pairs = zip(*(sequences(*row) for row in rows), strict=True)
    return [
        attention(
            *([b, h, s, d] for s, (*_, h, d) in zip((q, k, k), shapes, strict=True)), **arguments
        )
        for (q, k), b in Counter(pairs).items()
    ]


def sequences(ends: Tensor, tokens: int, longest: int | None) -> list[int]:
    """The lengths of sequences that are packed into one row.

    Args:
        ends: 0, and where each sequence ends.
        tokens: the length of the row.
        longest: the length of the longest sequence. If all are as long, no values are read.
    """
    count = ends.numel() - 1
    if longest is not None and tokens == count * longest:
        return [longest] * count
    return [end - start for start, end in pairwise(lengths(ends))]


def register(
    *kernels: str, axes: Sequence[int], packed: bool = False, lower_right: bool = False
) -> None:
    """Register kernels, forward or backward.

    Args:
        kernels: their names.
        axes: where b, h, s and d are.
        packed: sequences of different lengths may be packed into one row.
        lower_right: a causal mask ends at the last query and key, not at the first.
    """

    def sizes(arguments: dict[str, Any]) -> list[Attention]:
        if lower_right:
            arguments["is_lower_right"] = arguments.pop("is_causal", False)
        if not packed:  # backward kernels get lengths all the same, which are all equal
            arguments = {k: v for k, v in arguments.items() if not k.startswith("cum_seq_")}
        return calls_of(arguments, axes)

    def forward(*, out: Any, **arguments: Any) -> Cost:
        """softmax(q·kᵀ·scale)·v: two products and a softmax, for the pairs that a mask leaves."""
        return sum((call.forward() for call in sizes(arguments)), ZERO)

    def backward(*, out: Any, **arguments: Any) -> Gradients:
        """Five products, one of which forward did already: dv, dp, dq, dk, and the scores."""
        return sum((call.backward() for call in sizes(arguments)), Gradients())

    for kernel in kernels:
        function = backward if kernel.endswith("_backward") else forward
        formula(kernel, values=packed, by_name=True)(function)


register(
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_efficient_attention_backward",
    "aten::_scaled_dot_product_cudnn_attention",
    "aten::_scaled_dot_product_cudnn_attention_backward",
    "aten::_scaled_dot_product_fused_attention_overrideable",
    "aten::_scaled_dot_product_fused_attention_overrideable_backward",
    axes=BATCH_HEADS_LENGTH_SIZE,
)
register(
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_flash_attention_backward",
    axes=BATCH_HEADS_LENGTH_SIZE,
    lower_right=True,
)
register(
    "aten::_cudnn_attention_forward",
    "aten::_cudnn_attention_backward",
    axes=BATCH_HEADS_LENGTH_SIZE,
    packed=True,
)
register(
    "aten::_efficient_attention_forward",
    "aten::_efficient_attention_backward",
    axes=BATCH_LENGTH_HEADS_SIZE,
    packed=True,
)
register(
    "aten::_flash_attention_forward",
    "aten::_flash_attention_forward_no_dropout_inplace",
    "aten::_flash_attention_backward",
    "torch_attn::_varlen_attn",
    "torch_attn::_varlen_attn_out",
    "torch_attn::_varlen_attn_backward",
    axes=BATCH_LENGTH_HEADS_SIZE,
    packed=True,
    lower_right=True,
)


@formula(
    "aten::_scaled_dot_product_attention_math_for_mps",
    "aten::_triton_scaled_dot_attention",
    by_name=True,
)
def attention_alone(*, out: Any, **arguments: Any) -> Cost:
    """softmax(scale·Q·Kᵀ)·V, with no logsumexp for a backward pass."""
    (call,) = calls_of(arguments | {"saves": False}, BATCH_HEADS_LENGTH_SIZE)
    return call.forward()
