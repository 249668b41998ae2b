"""Guard: counts what tests do while they run, and fails those that break a budget or a baseline."""

from __future__ import annotations

import functools
import os
import shlex
import unittest
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from inspect import iscoroutinefunction
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import pytest

from flopcount.errors import UncountedOpWarning, UnwatchedThreadWarning
from flopcount.pytest_plugin import text
from flopcount.pytest_plugin.baseline import (
    BaselineError,
    compare,
    document,
    file_beside,
    read,
    report_of,
)
from flopcount.pytest_plugin.budget import Budget, Measure, Verdict, flop_budget, unknown
from flopcount.report.report import Report

if TYPE_CHECKING:
    from torch import nn

    from flopcount.counter.counter import FlopCounter

__all__ = ["Counted", "Guard", "Outcome", "judge", "name_in_file", "refusal", "shown"]

EXAMPLE = (
    'right is @pytest.mark.flop_budget("8.2 GFLOP", forward="4.1 GMAC", '
    'modules={"encoder.*": "1 GMAC"})'
)


def refusal(marks: Iterable[pytest.Mark]) -> str:
    """Why ``marks`` are no budgets, and the right form; empty if they are."""
    try:
        _budgets(marks)
    except (TypeError, ValueError) as error:
        return f"{error}; {EXAMPLE}"
    return ""


def _budgets(marks: Iterable[pytest.Mark]) -> list[Budget]:
    """The budgets that a test, its class and its module are marked with: each of them holds."""
    return [flop_budget(*mark.args, **mark.kwargs) for mark in marks]


def name_in_file(node: pytest.Item | pytest.Collector) -> str:
    """The classes and the name of a test, or of a class, whatever file and root it is in."""
    chain = takewhile(lambda each: not isinstance(each, pytest.File), reversed(node.listchain()))
    return "::".join(reversed([each.name for each in chain]))


def shown(path: Path, config: pytest.Config) -> str:
    """``path`` as seen from where pytest was started."""
    return Path(os.path.relpath(path, config.invocation_params.dir)).as_posix()


def _place(item: pytest.Item) -> str:
    """What to say to pytest, where it was started, to run ``item``."""
    return f"{shown(item.path, item.config)}::{name_in_file(item)}"


@dataclass(frozen=True)
class Counted:
    """What was said of a test's body, or of a block of a test."""

    title: str
    verdict: Verdict
    detail: str = ""
    baseline: dict[str, Any] = field(default_factory=dict)


@dataclass
class Attempt:
    """One run of a test, from its fixtures' beginning to their end.

    Attributes:
        counted: the body and the blocks that have finished.
        num_said: how many of them stand in a report: a subtest, or a stage of the test.
        names: the baselines that were opened.
        depth: how many counters are open.
        body: FLOPs of the body, if it was counted.
        blocks: FLOPs of blocks outside all others.
        has_raised: the stage before did not run to its end.
    """

    counted: list[Counted] = field(default_factory=list)
    num_said: int = 0
    names: set[str] = field(default_factory=set)
    depth: int = 0
    body: int | None = None
    blocks: int = 0
    has_raised: bool = False

    @property
    def flops(self) -> int:
        """What the test cost: its body, or else its blocks."""
        return self.blocks if self.body is None else self.body


ATTEMPT = pytest.StashKey[Attempt]()
MARKS = pytest.StashKey[list[pytest.Mark]]()
PROPERTY = pytest.StashKey[tuple[str, object]]()


@dataclass(frozen=True)
class Outcome:
    """What a test's last report carries to the process that talks to the user.

    Attributes:
        place: the test, as one would say it to pytest.
        file: the file that it is in.
        test: its name there.
        flops: what it cost, or None if nothing was counted.
        measures: what it was held to.
        baselines: what an update would write.
    """

    place: str
    file: str
    test: str
    flops: int | None
    measures: list[Measure]
    baselines: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, report: pytest.TestReport) -> Outcome | None:
        """What ``report`` carries."""
        if carried := getattr(report, "flopcount", None):
            measures = [Measure(**measure) for measure in carried["measures"]]
            return cls(**{**carried, "measures": measures})
        return None


class Guard:
    """Counts what tests do, and fails those that exceed a budget."""

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
        """Count the test's body, if it is marked; fixtures ran before, and will after."""
        if self.is_update:
            item.stash.setdefault(ATTEMPT, Attempt())
        marks = item.stash.get(MARKS, [])
        is_counted = bool(marks) or self.count_all
        expects_failure = _is_method(item) and _expects_failure(item)
        if not (is_counted or expects_failure):
            return (yield)
        if said := refusal(marks):
            pytest.fail(said, pytrace=False)
        judging = functools.partial(judge, _budgets(marks))

        def watched() -> AbstractContextManager[object]:
            if is_counted:
                return self.counting(item, None, judging, is_body=True)
            return nullcontext()

        if not _is_method(item):
            with watched():
                return (yield)
        body: Callable[..., Any] = item.obj

        @functools.wraps(body)
        def counted(*args: Any, **kwargs: Any) -> Any:
            with watched():
                result = body(*args, **kwargs)
            attempt = item.stash.get(ATTEMPT, Attempt())
            if expects_failure and (faults := _faults(attempt.counted)):
                pytest.fail(faults, pytrace=False)  # where unittest sees it
            return result

        item.obj = counted
        try:
            return (yield)
        finally:
            item.obj = body

    @contextmanager
    def counting(
        self,
        item: pytest.Item,
        model: nn.Module | None,
        judge: Callable[[Report], Counted],
        *,
        is_body: bool = False,
    ) -> Iterator[FlopCounter]:
        """Count a block of ``item``, and judge it, unless it raises: then it has not finished."""
        from flopcount.counter.counter import FlopCounter

        attempt = item.stash.setdefault(ATTEMPT, Attempt())
        attempt.depth += 1
        try:
            with FlopCounter(model) as counter:
                yield counter
        finally:
            attempt.depth -= 1
        with warnings.catch_warnings():  # what is not counted is for the budget to say
            warnings.simplefilter("ignore", UncountedOpWarning)
            warnings.simplefilter("ignore", UnwatchedThreadWarning)
            report = counter.report()
        if is_body:
            attempt.body = report.total.flops
        elif not attempt.depth:
            attempt.blocks += report.total.flops
        attempt.counted.append(judge(report))

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
            BaselineError: the test has another block of that name.
        """
        if not isinstance(name, str):
            raise TypeError(f"a baseline's name is a string, such as 'step', got {name!r}")
        names = item.stash.setdefault(ATTEMPT, Attempt()).names
        if name in names:
            raise BaselineError(f"{_place(item)} has two baselines {name!r}; name them apart")
        names.add(name)
        judging = functools.partial(self.judge_baseline, item, name, strict)
        try:
            with self.counting(item, model, judging) as counter:
                yield counter
        except BaseException:
            names.discard(name)  # it may be tried again
            raise

    def judge_baseline(self, item: pytest.Item, name: str, strict: bool, report: Report) -> Counted:
        """What ``report`` says to the baseline that ``item`` has under ``name``."""
        faults = unknown(report) if strict else []
        measures: list[Measure] = []
        detail = ""
        if not self.is_update:
            file = file_beside(item.path)
            try:
                before = read(file).get(name_in_file(item), {}).get(name)
                command = f"pytest --flops-update {shlex.quote(_place(item))}"
                if before is None:
                    faults.append(f"there is no baseline {name!r}; `{command}` writes it")
                else:
                    diff = report_of(before).diff(report)
                    counts = (report.total.flops, diff.before.total.flops)
                    is_exact = not self.only_increase
                    measures.append(Measure(f"baseline {name!r}", *counts, "FLOP", is_exact))
                    if change := compare(before, diff, only_increase=self.only_increase):
                        faults.append(f"baseline {name!r}: {change}; if it is meant: `{command}`")
                        detail = text.change(diff) if diff else ""
            except BaselineError as error:
                faults.append(f"baseline {name!r} in {shown(file, item.config)}: {error}")
        return Counted(
            f"FLOP baseline {name!r}",
            Verdict(tuple(measures), tuple(faults)),
            detail,
            {name: document(report)} if self.is_update else {},
        )

    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> pytest.TestReport | None:
        """The report of a stage of a test that was counted; it failed if it broke a budget.

        An error of the test's own stays its error. A broken budget is one, too, before other
        plugins see it: an xfailed test is expected to break it.
        """
        attempt = item.stash.get(ATTEMPT, None)
        if attempt is None:
            return None
        is_last = call.when == "teardown"
        new = attempt.counted[attempt.num_said :]
        attempt.num_said += len(new)
        if is_last and attempt.has_raised:  # a block around the test has not seen all of it
            new = []
        attempt.has_raised = call.excinfo is not None
        faults = _faults(new)
        is_ours = bool(faults) and call.excinfo is None
        if is_ours:
            call.excinfo = _failure(faults)
        if attempt.counted:
            _set_property(item, attempt.flops)
        report = pytest.TestReport.from_item_and_call(item, call)
        if is_ours and (crash := getattr(report.longrepr, "reprcrash", None)):
            path, line, _ = item.reportinfo()
            crash.path, crash.lineno = os.fspath(path), (line or 0) + 1
        for each in new:
            said = [] if is_ours else each.verdict.faults
            if each.verdict.faults and (text := "\n".join([*said, each.detail]).rstrip()):
                report.sections.append((each.title, text))
        if is_last:
            del item.stash[ATTEMPT]  # who runs the test again starts anew
            vars(report).update(flopcount=asdict(_outcome(item, attempt)))
        return report


def _outcome(item: pytest.Item, attempt: Attempt) -> Outcome:
    baselines: dict[str, dict[str, Any]] = {}
    for each in attempt.counted:
        baselines.update(each.baseline)
    return Outcome(
        place=_place(item),
        file=os.fspath(item.path),
        test=name_in_file(item),
        flops=attempt.flops if attempt.counted else None,
        measures=[measure for each in attempt.counted for measure in each.verdict.measures],
        baselines=baselines,
    )


def _faults(counted: Iterable[Counted]) -> str:
    return "\n".join(fault for each in counted for fault in each.verdict.faults)


def _failure(message: str) -> pytest.ExceptionInfo[BaseException]:
    try:
        pytest.fail(message, pytrace=False)
    except pytest.fail.Exception as failure:
        return pytest.ExceptionInfo.from_exception(failure)


def _set_property(item: pytest.Item, flops: int) -> None:
    """Make ``flops`` the test's count, instead of that of an earlier stage or attempt."""
    before = item.stash.get(PROPERTY, None)
    item.stash[PROPERTY] = ("flops", flops)
    others = [each for each in item.user_properties if each is not before]
    item.user_properties[:] = [*others, item.stash[PROPERTY]]


def _is_method(item: pytest.Item) -> TypeGuard[pytest.Function]:
    """Whether ``item`` is a method of a ``unittest.TestCase``, run together with its setUp."""
    if isinstance(item, pytest.Function) and item.cls and issubclass(item.cls, unittest.TestCase):
        return not iscoroutinefunction(item.obj)
    return False


def _expects_failure(item: pytest.Function) -> bool:
    """Whether it is decorated with ``unittest.expectedFailure``, or its class is."""
    flag = "__unittest_expecting_failure__"
    return getattr(item.obj, flag, False) or getattr(item.cls, flag, False)


def judge(budgets: list[Budget], report: Report) -> Counted:
    """What ``report`` says to all of ``budgets``."""
    verdicts = [budget.judge(report) for budget in budgets]
    measures = tuple(measure for verdict in verdicts for measure in verdict.measures)
    faults = tuple(dict.fromkeys(fault for verdict in verdicts for fault in verdict.faults))
    verdict = Verdict(measures, faults)
    return Counted("FLOP budget", verdict, text.failure(report, verdict) if faults else "")
