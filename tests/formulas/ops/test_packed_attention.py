"""Sequences in one row after each other: their lengths are values, which are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.attention.varlen
from torch import Tensor

import flopcount
from flopcount import Cost, Report
from flopcount.formulas import plan_of
from tests.formulas.decomposed import billed, plain

aten = torch.ops.aten


def report_of(function: Callable[[], Any]) -> Report:
    with flopcount.FlopCounter() as counter:
        function()
    return counter.report()


def meta(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


SEED = torch.empty((), device="meta", dtype=torch.long)


def test_packed_sequences_without_values_are_uncounted() -> None:
    packed, lengths = meta(11, 4, 8), torch.empty(3, device="meta", dtype=torch.int32)
    report = report_of(
        lambda: aten._flash_attention_forward(
            packed, packed, packed, lengths, lengths, 6, 6, 0.0, False, False
        )
    )
    assert report.uncounted == {"aten._flash_attention_forward": 1}


@pytest.mark.parametrize("sequences", [1, 3])
def test_packed_sequences_that_are_all_as_long_as_the_longest_are_a_batch(sequences: int) -> None:
    n, q, k, h, d = sequences, 6, 5, 4, 8
    ends = torch.empty(n + 1, device="meta", dtype=torch.int32)
    queries, keys = meta(n * q, h, d), meta(n * k, h, d)
    flash = report_of(
        lambda: aten._flash_attention_forward(
            queries, keys, keys, ends, ends, q, k, 0.0, False, False
        )
    )
    efficient = report_of(
        lambda: aten._efficient_attention_forward(
            *(queries[None], keys[None], keys[None]),
            *(None, ends, ends, q, k, 0.0, 0, True),
        )
    )
    back = report_of(
        lambda: aten._flash_attention_backward(
            *(queries, queries, keys, keys, queries, meta(h, n * q), ends, ends),
            *(q, k, 0.0, False, SEED, SEED),
        )
    )
    efficient_back = report_of(
        lambda: aten._efficient_attention_backward(
            *(queries[None], queries[None], keys[None], keys[None], None, queries[None]),
            *(ends, ends, q, k, meta(n, h, q), 0.0, SEED, SEED, 0, False),
        )
    )
    for report in (flash, efficient, back, efficient_back):
        assert not report.uncounted
    product = n * h * q * k * d
    assert flash.total.macs == efficient.total.macs == 2 * product
    assert flash.total.dots == efficient.total.dots == n * h * (q * k + q * d)
    assert back.total.macs == efficient_back.total.macs == (4 + 1) * product  # scores again


def ends(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).int()


QUERIES, KEYS = [3, 6, 2, 3], [4, 5, 5, 4]  # (3, 4) twice
H, D = 4, 8


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", ["flash", "efficient", "varlen"])
def test_sequences_of_several_lengths_cost_what_they_do_one_by_one(kind: str, causal: bool) -> None:
    if kind == "varlen" and not hasattr(torch.ops.torch_attn, "_varlen_attn"):
        pytest.skip("this torch has no such op")
    longest = max(QUERIES), max(KEYS)

    def cost(queries: list[int], keys: list[int], backward: bool) -> Cost:
        q, k = meta(sum(queries), H, D), meta(sum(keys), H, D)
        limits = ends(queries), ends(keys), *longest
        if kind == "efficient":
            q, k = q[None], k[None]
            forward = (aten._efficient_attention_forward, None, *limits, 0.0, 2 * causal, True)
            back = (
                aten._efficient_attention_backward,
                *(None, q, *limits, meta(len(queries), H, 6), 0.0, SEED, SEED, 2 * causal, False),
            )
        elif kind == "flash":
            forward = aten._flash_attention_forward, *limits, 0.0, causal, False
            back = (
                aten._flash_attention_backward,
                *(q, meta(H, sum(queries)), *limits, 0.0, causal, SEED, SEED),
            )
        else:
            forward = torch.ops.torch_attn._varlen_attn, *limits, causal
            back = (
                torch.ops.torch_attn._varlen_attn_backward,
                *(q, meta(H, sum(queries)), *limits, causal, SEED),
            )
        (op, *rest), given = (back, (q, q, k, k)) if backward else (forward, (q, k, k))
        return billed(op.default, *given, *rest, out=(q, k, k))

    for backward in (False, True):
        together = cost(QUERIES, KEYS, backward)
        each = [cost([q], [k], backward) for q, k in zip(QUERIES, KEYS, strict=True)]
        assert plain(together) == plain(sum(each, Cost()))
        pairs = 3 * 4 + 6 * 5 + 2 * 5 + 3 * 4  # backward's fifth product is recomputation
        assert together.macs == (4 if backward else 2) * H * pairs * D
        # the last query sees all keys: of (3, 4) the first two miss 2 and 1, of (6, 5) 5, 4, 3, 2
        # and 1, of (2, 5) 1
        missed = (2 + 1) + (5 + 4 + 3 + 2 + 1) + 1 + (2 + 1)
        assert together.void_macs == causal * (4 if backward else 2) * H * missed * D


def test_lengths_are_read_at_each_call() -> None:
    q = meta(11, H, D)
    with flopcount.FlopCounter(strict=True) as counter:
        for lengths in ([5, 6], [1, 10], [11, 0]):
            packed = ends(lengths), ends(lengths), 11, 11
            aten._flash_attention_forward(q, q, q, *packed, 0.0, False, False)
    pairs = (25 + 36) + (1 + 100) + 121
    assert counter.report().total.macs == 2 * H * pairs * D


def test_a_window_of_packed_sequences() -> None:
    op = getattr(torch.ops.torch_attn, "_varlen_attn", None)
    if op is None:
        pytest.skip("this torch has no such op")
    q = meta(6, H, D)
    limits = ends([4, 2]), ends([4, 2]), 4, 4
    cost = billed(op.default, q, q, q, *limits, False, None, [1, 0], out=(q,))
    seen = (1 + 2 + 2 + 2) + (1 + 2)  # itself, and the one before
    assert cost.macs - cost.void_macs == 2 * H * seen * D
    if into := getattr(torch.ops.torch_attn, "_varlen_attn_out", None):
        again = billed(into.default, q, q, q, q, *limits, False, None, [1, 0], out=q)
        assert again == cost


def test_packed_sequences_without_values_are_uncounted_in_backward_too() -> None:
    packed, lengths = meta(11, 4, 8), torch.empty(3, device="meta", dtype=torch.int32)
    report = report_of(
        lambda: aten._flash_attention_backward(
            *(packed, packed, packed, packed, packed, meta(4, 11), lengths, lengths),
            *(6, 6, 0.0, False, SEED, SEED),
        )
    )
    assert report.uncounted == {"aten._flash_attention_backward": 1}


def test_tritons_attention_keeps_nothing() -> None:
    x = meta(2, 4, 6, 8)
    bill = plan_of(aten._triton_scaled_dot_attention.default).bill([x, x, x], {}, x)
    kept = plan_of(aten._scaled_dot_product_flash_attention.default).bill([x, x, x], {}, x)
    rows = 2 * 4 * 6
    assert plain(kept.cost) - plain(bill.cost) == Cost(arith=rows, special=rows)  # logsumexp


HEADS_FIRST = meta(2, 4, 6, 8), meta(2, 4, 5, 8), meta(2, 4, 5, 8)
HEADS_LAST = [x.transpose(1, 2) for x in HEADS_FIRST]
LSE = meta(2, 4, 6)


@pytest.mark.parametrize(
    ("name", "overload", "arguments"),
    [
        pytest.param(
            "_scaled_dot_product_flash_attention",
            "quantized",
            [*HEADS_FIRST, None, None, None],
            id="flash on scaled numbers",
        ),
        pytest.param(
            "_flash_attention_forward",
            "quantized",
            [*HEADS_LAST, None, None, 6, 5, 0.0, False, False, None, None, None],
            id="flash on scaled numbers with heads last",
        ),
        pytest.param(
            "_flash_attention_forward_no_dropout_inplace",
            "default",
            [HEADS_LAST[0], *HEADS_LAST, None, None, 6, 5, 0.0, False, False],
            id="flash into what is given",
        ),
        pytest.param(
            "_cudnn_attention_forward",
            "default",
            [*HEADS_FIRST, None, None, None, 6, 5, True],
            id="cuDNN",
        ),
        pytest.param(
            "_scaled_dot_product_attention_math_for_mps",
            "default",
            [*HEADS_FIRST],
            id="MPS, which keeps the weights",
        ),
    ],
)
def test_kernels_of_other_devices_do_two_products_and_a_softmax(
    name: str, overload: str, arguments: list[Any]
) -> None:
    if not hasattr(aten, name) or overload not in getattr(aten, name).overloads():
        pytest.skip("this torch has no such kernel")
    cost = billed(getattr(getattr(aten, name), overload), *arguments, out=HEADS_FIRST[0])
    scores, rows = 2 * 4 * 6 * 5, 2 * 4 * 6
    # scale, difference from the largest, quotient; additions of a row; its logsumexp
    saved = 0 if name.endswith("mps") else rows
    assert (cost.macs, cost.dots) == (2 * scores * 8, scores + rows * 8)
    assert cost.arith == 3 * scores + (scores - rows) + saved
    assert (cost.compare, cost.special) == (scores - rows, scores + saved)


@pytest.mark.skipif(
    not hasattr(aten, "_cudnn_attention_backward"), reason="this torch has no such kernel"
)
def test_cudnns_own_backward_costs_what_it_does_within_attention() -> None:
    q, k, v = HEADS_FIRST
    kept = [q, LSE, SEED, SEED]
    own = billed(
        aten._cudnn_attention_backward.default,
        *(q, q, k, v, *kept, None, None, None, 6, 5, 0.0, False),
        out=HEADS_FIRST,
    )
    within = billed(
        aten._scaled_dot_product_cudnn_attention_backward.default,
        *(q, q, k, v, *kept, None, None, None, 6, 5, 0.0, False),
        out=HEADS_FIRST,
    )
    scores, rows = 2 * 4 * 6 * 5, 2 * 4 * 6
    assert own == within
    assert own.macs == 4 * scores * 8  # two for values and weights, two for queries and keys
    # D = Σ dO·O; dP - D, times P, times the scale
    assert own.arith == rows * (8 + 8 - 1) + 3 * scores
