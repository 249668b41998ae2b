"""Text: what a recorded run achieved, by op, module, kernel or shape, beside its device's peaks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flopcount.cost import ZERO, Cost
from flopcount.hardware.roofline import bound_of
from flopcount.report.render.table import (
    INDENT,
    OUTSIDE,
    label_of,
    op_totals,
    percent,
    quantity,
    starred,
    tabulated,
)
from flopcount.report.run import milliseconds

if TYPE_CHECKING:
    from flopcount.hardware.device import Device
    from flopcount.hardware.roofline import Bound
    from flopcount.report.report import Report
    from flopcount.report.roofline import Roofline
    from flopcount.report.run import Run

ENDINGS = ()  # it needs to know by what, so that a file has the other tables

NO_PEAKS = (
    "its peaks are not known: name a known device by --device, "
    "or pass your own in Python, report.roofline(flopcount.Device(…))"
)
"""What is said of a device, or of several, that no percentage is given for."""

WIDTH, ARGUMENTS = 60, 160
"""Characters that are shown of names of kernels, and of arguments."""


@dataclass(frozen=True)
class Line:
    """One row: its labels, calls, cost, and nanoseconds, and its bound if that is known."""

    labels: list[str]
    calls: int
    cost: Cost
    nanoseconds: int
    bound: Bound | None = None


def render(report: Report, by: str = "op", device: Device | None = None, *, tf32: bool) -> str:
    """What ``report``, of a recorded run, achieved: a line about the run, and a table.

    Args:
        report: the report.
        by: ``op``, ``module``, ``kernel`` or ``shape``.
        device: whose peaks to compare with.
        tf32: whether products of float32 count as TF32.

    Raises:
        ValueError: the report is of no recorded run, or no device ran a kernel.
    """
    run = report.run
    if run is None:
        raise ValueError("the report is not of a recorded run: nobody measured its time")
    roofline = report.roofline(device, tf32=tf32) if device else None
    headers, lines = LINES[by](report, run, roofline)
    table = _table(headers, list(lines), run, roofline)
    head = f"{run}\n{peaks(roofline) if roofline else NO_PEAKS}"
    return "\n\n".join([head, table, *_omissions(report, run)])


def peaks(roofline: Roofline) -> str:
    """The peaks of the device: those of the dtypes in which products were computed."""
    device = roofline.device
    words = []
    for dtype in dict.fromkeys(dtype for (_, dtype), b in roofline.ops.items() if b.cost.macs):
        peak = device.peak(dtype, tf32=roofline.tf32)
        kind = "TF32" if roofline.tf32 and dtype == "float32" else dtype
        words.append(f"{kind} {peak / 1e12:.4g} TFLOP/s" if peak else f"{kind} not known")
    if device.bandwidth:
        words.append(f"memory {device.bandwidth / 1e9:.4g} GB/s")
    return f"peaks of {device.name}: {', '.join(words)}"


def roofline_table(roofline: Roofline) -> str:
    """The ops of a roofline, the longest first."""
    body = []
    for (op, dtype), bound in sorted(roofline.ops.items(), key=lambda item: -_order(item[1])):
        if bound.cost:
            body.append([op, dtype, *_bound_cells(bound)])
    body.append(["total", "", *_bound_cells(roofline.total)])
    headers = [
        "op",
        "dtype",
        "FLOP",
        "bytes",
        "FLOP/byte",
        "least ms",
        "ms",
        "of roofline",
        "bound by",
    ]
    return tabulated(headers, body)


def _order(bound: Bound) -> float:
    return bound.measured or bound.least or 0.0


def _bound_cells(bound: Bound) -> list[str]:
    cost = bound.cost
    times = [f"{1e3 * t:.4g}" if t is not None else "" for t in (bound.least, bound.measured)]
    intensity = f"{cost.intensity:.4g}" if cost.intensity else ""
    return [quantity(cost.flops), quantity(cost.bytes), intensity, *times, *_reached(bound)]


# -- lines

Lines = tuple[list[str], Iterable[Line]]
"""The headers of the labels, and the lines."""


def _by_op(report: Report, run: Run, roofline: Roofline | None) -> Lines:
    def lines() -> Iterator[Line]:
        for total in sorted(op_totals(report), key=lambda total: -total.nanoseconds):
            bound = roofline.ops[total.op, total.dtype] if roofline else None
            if total.cost or total.nanoseconds:
                labels = [total.label, total.dtype]
                yield Line(labels, total.calls, total.cost, total.nanoseconds, bound)
        yield _total(report, ["total", ""], roofline)

    return ["op", "dtype"], lines()


def _by_module(report: Report, run: Run, roofline: Roofline | None) -> Lines:
    def lines() -> Iterator[Line]:
        waiting = [(node, 0) for node in reversed(report.root.children)]
        while waiting:
            node, level = waiting.pop()
            bound = roofline.modules[node.path] if roofline else None
            rows = (row for inner in node.walk() for row in inner.rows)
            label = starred(f"{INDENT['simple'] * level}{label_of(node)}", rows)
            time = round(1e9 * (node.seconds or 0))
            yield Line([label], node.calls, node.total, time, bound)
            waiting += [(child, level + 1) for child in reversed(node.children)]
        own = report.root.rows
        if own:
            time = sum(row.nanoseconds or 0 for row in own)
            yield Line([OUTSIDE], 0, report.root.own, time)
        yield _total(report, ["total"], roofline)

    return ["module"], lines()


def _total(report: Report, labels: list[str], roofline: Roofline | None) -> Line:
    """All ops together."""
    time = sum(row.nanoseconds or 0 for row in report.entries)
    return Line(labels, 0, report.total, time, roofline.total if roofline else None)


def _by_kernel(report: Report, run: Run, roofline: Roofline | None) -> Lines:
    if not run.kernels:
        raise ValueError("no kernel is recorded: only the CPU worked")
    lines = (
        Line([shortened(kernel.kernel), kernel.op], kernel.calls, ZERO, kernel.nanoseconds)
        for kernel in run.kernels
    )
    return ["kernel", "op"], lines


def _by_shape(report: Report, run: Run, roofline: Roofline | None) -> Lines:
    def lines() -> Iterator[Line]:
        for call in run.calls:
            label = call.op if call.is_counted else f"{call.op} *"
            labels = [label, shortened(call.arguments, ARGUMENTS)]
            bound = None
            if roofline and call.is_counted:
                work = [(call.cost, call.dtype, call.nanoseconds / 1e9)]
                bound = bound_of(roofline.device, work, tf32=roofline.tf32)
            if call.cost or call.nanoseconds:
                yield Line(labels, call.calls, call.cost, call.nanoseconds, bound)

    return ["op", "arguments"], lines()


LINES: dict[str, Callable[[Report, Run, Roofline | None], Lines]] = {
    "op": _by_op,
    "module": _by_module,
    "kernel": _by_kernel,
    "shape": _by_shape,
}


# -- cells


def _table(headers: list[str], lines: list[Line], run: Run, roofline: Roofline | None) -> str:
    """The table of ``lines``: a column that is empty throughout is left out."""
    columns = ["calls", "MAC", "FLOP", "bytes", "device ms", "share", "TFLOP/s", "GB/s"]
    columns += ["of roofline", "bound by"] if roofline else []
    body = [
        [*line.labels, *_cells(line, run), *(_reached(line.bound) if roofline else [])]
        for line in lines
    ]
    names = [*headers, *columns]
    kept = [n for n, name in enumerate(names) if name in headers or any(row[n] for row in body)]
    return tabulated([names[n] for n in kept], [[row[n] for n in kept] for row in body])


def _cells(line: Line, run: Run) -> list[str]:
    cost, seconds = line.cost, line.nanoseconds / 1e9
    rates = [cost.flops / seconds / 1e12, cost.bytes / seconds / 1e9] if seconds else [0.0, 0.0]
    return [
        str(line.calls or ""),
        quantity(cost.macs),
        quantity(cost.flops),
        quantity(cost.bytes),
        f"{line.nanoseconds / 1e6:.3f}" if line.nanoseconds else "",
        percent(line.nanoseconds, run.work) if line.nanoseconds else "",
        *((f"{rate:.3g}" if rate < 100 else f"{rate:.0f}") if rate else "" for rate in rates),
    ]


def _reached(bound: Bound | None) -> list[str]:
    """The part of the roofline that was reached, and which of the two bounds is nearer."""
    if bound is None or bound.reached is None:
        return ["", bound.by or "" if bound else ""]
    return [f"{100 * bound.reached:.1f} %" if bound.reached else "", bound.by or ""]


def _omissions(report: Report, run: Run) -> Iterator[str]:
    """What is not in the table: time of no op, and uncounted ops."""
    if run.others:
        most = list(run.others.items())
        shown = [f"{shortened(name)} ({milliseconds(time)})" for name, time in most[:5]]
        rest = sum(time for _, time in most[5:])
        shown += [f"{len(most) - 5} more ({milliseconds(rest)})"] if rest else []
        yield f"in no op, or launched before the recording: {', '.join(shown)}"
    if report.uncounted:
        ops = (f"{op} ({calls})" for op, calls in report.uncounted.items())
        yield f"* uncounted, with the bytes that are known: {', '.join(ops)}"


def shortened(name: str, width: int = WIDTH) -> str:
    """``name``, with an ellipsis if it is long; without what all of torch's kernels begin with."""
    name = name.removeprefix("void ").replace("at::native::", "")
    return name if len(name) <= width else f"{name[: width - 1]}…"
