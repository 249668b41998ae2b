"""The report as text: modules, phases, layer types and ops, the sum of each table its total."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from tabulate import tabulate

from flopcount.cost import ZERO, Cost, format_quantity
from flopcount.report.diff import Diff
from flopcount.report.report import Report
from flopcount.report.tree import ModuleNode, sum_rows

__all__ = [
    "COLUMNS",
    "OUTSIDE",
    "Line",
    "cell",
    "differences",
    "line",
    "render",
    "summary",
    "tabulated",
]


@dataclass(frozen=True)
class Line:
    """One row of the module table: a module, or what ran outside all of them."""

    label: str
    type: str
    params: int
    calls: int
    phases: dict[str, Cost]
    gradients: dict[str, Cost]
    whole: int  # FLOPs of the whole block, for the share

    @property
    def total(self) -> Cost:
        """All phases together."""
        return sum(self.phases.values(), ZERO)


def ratio(phases: dict[str, Cost]) -> float:
    """Backward FLOPs over forward FLOPs; 0 where nothing ran forward."""
    forward = phases["forward"].flops
    return phases["backward"].flops / forward if forward else 0.0


COLUMNS: dict[str, tuple[str, Callable[[Line], int | float | str]]] = {
    "type": ("type", lambda line: line.type),
    "params": ("params", lambda line: line.params),
    "calls": ("calls", lambda line: line.calls),
    "macs": ("forward MAC", lambda line: line.phases["forward"].macs),
    "forward": ("forward FLOP", lambda line: line.phases["forward"].flops),
    "backward": ("backward FLOP", lambda line: line.phases["backward"].flops),
    "ratio": ("bwd ÷ fwd", lambda line: ratio(line.phases)),
    "recompute": ("recompute FLOP", lambda line: line.phases["recompute"].flops),
    "optimizer": ("optimizer FLOP", lambda line: line.phases["optimizer"].flops),
    "flops": ("FLOP", lambda line: line.total.flops),
    "exact": ("exact FLOP", lambda line: line.total.exact_flops),
    "matmul": ("matmul FLOP", lambda line: line.total.matmul_flops),
    "bytes": ("bytes", lambda line: line.total.bytes),
    "intensity": ("FLOP/byte", lambda line: line.total.intensity),
    "input": ("dx FLOP", lambda line: line.gradients["input"].flops),
    "weight": ("dw FLOP", lambda line: line.gradients["weight"].flops),
    "bias": ("db FLOP", lambda line: line.gradients["bias"].flops),
    "share": ("share", lambda line: line.total.flops / line.whole if line.whole else 0.0),
}
"""Columns of the module table: name -> (header, value)."""

INDENT = {"simple": "  ", "github": "&emsp;"}
"""How each style of table shows a level of modules."""

LEFT = {"module", "type", "phase", "layer type", "op", "dtype", "test", "budget", "budget of"}
"""Headers of columns of words; numbers stand on the right."""

OUTSIDE = "(outside modules)"
"""The row of what ran in the block itself: the loss, the optimizer."""


def default_columns(report: Report) -> tuple[str, ...]:
    """Names of the columns that tell something of ``report``."""
    trained = ("backward", "ratio") if report.phases["backward"] else ()
    again = ("recompute",) if report.phases["recompute"] else ()
    return ("params", "calls", "macs", "forward", *trained, *again, "share")


def render(
    report: Report,
    *,
    depth: int | None = None,
    columns: Iterable[str] | None = None,
    sort: str | None = None,
    style: str = "simple",
) -> str:
    """All tables of ``report``, one below the other; see :meth:`Report.table`."""
    if isinstance(columns, str):
        raise ValueError(f"columns is a list of names, such as [{columns!r}]")
    if depth is not None and (type(depth) is not int or depth < 0):
        raise ValueError(f"depth must be a whole number, 0 or more, got {depth!r}")
    trained = bool(report.phases["backward"])
    names = tuple(columns) if columns is not None else default_columns(report)
    for name in (*names, *([sort] if sort else [])):
        if name not in COLUMNS:
            raise ValueError(f"unknown column {name!r}; known: {', '.join(COLUMNS)}")
    parts = [
        modules(report, depth, names, sort, style),
        phases(report, style),
        *([layer_types(report, style)] if trained else []),
        operators(report, style),
        uncounted(report),
    ]
    return "\n\n".join(parts)


def modules(
    report: Report,
    depth: int | None,
    names: tuple[str, ...],
    sort: str | None,
    style: str = "simple",
) -> str:
    """One row a module, indented below its caller, then what ran outside, then the total."""
    root, whole = report.root, report.total.flops
    lines: list[Line] = []

    def sort_key(node: ModuleNode) -> Any:
        return COLUMNS[sort][1](line("", node, whole)) if sort else None

    def add(node: ModuleNode, level: int) -> None:
        lines.append(line(INDENT[style] * level + node.name, node, whole))
        children = node.children if depth is None or level < depth else ()
        if sort:
            children = tuple(sorted(children, key=sort_key, reverse=sort != "type"))
        for child in children:
            add(child, level + 1)

    for child in root.children:
        add(child, 0)
    lines += summary(report)
    headers = ["module", *(COLUMNS[name][0] for name in names)]
    return tabulated(
        headers, [[row.label, *(cell(name, row) for name in names)] for row in lines], style
    )


def line(label: str, node: ModuleNode, whole: int) -> Line:
    """The row of ``node``; a star says that ops which no formula knows ran in it."""
    if any(row.uncounted for inner in node.walk() for row in inner.rows):
        label += " *"
    return Line(label, node.type, node.params, node.calls, node.phases, node.gradients, whole)


def summary(report: Report) -> list[Line]:
    """The last rows: what ran outside all modules, where something did, and the total."""
    root, whole = report.root, report.total.flops
    phases, gradients = sum_rows(root.rows)
    alone = replace(root, phases=phases, gradients=gradients, children=(), params=0)
    outside = [line(OUTSIDE, alone, whole)] if root.own and root.children else []
    return [*outside, line("total", root, whole)]


def cell(name: str, line: Line) -> str:
    """What column ``name`` shows for ``line``; nothing for a zero."""
    value = COLUMNS[name][1](line)
    if isinstance(value, str):
        return value
    if name == "share":
        return f"{100 * value:.1f} %"
    if isinstance(value, float):
        return f"{value:.2f}" if value else ""
    return format_quantity(value) if value else ""


def phases(report: Report, style: str = "simple") -> str:
    """One row a phase that ran."""
    whole = report.total.flops
    return tabulated(
        ["phase", "MAC", "FLOP", "bytes", "share"],
        [
            [name, *_quantities(cost.macs, cost.flops, cost.bytes), _share(cost.flops, whole)]
            for name, cost in report.phases.items()
            if cost
        ],
        style,
    )


def layer_types(report: Report, style: str = "simple") -> str:
    """What layers of each class cost by themselves, and what their gradients cost."""
    groups: dict[str, list[ModuleNode]] = {}
    for node in report.root.walk():
        if node.own:
            groups.setdefault(node.type or OUTSIDE, []).append(node)
    body = [
        (name, len(nodes), *sum_rows(row for node in nodes for row in node.rows))
        for name, nodes in groups.items()
    ]
    body.sort(key=lambda item: -(item[2]["forward"].flops + item[2]["backward"].flops))
    return tabulated(
        ["layer type", "layers", "forward FLOP", "backward FLOP", "bwd ÷ fwd", "dx", "dw", "db"],
        [
            [
                name,
                str(number),
                *_quantities(sums["forward"].flops, sums["backward"].flops),
                f"{ratio(sums):.2f}" if ratio(sums) else "",
                *_quantities(*(cost.flops for cost in gradients.values())),
            ]
            for name, number, sums, gradients in body
            if sums["forward"].flops or sums["backward"].flops
        ],
        style,
    )


def operators(report: Report, style: str = "simple") -> str:
    """One row an op and the dtype that it worked in, the most expensive first."""
    whole = report.total.flops
    calls: dict[tuple[str, str], int] = {}
    costs: dict[tuple[str, str], Cost] = {}
    for row in report.entries:
        key = row.op, row.dtype
        calls[key] = calls.get(key, 0) + row.calls
        costs[key] = costs.get(key, ZERO) + row.cost
    ordered = sorted(costs.items(), key=lambda item: (-item[1].flops, -item[1].bytes))
    return tabulated(
        ["op", "dtype", "calls", "MAC", "FLOP", "bytes", "share"],
        [
            [
                f"{key[0]} *" if key[0] in report.uncounted else key[0],
                key[1],
                str(calls[key]),
                *_quantities(cost.macs, cost.flops, cost.bytes),
                _share(cost.flops, whole),
            ]
            for key, cost in ordered
            if cost
        ],
        style,
    )


def uncounted(report: Report) -> str:
    """What is not in the tables: ops that no formula knows, by name, and unwatched threads."""
    lines = []
    if report.uncounted:
        calls = (f"{op} ({_count(calls, 'call')})" for op, calls in report.uncounted.items())
        lines.append(f"* uncounted, in the totals with their bytes only: {', '.join(calls)}")
    if report.unwatched:
        threads = (f"{what} in {name!r}" for name, what in report.unwatched.items())
        lines.append(f"not counted, in threads that had not entered: {', '.join(threads)}")
    return "\n".join(lines) or "every op counted"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"


def differences(diff: Diff, most: int | None = None) -> str:
    """One row for each op that changed, the largest change first; at most ``most`` of them."""
    if not diff:
        return "no change"
    before, after = diff.before.total.flops, diff.after.total.flops
    changed = [change for change in diff.changes if change.flops]
    body = [
        [
            OUTSIDE if change.module == "<block>" else change.module or _model_name(diff.after),
            change.phase,
            change.op,
            *_quantities(change.before.flops, change.after.flops),
            _signed(change.flops),
        ]
        for change in changed[:most]
    ]
    if len(body) < len(changed):
        left = changed[len(body) :]
        body.append([f"({len(left)} more)", *[""] * 4, _signed(sum(each.flops for each in left))])
    body.append(["total", "", "", *_quantities(before, after), _signed(diff.flops)])
    headers = ["module", "phase", "op", "before", "after", "FLOP"]
    rest = len(diff.changes) - len(changed)
    note = f"\n\nand {rest} more that moved other bytes" if rest else ""
    return tabulated(headers, body) + note


def _model_name(root: ModuleNode) -> str:
    return next((node.name for node in root.walk() if not node.path), root.name)


def _signed(flops: int) -> str:
    return ("+" if flops > 0 else "") + format_quantity(flops)


def _quantities(*counts: int) -> list[str]:
    return [format_quantity(count) if count else "" for count in counts]


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""


def tabulated(headers: list[str], body: list[list[str]], style: str = "simple") -> str:
    """``body`` under ``headers``: words on the left of their columns, numbers on the right."""
    text = tabulate(
        body,
        headers=headers,
        tablefmt=style,
        colalign=["left" if header in LEFT else "right" for header in headers],
        disable_numparse=True,
        preserve_whitespace=True,
    )
    return "\n".join(line.rstrip() for line in text.splitlines())
