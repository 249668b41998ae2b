"""The benchmark that compares figures with oracles, in its quick form."""

from __future__ import annotations

import pytest

from benchmarks import oracles
from benchmarks.figures import read
from benchmarks.oracles.reasons import CPU, XLA
from flopcount import Cost

RECORDED = read("oracles")


def test_no_figure_differs_without_a_reason() -> None:
    rows = oracles.compare(every=4)
    assert {row["oracle"] for row in rows} == set(oracles.ORACLES)
    assert [row for row in rows if row["verdict"] == "unexplained"] == []


def test_reasons_do_not_explain_a_figure_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """A count twice as large has no reason, unless it is zero or within bounds of an algorithm."""
    right = oracles.cost_of
    monkeypatch.setattr(oracles, "cost_of", lambda *case: 2 * right(*case))
    rows = list(oracles.by_xla(every=4))
    survivors = {row["op"] for row in rows if row["verdict"] not in ("unexplained", "not compared")}
    free = {row["op"] for row in rows if not any(row["flopcount"])}
    assert survivors == free


def test_every_reason_is_needed() -> None:
    """A row that agrees by now has lost its reasons."""
    differ = {oracle: set[str]() for oracle in oracles.ORACLES}
    for row in RECORDED["rows"]:
        if row["verdict"] == "differs":
            differ[row["oracle"]].add(row["op"])
    assert set(XLA) <= differ["XLA"]
    assert set(CPU) <= differ["CPU"]


def test_a_row_agrees_only_if_all_parts_do() -> None:
    assert oracles.row("", "", "", "loop", [1, 2], [1, 2])["verdict"] == "agrees"
    wrong = oracles.row("", "", "", "loop", [1, 2], [2, 1])
    assert wrong["verdict"] == "unexplained"
    assert oracles.explained(wrong, [("a reason", 0, 0)], reached=False)["verdict"] == "unexplained"
    assert oracles.counts(Cost(macs=3, arith=1, special=2)) == [7, 0, 2]
