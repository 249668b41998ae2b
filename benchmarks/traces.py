"""Recordings of accelerators: what is counted, beside another tool; and how long reading takes.

The recordings lie in the folder that ``FLOPCOUNT_TRACES`` names. The other tool is TraceLens: its
figures for products, convolutions and attention are in a file beside them.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import resource
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.profiler import ProfilerActivity, profile, record_function

import flopcount
from benchmarks.processes import in_a_new_process
from benchmarks.results import Figures, Target, table
from benchmarks.timing import Timed, in_turns
from flopcount.report.run import CallTime

FOLDER = Path(os.environ.get("FLOPCOUNT_TRACES", ""))
REFERENCE = "tracelens_gflop.json"
LONGEST = "mi300-resnet-checkpointed-training"
"""The recording that is repeated until it has so many events as a large one."""

SECONDS, MEMORY, RECORDING = 3.0, 2.0, 1.0
"""Targets: for 100,000 events; bytes for each of the file; record ÷ the profiler with ranges."""


def run(quick: bool) -> Figures:
    """Read every recording, and one of many events; record a step."""
    if not os.environ.get("FLOPCOUNT_TRACES"):
        raise SystemExit("FLOPCOUNT_TRACES names no folder with recordings")
    warnings.simplefilter("ignore")
    files = sorted(FOLDER.glob("*.json.gz"))
    return {
        "files": {file.name.removesuffix(".json.gz"): figures_of(file) for file in files},
        "reading": in_a_new_process(reading, 2 if quick else 20),
        "recording": recording(3 if quick else 30),
    }


def figures_of(file: Path) -> Figures:
    """What ran, how much of its time is counted, and whether TraceLens agrees."""
    start = time.perf_counter()
    try:
        report = flopcount.read_trace(file)
    except flopcount.TraceError as error:
        return {"refused": str(error).partition(": ")[2]}
    seconds, run = time.perf_counter() - start, report.run
    assert run is not None
    products = [call for call in run.calls if call.cost.macs]
    flops = sum(call.cost.matmul_flops for call in products)
    nanoseconds = sum(call.nanoseconds for call in products)
    return {
        "device": run.devices[0],
        "seconds to read": round(seconds, 2),
        "ms of device time": round(run.work / 1e6, 2),
        "counted": round(run.counted / run.work, 3),
        "counted by TraceLens": time_of_tracelens(file.name, run.work),
        "TFLOP/s of products": round(flops / nanoseconds / 1e3, 1) if nanoseconds else None,
        "compared": comparison(file.name, products),
    }


def rows_of_tracelens(name: str) -> list[dict[str, Any]]:
    """Its figures for a file; none if it has none."""
    reference = json.loads((FOLDER / REFERENCE).read_text(encoding="utf-8"))
    rows: list[dict[str, Any]] = reference.get(name.removesuffix(".json.gz"), [])
    return rows


def time_of_tracelens(name: str, work: int) -> float | None:
    """The share of device time in ops that it counts."""
    rows = rows_of_tracelens(name)
    return round(sum(row["kernel_us"] for row in rows) * 1e3 / work, 3) if rows else None


def comparison(name: str, calls: list[CallTime]) -> Figures | None:
    """Kinds of calls whose FLOPs are equal, after its conventions; and how many differ."""
    rows = rows_of_tracelens(name)
    if not rows:
        return None
    theirs: Counter[str] = Counter()
    for row in rows:
        theirs[row["op"].replace("::", ".")] += round(row["gflop"] * 1e9 * row["calls"])
    ours: Counter[str] = Counter()
    named: Counter[str] = Counter()
    for call in calls:
        flops = call.cost.flops if call.op == "aten.addmm" else call.cost.matmul_flops
        if call.op.startswith("aten._scaled") and ", True, False" in call.arguments:
            named["causal attention, halved there"] += 1
            flops //= 2
        if re.search(r"\[False, True", call.arguments):
            named["a gradient of a convolution that nobody asked for, counted there"] += 1
            flops *= 2
        ours[call.op] += flops
    return {
        "equal": sum(ours[op] == flops for op, flops in theirs.items()),
        "different": sum(ours[op] != theirs[op] for op in {*ours, *theirs}),
        "after": dict(named),
    }


def reading(times: int) -> Figures:
    """Read a recording of many events: those of one file, again and again."""
    warnings.simplefilter("ignore")
    document = json.loads(gzip.decompress((FOLDER / f"{LONGEST}.json.gz").read_bytes()))
    events = document["traceEvents"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        with path.open("w", encoding="utf-8") as file:
            file.write('{"traceEvents": [')
            for turn in range(times):
                parts = (json.dumps(later(event, turn)) for event in events)
                file.write(("," if turn else "") + ",".join(parts))
            file.write("]}")
        del document
        size, number = path.stat().st_size, times * len(events)
        flopcount.read_trace(FOLDER / f"{LONGEST}.json.gz")  # what it needs once, for any file
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.process_time()
        flopcount.read_trace(path)
        seconds = time.process_time() - start
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "events": number,
        "MB": round(size / 1e6, 1),
        "seconds": round(seconds, 2),
        "seconds for 100,000": round(seconds * 1e5 / number, 2),
        "memory ÷ file": round(grown * 1024 / size, 2),
    }


def later(event: dict[str, Any], turn: int) -> dict[str, Any]:
    """The same event, a second later for each turn, with numbers of its own."""
    args = event.get("args")
    if isinstance(args, dict):
        keys = ("External id", "correlation", "Sequence number")
        args = {**args, **{key: args[key] + turn * 10**6 for key in keys if key in args}}
    changed = {**event, "args": args} if args is not None else dict(event)
    if isinstance(event.get("ts"), float | int):
        changed["ts"] = round(event["ts"] + turn * 1e6, 3)
    if isinstance(event.get("id"), int):
        changed["id"] = event["id"] + turn * 10**6
    return changed


def recording(rounds: int) -> Figures:
    """A step of 150 small layers, the second in its recording, by each way to record.

    The same settings as flopcount's are those of the profiler and a range for each module.
    """
    torch.set_num_threads(1)
    blocks = (nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.GELU()) for _ in range(50))
    model, x = nn.Sequential(*blocks), torch.randn(4, 8)

    def step() -> None:
        model(x).sum().backward()

    @contextmanager
    def warm(way: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
        with way():
            step()
            yield

    ways = {
        "plain": nullcontext,
        "profiler": profiler,
        SAME: profiler_with_ranges,
        "profiler, with_stack=True": partial(profiler, with_stack=True),
        OURS: partial(flopcount.record, model),
    }
    timed = {name: Timed(step, partial(warm, way)) for name, way in ways.items()}
    return in_turns(timed, rounds=rounds)


SAME, OURS = "profiler, a range for each module", "flopcount.record"


def profiler(**options: Any) -> AbstractContextManager[Any]:
    """torch's profiler of the CPU, with shapes."""
    return profile(activities=[ProfilerActivity.CPU], record_shapes=True, **options)


@contextmanager
def profiler_with_ranges() -> Iterator[None]:
    """The same, with a range around each call of a module, as a user would mark it."""
    ranges: list[record_function] = []

    def enter(module: nn.Module, inputs: Any) -> None:
        ranges.append(record_function(type(module).__name__))
        ranges[-1].__enter__()

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        ranges.pop().__exit__(None, None, None)

    hooks = [
        register_module_forward_pre_hook(enter),
        register_module_forward_hook(leave, always_call=True),
    ]
    try:
        with profiler():
            yield
    finally:
        for hook in hooks:
            hook.remove()


def show(figures: Figures) -> str:
    """The recordings, what differs from TraceLens, reading, and recording."""
    rows, notes = [], []
    for name, found in figures["files"].items():
        if "refused" in found:
            notes.append(f"{name}: {found['refused']}")
            continue
        theirs, compared = found["counted by TraceLens"], found["compared"]
        rows.append(
            [
                name,
                found["device"],
                f"{found['ms of device time']:.2f}",
                f"{100 * found['counted']:.1f} %",
                f"{100 * theirs:.1f} %" if theirs is not None else "",
                f"{compared['equal']} of {compared['equal'] + compared['different']}"
                if compared
                else "",
                found["TFLOP/s of products"] or "",
                f"{found['seconds to read']:.2f}",
            ]
        )
        for reason, number in (compared or {}).get("after", {}).items():
            notes.append(f"{name}: {number} kinds of calls after {reason}")
    headers = ["recording", "device", "ms", "counted", "by TraceLens", "equal", "TFLOP/s", "s"]
    reading, times = figures["reading"], figures["recording"]
    ways = [
        [way, f"{1e3 * time['median']:.2f}", f"{time['median'] / times['plain']['median']:.2f}"]
        for way, time in times.items()
    ]
    return "\n\n".join(
        [
            table(headers, rows, left=2),
            "\n".join(f"- {note}" for note in notes),
            table([*reading], [[*reading.values()]], left=0),
            table(["a step under", "ms", "÷ plain"], ways),
        ]
    )


def targets(figures: Figures) -> list[Target]:
    """Equal products, time and memory of reading, and what recording costs."""
    different = sum(
        f["compared"]["different"] for f in figures["files"].values() if f.get("compared")
    )
    seconds = figures["reading"]["seconds for 100,000"]
    memory = figures["reading"]["memory ÷ file"]
    times = figures["recording"]
    cost = times[OURS]["median"] / times[SAME]["median"]
    return [
        Target("ops whose products differ from TraceLens", "0", str(different), different == 0),
        Target("seconds for 100,000 events", f"≤ {SECONDS}", f"{seconds}", seconds <= SECONDS),
        Target("memory ÷ uncompressed file", f"≤ {MEMORY}", f"{memory}", memory <= MEMORY),
        Target(f"{OURS} ÷ {SAME}", f"≤ {RECORDING}", f"{cost:.2f}", cost <= RECORDING),
    ]
