"""FLOP budgets in pytest: the marker ``flop_budget``, two fixtures, and a summary.

Every pytest run of the environment imports this file. It therefore imports nothing but pytest
until a test needs more, and registers hooks around tests only when a test does.
"""

from __future__ import annotations

import argparse
from collections.abc import Generator
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from torch import nn

    from flopcount.counter.counter import FlopCounter
    from flopcount.pytest_plugin.guard import Guard

FAIL_ON = ("change", "increase")

TRIM_MARGIN = 0.05
"""How far above the count a budget may be before ``--flops-trim`` lists it, relative to it."""


# -- options: the command line first (None if not given), then the ini file, then the default


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add each option to the command line and to the ini file."""
    group = parser.getgroup("flopcount", "FLOP budgets")
    switches = {
        "flops": "count every test, and show the most expensive",
        "flops_update": "write new and changed baselines, remove those of deleted tests",
        "flops_trim": f"list budgets more than {100 * TRIM_MARGIN:g} % above what was needed",
    }
    for name, purpose in switches.items():
        flag = "--" + name.replace("_", "-")
        group.addoption(
            flag,
            dest=name,
            action=argparse.BooleanOptionalAction,
            default=None,
            help=purpose.replace("%", "%%"),  # argparse formats it; an ini file's text is plain
        )
        parser.addini(name, purpose, type="bool", default=False)
    purpose = "a baseline fails on any change (the default), or only on an increase"
    group.addoption("--flops-fail-on", choices=FAIL_ON, default=None, help=purpose)
    parser.addini("flops_fail_on", purpose, default=FAIL_ON[0])


def option(config: pytest.Config, name: str) -> Any:
    """The option's value on the command line, or else in the ini file."""
    value = config.getoption(name)
    return config.getini(name) if value is None else value


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and the hooks that the options need."""
    marker = "flop_budget"
    if config.getoption("markers"):  # the list of markers shows its signature
        from flopcount.pytest_plugin.budget import marker_line

        marker = marker_line()
    config.addinivalue_line("markers", marker)
    if option(config, "flops_fail_on") not in FAIL_ON:
        raise pytest.UsageError(
            f"flops_fail_on must be {' or '.join(FAIL_ON)}, got {option(config, 'flops_fail_on')!r}"
        )
    is_update = option(config, "flops_update") and not config.getoption("collectonly")
    if option(config, "flops") or is_update:
        guard_of(config)
    if is_update:
        from flopcount.pytest_plugin.update import Update

        config.pluginmanager.register(Update(config), "flopcount-update")
    margin = TRIM_MARGIN if option(config, "flops_trim") else None
    if option(config, "flops") or margin is not None:
        from flopcount.pytest_plugin.summary import Summary

        summary = Summary(costs=option(config, "flops"), margin=margin)
        config.pluginmanager.register(summary, "flopcount-summary")


# -- collection


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Refuse wrong arguments of a marker when its test is collected."""
    report = yield
    errors = []
    for node in report.result or ():
        if isinstance(node, pytest.Item) and node.get_closest_marker("flop_budget"):
            from flopcount.pytest_plugin.budget import budgets_of

            try:
                budgets_of(node.iter_markers("flop_budget"))
            except ValueError as error:
                errors.append(f"{node.nodeid}: {error}")
    if errors:
        report.outcome, report.longrepr, report.result = "failed", "\n".join(errors), []
    return report


def pytest_collection_finish(session: pytest.Session) -> None:
    """Let the guard watch the tests that have a budget."""
    if marked := [item for item in session.items if item.get_closest_marker("flop_budget")]:
        guard_of(session.config).watch(marked)


def guard_of(config: pytest.Config) -> Guard:
    """The guard of this run of pytest; it is registered on first use."""
    from flopcount.pytest_plugin.guard import Guard

    guard = config.pluginmanager.get_plugin("flopcount-guard")
    if guard is None:
        guard = Guard(
            count_all=option(config, "flops"),
            is_update=option(config, "flops_update"),
            only_increase=option(config, "flops_fail_on") == "increase",
        )
        config.pluginmanager.register(guard, "flopcount-guard")
    assert isinstance(guard, Guard)
    return guard


# -- fixtures, and their types


class FlopBudget(Protocol):
    """The type of the fixture ``flop_budget``."""

    def __call__(
        self, *total: str, model: nn.Module | None = None, **bounds: Any
    ) -> AbstractContextManager[FlopCounter]:
        """A block with a budget: ``bounds`` are the arguments that the marker takes."""


class FlopBaseline(Protocol):
    """The type of the fixture ``flop_baseline``."""

    def __call__(
        self, name: str, *, model: nn.Module | None = None, strict: bool = True
    ) -> AbstractContextManager[FlopCounter]:
        """A block that must cost the same as its baseline."""


@pytest.fixture
def flop_budget(request: pytest.FixtureRequest) -> FlopBudget:
    """``with flop_budget("8.2 GFLOP", model=model) as counter:`` bounds a part of a test.

    It takes the marker's arguments, and the model whose modules they name. A test that breaks a
    bound runs to its end, and then fails.
    """
    return partial(guard_of(request.config).holding, request.node)


@pytest.fixture
def flop_baseline(request: pytest.FixtureRequest) -> FlopBaseline:
    """``with flop_baseline("step", model=model):`` compares a part of a test with its baseline.

    The baseline is a report per module, phase and op, in the folder ``__flops__`` beside the
    test's file; ``pytest --flops-update`` writes it.
    """
    return partial(guard_of(request.config).comparing, request.node)
