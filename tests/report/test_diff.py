from __future__ import annotations

import pytest
import torch
from torch import nn

import flopcount
from flopcount.report.render.table import differences


def linear(width: int) -> flopcount.Report:
    model = nn.Sequential(nn.Linear(8, width, bias=False), nn.ReLU())
    return flopcount.count(model, torch.ones(4, 8), backward=False)


def test_equal_reports_have_no_difference() -> None:
    diff = linear(2).diff(linear(2))
    assert not diff
    assert diff.flops == 0
    assert str(diff) == "no change"


def test_a_wider_layer_shows_its_growth_largest_first() -> None:
    diff = linear(2).diff(linear(5))
    matmul, relu = diff.changes
    assert (matmul.module, matmul.op, matmul.flops) == ("0", "aten.mm", 2 * 4 * 8 * (5 - 2))
    assert (relu.module, relu.op, relu.flops) == ("1", "aten.relu", 4 * (5 - 2))
    assert diff.flops == 192 + 12


def test_what_is_gone_counts_down() -> None:
    diff = linear(5).diff(linear(2))
    assert diff.flops == -204
    assert "-192" in str(diff)


def test_the_table_ends_with_the_total() -> None:
    last = str(linear(2).diff(linear(5))).splitlines()[-1].split()
    assert last == ["total", "136", "340", "+204"]


def test_a_table_of_the_largest_sums_up_the_rest() -> None:
    lines = differences(linear(2).diff(linear(5)), 1).splitlines()
    assert [line.split()[-1] for line in lines[2:]] == ["+192", "+12", "+204"]
    assert lines[3].startswith("(1 more)")


def test_what_changed_in_bytes_only_is_mentioned() -> None:
    one, other = (
        flopcount.count(torch.relu, x, backward=False)
        for x in (torch.ones(6), torch.ones(1).expand(6))
    )
    diff = one.diff(other)
    assert diff
    assert str(diff).endswith("and 1 more that moved other bytes")


def test_only_reports_compare() -> None:
    with pytest.raises(TypeError, match="expected another Report, got str"):
        linear(2).diff("x")  # type: ignore[arg-type]
