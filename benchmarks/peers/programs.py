"""The hard programs of ``tests/programs``, asked of each tool as far as it can tell.

flopcount, torch's ``FlopCounterMode`` and its ``ModTracker`` watch the whole program. They are
judged on all of its rows, all phases together. torch's tools learn the model's names before it
runs, and ``ModTracker`` is asked for modules alone: the costs are flopcount's. ``torch.profiler``
watches the program as well, but has only a total. A module that a tool does not show costs nothing
there, and one that its caller does not own is no part of its caller.

The others take a model and count its forward. For them a module runs the program without its
backward, and they are judged on the total, and on the rows of the modules that the model owns.
Programs that need a gradient to go on, and the one that is about a warning, are not for them.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from math import prod
from typing import Any, Protocol
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.distributed._tools.mod_tracker import ModTracker
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.peers.tools import OURS, TOOLS, Answer, profiler
from benchmarks.peers.verdicts import NOT_OFFERED
from flopcount import FlopCounter
from tests.programs import PROGRAMS, Program, U

__all__ = ["RIGHT", "SILENT", "WRONG", "parts", "verdict"]

RIGHT, WRONG = "right", "wrong"
SILENT = "silent about what it did not see"

MAC = U / 2
"""The unit of the programs' rows, in MACs."""

WHOLE = "Global"
"""What torch's trackers call the work outside of all modules, and all work together."""


def verdict(name: str, tool: str) -> str:
    """Whether ``tool`` is right about the total of a program / about its rows, or both at once."""
    program = PROGRAMS[name]
    try:
        if tool in WATCHERS:
            total, rows = watched(program, tool)
        elif program.warns and tool != "torch.profiler":
            return NOT_OFFERED
        else:
            total, rows = counted(program, tool)
    except Exception as error:
        return f"raises {type(error).__name__}"
    return total if total == rows else f"{total} / {rows}"


def parts(verdict: str) -> tuple[str, str]:
    """The two parts of a verdict: on a program's total, and on its rows."""
    total, _, rows = verdict.partition(" / ")
    return total, rows or total


def judged(is_right: bool) -> str:
    """The verdict on one figure."""
    return RIGHT if is_right else WRONG


# -- tools that watch a program, and have rows


class Watcher(Protocol):
    """A tool at work."""

    def watch(self) -> AbstractContextManager[Any]:
        """The context that another thread enters."""

    def rows(self) -> dict[str, float]:
        """FLOPs of products by full path; a root is named by its class."""


class Flopcount:
    """flopcount."""

    def __init__(self, model: nn.Module | None, stack: ExitStack) -> None:
        self.counter = stack.enter_context(FlopCounter(model))

    def watch(self) -> AbstractContextManager[Any]:
        return self.counter

    def rows(self) -> dict[str, float]:
        report = self.counter.report()
        nodes = zip(report.modules, report.root.walk(), strict=True)
        return {module.path or WHOLE: node.total.matmul_flops for module, node in nodes}


MISSING = {
    op: lambda a, b, **shapes: 2 * prod(a) for op in (torch.ops.aten.mv, torch.ops.aten.vdot)
}
"""Products that torch's counter has no formula for; its modules are not blamed for them."""


class Torchs:
    """torch's own counter."""

    def __init__(self, model: nn.Module | None, stack: ExitStack) -> None:
        counter = FlopCounterMode(display=False, custom_mapping=MISSING)
        self.counter = stack.enter_context(counter)
        if model is not None:
            self.counter.mod_tracker._get_mod_name(model)

    def watch(self) -> AbstractContextManager[Any]:
        assert self.counter.mode is not None
        return self.counter.mode

    def rows(self) -> dict[str, float]:
        return {name: sum(ops.values()) for name, ops in self.counter.get_flop_counts().items()}


class Trackers(TorchDispatchMode):
    """torch's tracker of modules; the costs of the ops are flopcount's."""

    def __init__(self, model: nn.Module | None, stack: ExitStack) -> None:
        super().__init__()
        self.tracker = stack.enter_context(ModTracker())
        self.flops: Counter[str] = Counter()
        if model is not None:
            self.tracker._get_mod_name(model)
        stack.enter_context(self)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with FlopCounter() as counter:
            out = func(*args, **(kwargs or {}))
        for name in self.tracker.parents:
            self.flops[name] += counter.report().total.matmul_flops
        return out

    def watch(self) -> AbstractContextManager[Any]:
        return self

    def rows(self) -> dict[str, float]:
        return dict(self.flops)


WATCHERS: dict[str, Callable[[nn.Module | None, ExitStack], Watcher]] = {
    OURS: Flopcount,
    "FlopCounterMode": Torchs,
    "ModTracker": Trackers,
}


def full_path(path: str, model: nn.Module | None) -> str:
    """The path of a module from the block down; it begins with the class of the root."""
    return f"{type(model).__name__}.{path}".removesuffix(".") if owned(path, model) else path


def owned(path: str, model: nn.Module | None) -> bool:
    """Whether the row belongs to a module that the model owns."""
    name = path.partition(".")[0]
    return model is not None and (not name or isinstance(getattr(model, name, None), nn.Module))


def expected_rows(program: Program, model: nn.Module | None) -> dict[str, float]:
    """The right FLOPs by full path, and of the whole program."""
    rows = {full_path(path, model): row for path, row in program.rows.items()}
    whole = program.outside.total + sum(row.total for path, row in rows.items() if "." not in path)
    called = {path: row.total * U for path, row in rows.items() if row.calls}
    return {WHOLE: whole * U, **called}


def amiss(row: str, flops: float, right: float) -> str:
    """A wrong row, and by how much it is wrong."""
    return f"{row} {flops / right:.2f}×" if right else f"{row} +{flops / U:g} U"


def watched(program: Program, tool: str) -> tuple[str, str]:
    """The verdicts on a tool that has rows, with the wrong rows named."""

    def watch() -> AbstractContextManager[Any]:
        return using.watch()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model, step = program.made("cpu", watch)
        expected = expected_rows(program, model)
        with ExitStack() as stack:
            using = WATCHERS[tool](model, stack)
            step()
        counted = using.rows()
    if program.warns and not any("thread" in str(warning.message) for warning in caught):
        return SILENT, SILENT
    # containers that are never called have rows in one tool, and none in others
    uncalled = {full_path(path, model) for path, row in program.rows.items() if not row.calls}
    wrong = {
        row: amiss(row, counted.get(row, 0), expected.get(row, 0))
        for row in dict.fromkeys([*expected, *counted])
        if row not in uncalled and counted.get(row, 0) != expected.get(row, 0)
    }
    rows = f"wrong rows: {', '.join(wrong.values())}" if wrong else RIGHT
    return judged(WHOLE not in wrong), rows


# -- tools that count


class Running(nn.Module):
    """A module whose forward is that of a program, its model a submodule."""

    def __init__(self, model: nn.Module | None, step: Callable[[], Any]) -> None:
        super().__init__()
        self.model, self.step = model, step
        self.unused = nn.Parameter(torch.zeros(1))  # not every tool takes a model without one
        for number, cell in enumerate(getattr(step, "__closure__", None) or ()):
            if isinstance(cell.cell_contents, Tensor):  # the program's inputs, for a tracer
                self.register_buffer(f"input{number}", cell.cell_contents)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad(), patch.object(torch.autograd, "_engine_run_backward", skip):
            results = self.step()
        # what is computed for nothing is not traced
        return x, *(leaf for leaf in tree_leaves(results) if isinstance(leaf, Tensor))


def skip(*args: Any, accumulate_grad: bool, **options: Any) -> None:
    """Skip ``backward``; ``autograd.grad``, whose result is needed, is an error."""
    if not accumulate_grad:
        raise NotImplementedError


def runs(program: Program) -> bool:
    """Whether a program runs without any gradient."""
    try:
        Running(*program.made("cpu", nullcontext))(torch.zeros(1))
    except Exception:  # a program without its gradients may fail in any way, and is not asked of
        return False
    return True


def counted(program: Program, tool: str) -> tuple[str, str]:
    """The verdicts on a tool that counts the whole program, or its forward."""
    model, step = program.made("cpu", nullcontext)
    if tool == "torch.profiler":
        macs = profiler(nn.Module(), step).macs
        if program.warns and not macs:
            return SILENT, NOT_OFFERED
        return judged(macs == expected_rows(program, model)[WHOLE] / 2), NOT_OFFERED
    measure = TOOLS[tool].forward
    if measure is None or not runs(program):
        return NOT_OFFERED, NOT_OFFERED
    return forward_verdict(program, model, measure(Running(model, step), (torch.zeros(1),)))


def forward_verdict(program: Program, model: nn.Module | None, answer: Answer) -> tuple[str, str]:
    """The verdicts on what a tool answers about a program's forward."""
    roots = [row.forward for path, row in program.rows.items() if "." not in full_path(path, model)]
    total = answer.macs == MAC * (program.outside.forward + sum(roots))
    if answer.rows is None:
        return judged(total), NOT_OFFERED
    by_module = total and all(
        answer.rows.get(f"model.{path}".strip("."), 0) == MAC * row.forward
        for path, row in program.rows.items()
        if row.calls and owned(path, model)
    )
    return judged(total), judged(by_module)
