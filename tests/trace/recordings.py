"""Recordings for tests: of a step that runs here, and written by hand."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

import flopcount
from flopcount import Report

HOST, ENGINE, DEVICE = (1, 1), (1, 2), (0, 7)
"""The process and thread of events: of the program, of autograd's engine, of a stream."""


def recorded(step: Callable[[], Any], *, stacks: bool = True, **options: Any) -> Report:
    """The report of a recording of ``step`` on the CPU."""
    cpu = [ProfilerActivity.CPU]
    with profile(activities=cpu, record_shapes=True, with_stack=stacks) as profiler:
        step()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(path))
        return flopcount.read_trace(path, **options)


def event(
    category: str, name: str, start: float, end: float, thread: Any = HOST, **args: Any
) -> dict[str, Any]:
    """An event, with times in microseconds."""
    pid, tid = thread
    kind = {"ph": "X", "cat": category, "name": name, "pid": pid, "tid": tid}
    return {**kind, "ts": start, "dur": end - start, "args": args}


def op(name: str, start: float, end: float, *tensors: Any, thread: Any = HOST, **args: Any) -> Any:
    """An op; each of ``tensors`` is a shape of float32, or a number."""
    shapes = {
        "Input Dims": [t if isinstance(t, list) else [] for t in tensors],
        "Input type": ["float" if isinstance(t, list) else "Scalar" for t in tensors],
        "Concrete Inputs": ["" if isinstance(t, list) else str(t) for t in tensors],
    }
    return event("cpu_op", name, start, end, thread, **shapes, **args)


def node(name: str, start: float, end: float, thread: Any = HOST, **args: Any) -> Any:
    """The run of a node of autograd."""
    name = f"autograd::engine::evaluate_function: {name}"
    return event("cpu_op", name, start, end, thread, **args)


def module(name: str, start: float, end: float, thread: Any = HOST) -> Any:
    """A call of a module."""
    return event("python_function", f"nn.Module: {name}", start, end, thread)


def launch(correlation: int, start: float, thread: Any = HOST, **args: Any) -> Any:
    """A launch of device work, which takes a microsecond of the host."""
    args["correlation"] = correlation
    return event("cuda_runtime", "cudaLaunchKernel", start, start + 1, thread, **args)


def kernel(
    correlation: int, start: float, end: float, name: str = "gemm", stream: int = 7, device: int = 0
) -> Any:
    """Device work."""
    args = {"correlation": correlation, "device": device, "stream": stream}
    return event("kernel", name, start, end, (device, stream), **args)


def annotation(name: str, start: float, end: float, thread: Any = HOST) -> Any:
    """A range that ``record_function`` marked."""
    return event("user_annotation", name, start, end, thread)


def written(path: Path, events: Iterable[Any], **about: Any) -> Path:
    """The file of a recording with these events."""
    path.write_text(json.dumps({"schemaVersion": 1, "traceEvents": [*events], **about}))
    return path


def flops(report: Report) -> dict[tuple[str, str], int]:
    """FLOPs by phase and op, without ops that have none.

    Autograd adds gradients up in place where no mode is open.
    """
    sums: dict[tuple[str, str], int] = {}
    for row in report.entries:
        if row.cost.flops:
            key = row.phase, row.op.removesuffix("_")
            sums[key] = sums.get(key, 0) + row.cost.flops
    return sums


def products(report: Report) -> dict[str, int]:
    """MACs by phase, without phases that have none."""
    return products_of(report, "<block>")


def products_of(report: Report, path: str) -> dict[str, int]:
    """Those of a module."""
    return {phase: cost.macs for phase, cost in report[path].phases.items() if cost.macs}
