"""Summary: the options ``--flops`` and ``--flops-trim``."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest

from flopcount.cost import format_quantity
from flopcount.pytest_plugin.budget import Measure
from flopcount.pytest_plugin.judge import MOST
from flopcount.pytest_plugin.outcome import Outcome
from flopcount.report.render.table import tabulated


class Summary:
    """Shows what tests cost, in the process that talks to the user."""

    def __init__(self, *, costs: bool, margin: float | None) -> None:
        self.costs = costs
        self.margin = margin
        self.outcomes: dict[str, Outcome] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the outcome of a test; if it ran again, the last one."""
        outcome = Outcome.of(report)
        if outcome and outcome.flops is not None:
            self.outcomes[outcome.node_id] = outcome

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show the most expensive tests, and budgets that are too loose."""
        verbosity = terminalreporter.config.get_verbosity()
        sections = {}
        if self.costs:
            sections["FLOPs"] = summary(self.outcomes.values(), verbosity)
        if self.margin is not None:
            sections["loose FLOP budgets"] = trim(self.outcomes.values(), self.margin)
        for title, lines in sections.items():
            terminalreporter.section(title)
            for line in lines:
                terminalreporter.line(line)


def summary(outcomes: Iterable[Outcome], verbosity: int) -> list[str]:
    """The most expensive tests with their budgets; with -v all of them, with -q only the sum."""
    worked = [outcome for outcome in outcomes if outcome.flops or outcome.measures]
    worked.sort(key=lambda outcome: (-(outcome.flops or 0), outcome.node_id))
    total = format_quantity(sum(outcome.flops or 0 for outcome in worked), "FLOP")
    last = f"{len(worked)} {'test' if len(worked) == 1 else 'tests'}, {total}"
    if verbosity < 0 or not worked:
        return [last]
    shown = worked if verbosity > 0 else worked[:MOST]
    body = []
    for outcome in shown:
        measures = sorted(outcome.measures, key=lambda measure: measure.slack)
        bounds = [
            [f"{measure.what} {format_quantity(measure.limit, measure.unit)}", _slack(measure)]
            for measure in (measures if verbosity > 0 else measures[:1])
        ]
        first, *others = bounds or [["", ""]]
        body.append([outcome.node_id, format_quantity(outcome.flops or 0, "FLOP"), *first])
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
            format_quantity(measure.limit, measure.unit),
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
