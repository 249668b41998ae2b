"""Which tool gives which module its due: rows of hard programs beside those derived by hand.

Each program of ``tests/programs`` runs under flopcount, under torch's ``FlopCounterMode``,
and under a small dispatch mode that asks torch's ``ModTracker`` for modules and flopcount for the
cost of an op, so that only attribution is compared. Compared are FLOPs of products, all phases
together, of the whole program and of each module that was called; a module that a tool does not
show has none, and one that its caller does not own is no part of its caller. torch's tools learn
the model's names before it runs, not only when it is called. Each program runs in a process of its
own for each tool, since what one leaves behind would spoil the next.
"""

from __future__ import annotations

import multiprocessing
import re
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from math import prod
from typing import Any, Protocol

import torch
from torch import nn
from torch.distributed._tools.mod_tracker import ModTracker
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import flopcount
from benchmarks.figures import Figures, Target
from benchmarks.markdown import table
from benchmarks.progress import each
from flopcount import FlopCounter
from flopcount.formulas import Decision, plan
from tests.programs import PROGRAMS, Program, U

WHOLE = "Global"
"""What torch's trackers call that which is outside of all modules, and all together."""

aten = torch.ops.aten

MISSING = {op: lambda a, b, **shapes: 2 * prod(a) for op in (aten.mv, aten.vdot)}
"""Products that torch's counter has no formula for, lest it be blamed for its modules."""

SECONDS = 60
"""How long a program may take; each is a few products."""


class Tool(Protocol):
    """A tool at work: ``watch`` is what another thread enters."""

    def watch(self) -> AbstractContextManager[Any]:
        """What another thread enters."""

    def rows(self) -> dict[str, float]:
        """FLOPs of products by full path, a root being named by its class."""


class Ours:
    """flopcount."""

    def __init__(self, model: nn.Module | None, stack: ExitStack) -> None:
        self.counter = stack.enter_context(FlopCounter(model))

    def watch(self) -> AbstractContextManager[Any]:
        return self.counter

    def rows(self) -> dict[str, float]:
        report = self.counter.report()
        nodes = zip(report.modules, report.root.walk(), strict=True)
        return {module.path or WHOLE: node.total.matmul_flops for module, node in nodes}


class Torchs:
    """torch's own counter."""

    def __init__(self, model: nn.Module | None, stack: ExitStack) -> None:
        self.counter = stack.enter_context(FlopCounterMode(display=False, custom_mapping=MISSING))
        if model is not None:
            self.counter.mod_tracker._get_mod_name(model)

    def watch(self) -> AbstractContextManager[Any]:
        assert self.counter.mode is not None
        return self.counter.mode

    def rows(self) -> dict[str, float]:
        return {name: sum(ops.values()) for name, ops in self.counter.get_flop_counts().items()}


class Tracked(TorchDispatchMode):
    """Adds flopcount's cost of each op to the modules that ``ModTracker`` names."""

    def __init__(self, tracker: ModTracker) -> None:
        super().__init__()
        self.tracker = tracker
        self.flops: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        decided = plan(func)
        if decided.decision is Decision.COMPOSITE:
            with self:
                return func.decompose(*args, **kwargs)
        out = func(*args, **kwargs)
        if decided.decision is not Decision.VIEW:
            bill = decided.bill(args, kwargs, out)
            for name in self.tracker.parents:
                self.flops[name] += (bill.cost + bill.recompute).matmul_flops
        return out


class Trackers:
    """torch's tracker of modules, with flopcount's costs."""

    def __init__(self, model: nn.Module | None, stack: ExitStack) -> None:
        tracker = stack.enter_context(ModTracker())
        if model is not None:
            tracker._get_mod_name(model)
        self.mode = Tracked(tracker)
        stack.enter_context(self.mode)

    def watch(self) -> AbstractContextManager[Any]:
        return self.mode

    def rows(self) -> dict[str, float]:
        return self.mode.flops


TOOLS: dict[str, Callable[[nn.Module | None, ExitStack], Tool]] = {
    "flopcount": Ours,
    "FlopCounterMode": Torchs,
    "ModTracker": Trackers,
}


VERSIONS = {
    "flopcount": f"flopcount {flopcount.__version__}",
    "FlopCounterMode": f"torch {torch.__version__}",
    "ModTracker": f"torch {torch.__version__}",
}
"""Where each tool comes from."""


def full_path(path: str, model: nn.Module | None) -> str:
    """The path of a module as seen from the block: under the class of the model, or a root's."""
    name = path.partition(".")[0]
    if model is None or (name and not isinstance(getattr(model, name, None), nn.Module)):
        return path
    return f"{type(model).__name__}.{path}".removesuffix(".")


def expected_rows(program: Program, model: nn.Module | None) -> dict[str, float]:
    """FLOPs by full path of what was called, and of the whole program."""
    rows = {full_path(path, model): row for path, row in program.rows.items()}
    whole = program.outside.total + sum(row.total for path, row in rows.items() if "." not in path)
    called = {path: row.total * U for path, row in rows.items() if row.calls}
    return {WHOLE: whole * U, **called}


def verdict(name: str, tool: str) -> str:
    """What ``tool`` makes of a program: "right", which rows are wrong, or what it raised."""
    program = PROGRAMS[name]

    def watch() -> AbstractContextManager[Any]:
        return using.watch()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model, step = program.made("cpu", watch)
            expected = expected_rows(program, model)
            with ExitStack() as stack:
                using = TOOLS[tool](model, stack)
                step()
            found = using.rows()
        except Exception as error:
            return f"raises {type(error).__name__}"
    if program.warns and not any("thread" in str(warning.message) for warning in caught):
        return "silent about what it did not see"
    # containers that are never called have rows in one tool, and none in others
    uncalled = {full_path(path, model) for path, row in program.rows.items() if not row.calls}
    wrong = [
        f"{row} {found.get(row, 0) / flops:.2f}×" if flops else f"{row} +{found[row] / U:g} U"
        for row in dict.fromkeys([*expected, *found])
        if row not in uncalled and found.get(row, 0) != (flops := expected.get(row, 0))
    ]
    return f"wrong rows: {', '.join(wrong)}" if wrong else "right"


def verdict_apart(name: str, tool: str) -> str:
    """The verdict, found in a process of its own, in which nothing else has run."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.attribution"])
    with context.Pool(1) as pool:
        try:
            return pool.apply_async(verdict, (name, tool)).get(SECONDS)
        except multiprocessing.TimeoutError:
            return "hangs or dies"


def run(quick: bool) -> Figures:
    """Verdicts on all programs, or on every eighth."""
    torch.set_num_threads(1)
    names = list(PROGRAMS)[:: 8 if quick else 1]
    verdicts = {
        name: {tool: verdict_apart(name, tool) for tool in TOOLS}
        for name in each(names, "attribution")
    }
    right = {tool: sum(by[tool] == "right" for by in verdicts.values()) for tool in TOOLS}
    return {"tools": VERSIONS, "of": len(names), "right": right, "programs": verdicts}


def targets(figures: Figures) -> list[Target]:
    right, of = figures["right"]["flopcount"], figures["of"]
    return [Target("rows of hard programs", "all right", f"{right} of {of} programs", right == of)]


def section(figures: Figures) -> str:
    kinds: dict[str, Counter[str]] = {tool: Counter() for tool in figures["tools"]}
    for by_tool in figures["programs"].values():
        for tool, said in by_tool.items():
            kinds[tool][re.sub(r"[: ].*", "", said)] += 1
    names = {"right": "right", "wrong": "wrong rows", "raises": "raises", "silent": "silent"}
    names["hangs"] = "hangs or dies"
    lines = [
        [f"{tool} ({version})", *(kinds[tool][kind] or "" for kind in names)]
        for tool, version in figures["tools"].items()
    ]
    return (
        f"{figures['of']} programs that are hard to attribute, each with its rows derived by hand "
        "in its docstring (`tests/programs`). A tool is right if every module's FLOPs of "
        "products are; it is silent if it leaves out a thread without a word. `ModTracker` is "
        "asked for modules alone: the costs are flopcount's.\n\n"
        + table(["tool", *names.values()], lines, "lrrrrr")
    )


def detail(figures: Figures) -> str:
    lines = [
        [name.replace("_", " "), *(by_tool[tool] for tool in figures["tools"])]
        for name, by_tool in figures["programs"].items()
    ]
    return (
        f"1 U = {U} FLOPs, `Linear(8, 8)` on four samples; a factor is of the right figure.\n\n"
        + table(["program", *figures["tools"]], lines)
    )
