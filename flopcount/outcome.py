"""What is said and written when all tests have run, in the process that talks to the user."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest

from flopcount.baseline import BaselineError, baselines_of, orphans, update
from flopcount.budget import Measure
from flopcount.render import budget as render

__all__ = ["Summary", "Update"]

T = TypeVar("T")


class Summary:
    """Shows what tests cost, in the process that talks to the user."""

    def __init__(self, *, costs: bool, margin: float | None) -> None:
        self.costs = costs
        self.margin = margin
        self.counted: list[tuple[str, int, list[Measure]]] = []  # test, FLOPs, what it was held to

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what was counted."""
        if counted := getattr(report, "flopcount", None):
            measures = [Measure(**measure) for measure in counted["measures"]]
            self.counted.append((report.nodeid, counted["flops"], measures))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show the most expensive tests, and budgets that are too loose."""
        if self.costs:
            terminalreporter.section("FLOPs")
            for line in render.summary(self.counted, terminalreporter.config.get_verbosity()):
                terminalreporter.line(line)
        if self.margin is not None:
            terminalreporter.section("loose FLOP budgets")
            for line in render.trim(self.counted, self.margin):
                terminalreporter.line(line)


class Update:
    """Writes baselines, once, in the process that talks to the user."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.passed: dict[str, dict[str, Any]] = {}  # test -> its baselines
        self.found: dict[str, list[str]] = {}  # file or class -> what was collected there
        self.partial: list[str] = []  # of those, what may hold more
        self.said: list[str] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Keep which tests there are, selected or not: others were deleted."""
        report = yield
        if isinstance(collector, (pytest.Module, pytest.Class)):
            if report.passed and not self.config.getoption("lf", False):  # --lf skips whole files
                names = [node.name for node in report.result or ()]
                self.found.setdefault(collector.nodeid, []).extend(names)
            else:
                self.partial.append(collector.nodeid)
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the baselines of a test that passed."""
        if report.when == "call" and report.passed:
            self.passed[report.nodeid] = getattr(report, "flopcount", {}).get("baselines", {})

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over what a worker of pytest-xdist has collected."""
        output = getattr(node, "workeroutput", {})
        self.found.update(output.get("flopcount_found", {}))
        self.partial += output.get("flopcount_partial", [])

    def pytest_sessionfinish(self) -> None:
        """Write the files that change."""
        if (output := getattr(self.config, "workeroutput", None)) is not None:
            output["flopcount_found"], output["flopcount_partial"] = self.found, self.partial
            return
        whole = {node: names for node, names in self.found.items() if node not in self.partial}
        passed, found = _by_file(self.passed), _by_file(whole)
        folders = set()
        for name in sorted({*passed, *found}):
            file, _ = baselines_of(self.config.rootpath, name)
            folders.add(file.parent)
            try:
                written, removed = update(file, passed.get(name, {}), found.get(name, {}))
            except BaselineError as error:
                self.said.append(str(error))
                continue
            if written or removed:
                self.said.append(f"{self._path(file)}: {written} written, {removed} removed")
        self.said += [f"{self._path(file)}: deleted with its tests" for file in orphans(folders)]

    def _path(self, file: Path) -> str:
        return os.path.relpath(file, self.config.invocation_params.dir)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what was written."""
        terminalreporter.section("FLOP baselines")
        for line in self.said or ["nothing to write"]:
            terminalreporter.line(line)


def _by_file(nodes: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """``nodes`` of each file, by their names in it; the file itself is ``""``."""
    files: dict[str, dict[str, T]] = {}
    for nodeid, value in nodes.items():
        path, _, name = nodeid.partition("::")
        files.setdefault(path, {})[name] = value
    return files
