"""The attribution programs, put to each tool as far as it goes.

flopcount and ``FlopCounterMode`` watch the whole program, and are judged on all of its rows, all
phases together; ``torch.profiler`` watches it, too, and has a total and no rows. The others take a
model and offer its forward: for them a module runs the program without its backward, and they are
judged on its total, and on the rows of the modules that the model owns. Programs that need a
gradient to go on are not for them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from benchmarks import attribution
from benchmarks.peers.adapters import Found, profiler
from benchmarks.peers.tools import TOOLS
from tests.programs import PROGRAMS, Program, U

__all__ = ["NAMES", "verdict"]

NAMES = [name for name, program in PROGRAMS.items() if not program.warns]
"""Those that are about counts, and not about a warning."""

MAC = U / 2
"""The unit of the programs' rows, in MACs."""

RIGHT, WRONG, NOT_OFFERED = "right", "wrong", "not offered"


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
            found = self.step()
        # what is computed for nothing is not traced
        return x, *(leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor))


def skip(*args: Any, accumulate_grad: bool, **options: Any) -> None:
    """Instead of backward nothing, and of ``autograd.grad`` an error: its result is needed."""
    if not accumulate_grad:
        raise NotImplementedError


def runs(program: Program) -> bool:
    """Whether a program runs without any gradient."""
    try:
        Running(*program.made("cpu", nullcontext))(torch.zeros(1))
    except Exception:  # a program without its gradients may fail in any way, and is not asked of
        return False
    return True


def verdict(name: str, tool: str) -> dict[str, str]:
    """Whether ``tool`` is right about the total of a program, and about its rows."""
    if tool in attribution.TOOLS:
        said = attribution.verdict(name, tool)
        if said.startswith("raises "):
            return {"total": said, "rows": said}
        total = re.search(rf"\b{attribution.WHOLE} ", said) is None
        return {"total": RIGHT if total else WRONG, "rows": RIGHT if said == RIGHT else WRONG}
    program = PROGRAMS[name]
    try:
        model, step = program.made("cpu", nullcontext)
        if tool == "torch.profiler":
            whole = attribution.expected_rows(program, model)[attribution.WHOLE] / 2
            total = profiler(nn.Module(), step).macs == whole
            return {"total": RIGHT if total else WRONG, "rows": NOT_OFFERED}
        if not runs(program):
            return dict.fromkeys(("total", "rows"), NOT_OFFERED)
        found = TOOLS[tool].forward(Running(model, step), (torch.zeros(1),))
    except Exception as error:
        return dict.fromkeys(("total", "rows"), f"raises {type(error).__name__}")
    return forward_verdict(program, model, found)


def forward_verdict(program: Program, model: nn.Module | None, found: Found) -> dict[str, str]:
    """Whether a tool is right about a program's forward."""
    rows = {attribution.full_path(path, model): row for path, row in program.rows.items()}
    roots = [row.forward for path, row in rows.items() if "." not in path]
    total = found.macs == MAC * (program.outside.forward + sum(roots))
    if found.rows is None:
        return {"total": RIGHT if total else WRONG, "rows": NOT_OFFERED}
    by_module = total and all(
        found.rows.get(f"model.{path}".strip("."), 0) == MAC * row.forward
        for path, row in program.rows.items()
        if row.calls and owned(path, model)
    )
    return {"total": RIGHT if total else WRONG, "rows": RIGHT if by_module else WRONG}


def owned(path: str, model: nn.Module | None) -> bool:
    """Whether a row is that of a module which the model owns."""
    name = path.partition(".")[0]
    return model is not None and (not name or isinstance(getattr(model, name, None), nn.Module))
