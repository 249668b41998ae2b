"""Guard: counts what tests do while they run, and fails those that break a budget or a baseline."""

from __future__ import annotations

import functools
import shlex
import unittest
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, TypeGuard

import pytest

from flopcount.baseline import (
    BaselineError,
    baselines_of,
    compare,
    document,
    read,
    report_of,
)
from flopcount.budget import Budget, Measure, Verdict, flop_budget, unknown
from flopcount.errors import UncountedOpWarning, UnwatchedThreadWarning
from flopcount.render import budget as render
from flopcount.report import Report

if TYPE_CHECKING:
    from torch import nn

    from flopcount.counter import FlopCounter

__all__ = ["Counted", "Guard", "budgets_of", "judge"]


def budgets_of(item: pytest.Item) -> list[Budget]:
    """The budgets that a test, its class and its module are marked with: each of them holds.

    Raises:
        TypeError: a marker has an argument that it does not take, or of another kind.
        ValueError: an argument that is no quantity.
    """
    return [flop_budget(*mark.args, **mark.kwargs) for mark in item.iter_markers("flop_budget")]


@dataclass(frozen=True)
class Counted:
    """What a test, or a block of one, did."""

    title: str
    flops: int
    verdict: Verdict
    detail: str = ""
    baselines: dict[str, Any] = field(default_factory=dict)
    is_whole: bool = False


COUNTED = pytest.StashKey[list[Counted]]()


class Guard:
    """Counts what tests do, and fails those that exceed a budget."""

    def __init__(self, *, count_all: bool, is_update: bool, only_increase: bool) -> None:
        self.count_all = count_all
        self.is_update = is_update
        self.only_increase = only_increase

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, None, None]:
        """Count the test's body, if it is marked; fixtures ran before, and will after."""
        budgets = budgets_of(item)
        if not (budgets or self.count_all):
            return (yield)
        judging = functools.partial(judge, budgets, is_whole=True)
        if not _is_method(item):
            with self.counting(item, None, judging):
                return (yield)
        body: Callable[..., Any] = item.obj

        @functools.wraps(body)
        def counted(*args: Any, **kwargs: Any) -> Any:
            with self.counting(item, None, judging):
                return body(*args, **kwargs)

        item.obj = counted
        try:
            return (yield)
        finally:
            item.obj = body

    @contextmanager
    def counting(
        self, item: pytest.Item, model: nn.Module | None, judge: Callable[[Report], Counted]
    ) -> Iterator[FlopCounter]:
        """Count a block of ``item``, and judge it, unless it raises: then it has not finished."""
        from flopcount.counter import FlopCounter

        with FlopCounter(model) as counter:
            yield counter
        with warnings.catch_warnings():  # what is not counted is for the budget to say
            warnings.simplefilter("ignore", UncountedOpWarning)
            warnings.simplefilter("ignore", UnwatchedThreadWarning)
            report = counter.report()
        item.stash.setdefault(COUNTED, []).append(judge(report))

    @contextmanager
    def holding(
        self, item: pytest.Item, model: nn.Module | None, *total: str, **bounds: Any
    ) -> Iterator[FlopCounter]:
        """Hold a block of ``item`` to a budget."""
        budget = flop_budget(*total, **bounds)
        with self.counting(item, model, functools.partial(judge, [budget])) as counter:
            yield counter

    @contextmanager
    def comparing(
        self, item: pytest.Item, name: str, model: nn.Module | None, *, strict: bool
    ) -> Iterator[FlopCounter]:
        """Compare a block of ``item`` with its baseline ``name``.

        Raises:
            TypeError: the name is not a string.
            BaselineError: the test has another block of that name, or its file is damaged.
        """
        if not isinstance(name, str):
            raise TypeError(f"a baseline's name is a string, such as 'step', got {name!r}")
        if any(name in each.baselines for each in item.stash.get(COUNTED, [])):
            raise BaselineError(f"{item.nodeid} has two baselines {name!r}; name them apart")
        with self.counting(
            item, model, functools.partial(self.judge_baseline, item, name, strict)
        ) as counter:
            yield counter

    def judge_baseline(self, item: pytest.Item, name: str, strict: bool, report: Report) -> Counted:
        """What ``report`` says to the baseline that ``item`` has under ``name``."""
        faults = unknown(report) if strict else []
        measures: list[Measure] = []
        detail = ""
        if not self.is_update:
            file, test = baselines_of(item.config.rootpath, item.nodeid)
            before = read(file).get(test, {}).get(name)
            command = f"pytest --flops-update {shlex.quote(item.nodeid)}"
            if before is None:
                faults.append(f"there is no baseline {name!r}; `{command}` writes it")
            else:
                diff = report_of(before).diff(report)
                counts = (report.total.flops, diff.before.total.flops)
                is_exact = not self.only_increase
                measures.append(Measure(f"baseline {name!r}", *counts, "FLOP", is_exact))
                if change := compare(before, diff, only_increase=self.only_increase):
                    faults.append(f"baseline {name!r}: {change}; if it is meant: `{command}`")
                    detail = render.change(diff)
        baselines = {name: document(report)} if self.is_update else {name: {}}
        return Counted(
            f"FLOP baseline {name!r}",
            report.total.flops,
            Verdict(tuple(measures), tuple(faults)),
            detail,
            baselines,
        )

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
            if text := "\n".join([*said, each.detail]).rstrip():
                report.sections.append((each.title, text))
        measures = [asdict(measure) for each in counted for measure in each.verdict.measures]
        baselines = {name: new for each in counted for name, new in each.baselines.items()}
        vars(report).update(
            flopcount={"flops": flops, "measures": measures, "baselines": baselines}
        )
        return report


def _is_method(item: pytest.Item) -> TypeGuard[pytest.Function]:
    """Whether ``item`` is a method of a ``unittest.TestCase``, run together with its setUp."""
    if isinstance(item, pytest.Function) and item.cls and issubclass(item.cls, unittest.TestCase):
        return not iscoroutinefunction(item.obj)
    return False


def judge(budgets: list[Budget], report: Report, *, is_whole: bool = False) -> Counted:
    """What ``report`` says to all of ``budgets``."""
    verdicts = [budget.judge(report) for budget in budgets]
    measures = tuple(measure for verdict in verdicts for measure in verdict.measures)
    faults = tuple(dict.fromkeys(fault for verdict in verdicts for fault in verdict.faults))
    verdict = Verdict(measures, faults)
    detail = render.failure(report, verdict) if faults else ""
    return Counted("FLOP budget", report.total.flops, verdict, detail, is_whole=is_whole)
