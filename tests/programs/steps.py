"""Optimizers' steps, whoever defines them, and what runs beside them without gradients.

Each step multiplies the gradient of each weight by the weight: 8 · 8 · 8 MACs, which are 2 units.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.programs.catalogue import Made, Row, batch, chain, descend, program


def move(p: Tensor) -> None:
    """Change a weight by its gradient times itself."""
    p.data.sub_(p.grad @ p.data, alpha=0.1)


def move_all(optimizer: torch.optim.Optimizer, closure: Any) -> Any:
    loss = closure() if closure else None
    for p in optimizer.param_groups[0]["params"]:
        move(p)
    return loss


class Hooked(torch.optim.Optimizer):
    """One whose steps torch tells."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})

    def step(self, closure: Any = None) -> Any:
        return move_all(self, closure)


class NoInit(torch.optim.Optimizer):
    """One whose steps it does not tell."""

    def __init__(self, params: Any) -> None:
        self.param_groups = [{"params": list(params)}]

    def step(self, closure: Any = None) -> Any:
        return move_all(self, closure)


class Around:
    """A wrapper that does a step's work again, without gradients, and lets another step."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()

    @torch.no_grad()
    def step(self) -> None:
        for p in self.optimizer.param_groups[0]["params"]:
            move(p)
        self.optimizer.step()


STEP = {"": Row(2, 3), "0": Row(1, 1), "1": Row(1, 2)}
"""The rows of two layers, one after the other."""


def stepping(device: str, make: Any, *, times: int = 1) -> Made:
    model = chain(device, 2)
    optimizer = make(model.parameters())

    def step() -> Tensor:
        loss = torch.zeros(())
        for _ in range(times):
            loss = descend(model(batch(device)))
            optimizer.step()
        return loss

    return model, step


@program(STEP, Row(optimizer=4))
def a_step_that_torch_tells(device: str) -> Made:
    return stepping(device, Hooked)


@program(
    {"": Row(4, 6, calls=2), "0": Row(2, 2, calls=2), "1": Row(2, 4, calls=2)}, Row(optimizer=8)
)
def two_steps_of_an_optimizer_without_its_init(device: str) -> Made:
    return stepping(device, NoInit, times=2)


@program(STEP, Row(optimizer=8))
def a_step_around_another(device: str) -> Made:
    return stepping(device, lambda params: Around(Hooked(params)))


@program(STEP, Row(optimizer=8))
def a_step_around_one_without_its_init(device: str) -> Made:
    return stepping(device, lambda params: Around(NoInit(params)))


def closing(device: str, make: Any) -> Made:
    model = chain(device, 2)
    optimizer = make(model.parameters())
    x, other = batch(device), torch.randn(8, 8).to(device)

    def closure() -> Tensor:
        other @ other  # 2 units, of no step
        with torch.no_grad():
            other @ other
        return descend(model(x))

    return model, lambda: optimizer.step(closure)


@program(STEP, Row(forward=2, optimizer=4, other=2))
def the_closure_of_a_step_that_torch_tells(device: str) -> Made:
    return closing(device, Hooked)


@program(STEP, Row(forward=2, optimizer=4, other=2))
def the_closure_of_a_step_without_hooks(device: str) -> Made:
    return closing(device, NoInit)


@program(STEP, Row(forward=1, other=3))
def products_outside_of_modules_without_gradients(device: str) -> Made:
    """Three are a metric; the one with gradients on is forward."""
    model, x = chain(device, 2), batch(device)
    scale = torch.randn(8, 8).to(device)

    def step() -> Tensor:
        y = model(x)
        with torch.no_grad():
            y @ scale
            nn.functional.linear(nn.functional.linear(y, scale), scale)
        y.detach() @ scale
        return descend(y)

    return model, step


@program(STEP, Row(optimizer=4, other=4))
def an_average_of_weights_between_steps(device: str) -> Made:
    model = chain(device, 2)
    optimizer, mean = NoInit(model.parameters()), [p.detach().clone() for p in model.parameters()]

    @torch.no_grad()
    def average() -> None:
        for kept, p in zip(mean, model.parameters(), strict=True):
            kept.copy_(kept @ p)

    def step() -> list[Tensor]:
        loss = descend(model(batch(device)))
        optimizer.step()
        average()
        return [loss, *mean]

    return model, step


@program(STEP)
def backward_under_compiled_autograd(device: str) -> Made:
    model, x = chain(device, 2), batch(device)
    from torch._dynamo.compiled_autograd import _enable

    def step() -> Tensor:
        with _enable(torch.compile(backend="eager")):
            return descend(model(x))

    return model, step
