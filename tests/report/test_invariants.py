"""Every report that a test makes is checked, and a broken promise says that it is one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import flopcount
from flopcount.report.report import Report
from tests.invariants import check


def report() -> Report:
    return flopcount.count(torch.nn.Sequential(torch.nn.Linear(8, 2)), torch.ones(4, 8))


def test_a_broken_promise_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Report, "hardware_flops", property(lambda self: -1))
    with pytest.raises(AssertionError, match="a promise of every report: recomputation only adds"):
        report()


def test_an_op_without_a_module_breaks_the_promise_of_a_plain_step() -> None:
    whole = report()
    lost = replace(whole.modules[-1], path="unattributed", name="unattributed")
    rows = [replace(row, module="unattributed") for row in whole.entries]
    with pytest.raises(AssertionError, match="every op of a plain step has a module"):
        check(Report((*whole.modules, lost), tuple(rows), whole.model_path), plain=True)
