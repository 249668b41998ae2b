"""What a test run says of budgets and baselines: why a test failed, and what all of them cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from flopcount.cost import ZERO, format_quantity
from flopcount.pytest_plugin.budget import OTHER_READINGS, Measure, Verdict
from flopcount.report.diff import Diff
from flopcount.report.render.table import OUTSIDE, QUANTITIES, differences, tabulated
from flopcount.report.report import Report
from flopcount.report.tree import Row

__all__ = ["change", "expensive", "failure", "summary", "trim"]

MOST = 10
"""Rows of a table that shows only the largest."""

Counted = tuple[str, int, Sequence[Measure]]
"""A test, its FLOPs, and what it was held to."""


def failure(report: Report, verdict: Verdict) -> str:
    """Each bound beside what was counted, and what cost the most of those that are broken."""
    body = [
        [
            measure.what,
            f"{measure.count:,} {measure.unit}",
            f"{'= ' if measure.exact else ''}{measure.limit:,} {measure.unit}",
            f"{measure.excess:+,} {measure.unit}" if not measure.is_met else "",
        ]
        for measure in verdict.measures
    ]
    bounds = [tabulated(["budget of", "count", "bound", "excess"], body)] if body else []
    broken = [measure for measure in verdict.measures if not measure.is_met]
    ops = expensive(report, broken)
    return "\n\n".join([*bounds, ops] if ops else bounds)


def expensive(report: Report, broken: Sequence[Measure]) -> str:
    """The ops of modules that cost the most where ``broken`` bounds look, as they read it.

    Without any, those that cost the most FLOPs.
    """
    readings = list(dict.fromkeys(measure.reading for measure in broken)) or ["flops", "bytes"]
    names = {reading: f"{unit} ({name})" for name, (unit, reading) in OTHER_READINGS.items()}
    columns = {**QUANTITIES, **{names[each]: each for each in readings if each in names}}
    looked_at = {id(row): row for measure in broken for row in _rows(report, measure)}

    def read(row: Row) -> list[int]:
        return [getattr(row.cost, reading) for reading in readings]

    rows = list(looked_at.values() if broken else report.entries)
    rows = sorted(filter(lambda row: any(read(row)), rows), key=read, reverse=True)
    costs = [
        ([_place(report, report.relative(row.module)), row.phase, row.op], row.cost)
        for row in rows[:MOST]
    ]
    if rest := rows[MOST:]:
        costs.append(([f"({len(rest)} more)", "", ""], sum((row.cost for row in rest), ZERO)))
    body = [
        [*place, *(_count(getattr(cost, reading)) for reading in columns.values())]
        for place, cost in costs
    ]
    return tabulated(["module", "phase", "op", *columns], body) if body else ""


def _rows(report: Report, measure: Measure) -> list[Row]:
    """What ``measure`` counts."""
    top = report.root if measure.module is None else report[measure.module]
    rows = (row for node in top.walk() for row in node.rows)
    return [row for row in rows if measure.phase in (None, row.phase)]


def change(diff: Diff) -> str:
    """The ops of modules that changed most."""
    return differences(diff, MOST)


def summary(counted: Iterable[Counted], verbosity: int) -> list[str]:
    """The most expensive tests: count, budget and slack; with -v all of them, with -q the sum."""
    worked = (each for each in counted if each[1] or each[2])
    ordered = sorted(worked, key=lambda each: (-each[1], each[0]))
    total = _count(sum(flops for _, flops, _ in ordered), "FLOP")
    last = f"{len(ordered)} {'test' if len(ordered) == 1 else 'tests'}, {total}"
    if verbosity < 0 or not ordered:
        return [last]
    shown = ordered if verbosity > 0 else ordered[:MOST]
    body = []
    for test, flops, measures in shown:
        held = sorted(measures, key=lambda measure: measure.slack)
        for number, measure in enumerate(held if verbosity > 0 else held[:1]):
            bound = f"{measure.what} {_count(measure.limit, measure.unit)}"
            first = [test, _count(flops, "FLOP")] if number == 0 else ["", ""]
            body.append([*first, bound, _slack(measure)])
        if not held:
            body.append([test, _count(flops, "FLOP"), "", ""])
    lines = tabulated(["test", "count", "budget", "slack"], body).splitlines()
    hidden = len(ordered) - len(shown)
    return [*lines, last + (f"; -v shows {hidden} more" if hidden else "")]


def trim(counted: Iterable[Counted], margin: float) -> list[str]:
    """The budgets that are more than ``margin`` above what was needed."""
    body = [
        [
            test,
            measure.what,
            _count(measure.limit, measure.unit),
            f"{measure.count:,} {measure.unit}",
            _slack(measure),
        ]
        for test, _, measures in sorted(counted, key=lambda each: each[0])
        for measure in measures
        if measure.slack > margin
    ]
    if not body:
        return [f"no budget is more than {100 * margin:g} % above what was needed"]
    return tabulated(["test", "budget of", "bound", "needed", "slack"], body).splitlines()


def _slack(measure: Measure) -> str:
    if math.isinf(measure.slack):
        return "unused" if measure.is_met else "missed"
    return f"{100 * measure.slack:,.1f} %"


def _place(report: Report, path: str) -> str:
    return OUTSIDE if path == report.root.path else path or report.model.name


def _count(count: int, unit: str = "") -> str:
    return format_quantity(count, unit) if count or unit else ""
