"""Flex attention: attention whose scores and mask are functions, which are counted where they run.

A block mask lists the blocks of pairs that are computed. Pairs of other blocks are void MACs where
its numbers can be read: on tensors without data they count as computed.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from flopcount.cost import ZERO, Cost
from flopcount.formulas.ops.attention import Attention, attention
from flopcount.formulas.registry import Gradients, Uncountable, formula
from flopcount.formulas.steps import on_host
from flopcount.torch_private.flex import block_sizes, listed_blocks
from flopcount.torch_private.modes import without_modes


def listed_pairs(block_mask: tuple[Any, ...], queries: int, keys: int) -> int:
    """Pairs of a query and a key in the blocks that are listed, over all masks of ``block_mask``.

    The last blocks may reach beyond the last query and key.
    """
    rows, columns = block_sizes(block_mask)
    last = (keys - 1) // columns
    beyond = (last + 1) * columns - keys
    pairs = 0
    for counts, places in listed_blocks(block_mask):
        number, place = (on_host(part, "a mask's blocks") for part in (counts, places))
        with without_modes():
            starts = rows * torch.arange(number.shape[-1], device="cpu")
            heights = (queries - starts).clamp(0, rows)
            order = torch.arange(place.shape[-1], device="cpu")
            ends = ((place == last) & (order < number[..., None])).sum(-1)
            pairs += int((heights * (columns * number.long() - beyond * ends)).sum())
    return pairs


def call_of(
    query: Tensor, key: Tensor, value: Tensor, block_mask: tuple[Any, ...], scale: float
) -> Attention:
    """The sizes of a call: every score is selected by the mask; a block mask hides whole blocks."""
    call = attention(query.shape, key.shape, value.shape, scale=scale)
    call = replace(call, selects=1)
    try:
        pairs = listed_pairs(block_mask, call.q, call.k)
    except Uncountable:  # no values: dense
        return call
    counts, _ = next(listed_blocks(block_mask))
    masks = counts.numel() // counts.shape[-1]  # one for each head, sample or both, or for all
    return replace(call, hidden=call.scores - pairs * (call.b * call.h // masks))


@formula("higher_order::flex_attention", values=True)
def flex_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    score_mod: Any,
    block_mask: tuple[Any, ...],
    scale: float,
    *others: Any,
    out: Any,
) -> Cost:
    """softmax(mask(score_mod(q·kᵀ·scale)))·v; what the functions cost is counted beside it."""
    return call_of(query, key, value, block_mask, scale).forward()


@formula("higher_order::flex_attention_backward", values=True)
def flex_attention_backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    result: Tensor,
    logsumexp: Tensor,
    grad: Tensor | None,
    grad_logsumexp: Tensor | None,
    fw_graph: Any,
    joint_graph: Any,
    block_mask: tuple[Any, ...],
    scale: float,
    *others: Any,
    out: Any,
) -> Gradients:
    """As of any attention, with logsumexp's gradient added to each row's sum, if there is one."""
    call = call_of(query, key, value, block_mask, scale)
    rows = ZERO if grad_logsumexp is None else Cost(arith=call.rows)
    return call.backward() + Gradients(input=rows)
