"""Custom functions around kernels that torch does not see, with a formula and without one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

import flopcount
from flopcount import Cost
from tests.programs.catalogue import (
    Composed,
    Made,
    Row,
    batch,
    chain,
    descend,
    linear,
    program,
    weight,
)


def unseen(a: Tensor, b: Tensor) -> Tensor:
    """A product outside of torch."""
    product = a.detach().cpu().numpy() @ b.detach().cpu().numpy()
    return torch.from_numpy(product).to(a.device)


class Unknown(Function):
    """``x @ w``; nobody has told what it costs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return unseen(x, w)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, w = ctx.saved_tensors
        return unseen(gradient, w.T), unseen(x.T, gradient)


class Known(Unknown):
    """The same, with a formula: a product forward, two backward."""


def backward_cost(gradient: Tensor, *, out: Any) -> Cost:
    return Cost(macs=2 * 4 * 8 * 8)


@flopcount.formula(Known, backward=backward_cost)
def forward_cost(x: Tensor, w: Tensor, *, out: Any) -> Cost:
    return Cost(macs=4 * 8 * 8)


class Reversed(Function):
    """Gradient reversal: it computes nothing forward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


class OfOps(Function):
    """``x @ w`` by torch's own ops."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return x @ w

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, w = ctx.saved_tensors
        return gradient @ w.T, x.T @ gradient


def layer(device: str, function: Any) -> nn.Module:
    return Composed(lambda self, x: function.apply(x, self.w), w=weight(device))


def between(device: str, function: Any) -> Made:
    """A layer of the function between two that torch knows."""
    model = nn.Sequential(linear(device), layer(device, function), linear(device))
    return model, lambda: descend(model(batch(device)))


THREE = {"": Row(3, 5), "0": Row(1, 1), "1": Row(1, 2), "2": Row(1, 2)}


@program(THREE)
def a_kernel_with_a_formula(device: str) -> Made:
    return between(device, Known)


@program({**THREE, "": Row(2, 3), "1": Row()}, uncounted={"Unknown": 1, "UnknownBackward": 1})
def a_kernel_without_a_formula(device: str) -> Made:
    return between(device, Unknown)


@program(THREE)
def a_function_of_ops(device: str) -> Made:
    return between(device, OfOps)


@program(
    {
        "": Row(3, 6, 2),
        "0": Row(1, 2, 1),
        "1": Row(1, 2, 1),
        "2": Row(1, 2),
    }
)
def a_checkpointed_kernel_with_a_formula(device: str) -> Made:
    """The last layer keeps its input, so that its product does not run again."""
    model, _ = between(device, Known)
    x = batch(device, grad=True)
    return model, lambda: descend(checkpoint(model, x, use_reentrant=False))


@program({"": Row(2, 3), "0": Row(1, 1), "1": Row(1, 2)})
def reversed_gradients(device: str) -> Made:
    model = chain(device, 2)
    return model, lambda: descend(Reversed.apply(model(Reversed.apply(batch(device)))))


@program({"": Row(1, 1)}, Row(2, 4))
def kernels_outside_of_modules(device: str) -> Made:
    model, w = linear(device), weight(device)
    return model, lambda: descend(Known.apply(Known.apply(model(batch(device)), w), w))
