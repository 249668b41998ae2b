"""Recordings of real accelerators, beside another tool's figures and beside a counter.

``FLOPCOUNT_TRACES`` is the folder that holds them.
"""

from __future__ import annotations

import json
import math
import os
import re
import warnings
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import flopcount
from flopcount import FlopCounter, Report

FOLDER = Path(os.environ.get("FLOPCOUNT_TRACES", ""))

pytestmark = pytest.mark.skipif(
    not os.environ.get("FLOPCOUNT_TRACES"), reason="FLOPCOUNT_TRACES names no folder"
)

TRACELENS = [
    "h100-qwen1.5-0.5b-forward",
    "h100-bert-small-forward",
    "mi300-bert-small-forward",
    "mi300-resnet-checkpointed-training",
]


@cache
def read(name: str, steps: int | None = None) -> Report:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return flopcount.read_trace(FOLDER / f"{name}.json.gz", steps=steps)


def shapes(text: str) -> tuple[tuple[int, ...], ...]:
    """The shapes in ``bfloat16[8, 16], 1`` or ``((8, 16), ())``."""
    groups = re.findall(r"\[([\d, ]*)\]" if "[" in text else r"\(([\d, ]*)\)", text)
    return tuple(tuple(map(int, filter(None, group.split(", ")))) for group in groups)


def theirs(row: dict[str, Any]) -> tuple[str, tuple[tuple[int, ...], ...], str]:
    """What a call is told by: its op, its tensors, and which gradients it asks for."""
    tensors = tuple(shape for shape in shapes(row["dims"].replace(",)", ")")) if shape)
    mask = re.search(r"\[(True|False), (True|False), (True|False)\]", row["concrete"])
    return row["op"].replace("::", "."), tensors, mask[0] if mask else ""


def ours(call: Any) -> tuple[str, tuple[tuple[int, ...], ...], str]:
    tensors = re.findall(r"\b[a-z]+\d+\[([\d, ]+)\]", call.arguments)
    mask = re.search(r"\[(True|False), (True|False), (True|False)\]", call.arguments)
    numbers = tuple(tuple(map(int, tensor.split(", "))) for tensor in tensors)
    return call.op, numbers, mask[0] if mask else ""


@pytest.mark.parametrize("name", TRACELENS)
def test_products_equal_those_of_tracelens(name: str) -> None:
    """To the last digit, with its conventions: a causal attention is half, a bias counts.

    It gives both gradients of a convolution where one was asked for: that of the first layer.
    """
    figures = json.loads((FOLDER / "tracelens_gflop.json").read_text())[name]
    expected: Counter[Any] = Counter()
    calls: Counter[Any] = Counter()
    for row in figures:
        key = theirs(row)
        halves = 2 if key[2].startswith("[False, True") else 1
        expected[key] += round(row["gflop"] * 1e9 * row["calls"]) // halves
        calls[key] += row["calls"]
    run = read(name).run
    assert run is not None
    found: Counter[Any] = Counter()
    for call in run.calls:
        if call.cost.macs:
            flops = 2 * call.cost.macs
            if call.op == "aten.addmm":
                flops = call.cost.flops
            if call.op.startswith("aten._scaled") and "True, False" in call.arguments:
                flops //= 2
            found[ours(call)] += flops
    assert found == expected
    assert sum(calls.values()) == sum(c.calls for c in run.calls if c.cost.macs)


@pytest.mark.parametrize("name", TRACELENS[:3])
def test_kernels_took_as_long_as_tracelens_says(name: str) -> None:
    """It leaves out the sets of memory that convolutions launch, which ResNet's have."""
    figures = json.loads((FOLDER / "tracelens_gflop.json").read_text())[name]
    expected: Counter[str] = Counter()
    for row in figures:
        expected[row["op"].replace("::", ".")] += row["kernel_us"]
    found: Counter[str] = Counter()
    for row in read(name).entries:
        if row.cost.macs:
            found[row.op] += (row.nanoseconds or 0) / 1e3
    assert found == {op: pytest.approx(time, abs=0.01) for op, time in expected.items()}


class Checkpointed(nn.Module):
    """ResNet-18's parts, the four stages of which are checkpointed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.norm = nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(3, 2, 1)
        widths = [64, 64, 128, 256, 512]
        self.stages = nn.ModuleList(
            nn.Sequential(Block(a, b), Block(b, b)) for a, b in pairwise(widths)
        )
        self.head = nn.Linear(512, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.norm(self.stem(x)).relu_())
        for stage in self.stages:
            x = torch.utils.checkpoint.checkpoint(stage, x, use_reentrant=False)
        return self.head(x.mean((2, 3), keepdim=True).flatten(1))


class Block(nn.Module):
    """Two convolutions, and a third beside them where the width changes."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        stride = b // a
        self.one, self.two = (
            nn.Conv2d(a, b, 3, stride, 1, bias=False),
            nn.Conv2d(b, b, 3, 1, 1, bias=False),
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for _ in range(2))
        self.beside = (
            nn.Sequential(nn.Conv2d(a, b, 1, stride, bias=False), nn.BatchNorm2d(b))
            if stride > 1
            else nn.Identity()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norms[0](self.one(x)).relu_()
        y = self.norms[1](self.two(y))
        y += self.beside(x)
        return y.relu_()


def test_three_steps_of_a_checkpointed_resnet_are_what_a_counter_counts() -> None:
    """By op and phase; data parallelism multiplies gradients and moves them, beside it."""
    model = Checkpointed().to(torch.bfloat16).to("meta")
    x = torch.empty(10, 3, 224, 224, dtype=torch.bfloat16, device="meta")
    y = torch.empty(10, 1000, dtype=torch.bfloat16, device="meta")
    with FlopCounter(model) as counter:
        nn.functional.mse_loss(model(x), y).backward()
    expected = flops(counter.report())
    for step in (15, 16, 17):
        found = flops(read("mi300-resnet-checkpointed-training", step))
        del found["backward", "aten.mul"]  # by 1 ÷ 8, in DistributedDataParallel
        found["backward", "aten.add"] = found.pop(("backward", "aten.add_"))  # the engine's own
        assert found == expected


def flops(report: Report) -> dict[tuple[str, str], tuple[int, int]]:
    """Calls and FLOPs by phase and op."""
    rows: dict[tuple[str, str], tuple[int, int]] = {}
    for row in report.entries:
        if row.cost.flops:
            calls, number = rows.get((row.phase, row.op), (0, 0))
            rows[row.phase, row.op] = calls + row.calls, number + row.cost.flops
    return rows


def test_products_and_attention_of_a_compiled_block_count_and_fused_kernels_are_named() -> None:
    """Shapes: 8 x 4,096 tokens, 2,048 wide, 16 heads of 128, and 8,192 inside."""
    report = read("mi300-compiled-transformer-block")
    tokens, width = 8 * 4096, 2048
    attention = 2 * 8 * 16 * 4096 * 4096 * 128
    layers = 4 * tokens * width * width + 3 * tokens * width * 8192
    assert report.total.macs == attention + layers
    assert len(report.uncounted) == 4
    assert all(name.startswith("triton.triton_") for name in report.uncounted)
    rows = {row.op: row for row in report.entries}
    fused = rows["triton.triton_poi_fused__unsafe_view_add_3"]
    assert fused.cost.bytes == 3 * tokens * width * 2  # three tensors of bfloat16
    assert report.run is not None
    assert report.run.counted / report.run.work > 0.9


def test_ops_of_a_library_that_is_not_here_are_uncounted_by_name() -> None:
    report = read("b200-vllm-moe-eager")
    assert report.uncounted["vllm.moe_forward"] == 36
    assert report.uncounted["_C.static_scaled_fp8_quant"] == 36
    assert report.run is not None
    assert report.run.devices == ("NVIDIA B200",)


def test_normalisation_layers_count_in_both_directions() -> None:
    report = read("mi300-normalization-layers")
    assert report.phases["forward"].flops > 0
    assert report.phases["backward"].flops > 0
    assert not report.total.macs


def test_one_without_shapes_says_how_to_record() -> None:
    with pytest.raises(flopcount.TraceError, match="it has no shapes; record it with"):
        read("a100-alexnet-training")


def test_times_of_rows_and_of_no_op_add_up() -> None:
    for name in (*TRACELENS, "b200-vllm-moe-eager", "mi300-compiled-transformer-block"):
        report = read(name)
        run = report.run
        assert run is not None
        rows = sum(row.nanoseconds or 0 for row in report.entries)
        assert rows + sum(run.others.values()) == run.work
        assert run.busy <= run.work
        assert math.isclose(report.root.seconds or 0, rows / 1e9)
