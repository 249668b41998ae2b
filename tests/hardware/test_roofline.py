"""The roofline, by hand, on a device with round peaks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import flopcount
from flopcount import Cost, Device, UnknownDeviceError
from flopcount.hardware.roofline import bound_of
from tests.trace.recordings import kernel, launch, module, op, written

DEVICE = Device("mine", {"float32": 1e6, "tf32": 8e6}, bandwidth=1e6, vector=5e5)
"""A FLOP takes a microsecond in products, two in others; a byte takes one."""


def test_products_are_bound_by_compute_and_sums_by_memory() -> None:
    product, total = Cost(macs=500, read=300), Cost(arith=100, read=400, written=400)
    bound = bound_of(DEVICE, [(product, "float32", None)])
    assert (bound.compute, bound.memory, bound.least, bound.by) == (1e-3, 3e-4, 1e-3, "compute")
    bound = bound_of(DEVICE, [(total, "float32", 1.6e-3)])
    assert (bound.compute, bound.memory, bound.by) == (2e-4, 8e-4, "memory")
    assert bound.reached == 0.5
    both = bound_of(DEVICE, [(product, "float32", None), (total, "float32", 1.6e-3)])
    assert both.least == pytest.approx(1e-3 + 8e-4)  # one after another, each by its own bound
    assert both.cost == product + total
    assert both.measured == 1.6e-3


def test_what_is_not_known_has_no_bound() -> None:
    unknown = bound_of(DEVICE, [(Cost(macs=1, read=1), "bfloat16", 1.0)])
    assert (unknown.compute, unknown.memory, unknown.least, unknown.by) == (None, 1e-6, None, None)
    assert unknown.reached is None
    nothing = bound_of(DEVICE, [])
    assert (nothing.least, nothing.by, nothing.reached) == (0.0, None, None)


def test_what_is_not_known_has_no_part_in_a_sum() -> None:
    """Neither its least time, nor the time that it took."""
    product, other = (Cost(macs=500), "float32", 4e-3), (Cost(macs=1), "bfloat16", 1.0)
    both = bound_of(DEVICE, [product, other])
    assert (both.least, both.measured, both.reached) == (1e-3, 4e-3, 0.25)
    assert both.cost.macs == 501
    alone = bound_of(DEVICE, [other])
    assert (alone.least, alone.measured) == (None, 1.0)
    elementwise = Device("no vector units", {"float32": 1e6}, bandwidth=1e6)
    bound = bound_of(elementwise, [(Cost(arith=10**9, read=800), "float32", 1.6e-3)])
    assert (bound.least, bound.by, bound.reached) == (8e-4, "memory", 0.5)


def test_a_report_has_a_bound_for_each_op_and_module() -> None:
    """Forward: 4 x 8 by 8 x 8 is 256 MAC, 128 + 256 + 128 bytes; then 32 comparisons."""
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.ReLU())
    roofline = flopcount.count(model, torch.ones(4, 8), backward=False).roofline(DEVICE)
    assert roofline.ops["aten.mm", "float32"].least == pytest.approx(512e-6)
    assert roofline.ops["aten.mm", "float32"].by == "compute"
    assert roofline.ops["aten.relu", "float32"].least == pytest.approx(256e-6)
    assert roofline.ops["aten.relu", "float32"].by == "memory"
    assert roofline.modules["0"].least == pytest.approx(512e-6)
    assert roofline.modules[""].least == roofline.total.least == pytest.approx(768e-6)
    tf32 = flopcount.count(model, torch.ones(4, 8), backward=False).roofline(DEVICE, tf32=True)
    assert tf32.ops["aten.mm", "float32"].compute == pytest.approx(64e-6)
    lines = str(roofline).splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["aten.mm", "aten.relu", "total"]


def test_a_recorded_run_has_its_own_device_and_time(tmp_path: Path) -> None:
    """An H100 does 2·4096·4096·4096 FLOP of float32 in 2.051 ms, and took four."""
    square = [4096, 4096]
    events = [op("aten::mm", 0, 5, square, square), launch(1, 1), kernel(1, 10, 4010)]
    properties = [{"id": 0, "name": "NVIDIA H100 80GB HBM3"}]
    path = written(tmp_path / "trace.json", events, deviceProperties=properties)
    roofline = flopcount.read_trace(path).roofline()
    assert roofline.device.name == "H100 SXM"
    bound = roofline.ops["aten.mm", "float32"]
    assert bound.least == pytest.approx(2 * 4096**3 / 67e12)
    assert bound.measured == 0.004
    assert bound.reached == pytest.approx(0.5128, abs=1e-4)


def test_the_time_of_uncounted_ops_has_no_part_in_totals(tmp_path: Path) -> None:
    """A product at 51.28 % of the peak, and an op of another library that takes as long."""
    square = [4096, 4096]
    events = [
        module("Net_0", 0, 30),
        op("aten::mm", 1, 5, square, square),
        launch(1, 2),
        kernel(1, 10, 4010),
        op("mylib::gather", 10, 15, square),
        launch(2, 11),
        kernel(2, 5000, 9000),
    ]
    properties = [{"id": 0, "name": "NVIDIA H100 80GB HBM3"}]
    path = written(tmp_path / "trace.json", events, deviceProperties=properties)
    report = flopcount.read_trace(path)
    roofline = report.roofline()
    assert report.model.seconds == 0.008
    for bound in (roofline.total, roofline.modules[""]):
        assert bound.measured == 0.004
        assert bound.reached == pytest.approx(0.5128, abs=1e-4)
    assert roofline.ops["mylib.gather", "float32"].reached is None


def test_an_unknown_device_says_how_to_pass_its_peaks() -> None:
    report = flopcount.count(nn.Linear(8, 8), torch.ones(4, 8))
    with pytest.raises(UnknownDeviceError, match=r"'Abacus' are not known: pass flopcount.Device"):
        report.roofline("Abacus")
    with pytest.raises(TypeError, match=r"expected a flopcount\.Device or a name, got 3"):
        report.roofline(3)
    with pytest.raises(UnknownDeviceError, match=r"no device: name one, as in roofline"):
        report.roofline()
