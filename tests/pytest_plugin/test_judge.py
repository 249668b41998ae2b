"""The table below a failure has what broke the bounds, by the reading that they are in."""

from __future__ import annotations

import re

import torch
from torch import nn

import flopcount
from flopcount.pytest_plugin.budget import Budget, flop_budget
from flopcount.pytest_plugin.judge import failure
from flopcount.report.report import Report


def rows(report: Report, budget: Budget) -> list[list[str]]:
    table = failure(report, budget.judge(report)).rpartition("\n\n")[2]
    return [re.split(r" {2,}", line.strip()) for line in table.splitlines()]


def test_a_byte_bound_sorts_by_bytes() -> None:
    """A product of 2×2 moves 48 bytes, and a copy 32."""
    with flopcount.FlopCounter() as counter:
        (torch.ones(2, 2) @ torch.ones(2, 2)).clone().clone()
    table = rows(counter.report(), flop_budget("1 B"))
    assert [row[2] for row in table[2:4]] == ["aten.clone", "aten.mm"]
    table = rows(counter.report(), flop_budget("1 B", "1 FLOP"))
    assert table[2][2] == "aten.clone"
    table = rows(counter.report(), flop_budget("1 FLOP"))
    assert [row[2] for row in table[2:]] == ["aten.mm"]


def test_a_bound_on_a_phase_shows_the_phase(report: Report) -> None:
    table = rows(report, flop_budget("1 GFLOP", backward="1 FLOP"))
    assert {row[1] for row in table[2:]} == {"backward"}


def test_a_bound_on_a_module_shows_the_module(report: Report) -> None:
    table = rows(report, flop_budget(modules={"1": "1 FLOP"}))
    assert {row[0] for row in table[2:]} == {"1"}
    table = rows(report, flop_budget(modules={"1": "1 FLOP"}, forward="1 FLOP"))
    assert {(row[0], row[1]) for row in table[2:]} == {
        ("1", "backward"),
        *((module, "forward") for module in ("0", "1", "(outside modules)")),
    }


def test_without_a_broken_bound_it_shows_all(report: Report) -> None:
    table = rows(report, flop_budget(modules={"none": "1 FLOP"}))
    assert len(table[2:]) == sum(1 for row in report.entries if row.cost)


def test_a_reading_that_is_no_column_gets_one(report: Report) -> None:
    table = rows(report, flop_budget("1 FLOP", reading="exact"))
    assert table[0] == ["module", "phase", "op", "MAC", "FLOP", "bytes", "FLOP (exact)"]
    assert table[2][-1] == "128"  # of 2·64 + 8, less one for each of 8 dot products


def test_the_last_row_sums_up_the_rest() -> None:
    """Twelve products of 1×k and k×1: k MACs each."""
    net = nn.ModuleList([nn.Linear(k, 1, bias=False) for k in range(1, 13)])
    with flopcount.FlopCounter(net) as counter:
        for k, layer in enumerate(net, start=1):
            layer(torch.ones(1, k))
    table = rows(counter.report(), flop_budget("1 FLOP"))
    assert [row[0] for row in table[2:]] == [*(str(k) for k in range(11, 1, -1)), "(2 more)"]
    assert table[-1][1:3] == ["3", "6"]
