"""speedscope: a flame graph of FLOPs for each phase, to be opened at speedscope.app."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from flopcount.attribution.phase import PHASES

if TYPE_CHECKING:
    from flopcount.report.report import Report
    from flopcount.report.tree import ModuleNode

ENDINGS = (".speedscope.json",)

SCHEMA = "https://www.speedscope.app/file-format-schema.json"


def render(report: Report) -> str:
    """A sampled profile for each phase that ran: stacks of modules and ops, weighed by FLOPs."""
    frames: dict[str, int] = {}
    samples: dict[str, list[tuple[list[int], int]]] = {phase: [] for phase in PHASES}

    def visit(node: ModuleNode, stack: list[int]) -> None:
        label = f"{node.name} ({node.type})" if node.type else node.name or "total"
        stack = [*stack, frames.setdefault(label, len(frames))]
        for row in node.rows:
            if row.cost.flops:
                op = frames.setdefault(row.op, len(frames))
                samples[row.phase].append(([*stack, op], row.cost.flops))
        for child in node.children:
            visit(child, stack)

    visit(report.root, [])
    profiles = [
        {
            "type": "sampled",
            "name": f"{phase} FLOP",
            "unit": "none",
            "startValue": 0,
            "endValue": sum(weight for _, weight in stacks),
            "samples": [stack for stack, _ in stacks],
            "weights": [weight for _, weight in stacks],
        }
        for phase, stacks in samples.items()
        if stacks
    ]
    document = {
        "$schema": SCHEMA,
        "exporter": "flopcount",
        "shared": {"frames": [{"name": name} for name in frames]},
        "profiles": profiles,
    }
    return json.dumps(document)
