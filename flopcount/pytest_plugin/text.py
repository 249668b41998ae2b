"""The text of a test run: why a test failed, and what the tests cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from flopcount.cost import ZERO, format_quantity
from flopcount.pytest_plugin.budget import NAMED_READINGS, Measure, Verdict
from flopcount.pytest_plugin.outcome import Outcome
from flopcount.report.render.table import OUTSIDE, QUANTITIES, tabulated
from flopcount.report.report import Report
from flopcount.report.tree import Row

MOST = 10
"""The most rows of a table that shows only the largest."""

NAMED_COLUMNS = {reading: f"{unit} ({name})" for name, (unit, reading) in NAMED_READINGS.items()}
"""Headers of columns that are shown where a broken bound is read that way."""


def failure(report: Report, verdict: Verdict) -> str:
    """Each count beside its bound, and the ops that cost the most where a bound is broken."""
    body = [
        [
            measure.what,
            f"{measure.count:,} {measure.unit}",
            f"{'= ' if measure.exact else ''}{measure.limit:,} {measure.unit}",
            f"{measure.excess:+,} {measure.unit}" if not measure.is_met else "",
        ]
        for measure in verdict.measures
    ]
    tables = [tabulated(["budget of", "count", "bound", "excess"], body)] if body else []
    broken = [measure for measure in verdict.measures if not measure.is_met]
    ops = _expensive_ops(report, broken)
    return "\n\n".join([*tables, ops] if ops else tables)


def _expensive_ops(report: Report, broken: Sequence[Measure]) -> str:
    """The ops that cost the most by the readings of the ``broken`` bounds, where those look.

    Without a broken bound: the ops of the whole block that cost the most FLOPs.
    """
    readings = list(dict.fromkeys(measure.reading for measure in broken)) or ["flops", "bytes"]
    columns = {**QUANTITIES}
    for reading in readings:
        if reading in NAMED_COLUMNS:
            columns[NAMED_COLUMNS[reading]] = reading
    candidates = {id(row): row for measure in broken for row in _rows(report, measure)}

    def counts(row: Row) -> list[int]:
        return [getattr(row.cost, reading) for reading in readings]

    rows = [row for row in (candidates.values() if broken else report.entries) if any(counts(row))]
    rows.sort(key=counts, reverse=True)
    labels = [[_label(report, row.module), row.phase, row.op] for row in rows[:MOST]]
    costs = [row.cost for row in rows[:MOST]]
    if rest := rows[MOST:]:
        labels.append([f"({len(rest)} more)", "", ""])
        costs.append(sum((row.cost for row in rest), ZERO))
    body = [
        [*label, *(_quantity(getattr(cost, reading)) for reading in columns.values())]
        for label, cost in zip(labels, costs, strict=True)
    ]
    return tabulated(["module", "phase", "op", *columns], body) if body else ""


def _rows(report: Report, measure: Measure) -> list[Row]:
    """The rows that ``measure`` counts."""
    top = report.root if measure.module is None else report[measure.module]
    rows = (row for node in top.walk() for row in node.rows)
    return [row for row in rows if measure.phase in (None, row.phase)]


def _label(report: Report, module: str) -> str:
    """The name of the module at a full path, in a table."""
    path = report.relative(module)
    return OUTSIDE if path == report.root.path else path or report.model.name


def summary(outcomes: Iterable[Outcome], verbosity: int) -> list[str]:
    """The most expensive tests with their budgets; with -v all of them, with -q only the sum."""
    worked = [outcome for outcome in outcomes if outcome.flops or outcome.measures]
    worked.sort(key=lambda outcome: (-(outcome.flops or 0), outcome.node_id))
    total = _quantity(sum(outcome.flops or 0 for outcome in worked), "FLOP")
    last = f"{len(worked)} {'test' if len(worked) == 1 else 'tests'}, {total}"
    if verbosity < 0 or not worked:
        return [last]
    shown = worked if verbosity > 0 else worked[:MOST]
    body = []
    for outcome in shown:
        measures = sorted(outcome.measures, key=lambda measure: measure.slack)
        bounds = [
            [f"{measure.what} {_quantity(measure.limit, measure.unit)}", _slack(measure)]
            for measure in (measures if verbosity > 0 else measures[:1])
        ]
        first, *others = bounds or [["", ""]]
        body.append([outcome.node_id, _quantity(outcome.flops or 0, "FLOP"), *first])
        body += [["", "", *bound] for bound in others]
    lines = tabulated(["test", "count", "budget", "slack"], body).splitlines()
    num_hidden = len(worked) - len(shown)
    return [*lines, last + (f"; -v shows {num_hidden} more" if num_hidden else "")]


def trim(outcomes: Iterable[Outcome], margin: float) -> list[str]:
    """The budgets that are more than ``margin`` above what was needed."""
    body = [
        [
            outcome.node_id,
            measure.what,
            _quantity(measure.limit, measure.unit),
            f"{measure.count:,} {measure.unit}",
            _slack(measure),
        ]
        for outcome in sorted(outcomes, key=lambda outcome: outcome.node_id)
        for measure in outcome.measures
        if measure.slack > margin
    ]
    if not body:
        return [f"no budget is more than {100 * margin:g} % above what was needed"]
    return tabulated(["test", "budget of", "bound", "needed", "slack"], body).splitlines()


def _slack(measure: Measure) -> str:
    if math.isinf(measure.slack):
        return "unused" if measure.is_met else "missed"
    return f"{100 * measure.slack:,.1f} %"


def _quantity(count: int, unit: str = "") -> str:
    """``count`` in short; nothing for a bare zero."""
    return format_quantity(count, unit) if count or unit else ""
