"""Which formulas can be wrong without a test going red: each is doubled, one at a time.

    python -m tests.tools.mutation [ROOM ...]

Without rooms (files of ``flopcount/formulas/ops``), all formulas are tried with all tests of
formulas; a named room is tried with its own tests. Every trial is a fork of a process that has
collected the tests, and runs only those that call the formula, the quickest first.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from flopcount import Cost, Gradients
from flopcount.formulas import plan, registry

TESTS = Path(__file__).parents[1] / "formulas"
ELSEWHERE = {
    "exponential": ["random"],
    "foreach": ["optimizer"],
    "pointwise": ["pointwise", "activations", "complex"],
    "pooling": ["pooling", "regions"],
    "resampling": ["resampling", "grid_sampler"],
    "attention": ["attention", "packed_attention"],
    "optimizer": ["optimizer", "every_optimizer"],
}
"""Test files of rooms that have other ones than the one of their name."""

Formula = registry.Formula

RULES = {
    "": registry._rules,
    " of sparse tensors": registry._sparse_rules,
    " of nested tensors": registry._nested_rules,
}
"""What is registered, by the kind of tensors that it is for."""


def tests_of(rooms: Iterable[str]) -> list[str]:
    """The test files of ``rooms``, or of all formulas when none is named."""
    names = [name for room in rooms for name in ELSEWHERE.get(room, [room])]
    files = [file for name in names for file in TESTS.rglob(f"test_{name}.py")]
    return list(map(str, files)) or [str(TESTS)]


def formulas(rooms: Sequence[str]) -> dict[Formula, list[str]]:
    """The formulas of ``rooms`` (of all without one), each with the ops it is registered for."""
    ops = defaultdict(list)
    for kind, rules in RULES.items():
        for name, rule in rules.items():
            if rule.formula and (not rooms or room_of(rule.formula) in rooms):
                ops[rule.formula].append(name + kind)
    return dict(ops)


def room_of(formula: Formula) -> str:
    return formula.__module__.rpartition(".")[2]


def doubled(formula: Formula) -> Formula:
    """``formula`` with twice its result."""

    @functools.wraps(formula)
    def twice(*args: Any, **kwargs: Any) -> Cost | Gradients:
        answer = formula(*args, **kwargs)
        if isinstance(answer, Cost):
            return 2 * answer
        parts = {part.name: 2 * getattr(answer, part.name) for part in fields(answer)}
        return replace(answer, **parts)

    return twice


def put(changed: Callable[[Formula], Formula]) -> None:
    """Register ``changed(formula)`` in place of each formula."""
    changed = functools.cache(changed)  # one function serves many ops
    for rules in RULES.values():
        for name, rule in rules.items():
            if rule.formula:
                rules[name] = replace(rule, formula=changed(rule.formula))
    forget()
    for known in plan._plans.values():  # some tests keep one
        if known.formula:
            known.formula = changed(known.formula)
        if known.sparse and known.sparse.formula:
            known.sparse = replace(known.sparse, formula=changed(known.sparse.formula))
        if known.nested and known.nested.formula:
            known.nested = replace(known.nested, formula=changed(known.nested.formula))


def forget() -> None:
    """Forget what calls cost, so that the next ones ask a formula."""
    for known in plan._plans.values():
        known.bills.clear()


def in_a_fork(job: Callable[[], Any]) -> Any:
    """What ``job`` answers in a copy of this process, where it may change whatever it likes."""
    with tempfile.TemporaryFile("w+") as answer:
        if not (child := os.fork()):
            try:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, 1)
                os.dup2(nowhere, 2)
                json.dump({"answer": job()}, answer)
            except BaseException:
                json.dump({"error": traceback.format_exc()}, answer)
            finally:
                answer.flush()
                os._exit(0)
        _, status = os.waitpid(child, 0)
        answer.seek(0)
        if status:
            raise RuntimeError(f"a fork ended with {status}")
        if "error" in (said := json.load(answer)):
            raise RuntimeError(said["error"])
        return said["answer"]


class Mutation:
    """A plugin of pytest that tries each formula instead of running the collected tests.

    Attributes:
        survivors: the ops of each formula that no test noticed, when pytest is done.
    """

    def __init__(self, rooms: Sequence[str] = ()) -> None:
        self.survivors: list[str] = []
        self.early: set[Formula] = set()
        put(lambda formula: noting(formula, self.early))
        self.formulas = formulas(rooms)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            raise session.Interrupted("tests cannot be collected")
        if self.early:  # what was counted with a right formula would be compared with a wrong one
            raise session.Interrupted("a formula is called while tests are collected")
        callers = self.callers(session)
        for formula, ops in self.formulas.items():
            tests = [session.items[index] for index in callers[str(id(formula))]]
            if not in_a_fork(lambda tests=tests, formula=formula: self.noticed(tests, formula)):
                self.survivors.append(f"{room_of(formula)}: {', '.join(ops)}")
                print(f"{self.survivors[-1]} ({len(tests)} tests call it)", flush=True)
        return True

    def callers(self, session: pytest.Session) -> dict[str, list[int]]:
        """The tests that call each formula, the quickest first."""

        def job() -> tuple[dict[str, list[int]], list[str]]:
            called: set[Formula] = set()
            put(lambda formula: noting(formula, called))
            tests, red = defaultdict(list), []
            for index, item in enumerate(session.items):
                called.clear()
                forget()
                start = time.perf_counter()
                if is_red([item]):
                    red.append(item.nodeid)
                for formula in called:
                    tests[str(id(formula))].append((time.perf_counter() - start, index))
            return {name: [index for _, index in sorted(of)] for name, of in tests.items()}, red

        tests, red = in_a_fork(job)
        if red:
            raise session.Interrupted(f"red without a mutation: {', '.join(red)}")
        return defaultdict(list, tests)

    def noticed(self, tests: Sequence[pytest.Item], formula: Formula) -> bool:
        put(lambda other: doubled(other) if other is formula else other)
        return is_red(tests)


def noting(formula: Formula, called: set[Formula]) -> Formula:
    """``formula``, which adds itself to ``called``."""

    @functools.wraps(formula)
    def noted(*args: Any, **kwargs: Any) -> Cost | Gradients:
        called.add(formula)
        return formula(*args, **kwargs)

    return noted


def is_red(tests: Sequence[pytest.Item]) -> bool:
    """Whether one of ``tests`` fails."""
    for item, following in zip(tests, [*tests, None][1:], strict=True):
        session = item.session
        failed = session.testsfailed
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed > failed:
            return True
    return False


def main(rooms: Sequence[str]) -> int:
    """pytest's exit code, or 1 if a formula survived."""
    torch.set_num_threads(1)
    mutation = Mutation(rooms)
    code = int(pytest.main(["-qs", "-p", "no:cacheprovider", *tests_of(rooms)], [mutation]))
    if not code:
        number = len(mutation.formulas)
        killed = number - len(mutation.survivors)
        print(f"{killed} of {number} formulas cannot be doubled unnoticed")
    return code or int(bool(mutation.survivors))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
