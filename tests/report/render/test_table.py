from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import flopcount
from flopcount import Report


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.small, self.large = nn.Linear(8, 8, bias=False), nn.Linear(8, 32, bias=False)
        self.inner = nn.Sequential(nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(self.large(self.small(x)))


@pytest.fixture(scope="module")
def report() -> Report:
    return flopcount.count(Net(), torch.ones(4, 8))


def module_table(text: str) -> list[list[str]]:
    """The cells of the first table, below its rule."""
    table = text.partition("\n\n")[0]
    return [line.split() for line in table.splitlines()[2:]]


def test_a_row_a_module_then_outside_then_total(report: Report) -> None:
    names = [row[0] for row in module_table(report.table())]
    assert names == ["Net", "small", "large", "inner", "0", "(outside", "total"]


def test_a_row_has_params_calls_macs_both_ways_ratio_and_share(report: Report) -> None:
    small = module_table(report.table())[1]
    macs = 4 * 8 * 8  # forward; its input needs no gradient, so that backward is once forward
    assert report.total.flops == 2 * (2 * macs) + 3 * (2 * 4 * macs) + 2 * 128 + 127
    assert small == ["small", "64", "1", "256", "512", "512", "1.00", "13.6", "%"]


def test_depth_hides_what_is_deeper_and_keeps_the_total(report: Report) -> None:
    rows = module_table(report.table(depth=1))
    assert [row[0] for row in rows] == ["Net", "small", "large", "inner", "(outside", "total"]
    assert rows[-1] == module_table(report.table())[-1]
    assert [row[0] for row in module_table(report.table(depth=0))] == ["Net", "(outside", "total"]


def test_columns_are_chosen_by_name(report: Report) -> None:
    head = report.table(columns=["type", "weight", "input"]).splitlines()[0]
    assert head.split() == ["module", "type", "dw", "FLOP", "dx", "FLOP"]


def test_sort_puts_the_largest_sibling_first(report: Report) -> None:
    names = [row[0] for row in module_table(report.table(sort="flops"))]
    assert names[:3] == ["Net", "large", "small"]
    names = [row[0] for row in module_table(report.table(sort="type"))]
    assert names[:4] == ["Net", "small", "large", "inner"]


def test_sort_puts_the_largest_root_first_too() -> None:
    small, large = nn.Linear(8, 2), nn.Bilinear(8, 8, 2)
    with flopcount.FlopCounter() as counter:
        large(small(torch.ones(4, 8)).repeat(1, 4), torch.ones(4, 8))
    report = counter.report()
    assert [row[0] for row in module_table(report.table())[:2]] == ["Linear", "Bilinear"]
    rows = module_table(report.table(sort="flops"))
    assert [row[0] for row in rows[:2]] == ["Bilinear", "Linear"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"columns": ["flop"]}, "unknown column 'flop'; known: type, params"),
        ({"sort": "cost"}, "unknown column 'cost'"),
        ({"depth": -1}, "depth must be a whole number, 0 or more, got -1"),
        ({"columns": "type"}, r"columns is a list of names, such as \['type'\]"),
    ],
)
def test_bad_arguments_are_refused(
    report: Report, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        report.table(**arguments)


def test_ops_are_listed_the_most_expensive_first(report: Report) -> None:
    ops = [line.split()[0] for line in report.table().split("\n\n")[3].splitlines()[2:]]
    assert ops[:2] == ["aten.mm", "aten.threshold_backward"] or ops[:2] == ["aten.mm", "aten.relu"]


def test_it_ends_with_every_op_counted_or_the_uncounted_by_name() -> None:
    text = str(flopcount.count(nn.Linear(2, 2), torch.ones(2, 2)))
    assert text.endswith("every op counted")

    @torch.library.custom_op("table_test::unknown", mutates_args=())
    def unknown(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    class Wrapper(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return unknown(x)

    model = nn.Sequential(Wrapper(), nn.ReLU())
    text = str(flopcount.count(model, torch.ones(2), backward=False))
    assert text.endswith(
        "* uncounted, in the totals with their bytes only: table_test.unknown (1 call)"
    )
    starred = [line.split()[0] for line in text.splitlines() if line.partition("*")[1]]
    assert starred == ["Sequential", "0", "total", "table_test.unknown", "*"]


def test_what_ran_outside_has_its_own_gradients_only() -> None:
    model, scale = nn.Linear(8, 8), nn.Parameter(torch.ones(8))
    with flopcount.FlopCounter(model) as counter:
        (model(torch.ones(4, 8)) * scale).sum().backward()
    text = counter.report().table(columns=["weight", "bias"])
    rows = {row[0]: row[1:] for row in module_table(text)}
    assert rows["Linear"] == ["512", "24"]
    assert rows["(outside"] == ["modules)"]


def test_an_empty_block_has_a_table_too() -> None:
    with flopcount.FlopCounter() as counter:
        pass
    assert "total" in str(counter.report())


def test_recomputation_has_a_column_where_there_is_some() -> None:
    """4·8·8 MACs and 4·8 additions of the bias, forward and once more."""
    layer, x = nn.Linear(8, 8), torch.ones(4, 8, requires_grad=True)
    assert "recompute FLOP" not in str(flopcount.count(layer, x))
    again = flopcount.count(lambda x: checkpoint(layer, x, use_reentrant=True), x)
    header, _, first, *_ = str(again).splitlines()
    assert header.split()[-3:] == ["recompute", "FLOP", "share"]
    assert first.split()[-3:-2] == [str(2 * 4 * 8 * 8 + 4 * 8)]


def test_a_block_in_which_no_op_ran_says_so() -> None:
    with flopcount.FlopCounter() as counter:
        pass
    assert str(counter.report()).endswith("no op ran")
