"""What a test run says of budgets and baselines: why a test failed, and what all of them cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flopcount.budget import Measure, Verdict
from flopcount.cost import format_quantity
from flopcount.diff import Diff
from flopcount.render.table import OUTSIDE, differences, tabulated
from flopcount.report import Report

__all__ = ["change", "expensive", "failure", "summary", "trim"]

MOST = 10
"""Rows of a table that shows only the largest."""

Counted = tuple[str, int, Sequence[Measure]]
"""A test or a block of one, its FLOPs, and what it was held to."""


def failure(report: Report, verdict: Verdict) -> str:
    """Each bound beside what was counted, and what cost the most."""
    body = [
        [
            measure.what,
            f"{measure.count:,} {measure.unit}",
            f"{'= ' if measure.exact else ''}{measure.limit:,} {measure.unit}",
            f"{measure.excess:+,} {measure.unit}" if not measure.is_met else "",
        ]
        for measure in verdict.measures
    ]
    bounds = tabulated(["budget of", "count", "bound", "excess"], body)
    return "\n\n".join([bounds, expensive(report)])


def expensive(report: Report) -> str:
    """The ops of modules that cost the most FLOPs."""
    rows = sorted(report.entries, key=lambda row: (-row.cost.flops, -row.cost.bytes))
    body = [
        [
            _place(report, report.relative(row.module)),
            row.phase,
            row.op,
            *(_count(count) for count in (row.cost.macs, row.cost.flops, row.cost.bytes)),
        ]
        for row in rows[:MOST]
        if row.cost
    ]
    return tabulated(["module", "phase", "op", "MAC", "FLOP", "bytes"], body)


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
            body.append([*first, bound, f"{100 * measure.slack:,.1f} %"])
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
            f"{100 * measure.slack:,.1f} %",
        ]
        for test, _, measures in sorted(counted, key=lambda each: each[0])
        for measure in measures
        if measure.slack > margin
    ]
    if not body:
        return [f"no budget is more than {100 * margin:g} % above what was needed"]
    return tabulated(["test", "budget of", "bound", "needed", "slack"], body).splitlines()


def _place(report: Report, path: str) -> str:
    return OUTSIDE if path == report.root.path else path or report.model.name


def _count(count: int, unit: str = "") -> str:
    return format_quantity(count, unit) if count or unit else ""
