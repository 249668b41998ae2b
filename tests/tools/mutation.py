"""Which formulas can be wrong without a test going red: each is doubled, one at a time.

    python -m tests.tools.mutation [FAMILY ...]

A family is a file of ``flopcount/formulas/ops``, by its path or its name (``matmul``), and is tried
with its own tests. Without families, all formulas are tried with all tests of formulas. Every trial
is a fork of a process that has collected the tests, and runs only those that call the formula, the
quickest first.
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
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from flopcount import Cost, Gradients
from flopcount.formulas import registry

TESTS = Path(__file__).parents[1] / "formulas"
ELSEWHERE = {
    "attention": ["attention", "packed_attention"],
    "nested": ["nested", "jagged"],
    "pointwise": ["pointwise", "complex"],
}
"""The test files of families whose formulas are not all tested in the file of their name."""

Formula = registry.Formula


def tests_of(families: Iterable[str]) -> list[str]:
    """The test files of ``families``; the folder of all tests of formulas if none is named.

    Raises:
        SystemExit: a test file is missing.
    """
    names = [name for family in families for name in ELSEWHERE.get(family, [family])]
    files_of = {name: [*TESTS.rglob(f"test_{name}.py")] for name in names}
    for name, files in files_of.items():
        if not files:
            raise SystemExit(f"there is no test_{name}.py in {TESTS.relative_to(Path.cwd())}")
    return [str(file) for files in files_of.values() for file in files] or [str(TESTS)]


def formulas(families: Sequence[str]) -> dict[Formula, list[str]]:
    """The formulas of ``families`` (of all if none is named), each with its ops.

    Raises:
        SystemExit: a family has no formulas.
    """
    known = {family_of(rule.formula) for _, _, rule in registry.rules() if rule.formula}
    for family in families:
        if family not in known:
            raise SystemExit(f"{family}.py in flopcount/formulas/ops has no formulas")
    ops = defaultdict(list)
    for name, kind, rule in registry.rules():
        if rule.formula and (not families or family_of(rule.formula) in families):
            ops[rule.formula].append(name if kind == "dense" else f"{name} of {kind} tensors")
    return dict(ops)


def family_of(formula: Formula) -> str:
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


def replaced(changed: Callable[[Formula], Formula]) -> AbstractContextManager[None]:
    """A context with ``changed(formula)`` in place of each formula."""
    changed = functools.cache(changed)  # one function serves many ops

    def change(name: str, rule: registry.Rule) -> registry.Rule:
        return replace(rule, formula=changed(rule.formula)) if rule.formula else rule

    return registry.replaced(change)


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
        if "error" in (reply := json.load(answer)):
            raise RuntimeError(reply["error"])
        return reply["answer"]


class Mutation:
    """A plugin of pytest that tries each formula instead of running the collected tests.

    Attributes:
        survivors: the ops of each formula that no test noticed, when pytest is done.
    """

    def __init__(self, families: Sequence[str] = ()) -> None:
        self.survivors: list[str] = []
        self.early: set[Formula] = set()
        self.formulas = formulas(families)

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self) -> Generator[None, object, object]:
        with replaced(lambda formula: noting(formula, self.early)):
            return (yield)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            raise session.Interrupted("tests cannot be collected")
        if self.early:  # what was counted with a right formula would be compared with a wrong one
            raise session.Interrupted("a formula is called while tests are collected")
        callers = self.callers(session)
        for formula, ops in self.formulas.items():
            tests = [session.items[index] for index in callers[str(id(formula))]]
            if not in_a_fork(lambda tests=tests, formula=formula: self.noticed(tests, formula)):
                self.survivors.append(f"{family_of(formula)}: {', '.join(ops)}")
                print(f"{self.survivors[-1]} ({len(tests)} tests call it)", flush=True)
        return True

    def callers(self, session: pytest.Session) -> dict[str, list[int]]:
        """The tests that call each formula, the quickest first."""

        def job() -> tuple[dict[str, list[int]], list[str]]:
            tests, red = defaultdict(list), []
            for index, item in enumerate(session.items):
                called: set[Formula] = set()
                start = time.perf_counter()
                with replaced(functools.partial(noting, called=called)):
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
        with replaced(lambda other: doubled(other) if other is formula else other):
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


def main(families: Sequence[str]) -> int:
    """Try the formulas of ``families``; returns pytest's exit code, or 1 if one survived."""
    families = [Path(family).stem for family in families]
    torch.set_num_threads(1)
    mutation = Mutation(families)
    code = int(pytest.main(["-qs", "-p", "no:cacheprovider", *tests_of(families)], [mutation]))
    if not code:
        number = len(mutation.formulas)
        killed = number - len(mutation.survivors)
        print(f"{killed} of {number} formulas cannot be doubled unnoticed")
    return code or int(bool(mutation.survivors))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
