"""Compiled autograd: the compiler would run backward as one graph, of no module."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo import compiled_autograd as ca
from torch.utils.checkpoint import checkpoint

from flopcount import FlopCounter
from tests.attribution.units import batch, linear, paths, units
from tests.counter.observation import Notes, assert_undisturbed
from tests.invariants import check


@pytest.fixture(autouse=True)
def fresh() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def as_it_is(graph: Any) -> Any:
    return graph


class Graphs:
    """A compiler that keeps its graphs."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self, graph: Any) -> Any:
        self.number += 1
        return graph


def two() -> nn.Sequential:
    return nn.Sequential(linear(), linear())


def plain(model: nn.Module) -> Tensor:
    return model(batch()).sum()


def twice(model: nn.Module) -> Tensor:
    loss = model(batch()).sum()
    loss.backward(retain_graph=True)
    return loss


def checkpointed(model: nn.Module) -> Tensor:
    return checkpoint(model, batch(), use_reentrant=False).sum()


PROGRAMS: dict[Callable[[nn.Module], Tensor], dict[str, int]] = {
    plain: {"forward": 2, "backward": 3},
    twice: {"forward": 2, "backward": 6},
    checkpointed: {"forward": 2, "backward": 3, "recompute": 1},  # it stops at the last layer
}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("inside", [False, True])
def test_backward_counts_node_by_node(program: Any, inside: bool) -> None:
    model = two()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if inside:
            with FlopCounter(model) as counter, ca._enable(as_it_is):
                program(model).backward()
        else:
            with ca._enable(as_it_is), FlopCounter(model) as counter:
                program(model).backward()
    report = counter.report()
    check(report, plain=True)
    assert paths(report) == ["", "0", "1"]
    assert units(report) == PROGRAMS[program]


def test_three_layers_by_hand() -> None:
    """4·8·(8 + 8) MACs forward; in backward two gradients of weights, one of an input."""
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    with ca._enable(as_it_is), FlopCounter(model) as counter:
        model(batch()).sum().backward()
    forward = 4 * 8 * (8 + 2)
    assert counter.report().model_flops == 2 * (forward + forward + 4 * 8 * 2)


def test_it_is_on_again_after_each_pass_whatever_happens() -> None:
    model, graphs = two(), Graphs()

    def fail(gradient: Tensor) -> None:
        raise ValueError("a hook")

    with ca._enable(graphs):
        with FlopCounter(model), FlopCounter():
            model(batch()).sum().backward()
            assert ca.compiled_autograd_enabled
            y = model(batch())
            y.register_hook(fail)
            with pytest.raises(ValueError, match="a hook"):
                y.sum().backward()
            assert ca.compiled_autograd_enabled
        assert graphs.number == 0
        model(batch()).sum().backward()
        assert graphs.number == 1
    assert not ca.compiled_autograd_enabled


def test_a_pass_inside_a_pass() -> None:
    inner = linear()

    class Inner(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 1

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            with torch.enable_grad():
                inner(batch()).sum().backward()
            return gradient

    with ca._enable(as_it_is):
        with FlopCounter(inner) as counter:
            Inner.apply(inner(batch())).sum().backward()
        assert ca.compiled_autograd_enabled
    assert units(counter.report()) == {"forward": 1, "backward": 1 + 1, "recompute": 1}


def test_gradients_are_those_of_the_program_alone() -> None:
    def run(notes: Notes) -> Any:
        torch.manual_seed(0)
        model = two()
        with ca._enable(as_it_is):
            model(batch()).square().sum().backward()
        return [p.grad for p in model.parameters()]

    assert_undisturbed(run)
