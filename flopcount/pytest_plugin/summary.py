"""Summary: the options ``--flops`` and ``--flops-trim``."""

from __future__ import annotations

import pytest

from flopcount.pytest_plugin import text
from flopcount.pytest_plugin.outcome import Outcome


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
            sections["FLOPs"] = text.summary(self.outcomes.values(), verbosity)
        if self.margin is not None:
            sections["loose FLOP budgets"] = text.trim(self.outcomes.values(), self.margin)
        for title, lines in sections.items():
            terminalreporter.section(title)
            for line in lines:
                terminalreporter.line(line)
