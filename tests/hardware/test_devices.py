"""Peaks: of which device, dense, and as the clock says; and none where none is known."""

from __future__ import annotations

from urllib.parse import urlparse

import pytest

from flopcount import Cost
from flopcount.hardware.device import Device
from flopcount.hardware.known import KNOWN, Known, find_device

EACH = pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.device.name)

NAMES = {
    "NVIDIA H100 80GB HBM3": 989.5,
    "NVIDIA H100 PCIe": 756.5,
    "NVIDIA H100 NVL": 835.5,
    "NVIDIA H200": 989.5,
    "NVIDIA GH200 480GB": 989.5,
    "NVIDIA GH200 120GB": 989.5,
    "NVIDIA GH200 144G HBM3e": 989.5,
    "NVIDIA H800": 989.5,
    "NVIDIA B200": 2250,
    "NVIDIA GB200": 2500,
    "NVIDIA A100-SXM4-40GB": 312,
    "NVIDIA A100-SXM4-80GB": 312,
    "NVIDIA A100-PCIE-40GB": 312,
    "NVIDIA A100 80GB PCIe": 312,
    "NVIDIA A100-PG509-200": 312,
    "NVIDIA PG509-210": 312,
    "A100-SXM4-40GB": 312,
    "NVIDIA A800-SXM4-80GB": 312,
    "NVIDIA A800 80GB PCIe": 312,
    "NVIDIA A40": 149.7,
    "NVIDIA A30": 165,
    "NVIDIA A10": 125,
    "NVIDIA L40S": 362,
    "NVIDIA L40": 181,
    "NVIDIA L4": 121,
    "NVIDIA RTX A6000": 154.8,
    "NVIDIA RTX 6000 Ada Generation": 364.2,
    "NVIDIA GeForce RTX 3090": 71,
    "NVIDIA GeForce RTX 4090": 165.2,
    "NVIDIA GeForce RTX 5090": 209.5,
    "AMD Instinct MI300X": 1307.4,
    "AMD Instinct MI300X VF": 1307.4,
    "AMD Instinct MI300X OAM": 1307.4,
    "AMD Instinct MI250X": 191.5,
    "AMD Instinct MI350X": 2309.6,
    "AMD Instinct MI355X": 2516.6,
}
"""What drivers call devices, and their TFLOP/s of dense products in bfloat16."""


@pytest.mark.parametrize("name", NAMES)
def test_a_driver_s_name_has_its_own_row(name: str) -> None:
    device = find_device(name)
    assert device is not None
    assert device.peak("bfloat16") == pytest.approx(NAMES[name] * 1e12)
    assert sum(bool(find_device(name) is known.device) for known in KNOWN) == 1


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA RTX A4000",  # no A40
        "NVIDIA A10G",  # no A10
        "NVIDIA L40G",
        "NVIDIA H20",
        "NVIDIA H100",
        "NVIDIA A100",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",  # a seventh of one
        "AMD Instinct MI300A",
        "AMD Instinct MI250X / MI250",  # either
        "H100",
        "cpu",
        "",
    ],
)
def test_a_name_that_only_looks_like_one_has_none(name: str) -> None:
    assert find_device(name) is None


def test_people_may_use_the_short_name() -> None:
    for known in KNOWN:
        assert find_device(known.device.name) is known.device
        assert find_device(known.device.name.lower()) is known.device


@EACH
def test_a_peak_is_what_the_clock_says(known: Known) -> None:
    """Twice as much would be a datasheet's figure with sparsity."""
    if known.check is not None:
        clock, flops, units = known.check
        assert known.device.peak("float16") == pytest.approx(clock * 1e6 * flops * units, rel=0.05)


@EACH
def test_peaks_are_in_proportion(known: Known) -> None:
    """A product in half as many bits is at most four times as fast, and never slower."""
    device = known.device
    half, single = device.peak("float16"), device.peak("float32")
    assert half is not None
    assert single is not None
    assert single < half
    if tf32 := device.peak("float32", tf32=True):
        assert single <= tf32 <= half
    if eight := device.peak("float8_e4m3fn"):
        assert eight == pytest.approx(2 * half, rel=0.02)
    if double := device.peak("float64"):
        assert double <= 2 * single
    assert device.vector is not None
    assert device.bandwidth is not None
    assert 10 < half / device.bandwidth < 700  # FLOPs a byte


@EACH
def test_each_row_has_its_source(known: Known) -> None:
    source = urlparse(known.device.source)
    assert source.scheme == "https"
    assert source.netloc


def test_dtypes_have_the_peak_of_what_computes_them() -> None:
    device = find_device("H100 SXM")
    assert device is not None
    assert device.peak("complex64") == device.peak("float32") == 67e12
    assert device.peak("float32", tf32=True) == 494.5e12
    assert device.peak("float8_e5m2") == 1979e12
    assert device.peak("uint8") == device.peak("int8")
    assert device.peak("int64") is None
    assert find_device("T4").peak("bfloat16") is None


def test_the_least_time_for_arithmetic_is_that_of_the_slower_units() -> None:
    """200 FLOPs of products at 100 a second, 30 others at 10 a second, at once."""
    device = Device("mine", {"bfloat16": 100.0}, bandwidth=50.0, vector=10.0)
    assert device.compute_seconds(Cost(macs=100), "bfloat16") == 2
    assert device.compute_seconds(Cost(macs=100, arith=30), "bfloat16") == 3
    assert device.compute_seconds(Cost(compare=5, special=5), "float32") == 1
    assert device.compute_seconds(Cost(macs=1), "float32") is None
    assert device.compute_seconds(Cost(), "float32") == 0
    assert device.memory_seconds(Cost(read=80, written=20)) == 2
    bare = Device("bare", {"bfloat16": 100.0})
    assert bare.memory_seconds(Cost(read=1)) is None
    assert bare.compute_seconds(Cost(arith=1), "float32") == 0  # memory bounds it
    assert bare.compute_seconds(Cost(macs=100, arith=1), "bfloat16") == 2


def test_peaks_are_a_dict() -> None:
    with pytest.raises(TypeError, match=r'expected peaks=\{"bfloat16": FLOP/s\}'):
        Device("mine", 20e12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"peaks": {"bf16": 1.0}}, "'bf16' is no kind of product; known: float64"),
        ({"peaks": {"bfloat16": 0.0}}, "a peak of mine is 0.0"),
        ({"peaks": {}, "bandwidth": float("nan")}, "a peak of mine is nan"),
        ({"peaks": {}, "vector": -1.0}, "a peak of mine is -1.0"),
        ({"peaks": {"bfloat16": "1e12"}}, "a peak of mine is '1e12'"),
    ],
)
def test_what_is_no_peak(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Device("mine", **arguments)
