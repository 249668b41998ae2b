"""What a program is, and what its modules are expected to cost.

The unit U is one ``Linear(8, 8, bias=False)`` on a 4 × 8 input, forward: 2·4·8·8 = 512 FLOPs of
products. Its backward is 2 U, one for the gradient of the weight and one for that of the input, or
1 U where the input needs no gradient.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "PROGRAMS",
    "Composed",
    "Made",
    "Program",
    "Row",
    "U",
    "Watch",
    "batch",
    "chain",
    "descend",
    "linear",
    "program",
    "weight",
]

U = 2 * 4 * 8 * 8
"""FLOPs of the unit."""

Step = Callable[[], Any]
"""What is counted; it returns tensors, which must be the same without a counter."""

Made = tuple["nn.Module | None", Step]
"""The model that the counter is given, if any, and the step."""

Build = Callable[..., Made]
"""Makes a program on a device."""

Watch = Callable[[], AbstractContextManager[Any]]
"""What a program that starts threads enters in each of them: the counter."""


@dataclass(frozen=True)
class Row:
    """Products of a module in units, its children's included, and how often it was called."""

    forward: float = 0
    backward: float = 0
    recompute: float = 0
    calls: int = 1
    optimizer: float = 0
    other: float = 0

    @property
    def total(self) -> float:
        """Units of all phases."""
        return self.forward + self.backward + self.recompute + self.optimizer + self.other


@dataclass(frozen=True)
class Program:
    """A program, with the rows of its report.

    Attributes:
        build: makes it.
        rows: each module of the report, by its path from the model.
        outside: what runs outside of all modules.
        warns: a report of it warns that a thread was not watched.
        uncounted: what it runs that no formula counts.
    """

    build: Build
    rows: dict[str, Row]
    outside: Row
    warns: bool
    uncounted: dict[str, int]

    def made(self, device: str, watch: Watch) -> Made:
        """The model and the step, the same at each call."""
        torch.manual_seed(0)
        if "watch" in inspect.signature(self.build).parameters:
            return self.build(device, watch)
        return self.build(device)


PROGRAMS: dict[str, Program] = {}
"""All programs by name."""


def program(
    rows: dict[str, Row],
    outside: Row = Row(),
    *,
    warns: bool = False,
    uncounted: dict[str, int] | None = None,
) -> Callable[[Build], Build]:
    """Enter a program in the catalogue, under its function's name."""

    def enter(build: Build) -> Build:
        assert build.__name__ not in PROGRAMS
        PROGRAMS[build.__name__] = Program(build, rows, outside, warns, uncounted or {})
        return build

    return enter


class Composed(nn.Module):
    """A module of the given parts, whose forward is ``run(self, …)``."""

    def __init__(self, run: Callable[..., Any], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self, *args, **kwargs)


def linear(device: str) -> nn.Linear:
    """The layer of the unit."""
    return nn.Linear(8, 8, bias=False, device=device)


def chain(device: str, length: int) -> nn.Sequential:
    """Some of these layers, one after the other."""
    return nn.Sequential(*(linear(device) for _ in range(length)))


def batch(device: str, *, grad: bool = False) -> Tensor:
    """The input of the unit."""
    return torch.randn(4, 8).to(device).requires_grad_(grad)


def weight(device: str) -> nn.Parameter:
    """What such a layer holds, for modules that multiply by themselves."""
    return nn.Parameter(torch.randn(8, 8).to(device))


def descend(output: Tensor) -> Tensor:
    """Backward from the sum of ``output``."""
    loss = output.sum()
    loss.backward()
    return loss
