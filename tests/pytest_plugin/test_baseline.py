from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import flopcount
from flopcount.pytest_plugin.baseline import (
    BaselineError,
    compare,
    document_of,
    report_of,
    torch_version,
)


def linear(width: int, *, rows: int = 4) -> flopcount.Report:
    """rows·width·8 MACs, and rows·width additions of the bias."""
    return flopcount.count(nn.Linear(8, width), torch.ones(rows, 8), backward=False)


def test_a_document_gives_back_all_that_a_diff_compares() -> None:
    report = flopcount.count(nn.Sequential(nn.Linear(8, 2), nn.ReLU()), torch.ones(4, 8))
    again = report_of(document_of(report))
    assert not report.diff(again)
    assert again.by_module() == report.by_module()
    assert again.phases == report.phases


def test_a_document_has_one_order_whatever_ran_first() -> None:
    first, second = nn.Linear(8, 2), nn.Linear(8, 2)

    def rows(one: nn.Module, other: nn.Module) -> list[str]:
        with flopcount.FlopCounter(nn.ModuleList([first, second])) as counter:
            one(torch.ones(4, 8)), other(torch.ones(4, 8))
        return document_of(counter.report())["rows"]

    assert rows(first, second) == rows(second, first)


class TestCompare:
    """8 MACs and 1 addition an output: 2·4·2·8 + 4·2 = 136 FLOPs, 204 with three outputs."""

    def changes(self, old: flopcount.Report, new: flopcount.Report, **keys: Any) -> list[str]:
        before = {**document_of(old), **keys}
        diff = report_of(before).diff(new)
        return [compare(before, diff, only_increase=only) for only in (False, True)]

    def test_no_change_is_right(self) -> None:
        assert self.changes(linear(2), linear(2)) == ["", ""]

    def test_an_increase_is_wrong(self) -> None:
        change, increase = self.changes(linear(2), linear(3))
        assert "204 FLOP is 68 more than the 136 FLOP that it was" in change
        assert "96 MAC is 32 more than the 64 MAC that it was" in change
        assert change == increase

    def test_a_decrease_is_a_change_and_no_increase(self) -> None:
        change, increase = self.changes(linear(3), linear(2))
        assert "136 FLOP is 68 less than the 204 FLOP that it was" in change
        assert increase == ""

    def test_more_bytes_are_an_increase(self) -> None:
        one, other = (
            flopcount.count(torch.relu, x, backward=False)
            for x in (torch.ones(1).expand(6), torch.ones(6))
        )
        # four bytes are read of an expanded one, and 24 of six
        assert self.changes(one, other) == ["48 B is 20 more than the 28 B that it was"] * 2

    def test_work_that_moved_to_another_place_is_a_change(self) -> None:
        net = nn.Sequential(nn.ReLU(), nn.ReLU())
        with flopcount.FlopCounter(net) as one:
            net[0](torch.ones(4))
        with flopcount.FlopCounter(net) as other:
            net[1](torch.ones(4))
        change, increase = self.changes(one.report(), other.report())
        assert change == "it costs the same in all, but 2 of its ops do not"
        assert increase == ""

    def test_calls_and_parameters_that_cost_nothing_are_a_change(self) -> None:
        def embedded(words: int) -> flopcount.Report:
            return flopcount.count(
                nn.Embedding(words, 8), torch.zeros(1, dtype=int), backward=False
            )

        change, increase = self.changes(embedded(10), embedded(11))
        assert change == "it costs the same, but parameters of the model: 88 instead of 80"
        assert increase == ""
        net, x = nn.Identity(), torch.ones(4)
        one = flopcount.count(net, x, backward=False)
        with flopcount.FlopCounter(net) as counter:
            net(net(x))
        change, increase = self.changes(one, counter.report())
        assert change == "it costs the same, but calls of the model: 2 instead of 1"
        assert increase == ""

    def test_another_torch_is_named_as_what_may_have_changed_it(self) -> None:
        change, _ = self.changes(linear(2), linear(3), torch="1.0")
        assert f"it was counted with torch 1.0, this is {torch_version()}" in change
        assert self.changes(linear(2), linear(2), torch="1.0") == ["", ""]


@pytest.mark.parametrize(
    "damage",
    [{"rows": 1}, {"rows": [{}]}, {"modules": [1]}, {"torch": None}, {"schema": "x"}],
    ids=str,
)
def test_a_damaged_baseline_is_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(BaselineError, match="not a baseline"):
        report_of({**document_of(linear(2)), **damage})
