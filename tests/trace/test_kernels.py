"""Device time, by hand: two products, a copy, and kernels on two streams."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import flopcount
from flopcount import Report
from flopcount.report.run import KernelTime
from tests.trace.recordings import annotation, event, kernel, launch, module, node, op, written

A, B = [4, 8], [8, 2]
PROPERTIES = [{"id": 0, "name": "NVIDIA H100 80GB HBM3"}, {"id": 1, "name": "NVIDIA A10"}]


def report(folder: Path, *events: Any, properties: Any = PROPERTIES, **options: Any) -> Report:
    path = written(folder / "trace.json", events, deviceProperties=properties)
    return flopcount.read_trace(path, **options)


def test_a_kernel_belongs_to_the_op_that_launched_it(tmp_path: Path) -> None:
    """The kernel runs long after its op has returned, and the copy inside it counts, too."""
    found = report(
        tmp_path,
        op("aten::mm", 0, 10, A, B),
        op("aten::copy_", 2, 5, A, A),
        launch(1, 3),
        event("gpu_memcpy", "Memcpy DtoD", 100, 104, (0, 7), correlation=1, device=0, stream=7),
        launch(2, 6),
        kernel(2, 104, 124, "gemm"),
    )
    (row,) = found.entries
    assert (row.op, row.calls, row.nanoseconds) == ("aten.mm", 1, 24_000)
    assert found.run is not None
    assert found.run.kernels == (
        KernelTime("gemm", "aten.mm", 1, 20_000),
        KernelTime("Memcpy DtoD", "aten.mm", 1, 4_000),
    )
    assert found.run.devices == ("NVIDIA H100 80GB HBM3",)
    assert (found.run.span, found.run.busy, found.run.idle) == (124_000, 24_000, 100_000)
    assert found.seconds == found.root.seconds == 24e-6


def test_streams_that_overlap_are_busy_once(tmp_path: Path) -> None:
    """20 µs and 30 µs, of which 10 µs at once: 50 µs of work in 40 µs."""
    found = report(
        tmp_path,
        op("aten::mm", 0, 4, A, B),
        launch(1, 1),
        op("aten::mm", 4, 8, A, B),
        launch(2, 5),
        kernel(1, 10, 30, stream=7),
        kernel(2, 20, 50, stream=8),
    )
    assert found.run is not None
    assert (found.run.busy, found.run.work, found.run.counted) == (40_000, 50_000, 50_000)
    assert found.seconds == 40e-6
    assert found.entries[0].nanoseconds == 50_000


def test_two_devices_are_busy_each(tmp_path: Path) -> None:
    found = report(
        tmp_path,
        op("aten::mm", 0, 4, A, B),
        launch(1, 1),
        launch(2, 2),
        kernel(1, 10, 30, device=0),
        kernel(2, 10, 30, device=1),
    )
    assert found.run is not None
    assert found.run.devices == ("NVIDIA H100 80GB HBM3", "NVIDIA A10")
    assert (found.run.span, found.run.busy, found.run.idle) == (30_000, 40_000, 20_000)


def test_work_of_no_op_has_the_name_of_what_is_around_it(tmp_path: Path) -> None:
    """A collective, part of torch, a kernel that was launched before, and one of a frame's own."""
    found = report(
        tmp_path,
        op("aten::mm", 0, 4, A, B),
        launch(1, 1),
        kernel(1, 10, 20),
        annotation("nccl:all_reduce", 5, 9),
        launch(2, 6),
        kernel(2, 20, 50, "ncclDevKernel"),
        event("cpu_op", "Optimizer fused", 10, 14),
        launch(3, 11),
        kernel(3, 50, 51, "adam"),
        kernel(99, 60, 62, "of an earlier step"),
        annotation("my part", 20, 29),
        launch(4, 21),
        kernel(4, 70, 73, "my kernel"),
    )
    assert found.run is not None
    assert found.run.others == {
        "nccl:all_reduce": 30_000,
        "my kernel": 3_000,
        "of an earlier step": 2_000,
        "Optimizer fused": 1_000,
    }
    assert (found.run.work, found.run.counted) == (46_000, 10_000)
    assert sum(time.nanoseconds for time in found.run.kernels if not time.op) == 36_000


def test_a_function_that_launches_kernels_is_named_in_its_module(tmp_path: Path) -> None:
    """A Function runs a kernel of its own and a product; a second one only a product."""
    inputs = {"Input Dims": [A, []], "Input type": ["float", "Scalar"]}
    grads = {"Input Dims": [A], "Input type": ["float"], "Sequence number": 7, "Fwd thread id": 1}
    found = report(
        tmp_path,
        module("Norm_0", 0, 40),
        event("cpu_op", "FastNorm", 2, 20, **inputs, **{"Sequence number": 7}),
        launch(1, 3),
        kernel(1, 100, 130, "_norm_kernel"),
        op("aten::mm", 8, 12, A, B, **{"Sequence number": 7}),
        launch(2, 9),
        kernel(2, 130, 140),
        event("cpu_op", "OfOps", 22, 36, **inputs),
        op("aten::mm", 24, 32, A, B, **{"Sequence number": 8}),
        launch(3, 26),
        kernel(3, 140, 150),
        node("FastNormBackward", 50, 70, **{"Sequence number": 7, "Fwd thread id": 1}),
        event("cpu_op", "FastNormBackward", 52, 68, **grads),
        launch(4, 54),
        kernel(4, 150, 190, "_norm_backward_kernel"),
    )
    assert found.uncounted == {"FastNorm": 1, "FastNormBackward": 1}
    rows = {(row.module, row.phase, row.op): row for row in found.entries}
    assert {key: (row.nanoseconds, row.cost.macs) for key, row in rows.items()} == {
        ("Norm_0", "forward", "FastNorm"): (30_000, 0),
        ("Norm_0", "forward", "aten.mm"): (20_000, 2 * 64),
        ("Norm_0", "backward", "FastNormBackward"): (40_000, 0),
    }
    assert rows["Norm_0", "forward", "FastNorm"].cost.read == 4 * 32
    assert found.run is not None
    assert (found.run.work, found.run.counted, found.run.others) == (90_000, 20_000, {})


def test_where_launches_are_not_recorded_kernels_name_their_op(tmp_path: Path) -> None:
    product = op("aten::mm", 0, 4, A, B, **{"External id": 12})
    work = event("kernel", "gemm", 10, 20, (0, 7), **{"External id": 12, "device": 0})
    assert report(tmp_path, product, work).entries[0].nanoseconds == 10_000


CALLED = op("aten::mm", 2, 5, A, B), launch(1, 3), kernel(1, 30, 40)
"""A product that another op calls, and its kernel of 10 µs."""


def test_an_uncounted_op_keeps_the_time_that_is_its_own(tmp_path: Path) -> None:
    """Of 30 µs in a library's op, 10 µs are of a product that it calls."""
    found = report(
        tmp_path,
        op("mylib::attention", 0, 20, A),
        *CALLED,
        launch(2, 10),
        kernel(2, 40, 60, "flash"),
    )
    rows = {row.op: row for row in found.entries}
    assert rows["aten.mm"].nanoseconds == 10_000
    assert rows["mylib.attention"].nanoseconds == 20_000
    assert found.uncounted == {"mylib.attention": 1}
    assert found.run is not None
    assert found.run.counted == 10_000


def test_an_op_that_leaves_its_work_to_others_is_none(tmp_path: Path) -> None:
    """All of its kernels are those of a product: nothing of it is uncounted."""
    found = report(tmp_path, op("mylib::linear", 0, 20, A), *CALLED)
    assert (found.uncounted, found.total.macs) == ({}, 64)


@pytest.mark.parametrize("has_kernel", [True, False])
def test_a_product_at_which_a_checkpoint_stops_did_not_run(
    tmp_path: Path, has_kernel: bool
) -> None:
    """It is recorded, but launches nothing: it did not run."""
    again = {"Sequence number": 9}
    number = {"Sequence number": 3, "Fwd thread id": 1}
    name = "autograd::engine::evaluate_function: MulBackward0"
    events = [
        op("aten::mm", 0, 4, A, B, **{"Sequence number": 3}),
        launch(1, 1),
        kernel(1, 5, 6),
        event("cpu_op", name, 10, 40, **number),
        event("cpu_op", "MulBackward0", 11, 39, **number),
        op("aten::mm", 12, 15, A, B, **again),
        op("aten::mul", 20, 25, A, A),
        launch(3, 21),
        kernel(3, 30, 31),
    ]
    if has_kernel:
        events += [launch(2, 13), kernel(2, 20, 21)]
    assert report(tmp_path, *events).phases["recompute"].macs == (64 if has_kernel else 0)


def test_the_host_has_its_own_time_where_no_device_works(tmp_path: Path) -> None:
    """The product's time includes its kernels', and the composite op around it has none."""
    found = report(
        tmp_path,
        op("aten::linear", 0, 20, A, [2, 8]),
        op("aten::t", 1, 3, [2, 8]),
        op("aten::mm", 5, 15, A, B),
        op("aten::copy_", 7, 9, A, A),
        op("aten::relu", 20, 23, A),
    )
    assert {row.op: row.nanoseconds for row in found.entries} == {
        "aten.mm": 10_000,
        "aten.relu": 3_000,
    }
    assert found.run is not None
    assert (found.run.devices, found.run.busy, found.run.span) == (("CPU",), 13_000, 23_000)


@pytest.mark.parametrize(
    ("properties", "name"),
    [
        ([{"id": 4, "name": "AMD Instinct MI300X"}], "AMD Instinct MI300X"),  # AMD numbers anew
        ([{"id": 0, "name": "A"}, {"id": 1, "name": "B"}], "device 2"),
        ([], "device 2"),
        (None, "device 2"),
    ],
)
def test_names_of_devices(tmp_path: Path, properties: Any, name: str) -> None:
    product = [op("aten::mm", 0, 4, A, B), launch(1, 1), kernel(1, 5, 6, device=2)]
    found = report(tmp_path, *product, properties=properties)
    assert found.run is not None
    assert found.run.devices == (name,)


def steps(folder: Path, **options: Any) -> Report:
    """Three steps of one, two and three products, of 10 µs each; the device is a step behind."""
    events = []
    for step, start in ((5, 0), (6, 100), (7, 200)):
        events.append(annotation(f"ProfilerStep#{step}", start, start + 90))
        for place in range(step - 4):
            begin, number = start + 20 * place, 10 * step + place
            events += [op("aten::mm", begin + 1, begin + 9, A, B), launch(number, begin + 2)]
            events.append(kernel(number, begin + 100, begin + 110))
    events.append(kernel(999, 3, 8, "of an earlier step"))
    return report(folder, *events, **options)


@pytest.mark.parametrize(
    ("wanted", "products"), [(5, 1), (7, 3), ([5, 7], 4), (range(5, 8), 6), (None, 6)]
)
def test_steps_are_picked_by_their_numbers(tmp_path: Path, wanted: Any, products: int) -> None:
    found = steps(tmp_path, steps=wanted)
    assert found.total.macs == 64 * products
    assert found.entries[0].nanoseconds == 10_000 * products
    assert found.run is not None
    numbers = (wanted,) if isinstance(wanted, int) else tuple(wanted or (5, 6, 7))
    assert found.run.steps == numbers
    assert ("of an earlier step" in found.run.others) == (wanted is None)


def test_a_device_that_works_for_another_step_is_not_idle(tmp_path: Path) -> None:
    """Step 2 lasts from 100 to 260; until 130 its device works for step 1, from 250 for step 3."""
    events: list[Any] = []
    for step, start, first, last in ((1, 0, 10, 130), (2, 100, 140, 240), (3, 200, 250, 300)):
        events += [
            annotation(f"ProfilerStep#{step}", start, start + 100),
            op("aten::mm", start, start + 9, A, B),
            launch(step, start + 1),
            kernel(step, first, last),
        ]
    events += [op("aten::view", 195, 260, A), annotation("ProfilerStep#4", 300, 301)]
    run = report(tmp_path, *events, steps=2).run
    assert run is not None
    assert (run.span, run.busy, run.idle) == (160_000, 100_000, 20_000)
    run = report(tmp_path, *events).run
    assert run is not None
    assert (run.span, run.busy, run.idle) == (301_000, 270_000, 31_000)
    assert run.steps == (1, 2, 3)  # in a fourth nothing ran
    assert run.is_whole


def test_a_step_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(flopcount.TraceError, match="no step 8; it has 5, 6, 7"):
        steps(tmp_path, steps=[7, 8])
    with pytest.raises(flopcount.TraceError, match="no steps were asked for"):
        steps(tmp_path, steps=[])
    with pytest.raises(flopcount.TraceError, match="no step 1; the profiler marked none in it"):
        report(tmp_path, op("aten::mm", 0, 4, A, B), steps=1)


@pytest.mark.parametrize("numbers", [2.0, [5, "6"], "56", object()])
@pytest.mark.parametrize("name", ["steps", "ranks"])
def test_steps_and_ranks_are_whole_numbers(tmp_path: Path, name: str, numbers: Any) -> None:
    with pytest.raises(TypeError, match=rf"{name} are whole numbers, as in {name}=range\(5, 8\)"):
        flopcount.read_trace(tmp_path, **{name: numbers})


@pytest.fixture
def ranks(tmp_path: Path) -> Path:
    """Two ranks: one product of 20 µs, and two of 10 µs each."""
    for rank, times in ((0, [20]), (1, [10, 10])):
        events: list[Any] = []
        for place, time in enumerate(times):
            start = 100 * place
            events += [op("aten::mm", start, start + 5, A, B), launch(place, start + 1)]
            events.append(kernel(place, start + 10, start + 10 + time))
        info = {"rank": rank, "world_size": 2}
        about = {"deviceProperties": PROPERTIES, "distributedInfo": info}
        written(tmp_path / f"rank{rank}.json", events, **about)
    (tmp_path / "notes.txt").write_text("no recording")
    return tmp_path


def test_a_folder_has_a_file_of_each_rank(ranks: Path) -> None:
    found = flopcount.read_trace(ranks)
    assert found.total.macs == 3 * 64
    assert found.entries[0].nanoseconds == 40_000
    assert found.run is not None
    assert found.run.devices == ("NVIDIA H100 80GB HBM3",) * 2
    assert (found.run.span, found.run.busy, found.run.work) == (120_000, 40_000, 40_000)
    assert [(call.calls, call.nanoseconds) for call in found.run.calls] == [(3, 40_000)]
    assert [(kernel.calls, kernel.op) for kernel in found.run.kernels] == [(3, "aten.mm")]
    assert Report.from_json(found.to_json()) == found


def test_ranks_are_picked_by_their_numbers(ranks: Path) -> None:
    assert flopcount.read_trace(ranks, ranks=1).total.macs == 128
    assert flopcount.read_trace(ranks, ranks=[0, 1]).total.macs == 192
    assert flopcount.read_trace(ranks / "rank0.json", ranks=0).total.macs == 64
    with pytest.raises(flopcount.TraceError, match="no rank 2; it has 0, 1"):
        flopcount.read_trace(ranks, ranks=[0, 2])
    with pytest.raises(flopcount.TraceError, match="no rank 1; it has 0"):
        flopcount.read_trace(ranks / "rank0.json", ranks=1)
    with pytest.raises(flopcount.TraceError, match="no ranks were asked for"):
        flopcount.read_trace(ranks, ranks=[])
    with pytest.raises(flopcount.TraceError, match=r"no rank 1; none is written in it"):
        flopcount.read_trace(written(ranks / "alone.json", [op("aten::mm", 0, 4, A, B)]), ranks=1)
    (ranks / "folder.json").mkdir()
    assert flopcount.read_trace(ranks).total.macs == 4 * 64
    twice = written(ranks / "again.json", [op("aten::mm", 0, 4, A, B)])
    with pytest.raises(flopcount.TraceError, match=r"again.json and alone.json are of one process"):
        flopcount.read_trace(ranks)
    twice.write_text((ranks / "rank0.json").read_text())
    with pytest.raises(flopcount.TraceError, match=r"again.json and rank0.json are of one rank"):
        flopcount.read_trace(ranks)
    (ranks / "empty").mkdir()
    with pytest.raises(flopcount.TraceError, match=r"no file in it ends in \.json"):
        flopcount.read_trace(ranks / "empty")


def test_a_composite_op_that_has_a_kernel_here_is_whole(tmp_path: Path) -> None:
    """Inside it a tensor is made, and nothing computed: 4 x 8 squares, sums, roots, products."""
    made = op("aten::empty", 2, 3, "[4, 8]", 6)
    made["args"]["Input type"] = ["ScalarList", "Scalar"]
    norm = op("aten::_fused_rms_norm", 0, 9, A, "[8]", [8], 1e-5)
    norm["args"]["Input type"] = ["float", "ScalarList", "float", "Scalar"]
    found = report(tmp_path, norm, made, launch(1, 5), kernel(1, 20, 30))
    (row,) = found.entries
    assert (row.op, row.uncounted, row.nanoseconds) == ("aten._fused_rms_norm", 0, 10_000)
    assert row.cost.flops > 4 * 32
    linear = op("aten::linear", 0, 9, A, [2, 8], [2])
    inner = op("aten::addmm", 2, 6, [2], A, B, 1, 1)
    found = report(tmp_path, linear, inner, launch(1, 5), kernel(1, 20, 30))
    assert [row.op for row in found.entries] == ["aten.addmm"]
    found = report(tmp_path, linear, launch(1, 5), kernel(1, 20, 30))
    assert [row.op for row in found.entries] == ["aten.linear"]
