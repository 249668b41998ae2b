"""No figure differs from that of an oracle without a reason, and every reason is needed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from flopcount import Cost
from tests.oracles import comparison
from tests.oracles.reasons import CPU, XLA


@pytest.fixture(scope="module")
def rows() -> Iterator[list[comparison.Row]]:
    """On one thread: the ops are small, and threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield comparison.compare()
    torch.set_num_threads(threads)


def test_no_figure_differs_without_a_reason(rows: list[comparison.Row]) -> None:
    assert {row["oracle"] for row in rows} == set(comparison.ORACLES)
    assert [row for row in rows if row["verdict"] == "unexplained"] == []


def test_reasons_do_not_explain_a_figure_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """A count twice as large has no reason, unless it is zero or within bounds of an algorithm."""
    right = comparison.cost_of
    monkeypatch.setattr(comparison, "cost_of", lambda *case: 2 * right(*case))
    rows = list(comparison.by_xla(every=4))
    survivors = {row["op"] for row in rows if row["verdict"] not in ("unexplained", "not compared")}
    free = {row["op"] for row in rows if not any(row["flopcount"])}
    assert survivors == free


def test_every_reason_is_needed(rows: list[comparison.Row]) -> None:
    """A row that agrees by now has lost its reasons."""
    differ = {oracle: set[str]() for oracle in comparison.ORACLES}
    for row in rows:
        if row["verdict"] == "differs":
            differ[row["oracle"]].add(row["op"])
    assert set(XLA) <= differ["XLA"]
    assert set(CPU) <= differ["CPU"]


def test_a_row_agrees_only_if_all_parts_do() -> None:
    assert comparison.row("", "", "", "loop", [1, 2], [1, 2])["verdict"] == "agrees"
    wrong = comparison.row("", "", "", "loop", [1, 2], [2, 1])
    assert wrong["verdict"] == "unexplained"
    unreached = comparison.explained(wrong, [("a reason", 0, 0)], reached=False)
    assert unreached["verdict"] == "unexplained"
    assert comparison.counts(Cost(macs=3, arith=1, special=2)) == [7, 0, 2]
