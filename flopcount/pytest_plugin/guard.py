"""Guard: counts what tests do while they run, and fails those that break a budget or a baseline."""

from __future__ import annotations

import os
import unittest
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial, wraps
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, TypeGuard

import pytest

from flopcount.errors import UncountedOpWarning, UnwatchedThreadWarning
from flopcount.pytest_plugin.baseline import BaselineError, document_of
from flopcount.pytest_plugin.budget import Budget, Verdict, budgets_of, flop_budget, omissions
from flopcount.pytest_plugin.judge import judge_baseline, judge_budgets
from flopcount.pytest_plugin.outcome import ATTEMPT, Attempt, node_id

if TYPE_CHECKING:
    from torch import nn

    from flopcount.counter.counter import FlopCounter
    from flopcount.report.report import Report

MARKS = pytest.StashKey[list[pytest.Mark]]()


class Guard:
    """Counts tests and blocks of tests, and turns what is wrong into failures."""

    def __init__(self, *, count_all: bool, is_update: bool, only_increase: bool) -> None:
        self.count_all = count_all
        self.is_update = is_update
        self.only_increase = only_increase

    def watch(self, items: Iterable[pytest.Item]) -> None:
        """Hold ``items`` to the markers that they have now."""
        for item in items:
            item.stash[MARKS] = list(item.iter_markers("flop_budget"))

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, None, None]:
        """Count the body of a test that has a budget; its fixtures ran before, or will after."""
        if self.is_update:
            Attempt.of(item)
        marks = item.stash.get(MARKS, [])
        try:
            budgets = budgets_of(marks)
        except ValueError as error:
            pytest.fail(str(error), pytrace=False)
        if not (budgets or self.count_all or expects_failure(item)):
            return (yield)
        body = partial(self.body, item, budgets)
        with run_inside(item, body) if is_unittest_method(item) else body():
            return (yield)

    @contextmanager
    def body(self, item: pytest.Item, budgets: list[Budget]) -> Iterator[None]:
        """Count the body of ``item`` if it has a budget."""
        judge = partial(judge_budgets, budgets)
        is_counted = bool(budgets) or self.count_all
        with self.counting(item, None, judge, is_body=True) if is_counted else nullcontext():
            yield
        if expects_failure(item) and (faults := _faults(Attempt.of(item).verdicts)):
            pytest.fail(faults, pytrace=False)  # inside the method, where unittest sees it

    @contextmanager
    def counting(
        self,
        item: pytest.Item,
        model: nn.Module | None,
        judge: Callable[[Report], Verdict],
        *,
        is_body: bool = False,
    ) -> Iterator[FlopCounter]:
        """Count a block of ``item`` and judge it; one that raises is not judged."""
        from flopcount.counter.counter import FlopCounter

        attempt = Attempt.of(item)
        attempt.depth += 1
        try:
            with FlopCounter(model) as counter:
                yield counter
        finally:
            attempt.depth -= 1
        with warnings.catch_warnings():  # the verdict names what was not counted
            warnings.simplefilter("ignore", UncountedOpWarning)
            warnings.simplefilter("ignore", UnwatchedThreadWarning)
            report = counter.report()
        if is_body:
            attempt.body = report.total.flops
        elif not attempt.depth:
            attempt.blocks += report.total.flops
        attempt.verdicts.append(judge(report))

    def holding(
        self, item: pytest.Item, *total: str, model: nn.Module | None = None, **bounds: Any
    ) -> AbstractContextManager[FlopCounter]:
        """Hold a block of ``item`` to a budget."""
        return self.counting(item, model, partial(judge_budgets, [flop_budget(*total, **bounds)]))

    @contextmanager
    def comparing(
        self, item: pytest.Item, name: str, *, model: nn.Module | None = None, strict: bool = True
    ) -> Iterator[FlopCounter]:
        """Compare a block of ``item`` with its baseline ``name``, or keep it for an update."""
        if not isinstance(name, str):
            raise TypeError(f"a baseline's name is a string, such as 'step', got {name!r}")
        attempt = Attempt.of(item)
        if name in attempt.names:
            raise BaselineError(f"{node_id(item)} has two baselines {name!r}; name them apart")

        def judge(report: Report) -> Verdict:
            if self.is_update:
                attempt.baselines[name] = document_of(report)
                faults = omissions(report) if strict else []
                return Verdict(f"FLOP baseline {name!r}", faults=tuple(faults))
            return judge_baseline(
                item, name, report, strict=strict, only_increase=self.only_increase
            )

        attempt.names.add(name)
        try:
            with self.counting(item, model, judge) as counter:
                yield counter
        except BaseException:
            attempt.names.discard(name)  # the block may be tried again
            raise

    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> pytest.TestReport | None:
        """Report a stage of a test that was counted, as failed if it broke a budget.

        If the test raised an error of its own, that stays the error. Otherwise a broken budget
        becomes the error before other plugins see the stage, so that an xfailed test may break it.
        """
        attempt = item.stash.get(ATTEMPT, None)
        if attempt is None:
            return None
        is_last = call.when == "teardown"
        verdicts = attempt.new_verdicts()
        if is_last and attempt.has_raised:  # a block around the test has not seen all of it
            verdicts = []
        attempt.has_raised = call.excinfo is not None
        faults = _faults(verdicts)
        is_ours = bool(faults) and call.excinfo is None
        if is_ours:
            call.excinfo = _failure(faults)
        if attempt.verdicts:
            attempt.record_flops(item)
        report = pytest.TestReport.from_item_and_call(item, call)
        if is_ours and (crash := getattr(report.longrepr, "reprcrash", None)):
            path, line, _ = item.reportinfo()
            crash.path, crash.lineno = os.fspath(path), (line or 0) + 1
        for verdict in filter(lambda verdict: verdict.faults, verdicts):
            sentences = () if is_ours else verdict.faults
            if section := "\n".join([*sentences, verdict.detail]).rstrip():
                report.sections.append((verdict.title, section))
        if is_last:
            del item.stash[ATTEMPT]  # a rerun of the test begins a new one
            attempt.outcome(item).attach_to(report)
        return report


def _faults(verdicts: Iterable[Verdict]) -> str:
    return "\n".join(fault for verdict in verdicts for fault in verdict.faults)


def _failure(message: str) -> pytest.ExceptionInfo[BaseException]:
    try:
        pytest.fail(message, pytrace=False)
    except pytest.fail.Exception as failure:
        return pytest.ExceptionInfo.from_exception(failure)


# -- methods of unittest.TestCase, which pytest runs together with setUp and tearDown


def is_unittest_method(item: pytest.Item) -> TypeGuard[pytest.Function]:
    """Whether ``item`` is a method of a ``unittest.TestCase``, and not a coroutine."""
    if isinstance(item, pytest.Function) and item.cls and issubclass(item.cls, unittest.TestCase):
        return not iscoroutinefunction(item.obj)
    return False


def expects_failure(item: pytest.Item) -> bool:
    """Whether the method, or its class, is decorated with ``unittest.expectedFailure``."""
    flag = "__unittest_expecting_failure__"
    return is_unittest_method(item) and (
        getattr(item.obj, flag, False) or getattr(item.cls, flag, False)
    )


@contextmanager
def run_inside(
    item: pytest.Function, block: Callable[[], AbstractContextManager[object]]
) -> Iterator[None]:
    """Let the method run inside ``block``, and setUp and tearDown outside."""
    method: Callable[..., Any] = item.obj

    @wraps(method)
    def method_in_block(*args: Any, **kwargs: Any) -> Any:
        with block():
            return method(*args, **kwargs)

    item.obj = method_in_block
    try:
        yield
    finally:
        item.obj = method
