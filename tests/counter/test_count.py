from __future__ import annotations

import copy
import functools
from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace
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


OUTPUTS: dict[str, tuple[Any, Any]] = {
    "a namespace": (lambda y: SimpleNamespace(y=y), lambda out: out.y.sum()),
    "a distribution": (
        lambda y: torch.distributions.Normal(y, 1.0, validate_args=False),  # that reads values
        lambda out: out.mean.sum(),
    ),
    "a generator": (lambda y: (part for part in [y]), lambda out: next(out).sum()),
    "a function": (lambda y: lambda: y, lambda out: out().sum()),
    "a tensor": (lambda y: y, lambda out: out.mean()),
}


class TestLoss:
    """``loss=`` is where backward runs from, for outputs that nobody can look into."""

    @pytest.mark.parametrize("meta", [False, True])
    @pytest.mark.parametrize("name", OUTPUTS)
    def test_backward_runs_from_it(self, name: str, meta: bool) -> None:
        wrap, loss = OUTPUTS[name]

        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = linear()

            def forward(self, x: Tensor) -> Any:
                return wrap(self.layer(x))

        report = flopcount.count(Model(), batch(), loss=loss, meta=meta)
        assert report["layer"].phases["backward"].macs == PRODUCT
        assert report.root.own.flops > 0  # the loss itself, outside the model

    @pytest.mark.parametrize("name", [*OUTPUTS][:4])
    def test_without_it_the_error_names_what_was_returned(self, name: str) -> None:
        output = OUTPUTS[name][0](linear()(batch()))
        found = f"it returned {type(output).__name__}, in which no tensor was found; pass .* loss=,"
        with pytest.raises(ValueError, match=found):
            flopcount.count(lambda x: output, batch())

    @pytest.mark.parametrize(
        ("output", "found"),
        [
            (x, r"it returned float32\[4, 8\] that needs no gradient"),
            ({"a": [x, None]}, r"it returned dict of float32\[4, 8\], none of which needs a"),
            (None, "it returned None;"),
            (SimpleNamespace(a=1), "it returned SimpleNamespace, in which no tensor was found"),
        ],
    )
    def test_tensors_without_a_gradient_are_told_from_none(self, output: Any, found: str) -> None:
        with pytest.raises(ValueError, match=found):
            flopcount.count(lambda x: output, batch())

    @pytest.mark.parametrize(
        ("loss", "found"),
        [
            (3, "loss must be a function of the model's output, got 3"),
            (lambda y: 3.0, "got float, in which no tensor was found"),
            (lambda y: y, r"got float32\[4, 8\] that needs a gradient"),
            (lambda y: y.detach().sum(), r"got float32\[\] that needs no gradient"),
        ],
    )
    def test_what_is_no_loss_is_refused(self, loss: Any, found: str) -> None:
        with pytest.raises(TypeError, match=found):
            flopcount.count(linear(), batch(), loss=loss)

    def test_it_needs_backward(self) -> None:
        with pytest.raises(ValueError, match="it needs backward=True"):
            flopcount.count(linear(), batch(), backward=False, loss=torch.sum)

    def test_a_module_may_be_the_loss_and_goes_to_meta_too(self) -> None:
        class Weighted(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.register_buffer("weight", torch.ones(8))

            def forward(self, y: Tensor) -> Tensor:
                return (y * self.weight).sum()

        report = flopcount.count(linear(), batch(), loss=Weighted(), meta=True)
        assert report.phases["backward"].macs == PRODUCT


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


def test_a_bound_method_names_the_model() -> None:
    model = nn.Sequential(linear())
    report = flopcount.count(functools.partial(model.forward), batch())
    assert report.model.type == "Sequential"
    assert report["0"].total.macs == 2 * PRODUCT
