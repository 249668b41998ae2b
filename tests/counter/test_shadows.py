"""Work that no op shows, as a tally counts it: by its name, where it ran."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from flopcount import Cost, FlopCounter, UncountedOpError, UncountedOpWarning
from flopcount.formulas import Bill
from flopcount.report.tree import Row

KERNEL = Bill("kernel", "float32", Cost(), unknown="it is made up")


class Hidden(nn.Module):
    """A module that runs a kernel without an op, in its forward pass and in backward."""

    def __init__(self, counter: FlopCounter, bill: Bill = KERNEL) -> None:
        super().__init__()
        self.run = lambda *args: counter._local.tally.count_shadow(bill, args)

    def forward(self, x: Tensor) -> Tensor:
        y = x * 1.0
        self.run(x)
        y.register_hook(lambda gradient: self.run())
        return y


def rows_of(bill: Bill) -> list[Row]:
    counter = FlopCounter()
    model = nn.Sequential(Hidden(counter, bill))
    with counter:
        for _ in range(2):
            model(torch.ones(3, requires_grad=True)).sum().backward()
    return [row for row in counter.report().entries if row.op == bill.op]


def test_it_is_listed_by_module_and_phase() -> None:
    rows = {(row.module, row.phase): (row.calls, row.uncounted) for row in rows_of(KERNEL)}
    assert rows == {("Sequential.0", "forward"): (2, 2), ("Sequential.0", "backward"): (2, 2)}


def test_one_whose_cost_is_known_counts() -> None:
    rows = rows_of(Bill("kernel", "float32", Cost(macs=7)))
    assert [(row.cost.macs, row.calls, row.uncounted) for row in rows] == [(14, 2, 0), (14, 2, 0)]


def test_the_report_warns_of_it() -> None:
    with FlopCounter() as counter:
        counter._local.tally.count_shadow(KERNEL)
    with pytest.warns(UncountedOpWarning, match="^kernel is uncounted: it is made up$"):
        counter.report()


def test_strict_names_it_its_arguments_and_the_scope() -> None:
    counter = FlopCounter(strict=True)
    message = (
        r"^kernel is uncounted: it is made up; it was called with \(float32\[3\]\) in Hidden, "
        "phase forward$"
    )
    with pytest.raises(UncountedOpError, match=message), counter:
        Hidden(counter)(torch.ones(3))
    with pytest.raises(UncountedOpError, match=r"made up; it was called in no module"), counter:
        counter._local.tally.count_shadow(KERNEL)
