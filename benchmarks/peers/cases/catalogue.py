"""What a case is: a model, its inputs, and the multiply-accumulates of its products.

The figures are derived by hand, as products of sizes with their reason, or published by somebody
else; none comes from a counter. Where nothing else is said, inputs need gradients, as they do in
the middle of a network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tests.programs.catalogue import Composed

__all__ = ["LAYERS", "Build", "Case", "Made", "alone", "layer", "matrix", "x"]

Made = tuple[nn.Module, tuple[Any, ...]]
"""A model and what it is called with."""

Build = Callable[[], Made]


@dataclass(frozen=True)
class Case:
    """Something to count.

    Attributes:
        build: makes it.
        why: where the figures come from.
        forward: multiply-accumulates of products in forward.
        backward: those in backward from the sum of the outputs; None if nothing has a gradient.
        recomputed: those of forward that backward does once more. Whether they are work is a
            matter of definition (MFU and HFU), so that a figure with or without them is exact.
        slack: how far ``forward`` may be off itself, where it is published in rounded form.
    """

    build: Build
    why: str
    forward: int
    backward: int | None
    recomputed: int = 0
    slack: int = 0


LAYERS: dict[str, Case] = {}
"""Single ops and layers by name."""


def layer(forward: int, backward: int | None, *, recomputed: int = 0) -> Callable[[Build], Build]:
    """Enter a case under its function's name, with its docstring as the reason."""

    def enter(build: Build) -> Build:
        name = build.__name__.replace("_", " ")
        assert name not in LAYERS
        why = " ".join((build.__doc__ or "").split())
        LAYERS[name] = Case(build, why, forward, backward, recomputed)
        return build

    return enter


def x(*shape: int, grad: bool = True) -> Tensor:
    """An input."""
    return torch.randn(*shape, requires_grad=grad)


def matrix(*shape: int) -> nn.Parameter:
    """A parameter that a model multiplies with by itself."""
    return nn.Parameter(torch.randn(*shape))


def alone(part: nn.Module) -> nn.Module:
    """A model that consists of one layer, since not every tool shows a model that is one."""
    return Composed(lambda self, *args: self.layer(*args), layer=part)
