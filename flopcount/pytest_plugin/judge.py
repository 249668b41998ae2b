"""Verdicts on what was counted in a test: on its budgets, and on a baseline."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

from flopcount.pytest_plugin import text
from flopcount.pytest_plugin.baseline import BaselineError, compare, report_of
from flopcount.pytest_plugin.baseline_file import file_beside, read
from flopcount.pytest_plugin.budget import Budget, Measure, Verdict, omissions
from flopcount.pytest_plugin.outcome import name_in_file, node_id, relative_path
from flopcount.report.render.table import differences

if TYPE_CHECKING:
    import pytest

    from flopcount.report.report import Report


def judge_budgets(budgets: list[Budget], report: Report) -> Verdict:
    """One verdict on all ``budgets``, with the ops that cost the most if a bound is broken."""
    verdicts = [budget.judge(report) for budget in budgets]
    measures = tuple(measure for verdict in verdicts for measure in verdict.measures)
    faults = tuple(dict.fromkeys(fault for verdict in verdicts for fault in verdict.faults))
    verdict = Verdict("FLOP budget", measures, faults)
    return replace(verdict, detail=text.failure(report, verdict)) if faults else verdict


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
    measure = Measure(
        what=f"baseline {name!r}",
        count=diff.after.total.flops,
        limit=diff.before.total.flops,
        unit="FLOP",
        exact=not only_increase,
    )
    detail = ""
    if change := compare(document, diff, only_increase=only_increase):
        faults.append(f"baseline {name!r}: {change}; if that is intended: `{command}`")
        detail = differences(diff, text.MOST) if diff else ""
    return Verdict(title, (measure,), tuple(faults), detail)
