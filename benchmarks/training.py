"""Training steps that several benchmarks run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

__all__ = ["Step", "loss_of", "train"]

Step = Callable[[], object]


def loss_of(output: Any) -> Tensor:
    """The sum of all tensors in ``output`` that need a gradient."""
    leaves = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    first, *others = [
        (torch.view_as_real(leaf) if leaf.is_complex() else leaf).sum()
        for leaf in leaves
        if leaf.requires_grad
    ]
    return sum(others, first)


def train(
    model: nn.Module, *inputs: Any, optimizer: type[torch.optim.Optimizer] = torch.optim.SGD
) -> Step:
    """A training step: forward, backward from the sum of the output, optimizer."""
    stepper = optimizer(model.parameters(), lr=1e-6)

    def step() -> None:
        stepper.zero_grad()
        model(*inputs).sum().backward()
        stepper.step()

    return step
