"""Ranges in the recording of torch.profiler."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from flopcount.torch_private.ranges import Range, is_recording


def test_a_range_is_around_the_ops_that_run_inside_it(tmp_path: Path) -> None:
    with profile(activities=[ProfilerActivity.CPU]) as profiler, Range("mine: a.b"):
        torch.ones(2).add(1)
    path = tmp_path / "trace.json"
    profiler.export_chrome_trace(str(path))
    events = {event["name"]: event for event in json.loads(path.read_text())["traceEvents"]}
    mine, inner = events["mine: a.b"], events["aten::add"]
    assert mine["cat"] == "cpu_op"
    assert mine["tid"] == inner["tid"]
    assert mine["ts"] <= inner["ts"]
    assert inner["ts"] + inner["dur"] <= mine["ts"] + mine["dur"]


def test_it_does_nothing_where_nobody_records() -> None:
    with Range("mine"):
        assert torch.ones(2).sum() == 2


def test_whether_the_profiler_records() -> None:
    assert not is_recording()
    with profile(activities=[ProfilerActivity.CPU]):
        assert is_recording()
    assert not is_recording()
