"""FLOP budgets in pytest: the marker ``flop_budget``, two fixtures, and a summary.

It is imported in every pytest run of its environment, so it imports nothing but pytest until a
test needs more, and its hooks around tests are there only once a test does.
"""

from __future__ import annotations

import functools
import unittest
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torch import nn

    from flopcount.budget import Budget, Measure, Verdict
    from flopcount.counter import FlopCounter
    from flopcount.report import Report

MARKER = (
    "flop_budget(*total, forward=None, backward=None, recompute=None, optimizer=None, "
    "modules=None, equal=None, reading=None, strict=True): "
    'The test may not cost more than that, such as "8.2 GFLOP"; exactly that much passes.'
)
"""Signature and first line of :func:`flopcount.budget.flop_budget`, without importing it."""

EXAMPLE = (
    'right is @pytest.mark.flop_budget("8.2 GFLOP", forward="4.1 GMAC", '
    'modules={"encoder.*": "1 GMAC"})'
)

FAIL_ON = ("change", "increase")

TRIM_MARGIN = 0.05
"""Part of what was needed that a budget may lie above it."""


# -- options: None on the command line, then what the ini file says, then what is built in


def pytest_addoption(parser: pytest.Parser) -> None:
    """The command line's options, and their twins for the ini file."""
    group = parser.getgroup("flopcount", "FLOP budgets")
    switches = {
        "flops": "count every test, and show the most expensive",
        "flops_update": "write new and changed baselines, remove those of deleted tests",
        "flops_trim": f"list budgets more than {100 * TRIM_MARGIN:g} % above what was needed",
    }
    for name, purpose in switches.items():
        flag = "--" + name.replace("_", "-")
        group.addoption(flag, dest=name, action="store_true", default=None, help=purpose)
        parser.addini(name, purpose, type="bool", default=False)
    purpose = "a baseline fails on any change (the default), or only on an increase"
    group.addoption("--flops-fail-on", choices=FAIL_ON, default=None, help=purpose)
    parser.addini("flops_fail_on", purpose, default=FAIL_ON[0])


def option(config: pytest.Config, name: str) -> Any:
    """An option as the command line, or else the ini file gives it."""
    given = config.getoption(name)
    return config.getini(name) if given is None else given


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and hooks for what the options ask for."""
    config.addinivalue_line("markers", MARKER)
    if option(config, "flops_fail_on") not in FAIL_ON:
        raise pytest.UsageError(
            f"flops_fail_on must be {' or '.join(FAIL_ON)}, got {option(config, 'flops_fail_on')!r}"
        )
    if option(config, "flops"):
        guard_of(config)
    if hasattr(config, "workerinput"):  # a worker of pytest-xdist reports to its controller
        return
    if option(config, "flops") or option(config, "flops_trim"):
        config.pluginmanager.register(Summary(config), "flopcount-summary")


# -- collection


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Refuse markers that are no budgets where their tests are collected."""
    report = yield
    wrong = []
    for node in report.result or ():
        if isinstance(node, pytest.Item) and node.get_closest_marker("flop_budget"):
            try:
                budgets_of(node)
            except (TypeError, ValueError) as error:
                wrong.append(f"{node.nodeid}: {error}; {EXAMPLE}")
    if wrong:
        report.outcome, report.longrepr, report.result = "failed", "\n".join(wrong), []
    return report


def pytest_collection_finish(session: pytest.Session) -> None:
    """Watch the tests if one of them has a budget."""
    if any(item.get_closest_marker("flop_budget") for item in session.items):
        guard_of(session.config)


def budgets_of(item: pytest.Item) -> list[Budget]:
    """The budgets that a test, its class and its module are marked with: each of them holds.

    Raises:
        TypeError: a marker has an argument that it does not take, or of another kind.
        ValueError: an argument that is no quantity.
    """
    from flopcount.budget import flop_budget

    return [flop_budget(*mark.args, **mark.kwargs) for mark in item.iter_markers("flop_budget")]


# -- while tests run


@dataclass(frozen=True)
class Counted:
    """What a test, or a block of one, did."""

    title: str
    flops: int
    verdict: Verdict
    detail: str = ""
    is_whole: bool = False


COUNTED = pytest.StashKey[list[Counted]]()


def guard_of(config: pytest.Config) -> Guard:
    """The run's guard, there from now on."""
    guard = config.pluginmanager.get_plugin("flopcount-guard")
    if guard is None:
        guard = Guard(count_all=option(config, "flops"))
        config.pluginmanager.register(guard, "flopcount-guard")
    assert isinstance(guard, Guard)
    return guard


class Guard:
    """Counts what tests do, and fails those that exceed a budget."""

    def __init__(self, *, count_all: bool) -> None:
        self.count_all = count_all

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, None, None]:
        """Count the test's body, if it is marked; fixtures ran before, and will after."""
        budgets = budgets_of(item)
        if not (budgets or self.count_all):
            return (yield)
        judging = functools.partial(judge, budgets, is_whole=True)
        if (body := _method(item)) is None:
            with self.counting(item, None, judging):
                return (yield)

        @functools.wraps(body)
        def counted(*args: Any, **kwargs: Any) -> Any:
            with self.counting(item, None, judging):
                return body(*args, **kwargs)

        item.obj = counted  # type: ignore[attr-defined]
        try:
            return (yield)
        finally:
            item.obj = body  # type: ignore[attr-defined]

    @contextmanager
    def counting(
        self, item: pytest.Item, model: nn.Module | None, judge: Callable[[Report], Counted]
    ) -> Iterator[FlopCounter]:
        """Count a block of ``item``, and judge it, unless it raises: then it has not finished."""
        from flopcount.counter import FlopCounter

        with FlopCounter(model) as counter:
            yield counter
        counted = judge(report_of(counter))
        item.stash.setdefault(COUNTED, []).append(counted)

    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> pytest.TestReport | None:
        """The report of a test that was counted; it failed if it broke a budget.

        An error of the test's own stays its error. A broken budget is one, too, before other
        plugins see it: an xfailed test is expected to break it.
        """
        counted = item.stash.get(COUNTED, [])
        if not counted:
            return None
        del item.stash[COUNTED]
        whole = [each for each in counted if each.is_whole] or counted
        flops = sum(each.flops for each in whole)
        item.user_properties.append(("flops", flops))
        broken = [each for each in counted if each.verdict.faults]
        faults = "\n".join(fault for each in broken for fault in each.verdict.faults)
        is_ours = bool(faults) and call.excinfo is None
        if is_ours:
            try:
                pytest.fail(faults, pytrace=False)
            except pytest.fail.Exception as failure:
                call.excinfo = pytest.ExceptionInfo.from_exception(failure)
        report = pytest.TestReport.from_item_and_call(item, call)
        for each in broken:
            said = [] if is_ours else each.verdict.faults
            report.sections.append((each.title, "\n".join([*said, each.detail])))
        measures = [asdict(measure) for each in counted for measure in each.verdict.measures]
        vars(report).update(flopcount={"flops": flops, "measures": measures})
        return report


def _method(item: pytest.Item) -> Callable[..., Any] | None:
    """The method of a ``unittest.TestCase``, which runs its setUp and tearDown with it."""
    if isinstance(item, pytest.Function) and item.cls and issubclass(item.cls, unittest.TestCase):
        method: Callable[..., Any] = item.obj
        return None if iscoroutinefunction(method) else method
    return None


def report_of(counter: FlopCounter) -> Report:
    """The counter's report; what it would warn of is for the budget to say."""
    import warnings

    from flopcount.errors import UncountedOpWarning, UnwatchedThreadWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UncountedOpWarning)
        warnings.simplefilter("ignore", UnwatchedThreadWarning)
        return counter.report()


def judge(budgets: list[Budget], report: Report, *, is_whole: bool = False) -> Counted:
    """What ``report`` says to all of ``budgets``."""
    from flopcount.budget import Verdict
    from flopcount.render import budget as render

    verdicts = [budget.judge(report) for budget in budgets]
    measures = tuple(measure for verdict in verdicts for measure in verdict.measures)
    faults = tuple(dict.fromkeys(fault for verdict in verdicts for fault in verdict.faults))
    verdict = Verdict(measures, faults)
    detail = render.failure(report, verdict) if faults else ""
    return Counted("FLOP budget", report.total.flops, verdict, detail, is_whole)


@pytest.fixture
def flop_budget(
    request: pytest.FixtureRequest,
) -> Callable[..., AbstractContextManager[FlopCounter]]:
    """``with flop_budget("8.2 GFLOP", model=model) as counter:`` bounds a part of a test.

    It takes the bounds that the marker takes, and the model that names the modules. What exceeds
    one fails the test when it has run to its end.
    """
    from flopcount.budget import flop_budget

    @contextmanager
    def block(*total: str, model: nn.Module | None = None, **bounds: Any) -> Iterator[FlopCounter]:
        budget = flop_budget(*total, **bounds)
        judging = functools.partial(judge, [budget])
        with guard_of(request.config).counting(request.node, model, judging) as counter:
            yield counter

    return block


# -- when all tests have run


class Summary:
    """Shows what tests cost, in the process that talks to the user."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.counted: list[tuple[str, int, list[Measure]]] = []  # test, FLOPs, what it was held to

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what was counted."""
        from flopcount.budget import Measure

        if counted := getattr(report, "flopcount", None):
            measures = [Measure(**measure) for measure in counted["measures"]]
            self.counted.append((report.nodeid, counted["flops"], measures))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show the most expensive tests, and budgets that are too loose."""
        from flopcount.render import budget as render

        if option(self.config, "flops"):
            terminalreporter.section("FLOPs")
            for line in render.summary(self.counted, self.config.get_verbosity()):
                terminalreporter.line(line)
        if option(self.config, "flops_trim"):
            terminalreporter.section("loose FLOP budgets")
            for line in render.trim(self.counted, TRIM_MARGIN):
                terminalreporter.line(line)
