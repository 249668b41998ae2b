"""Sequences in one row after each other: their lengths are values, unless all are equal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import flopcount
from flopcount import Cost, Report
from flopcount.formulas import plan
from tests.formulas.decomposed import plain

aten = torch.ops.aten


def report_of(function: Callable[[], Any]) -> Report:
    with flopcount.FlopCounter() as counter:
        function()
    return counter.report()


def meta(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


SEED = torch.empty((), device="meta", dtype=torch.long)


def test_packed_sequences_are_uncounted() -> None:
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


def test_packed_sequences_of_other_lengths_are_uncounted_in_backward_too() -> None:
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
    bill = plan(aten._triton_scaled_dot_attention.default).bill([x, x, x], {}, x)
    kept = plan(aten._scaled_dot_product_flash_attention.default).bill([x, x, x], {}, x)
    rows = 2 * 4 * 6
    assert plain(kept.cost) - plain(bill.cost) == Cost(arith=rows, special=rows)  # logsumexp
