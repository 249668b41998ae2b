"""The benchmark of recordings: what it compares, and what it is held to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import traces
from flopcount import Cost
from flopcount.report.run import CallTime


def call(op: str, arguments: str, cost: Cost) -> CallTime:
    return CallTime(op, "bfloat16", arguments, 1, cost, 1000)


def test_products_are_compared_after_the_other_tools_conventions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A causal attention of 8 MAC is 8 FLOP there; one gradient of 4 MAC is 16; a bias is 2."""
    rows = [
        {"op": "aten::_scaled_attention", "gflop": 8e-9, "calls": 1, "kernel_us": 0.5},
        {"op": "aten::convolution_backward", "gflop": 16e-9, "calls": 1, "kernel_us": 0.5},
        {"op": "aten::addmm", "gflop": 10e-9, "calls": 1, "kernel_us": 0.0},
        {"op": "aten::mm", "gflop": 99e-9, "calls": 1, "kernel_us": 0.0},
    ]
    (tmp_path / traces.REFERENCE).write_text(json.dumps({"a": rows}))
    monkeypatch.setattr(traces, "FOLDER", tmp_path)
    calls = [
        call("aten._scaled_attention", "bfloat16[2, 2], 0., True, False", Cost(macs=8)),
        call("aten.convolution_backward", "bfloat16[2, 2], [False, True, False]", Cost(macs=4)),
        call("aten.addmm", "bfloat16[2]", Cost(macs=4, arith=2)),
        call("aten.mm", "bfloat16[2]", Cost(macs=4)),
    ]
    found = traces.comparison("a.json.gz", calls)
    assert found is not None
    assert (found["equal"], found["different"]) == (3, 1)
    assert traces.comparison("b.json.gz", calls) is None
    assert traces.time_of_tracelens("a.json.gz", 2000) == 0.5


def test_an_event_that_is_repeated_has_numbers_of_its_own() -> None:
    event = {"ts": 1.5, "id": 3, "args": {"External id": 7, "Input Dims": [[2]]}}
    assert traces.later(event, 0) == event
    assert traces.later(event, 2) == {
        "ts": 2000001.5,
        "id": 2000003,
        "args": {"External id": 2000007, "Input Dims": [[2]]},
    }
