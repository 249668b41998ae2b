"""Chrome trace: nested slices for Perfetto, where a microsecond stands for a million FLOPs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from flopcount.attribution.phase import PHASES

if TYPE_CHECKING:
    from flopcount.report.report import Report
    from flopcount.report.tree import ModuleNode

ENDINGS = (".trace.json",)

FLOPS_A_MICROSECOND = 1_000_000


def render(report: Report) -> str:
    """A track for each phase; modules hold their ops and their children, one after the other."""
    events: list[dict[str, Any]] = []
    for track, phase in enumerate(PHASES):
        if report.phases[phase].flops:
            name = {"name": "thread_name", "ph": "M", "pid": 0, "tid": track}
            events.append({**name, "args": {"name": f"{phase} (1 µs = 1 MFLOP)"}})
            _slices(report.root, phase, track, 0, events)
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"})


def _slices(
    node: ModuleNode, phase: str, track: int, start: int, events: list[dict[str, Any]]
) -> None:
    total = node.phases[phase].flops
    if not total:
        return
    events.append(_slice(node.path or node.name, node.type or "block", start, total, track))
    for row in node.rows:
        if row.phase == phase and row.cost.flops:
            events.append(_slice(row.op, row.dtype, start, row.cost.flops, track))
            start += row.cost.flops
    for child in node.children:
        _slices(child, phase, track, start, events)
        start += child.phases[phase].flops


def _slice(name: str, category: str, start: int, flops: int, track: int) -> dict[str, Any]:
    return {
        "name": name or "total",
        "cat": category,
        "ph": "X",
        "pid": 0,
        "tid": track,
        "ts": start / FLOPS_A_MICROSECOND,
        "dur": flops / FLOPS_A_MICROSECOND,
        "args": {"flops": flops},
    }
