"""Update: the option ``--flops-update``, which writes baselines."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flopcount.pytest_plugin.baseline import BaselineError, is_changed, report_of
from flopcount.pytest_plugin.baseline_file import (
    DIRECTORY,
    Documents,
    by_test_and_name,
    delete,
    delete_orphans,
    file_beside,
    read,
    write,
)
from flopcount.pytest_plugin.outcome import Outcome, name_in_file, relative_path

Collected = Mapping[str, Collection[str] | None]
"""The tests of a file: names in each of its classes, ``""`` standing for the file itself.

It is None for a class or file of which some tests may not have been collected.
"""


@dataclass(frozen=True)
class Updated:
    """What an update did to a file."""

    num_written: int  # baselines that are new or changed
    num_removed: int  # baselines whose test is gone, or writes one under another name
    kept: tuple[str, ...] = ()  # not reached by this run, though their test's function is there
    damaged: tuple[str, ...] = ()  # cannot be compared with, and were left alone


def update(path: Path, passed: Documents, collected: Collected) -> Updated:
    """Write the baselines of tests that passed into the file ``path``, if they changed.

    A baseline is removed when its test's function is gone, or when the test now writes one under
    another name. It is kept if the test did not reach its block, or if only the parameters are
    not there: the test may do so elsewhere. A file without baselines is deleted.

    Raises:
        BaselineError: the file holds something else.
        OSError: it cannot be written.
    """
    before = read(path)
    after = {test: {**baselines} for test, baselines in passed.items()}
    kept, damaged = [], []
    for (test, name), old in by_test_and_name(before).items():
        if name in passed.get(test, {}):
            try:
                if not is_changed(report_of(old), report_of(passed[test][name])):
                    after[test][name] = old  # its torch may be older
            except BaselineError as error:
                damaged.append(f"{test} {name!r}: {error}")
                after[test][name] = old
        elif _stays(test, before, passed, collected):
            after.setdefault(test, {})[name] = old
            if test in passed or not is_collected(test, collected):
                kept.append(f"{test} {name!r}")
    old_documents, new_documents = by_test_and_name(before), by_test_and_name(after)
    num_written = sum(old_documents.get(key) != new for key, new in new_documents.items())
    num_removed = len(old_documents.keys() - new_documents.keys())
    if new_documents and (num_written or num_removed):
        write(path, {test: baselines for test, baselines in after.items() if baselines})
    elif before and not new_documents:
        delete(path)
    return Updated(num_written, num_removed, tuple(kept), tuple(damaged))


def _stays(test: str, before: Documents, passed: Documents, collected: Collected) -> bool:
    """Whether a baseline that ``test`` did not write may be written elsewhere."""
    if test in passed:
        return passed[test].keys() <= before[test].keys()  # it writes none under another name
    return is_function_collected(test, collected)


def is_collected(test: str, collected: Collected) -> bool:
    """Whether ``test`` is among the tests of its file, or may be because nobody looked.

    >>> is_collected("TestStep::test_a", {"": ["TestStep"], "TestStep": ["test_b"]})
    False
    >>> is_collected("TestStep::test_a", {"": ["TestStep"]})  # nobody looked into the class
    True
    """
    names, bracket, parameters = test.partition("[")
    *classes, name = names.split("::")
    parent = ""
    for child in [*classes, name + bracket + parameters]:
        siblings = collected.get(parent)
        if siblings is None:
            return True
        if child not in siblings:
            return False
        parent = f"{parent}::{child}".lstrip(":")
    return True


def is_function_collected(test: str, collected: Collected) -> bool:
    """Whether the function of ``test`` is among them, be it with other parameters.

    >>> is_function_collected("test_a[1]", {"": ["test_a[2]"]})
    True
    """
    functions = {
        parent: None if names is None else {_function(name) for name in names}
        for parent, names in collected.items()
    }
    return is_collected(_function(test), functions)


def _function(test: str) -> str:
    """The name of ``test`` without its parameters."""
    return test.partition("[")[0]


PASSED = {"setup": "passed", "call": "passed", "teardown": "passed"}


class Update:
    """Writes baselines, once, in the process that talks to the user."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.stages: dict[str, dict[str, str]] = {}  # test -> the outcome of each stage so far
        self.passed: dict[str, Documents] = {}  # file -> tests that passed -> their baselines
        self.collected: dict[str, dict[str, list[str] | None]] = {}  # file -> its tests
        self.folders: list[str] = []  # folders of baselines
        self.lines: list[str] = []  # what the user is told
        self.has_failed = False

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Note the tests that exist, selected or not, and the folders of baselines."""
        report = yield
        if isinstance(collector, pytest.Directory):
            if collector.path.name == DIRECTORY:
                self.folders.append(str(collector.path))
        elif not isinstance(collector, pytest.Session):
            is_whole = report.passed and not self.config.getoption("lf", False)  # --lf drops some
            names = [node.name for node in report.result or ()] if is_whole else None
            self._add(str(collector.path), {name_in_file(collector): names})
        return report

    def _add(self, file: str, collected: dict[str, list[str] | None]) -> None:
        """Add to the tests of ``file``, which two collectors may share."""
        known = self.collected.setdefault(file, {})
        for parent, names in collected.items():
            before = known.get(parent, [])
            known[parent] = None if names is None or before is None else [*before, *names]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the baselines of a test whose stages all passed; if it ran again, the last time."""
        stages = self.stages.setdefault(report.nodeid, {})
        if report.when == "setup":
            stages.clear()
        if stages.get(report.when) != "failed":  # a failed subtest is reported before its test
            stages[report.when] = report.outcome
        if report.when == "teardown":
            del self.stages[report.nodeid]
            if stages == PASSED and (outcome := Outcome.of(report)):
                self.passed.setdefault(outcome.file, {})[outcome.test] = outcome.baselines

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over what a worker of pytest-xdist has collected."""
        output = getattr(node, "workeroutput", {})
        for file, collected in output.get("flopcount_collected", {}).items():
            self._add(file, collected)
        self.folders += output.get("flopcount_folders", [])

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the files that change; fail if one of them cannot be written."""
        if (output := getattr(self.config, "workeroutput", None)) is not None:
            output["flopcount_collected"] = self.collected
            output["flopcount_folders"] = self.folders
            return
        for name in sorted({*self.passed, *self.collected}):
            file = file_beside(Path(name))
            with self._reporting_errors(file):
                passed, collected = self.passed.get(name, {}), self.collected.get(name, {})
                self._report(file, update(file, passed, collected))
        for folder in map(Path, sorted({*self.folders})):
            with self._reporting_errors(folder):
                for file in delete_orphans(folder):
                    self._tell(file, "deleted with its tests")
        passing = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        if self.has_failed and session.exitstatus in passing:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _report(self, file: Path, updated: Updated) -> None:
        if updated.num_written or updated.num_removed:
            self._tell(file, f"{updated.num_written} written, {updated.num_removed} removed")
        for baseline in updated.kept:
            self._tell(file, f"kept {baseline}, which did not run here")
        for error in updated.damaged:
            self._fail(file, error)

    @contextmanager
    def _reporting_errors(self, path: Path) -> Iterator[None]:
        """Report what cannot be written, and go on."""
        try:
            yield
        except BaselineError as error:
            self._fail(path, str(error))
        except OSError as error:
            self._fail(path, f"cannot be written: {error}")

    def _fail(self, path: Path, message: str) -> None:
        self._tell(path, message)
        self.has_failed = True

    def _tell(self, path: Path, message: str) -> None:
        self.lines.append(f"{relative_path(path, self.config)}: {message}")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show what was written."""
        terminalreporter.section("FLOP baselines")
        for line in self.lines or ["nothing to write"]:
            terminalreporter.line(line)
