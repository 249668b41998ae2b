"""Text: tables of modules, phases, layer types and ops, each of which adds up to the total."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from tabulate import tabulate

from flopcount.cost import ZERO, Cost, format_quantity
from flopcount.errors import did_you_mean
from flopcount.report.tree import rows_by_op, sum_rows

if TYPE_CHECKING:
    from flopcount.report.diff import Diff
    from flopcount.report.report import Report
    from flopcount.report.tree import ModuleNode, Row

ENDINGS = (".txt",)

COLUMNS: dict[str, tuple[str, Callable[[ModuleNode], int | float | str]]] = {
    "type": ("type", lambda node: node.type),
    "params": ("params", lambda node: node.params or 0),
    "trainable": ("trainable", lambda node: node.trainable or 0),
    "calls": ("calls", lambda node: node.calls),
    "macs": ("forward MAC", lambda node: node.phases["forward"].macs),
    "forward": ("forward FLOP", lambda node: node.phases["forward"].flops),
    "backward": ("backward FLOP", lambda node: node.phases["backward"].flops),
    "ratio": ("bwd / fwd", lambda node: ratio(node.phases)),
    "recompute": ("recompute FLOP", lambda node: node.phases["recompute"].flops),
    "optimizer": ("optimizer FLOP", lambda node: node.phases["optimizer"].flops),
    "other": ("other FLOP", lambda node: node.phases["other"].flops),
    "flops": ("FLOP", lambda node: node.total.flops),
    "exact": ("exact FLOP", lambda node: node.total.exact_flops),
    "matmul": ("matmul FLOP", lambda node: node.total.matmul_flops),
    "bytes": ("bytes", lambda node: node.total.bytes),
    "intensity": ("FLOP/byte", lambda node: node.total.intensity),
    "input": ("dx FLOP", lambda node: node.gradients["input"].flops),
    "weight": ("dw FLOP", lambda node: node.gradients["weight"].flops),
    "bias": ("db FLOP", lambda node: node.gradients["bias"].flops),
    "seconds": ("device ms", lambda node: 1e3 * (node.seconds or 0)),
    "share": ("share", lambda node: node.total.flops),
}
"""Columns of the module table: name -> (header, value)."""

WHOLES: dict[str, Callable[[Report], int]] = {"share": lambda report: report.total.flops}
"""Columns whose values are shown as a part of a whole, and that whole."""

QUANTITIES = {"MAC": "macs", "FLOP": "flops", "bytes": "bytes"}
"""Columns of the tables of phases and ops: header -> attribute of a Cost."""

INDENT = {"simple": "  ", "github": "&emsp;", "html": "\u2003"}
"""How each style of table shows a level of modules."""

LEFT = {
    "module", "type", "phase", "layer type", "op", "dtype", "test", "budget", "budget of",
    "kernel", "arguments", "bound by",
}  # fmt: skip
"""Headers of columns of words; numbers stand on the right."""

OUTSIDE = "(outside modules)"
"""The row of what ran in the block itself: the loss, the optimizer."""


def render(report: Report, **arguments: Any) -> str:
    """All tables of ``report``, one below the other; see :meth:`Report.table`."""
    head = [str(report.run)] if report.run else []
    return "\n\n".join([*head, *tables(report, **arguments)])


def tables(
    report: Report,
    *,
    depth: int | None = None,
    columns: Iterable[str] | None = None,
    sort: str | None = None,
    style: str = "simple",
) -> list[str]:
    """The tables of ``report``, and last what is not in them; see :meth:`Report.table`."""
    if isinstance(columns, str):
        raise ValueError(f"columns is a list of names, such as [{columns!r}]")
    if depth is not None and (type(depth) is not int or depth < 0):
        raise ValueError(f"depth must be a whole number, 0 or more, got {depth!r}")
    names = tuple(columns) if columns is not None else default_columns(report)
    for name in (*names, *([sort] if sort else [])):
        if name not in COLUMNS:
            hint = did_you_mean(str(name), COLUMNS)
            raise ValueError(f"unknown column {name!r}; known: {', '.join(COLUMNS)}{hint}")
    return [
        module_table(report, depth, names, sort, style),
        phase_table(report, style),
        *([layer_type_table(report, style)] if report.phases["backward"] else []),
        op_table(report, style),
        omissions(report),
    ]


def default_columns(report: Report) -> tuple[str, ...]:
    """The names of the columns that matter for ``report``."""
    backward = ("backward", "ratio") if report.phases["backward"] else ()
    recompute = ("recompute",) if report.phases["recompute"] else ()
    params = ("params",) if any(module.params is not None for module in report.modules[1:]) else ()
    seconds = ("seconds",) if report.run else ()
    return (*params, "calls", "macs", "forward", *backward, *recompute, *seconds, "share")


def module_table(
    report: Report, depth: int | None, names: tuple[str, ...], sort: str | None, style: str
) -> str:
    """One row a module, indented below its caller, then what ran outside, then the total."""
    body: list[list[str]] = []

    def add(label: str, node: ModuleNode) -> None:
        label = starred(label, (row for inner in node.walk() for row in inner.rows))
        body.append([label, *(cell(name, node, report) for name in names)])

    def add_below(node: ModuleNode, level: int) -> None:
        children = node.children if depth is None or level <= depth else ()
        if sort:
            value = COLUMNS[sort][1]
            children = tuple(sorted(children, key=value, reverse=sort != "type"))
        for child in children:
            add(INDENT[style] * level + label_of(child), child)
            add_below(child, level + 1)

    root = report.root
    add_below(root, 0)
    if root.own and root.children:
        phases, gradients = sum_rows(root.rows)
        own = replace(
            root, total=root.own, phases=phases, gradients=gradients, params=0, trainable=0
        )
        add(OUTSIDE, replace(own, children=()))
    add("total", root)
    return tabulated(["module", *(COLUMNS[name][0] for name in names)], body, style)


def label_of(node: ModuleNode) -> str:
    """The name of ``node``, and the first other path of a shared module."""
    first, rest = node.other_paths[:1], len(node.other_paths) - 1
    more = f" and {rest} more" if rest > 0 else ""
    return f"{node.name} (also {first[0]}{more})" if first else node.name


def cell(name: str, node: ModuleNode, report: Report) -> str:
    """The text of column ``name`` for ``node``; nothing for a zero, unless it is a part."""
    value = COLUMNS[name][1](node)
    if isinstance(value, str):
        return value
    if name in WHOLES:
        return percent(value, WHOLES[name](report))
    if isinstance(value, float):
        return f"{value:.2f}" if value else ""
    return quantity(value)


def ratio(phases: dict[str, Cost]) -> float:
    """Backward FLOPs over forward FLOPs; 0 where nothing ran forward."""
    forward = phases["forward"].flops
    return phases["backward"].flops / forward if forward else 0.0


def phase_table(report: Report, style: str) -> str:
    """One row a phase that ran."""
    times: dict[str, int] = {}
    for row in report.entries:
        times[row.phase] = times.get(row.phase, 0) + (row.nanoseconds or 0)
    body = [
        [
            phase,
            *_quantities(cost),
            *_time(report, times.get(phase, 0)),
            percent(cost.flops, report.total.flops),
        ]
        for phase, cost in report.phases.items()
        if cost or times.get(phase)
    ]
    return tabulated(["phase", *QUANTITIES, *_time_header(report), "share"], body, style)


def layer_type_table(report: Report, style: str) -> str:
    """What the layers of each class cost without their children, by phase and by gradient."""
    nodes: dict[str, list[ModuleNode]] = {}
    for node in report.root.walk():
        if node.own:
            nodes.setdefault(node.type or OUTSIDE, []).append(node)
    sums = [
        (name, len(group), *sum_rows(row for node in group for row in node.rows))
        for name, group in nodes.items()
    ]
    sums.sort(key=lambda item: -(item[2]["forward"].flops + item[2]["backward"].flops))
    body = []
    for name, number, phases, gradients in sums:
        flops = [phases["forward"].flops, phases["backward"].flops]
        if any(flops):
            quotient = f"{ratio(phases):.2f}" if ratio(phases) else ""
            parts = [quantity(cost.flops) for cost in gradients.values()]
            body.append([name, str(number), *map(quantity, flops), quotient, *parts])
    headers = ["layer type", "layers", "forward FLOP", "backward FLOP", "bwd / fwd"]
    return tabulated([*headers, "dx", "dw", "db"], body, style)


def op_table(report: Report, style: str) -> str:
    """One row an op and the dtype that it worked in, the most expensive first."""
    totals = sorted(op_totals(report), key=lambda total: (-total.cost.flops, -total.cost.bytes))
    body = []
    for total in totals:
        if total.cost or total.nanoseconds:
            share = percent(total.cost.flops, report.total.flops)
            number = str(total.calls or "")  # none for parts of calls in another dtype
            sums = [*_quantities(total.cost), *_time(report, total.nanoseconds)]
            body.append([total.label, total.dtype, number, *sums, share])
    headers = ["op", "dtype", "calls", *QUANTITIES, *_time_header(report), "share"]
    return tabulated(headers, body, style)


class OpTotal(NamedTuple):
    """All calls of one op in one dtype; ``label`` is its name, with a star if it is uncounted."""

    op: str
    dtype: str
    label: str
    calls: int
    cost: Cost
    nanoseconds: int


def op_totals(report: Report) -> list[OpTotal]:
    """The calls of each op and dtype together."""
    return [
        OpTotal(
            op,
            dtype,
            starred(op, some),
            sum(row.calls for row in some),
            sum((row.cost for row in some), ZERO),
            sum(row.nanoseconds or 0 for row in some),
        )
        for (op, dtype), some in rows_by_op(report.entries).items()
    ]


def starred(label: str, rows: Iterable[Row]) -> str:
    """``label``, with a star if one of ``rows`` is of unknown cost."""
    return f"{label} *" if any(row.uncounted for row in rows) else label


def omissions(report: Report) -> str:
    """What is not in the tables: uncounted ops, unwatched threads, and processes."""
    lines = []
    if report.uncounted:
        ops = (
            f"{op} ({calls} call{'s' if calls != 1 else ''})"
            for op, calls in report.uncounted.items()
        )
        lines.append(f"* uncounted, in the totals with their bytes only: {', '.join(ops)}")
    if report.unwatched:
        threads = (f"{function} in {name!r}" for name, function in report.unwatched.items())
        lines.append(f"not counted, in threads that had not entered: {', '.join(threads)}")
    if report.children:
        processes = (f"{name} ({number})" for name, number in report.children.items())
        lines.append(f"not counted, in processes that the block started: {', '.join(processes)}")
    return "\n".join(lines) or ("every op counted" if report.entries else "no op ran")


def differences(diff: Diff, most: int | None = None) -> str:
    """One row for each op whose FLOPs changed, the largest change first; at most ``most`` rows."""
    if not diff:
        return "no change"
    changed = [change for change in diff.changes if change.flops]
    body = [
        [
            OUTSIDE if change.module == "<block>" else change.module or _model_name(diff.after),
            change.phase,
            change.op,
            quantity(change.before.flops),
            quantity(change.after.flops),
            _signed(change.flops),
        ]
        for change in changed[:most]
    ]
    if hidden := changed[len(body) :]:
        flops = sum(change.flops for change in hidden)
        body.append([f"({len(hidden)} more)", *[""] * 4, _signed(flops)])
    before, after = diff.before.total.flops, diff.after.total.flops
    body.append(["total", "", "", quantity(before), quantity(after), _signed(diff.flops)])
    num_others = len(diff.changes) - len(changed)
    note = f"\n\nand {num_others} more that moved other bytes" if num_others else ""
    return tabulated(["module", "phase", "op", "before", "after", "FLOP"], body) + note


def _model_name(root: ModuleNode) -> str:
    return next((node.name for node in root.walk() if not node.path), root.name)


def _signed(flops: int) -> str:
    return ("+" if flops > 0 else "") + format_quantity(flops)


def quantity(count: int) -> str:
    """``count`` in short; nothing for a zero."""
    return format_quantity(count) if count else ""


def _quantities(cost: Cost) -> list[str]:
    return [quantity(getattr(cost, reading)) for reading in QUANTITIES.values()]


def _time_header(report: Report) -> list[str]:
    """A column for the time of a recorded run."""
    return ["device ms"] if report.run else []


def _time(report: Report, nanoseconds: int) -> list[str]:
    return [f"{nanoseconds / 1e6:.3f}" if nanoseconds else ""] if report.run else []


def percent(part: float, whole: int) -> str:
    """The share of ``whole`` that ``part`` is; empty where there is no whole."""
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
