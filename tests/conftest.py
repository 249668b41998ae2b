"""Options and fixtures of the whole suite."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any

import pytest
import torch

from flopcount.report.ledger import Ledger
from flopcount.report.report import Report
from tests.hooks import watchers
from tests.invariants import check

IS_INSTALLED = "flopcount" in entry_points(group="pytest11").names
"""Whether pytest finds flopcount's plugin by itself."""

pytest_plugins = ["pytester"] + ([] if IS_INSTALLED else ["flopcount.pytest_plugin"])


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the long sweeps, too")


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        # pytest -n has a worker on every core: a second thread would only wait for one
        torch.set_num_threads(1)
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="a long sweep: --slow runs it"))


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """No test leaves a hook or a mode behind."""
    before = watchers()
    yield
    assert watchers() == before


@pytest.fixture(autouse=True, scope="session")
def every_report_keeps_its_promises() -> Iterator[None]:
    """Whatever a test counts, its report is checked before the test sees it."""
    make = Ledger.report

    def checked(*args: Any, **kwargs: Any) -> Report:
        report = make(*args, **kwargs)
        try:
            check(report)
        except AssertionError as error:
            raise AssertionError(
                f"this test made a report that breaks a promise of every report: {error}\n"
                "(tests/conftest.py checks each report by tests/invariants.py)"
            ) from error
        return report

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "report", checked)
        yield
