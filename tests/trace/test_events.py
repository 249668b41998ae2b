"""Events: which are kept, what is inside what, and what is no recording of torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import flopcount
from flopcount import TraceError
from flopcount.trace.events import KERNEL, LAUNCH, MODULE, OP, RANGE, Recording, read
from tests.trace.recordings import (
    DEVICE,
    ENGINE,
    annotation,
    event,
    kernel,
    launch,
    module,
    node,
    op,
    written,
)

MM = op("aten::mm", 10, 20, [4, 8], [8, 2])


def outer(recording: Recording) -> dict[str, str | None]:
    """What each event is inside of, by names."""
    return {event.name: event.outer and event.outer.name for event in recording.host}


def test_kinds_of_events(tmp_path: Path) -> None:
    events = [
        MM,
        annotation("ProfilerStep#3", 0, 100),
        module("Linear_0", 5, 50),
        event("python_function", "train.py(3): step", 0, 99),
        launch(7, 12),
        kernel(7, 30, 40),
        event("gpu_memcpy", "Memcpy HtoD", 50, 60, DEVICE, correlation=8, bytes=4),
        event("gpu_user_annotation", "ProfilerStep#3", 0, 1, DEVICE),
        event("overhead", "Buffer Flush", 0, 1),
        {"ph": "M", "name": "process_name", "pid": 1, "args": {"name": "python"}},
        {"ph": "i", "name": "Record Window End", "ts": 3},
    ]
    recording = read(written(tmp_path / "trace.json", events, deviceProperties=[]))
    assert [event.kind for event in recording.host] == [RANGE, MODULE, OP, LAUNCH]
    assert [event.kind for event in recording.kernels] == [KERNEL, KERNEL]
    assert recording.about == {"schemaVersion": 1, "deviceProperties": []}


def test_older_names_of_categories_and_arguments(tmp_path: Path) -> None:
    old = {**MM, "cat": "Operator"}
    old["args"] = {"Input dims": [[4, 8], [8, 2]], "Input type": ["float"] * 2, "external id": 5}
    events = [old, {**launch(7, 12), "cat": "Runtime"}, {**kernel(7, 30, 40), "cat": "Kernel"}]
    recording = read(written(tmp_path / "trace.json", events))
    assert [event.kind for event in recording.host] == [OP, LAUNCH]
    assert recording.host[0].external == 5
    assert len(recording.kernels) == 1


def test_events_in_any_order_are_inside_one_another(tmp_path: Path) -> None:
    events = [
        op("aten::c", 13, 17),
        launch(1, 14),
        op("aten::sibling", 21, 22),
        op("aten::elsewhere", 12, 18, thread=ENGINE),
        module("M_0", 0, 30),
        MM,
    ]
    recording = read(written(tmp_path / "trace.json", events))
    assert outer(recording) == {
        "nn.Module: M_0": None,
        "aten::mm": "nn.Module: M_0",
        "aten::elsewhere": None,
        "aten::c": "aten::mm",
        "cudaLaunchKernel": "aten::c",
        "aten::sibling": "nn.Module: M_0",
    }


def test_rounded_ends_put_no_sibling_inside(tmp_path: Path) -> None:
    """An end may seem to lie behind the next beginning, or behind the end of what is around it."""
    events = [
        op("aten::a", 10, 20.001, [1]),
        op("aten::inside_a", 15, 20.002, [1]),
        op("aten::b", 20, 30, [1]),
        op("aten::c", 30, 30, [1]),
    ]
    recording = read(written(tmp_path / "trace.json", events))
    assert outer(recording) == {
        "aten::a": None,
        "aten::inside_a": "aten::a",
        "aten::b": None,
        "aten::c": None,
    }


def test_what_begins_and_ends_together(tmp_path: Path) -> None:
    events = [
        op("aten::inner", 1, 2, [1], **{"External id": 12}),
        op("aten::outer", 1, 2, [1], **{"External id": 11}),
        module("M_0", 1, 2),
    ]
    recording = read(written(tmp_path / "trace.json", events))
    assert [event.name for event in recording.host] == [
        "nn.Module: M_0",
        "aten::outer",
        "aten::inner",
    ]


def test_equal_arguments_are_one_object(tmp_path: Path) -> None:
    later = {**MM, "ts": 30}
    other = op("aten::mm", 50, 60, [4, 8], [8, 3])
    one, two, three = read(written(tmp_path / "trace.json", [MM, later, other])).host
    assert one.arguments is two.arguments
    assert one.arguments is not three.arguments


def test_flows_tell_the_threads_of_forwards(tmp_path: Path) -> None:
    number = {"Sequence number": 5, "Fwd thread id": 1}
    events: list[Any] = [
        MM,
        node("MmBackward0", 40, 50, ENGINE, **number),
        {"ph": "s", "cat": "fwdbwd", "id": 3, "pid": 1, "tid": 1, "ts": 10},
        {"ph": "f", "cat": "fwdbwd", "id": 3, "pid": 1, "tid": 2, "ts": 40},
    ]
    recording = read(written(tmp_path / "trace.json", events))
    assert recording.threads == {(1, 1): (1, 1)}


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (op("aten::mm", 10, 5, [1]), "aten::mm takes -5.0 µs"),
        ({**MM, "ph": "B"}, "a beginning and an end apart"),
        ({k: v for k, v in MM.items() if k != "dur"}, "it has no 'dur'"),
        ({k: v for k, v in MM.items() if k != "name"}, "it has no 'name'"),
        ({**MM, "ts": "soon"}, "could not convert string to float"),
        ({**MM, "ts": float("inf")}, "takes"),
        ({**MM, "args": [1]}, "no attribute 'get'"),
        ({**MM, "args": {"Input Dims": [[1]], "Input type": [5]}}, "5 is no type"),
        (
            {**MM, "args": {"Input Dims": [[1]], "Input type": ["TensorList"]}},
            "no shape of a TensorList",
        ),
        ({**MM, "args": {"Input Dims": [[[1]]], "Input type": ["float"]}}, "no shape of a float"),
        ([1, 2], "no attribute 'get'"),
        (None, "no attribute 'get'"),
    ],
)
def test_a_damaged_event_is_named(tmp_path: Path, bad: Any, expected: str) -> None:
    path = written(tmp_path / "trace.json", [MM, bad])
    with pytest.raises(TraceError, match="event 2 is damaged") as caught:
        read(path)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("inner", [MM, module("M_0", 10, 20)])
def test_events_are_not_nested_for_ever(tmp_path: Path, inner: Any) -> None:
    events = [{**inner, "ts": place, "dur": 2000 - 2 * place} for place in range(900)]
    with pytest.raises(TraceError, match="more than 400 events are nested in one another"):
        read(written(tmp_path / "trace.json", [MM, *events]))


def test_many_nested_events_are_read(tmp_path: Path) -> None:
    """Modules down to an op, of which each holds the next."""
    around = [module(f"M_{n}", n, 2000 - n) for n in range(390)]
    product = op("aten::mm", 900, 901, [4, 8], [8, 2])
    report = flopcount.read_trace(written(tmp_path / "trace.json", [*around, product]))
    assert report.model.total.macs == 64
    assert "M_389" in str(report)
    nested = [op("aten::mm", n, 2000 - n, [4, 8], [8, 2]) for n in range(390)]
    assert flopcount.read_trace(written(tmp_path / "trace.json", nested)).total.macs == 64


@pytest.mark.parametrize("properties", [5, [5], [{"id": [1], "name": "x"}], {"a": 1}])
def test_devices_that_are_told_badly_have_numbers(tmp_path: Path, properties: Any) -> None:
    events = [MM, launch(1, 12), kernel(1, 30, 40)]
    report = flopcount.read_trace(
        written(tmp_path / "trace.json", events, deviceProperties=properties)
    )
    assert report.run is not None
    assert report.run.devices in (("device 0",), ("x",))


def test_a_recording_without_shapes_says_how_to_record(tmp_path: Path) -> None:
    bare = event("cpu_op", "aten::mm", 1, 2, **{"External id": 3})
    with pytest.raises(TraceError, match=r"it has no shapes; record it with .*record_shapes=True"):
        read(written(tmp_path / "trace.json", [bare]))


def test_the_trace_of_another_tool_says_so(tmp_path: Path) -> None:
    browser = {"ph": "X", "cat": "blink", "name": "Paint", "pid": 1, "tid": 1, "ts": 0, "dur": 1}
    with pytest.raises(TraceError, match="no op of torch is in it"):
        read(written(tmp_path / "trace.json", [browser, {"ph": "B", "name": "x", "ts": 0}]))
