"""What is a step, and what is not: where parameters are kept, trainers, functions, errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flopcount import FlopCounter
from tests.attribution.optimizers import UPDATE, Plain, flops, update
from tests.attribution.units import batch, linear, units


class InSlots:
    __slots__ = ("params",)

    def __init__(self, params: Iterable[Tensor]) -> None:
        self.params = list(params)

    def step(self) -> None:
        for p in self.params:
            update(p)


class InOneSlot:
    __slots__ = "params"  # noqa: PLC0205  (Python allows it)

    def __init__(self, params: Iterable[Tensor]) -> None:
        self.params = list(params)

    def step(self) -> None:
        for p in self.params:
            update(p)


class InDicts:
    def __init__(self, params: Iterable[Tensor]) -> None:
        self.groups = [{"weights": list(params)}]

    def step(self) -> None:
        for group in self.groups:
            for p in group["weights"]:
                update(p)


class ByName:
    def __init__(self, params: Iterable[Tensor]) -> None:
        self.params = [(str(i), p) for i, p in enumerate(params)]

    def step(self) -> None:
        for _, p in self.params:
            update(p)


class OfParameters(Plain):
    """It takes weights themselves into a sum, with gradients on."""

    def step(self) -> None:
        for p in self.params:
            p.data = p.data - (p.grad + p * 0.0).detach()


@pytest.mark.parametrize("make", [InSlots, InOneSlot, InDicts, ByName, OfParameters])
def test_where_parameters_are_kept(make: Callable[..., Any]) -> None:
    layer = linear()
    optimizer = make(layer.parameters())
    with FlopCounter(layer) as counter:
        layer(batch()).sum().backward()
        optimizer.step()
    work = 3 * 64 if make is OfParameters else UPDATE
    assert flops(counter.report()) == {"optimizer": work}


def test_a_trainer_that_clears_gradients_is_no_optimizer() -> None:
    class Trainer:
        def __init__(self) -> None:
            self.model = linear()
            self.params = list(self.model.parameters())
            self.optimizer = torch.optim.SGD(self.params, lr=0.1, foreach=False)

        def zero_grad(self) -> None:
            self.optimizer.zero_grad()

        def step(self, x: Tensor) -> None:
            x = x * 2.0
            (self.model(x) - x).square().sum().backward()
            self.optimizer.step()
            with torch.no_grad():
                x * x

    trainer = Trainer()
    with FlopCounter() as counter:
        for _ in range(2):
            trainer.step(batch())
    assert flops(counter.report()) == {"optimizer": 2 * UPDATE, "other": 2 * 32}


def step(optimizer: torch.optim.Optimizer, layer: nn.Module) -> None:
    layer(batch()).square().sum().backward()
    optimizer.step()


def test_a_function_of_that_name_is_no_step() -> None:
    layer = linear()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, foreach=False)
    with FlopCounter(layer) as counter:
        for _ in range(2):
            step(optimizer, layer)
            optimizer.zero_grad()
    assert flops(counter.report()) == {"optimizer": 2 * UPDATE}


class FailsWithHooks(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:
        raise FloatingPointError


@pytest.mark.parametrize("times", [1, 2])
def test_what_runs_after_a_step_that_raised(times: int) -> None:
    w = nn.Parameter(torch.ones(8, 8))
    optimizer = FailsWithHooks([w])
    with FlopCounter() as counter:
        for _ in range(times):
            with pytest.raises(FloatingPointError):
                optimizer.step()
        (batch() @ w).sum().backward()
    assert units(counter.report()) == {"forward": 1, "backward": 1}
    assert not flops(counter.report())


def test_the_closure_of_a_step_inside_a_module() -> None:
    """As a model that adapts to each input; its own weight stays."""

    class Adapts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = linear()

        def forward(self, x: Tensor) -> Tensor:
            z = nn.Parameter(torch.zeros(4, 8))
            optimizer = torch.optim.SGD([z], lr=0.1, foreach=False)

            def closure() -> Tensor:
                loss = (self.layer(z) - x).square().sum()  # 32 + 32 + 31
                loss.backward()
                return loss

            optimizer.step(closure)
            y: Tensor = self.layer(z.detach())
            return y

    model = Adapts()
    with FlopCounter(model) as counter:
        model(batch())
    report = counter.report()
    assert report.model.phases["optimizer"].flops == 2 * 32
    assert report.model.own.flops - 2 * 32 - 2 * 32 == 32 + 32 + 31
    assert units(report["layer"]) == {"forward": 2, "backward": 2}
