"""What is said and written when all tests have run, in the process that talks to the user."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flopcount.pytest_plugin import text
from flopcount.pytest_plugin.baseline import (
    DIRECTORY,
    BaselineError,
    Documents,
    Updated,
    file_beside,
    orphans,
    update,
)
from flopcount.pytest_plugin.guard import Outcome, name_in_file, shown

__all__ = ["Summary", "Update"]


class Summary:
    """Shows what tests cost, in the process that talks to the user."""

    def __init__(self, *, costs: bool, margin: float | None) -> None:
        self.costs = costs
        self.margin = margin
        self.counted: dict[str, text.Counted] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what was counted; of a test that ran again, the last time."""
        outcome = Outcome.of(report)
        if outcome and outcome.flops is not None:
            self.counted[outcome.place] = (outcome.place, outcome.flops, outcome.measures)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show the most expensive tests, and budgets that are too loose."""
        if self.costs:
            terminalreporter.section("FLOPs")
            for line in text.summary(
                self.counted.values(), terminalreporter.config.get_verbosity()
            ):
                terminalreporter.line(line)
        if self.margin is not None:
            terminalreporter.section("loose FLOP budgets")
            for line in text.trim(self.counted.values(), self.margin):
                terminalreporter.line(line)


OK, NO_TESTS_COLLECTED = pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED

PASSED = {"setup": "passed", "call": "passed", "teardown": "passed"}


class Update:
    """Writes baselines, once, in the process that talks to the user."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.stages: dict[str, dict[str, str]] = {}  # test -> what became of its stages so far
        self.passed: dict[str, Documents] = {}  # file -> tests that passed -> their baselines
        self.found: dict[str, dict[str, list[str] | None]] = {}  # file -> what was collected there
        self.folders: list[str] = []  # folders of baselines
        self.said: list[str] = []
        self.has_failed = False

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Keep which tests there are, selected or not: others were deleted."""
        report = yield
        if isinstance(collector, pytest.Directory):
            if collector.path.name == DIRECTORY:
                self.folders.append(str(collector.path))
        elif not isinstance(collector, pytest.Session):
            is_whole = report.passed and not self.config.getoption("lf", False)  # it leaves out
            names = [node.name for node in report.result or ()] if is_whole else None
            self._find(str(collector.path), {name_in_file(collector): names})
        return report

    def _find(self, file: str, places: dict[str, list[str] | None]) -> None:
        """Add what was collected in ``places`` of a file; two collectors may share it."""
        found = self.found.setdefault(file, {})
        for place, names in places.items():
            before = found.get(place, [])
            found[place] = None if names is None or before is None else [*before, *names]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the baselines of a test of which all stages passed, whoever ran it again."""
        stages = self.stages.setdefault(report.nodeid, {})
        if report.when == "setup":
            stages.clear()
        if stages.get(report.when) != "failed":  # a failed subtest stands before its test
            stages[report.when] = report.outcome
        if report.when == "teardown":
            del self.stages[report.nodeid]
            if stages == PASSED and (outcome := Outcome.of(report)):
                self.passed.setdefault(outcome.file, {})[outcome.test] = outcome.baselines

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over what a worker of pytest-xdist has collected."""
        output = getattr(node, "workeroutput", {})
        for file, places in output.get("flopcount_found", {}).items():
            self._find(file, places)
        self.folders += output.get("flopcount_folders", [])

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the files that change; fail if one of them cannot be written."""
        if (output := getattr(self.config, "workeroutput", None)) is not None:
            output["flopcount_found"], output["flopcount_folders"] = self.found, self.folders
            return
        for name in sorted({*self.passed, *self.found}):
            file = file_beside(Path(name))
            with self._failing(file):
                updated = update(file, self.passed.get(name, {}), self.found.get(name, {}))
                self._say(file, updated)
        for folder in sorted({*self.folders}):
            with self._failing(Path(folder)):
                gone = orphans(Path(folder))
                self.said += [
                    f"{shown(file, self.config)}: deleted with its tests" for file in gone
                ]
        if self.has_failed and session.exitstatus in (OK, NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _say(self, file: Path, updated: Updated) -> None:
        path = shown(file, self.config)
        if updated.num_written or updated.num_removed:
            self.said.append(
                f"{path}: {updated.num_written} written, {updated.num_removed} removed"
            )
        self.said += [f"{path}: kept {each}, which did not run here" for each in updated.kept]
        self.said += [f"{path}: {each}" for each in updated.damaged]
        self.has_failed |= bool(updated.damaged)

    @contextmanager
    def _failing(self, path: Path) -> Iterator[None]:
        """Say what cannot be written, and go on."""
        try:
            yield
        except BaselineError as error:
            self.said.append(f"{shown(path, self.config)}: {error}")
            self.has_failed = True
        except OSError as error:
            self.said.append(f"{shown(path, self.config)}: cannot be written: {error}")
            self.has_failed = True

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what was written."""
        terminalreporter.section("FLOP baselines")
        for line in self.said or ["nothing to write"]:
            terminalreporter.line(line)
