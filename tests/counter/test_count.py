from __future__ import annotations

import copy
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import flopcount
from tests.counter.units import PRODUCT, batch, linear

x = torch.ones(4, 8)
MACS = 4 * 8 * 2


@dataclass
class Output:
    y: torch.Tensor
    note: str = ""


Pair = namedtuple("Pair", "y z")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda y: y,
        lambda y: (y, None),
        lambda y: {"y": [y]},
        lambda y: Output(y),
        lambda y: Pair(y, 1),
        lambda y: torch.view_as_complex(y),
    ],
    ids=["a tensor", "a tuple", "nested", "a dataclass", "a named tuple", "a complex tensor"],
)
def test_the_loss_reaches_every_kind_of_output(wrap: Any) -> None:
    layer = nn.Linear(8, 2)
    report = flopcount.count(lambda x: wrap(layer(x)), x)
    assert report.phases["backward"].macs == MACS


def test_keyword_arguments_reach_the_model() -> None:
    report = flopcount.count(nn.Linear(8, 2), input=x)
    assert report.total.macs == 2 * MACS


def test_forward_alone() -> None:
    layer = nn.Linear(8, 2)
    report = flopcount.count(layer, x, backward=False)
    assert report.total.macs == MACS
    assert layer.weight.grad is None


def test_the_step_is_real() -> None:
    layer = nn.Linear(8, 2)
    before = layer.weight.clone()
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    report = flopcount.count(layer, x, optimizer=optimizer)
    assert report.phases["optimizer"].flops == 2 * (16 + 2)
    assert torch.equal(layer.weight, before - torch.full((2, 8), 4.0))


def test_on_meta_nothing_changes_and_the_counts_are_the_same() -> None:
    model = nn.Sequential(nn.Linear(8, 2), nn.BatchNorm1d(2))
    state = copy.deepcopy(model.state_dict())
    on_meta = flopcount.count(model, x, meta=True)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert on_meta.total == flopcount.count(model, x).total


def test_tied_weights_stay_tied_on_meta() -> None:
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    model[1].weight = model[0].weight
    assert flopcount.count(model, x, meta=True).model.params == 64


@pytest.mark.parametrize(
    "arguments", [{"backward": False}, {"meta": True}], ids=["no backward", "meta"]
)
def test_an_optimizer_needs_a_real_backward(arguments: dict[str, bool]) -> None:
    layer = nn.Linear(8, 2)
    optimizer = torch.optim.SGD(layer.parameters())
    with pytest.raises(ValueError, match="an optimizer steps after backward=True"):
        flopcount.count(layer, x, optimizer=optimizer, **arguments)


def test_without_a_gradient_there_is_nothing_to_run_backward_from() -> None:
    with pytest.raises(ValueError, match="pass backward=False"):
        flopcount.count(torch.relu, x)


class TestCount:
    def test_forward_only(self) -> None:
        report = flopcount.count(linear(), batch(), backward=False)
        assert report.total.macs == PRODUCT

    def test_any_callable(self) -> None:
        assert (
            flopcount.count(torch.mm, batch(), torch.ones(8, 8), backward=False).total.macs
            == PRODUCT
        )

    def test_keyword_arguments(self) -> None:
        assert flopcount.count(linear(), input=batch()).phases["backward"].macs == PRODUCT

    def test_every_output_that_needs_a_gradient_gets_one(self) -> None:
        class Heads(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b = linear(), linear()

            def forward(self, x: Tensor) -> Any:
                return {"a": self.a(x), "rest": [self.b(x), x.long(), None]}

        report = flopcount.count(Heads(), batch())
        assert report["a"].phases["backward"].macs == PRODUCT
        assert report["b"].phases["backward"].macs == PRODUCT

    @pytest.mark.parametrize("options", [{"backward": False}, {"meta": True}])
    def test_an_optimizer_steps_after_a_real_backward(self, options: dict[str, bool]) -> None:
        layer = linear()
        optimizer = torch.optim.SGD(layer.parameters())
        with pytest.raises(ValueError, match="an optimizer steps after backward"):
            flopcount.count(layer, batch(), optimizer=optimizer, **options)

    def test_nothing_to_run_backward_from(self) -> None:
        with pytest.raises(ValueError, match="no output of the model needs a gradient"):
            flopcount.count(linear().requires_grad_(False), batch())


def test_the_class_of_an_optimizer_is_refused() -> None:
    with pytest.raises(TypeError, match="expected an optimizer of the model's parameters"):
        flopcount.count(nn.Linear(8, 2), x, optimizer=torch.optim.SGD)


def test_a_model_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(TypeError, match="model must be a module or another callable, got 'resnet'"):
        flopcount.count("resnet", torch.ones(1))  # type: ignore[arg-type]  # the mistake
