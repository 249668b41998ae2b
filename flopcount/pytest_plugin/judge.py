"""Verdicts on what was counted in a test, with the tables that show where an excess is from."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from flopcount.cost import ZERO
from flopcount.pytest_plugin.baseline import BaselineError, compare, report_of
from flopcount.pytest_plugin.baseline_file import file_beside, read
from flopcount.pytest_plugin.budget import NAMED_READINGS, Budget, Measure, Verdict, omissions
from flopcount.pytest_plugin.outcome import name_in_file, node_id, relative_path
from flopcount.report.render.table import OUTSIDE, QUANTITIES, differences, quantity, tabulated

if TYPE_CHECKING:
    import pytest

    from flopcount.report.report import Report
    from flopcount.report.tree import Row

MOST = 10
"""The most rows of a table that shows only the largest."""

NAMED_COLUMNS = {reading: f"{unit} ({name})" for name, (unit, reading) in NAMED_READINGS.items()}
"""Headers of columns that are shown where a broken bound is read that way."""


def judge_budgets(budgets: list[Budget], report: Report) -> Verdict:
    """One verdict on all ``budgets``, with the ops that cost the most if a bound is broken."""
    verdicts = [budget.judge(report) for budget in budgets]
    measures = tuple(measure for verdict in verdicts for measure in verdict.measures)
    faults = tuple(dict.fromkeys(fault for verdict in verdicts for fault in verdict.faults))
    verdict = Verdict("FLOP budget", measures, faults)
    return replace(verdict, detail=failure(report, verdict)) if faults else verdict


def judge_baseline(
    item: pytest.Item, name: str, report: Report, *, strict: bool, only_increase: bool
) -> Verdict:
    """Compare ``report`` with the baseline that ``item`` has under ``name``."""
    title, file = f"FLOP baseline {name!r}", file_beside(item.path)
    faults = omissions(report) if strict else []
    command = f"pytest --flops-update {shlex.quote(node_id(item))}"
    try:
        document = read(file).get(name_in_file(item), {}).get(name)
        if document is None:
            faults.append(f"there is no baseline {name!r}; `{command}` writes it")
            return Verdict(title, faults=tuple(faults))
        diff = report_of(document).diff(report)
    except BaselineError as error:
        faults.append(f"baseline {name!r} in {relative_path(file, item.config)}: {error}")
        return Verdict(title, faults=tuple(faults))
    before, after = diff.before.total.flops, diff.after.total.flops
    measure = Measure(f"baseline {name!r}", after, before, "FLOP", exact=not only_increase)
    detail = ""
    if change := compare(document, diff, only_increase=only_increase):
        faults.append(f"baseline {name!r}: {change}; if that is intended: `{command}`")
        detail = differences(diff, MOST) if diff else ""
    return Verdict(title, (measure,), tuple(faults), detail)


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
    """The most expensive ops under the ``broken`` bounds; without any, those of the whole block."""
    readings = list(dict.fromkeys(measure.reading for measure in broken)) or ["flops", "bytes"]
    columns = QUANTITIES | {NAMED_COLUMNS[key]: key for key in readings if key in NAMED_COLUMNS}
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
        [*label, *(quantity(getattr(cost, reading)) for reading in columns.values())]
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
    return OUTSIDE if path == report.root.path else path or report[path].name
