"""Which module does an op of the backward pass belong to?"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import grad

import flopcount
from flopcount import FlopCounter
from tests.attribution.units import U, batch, linear, units
from tests.invariants import check


def two() -> nn.Sequential:
    return nn.Sequential(linear(), linear())


class TestGradientAccumulation:
    """AccumulateGrad adds to a gradient that is there already: an addition for each parameter."""

    def steps(self, model: nn.Module, count: int) -> flopcount.Report:
        with FlopCounter(model) as counter:
            for _ in range(count):
                model(batch()).sum().backward()
        return counter.report()

    def test_it_belongs_to_the_module_that_owns_the_parameter(self) -> None:
        once, thrice = (self.steps(two(), count) for count in (1, 3))
        for path in ("0", "1"):
            backward = (
                thrice[path].phases["backward"].arith - 3 * once[path].phases["backward"].arith
            )
            assert backward == 2 * 8 * 8  # the first step has nothing to add to
        check(thrice, plain=True)

    def test_of_a_parameter_of_the_model_itself(self) -> None:
        class Scale(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = nn.Parameter(torch.ones(8, 8))
                self.inner = linear()

            def forward(self, x: Tensor) -> Tensor:
                return self.inner(x @ self.weight)

        once, twice = (self.steps(Scale(), count) for count in (1, 2))
        arith = twice.model.own.arith - 2 * once.model.own.arith
        assert arith == 8 * 8
        inner = twice["inner"].total.arith - 2 * once["inner"].total.arith
        assert inner == 8 * 8

    def test_of_a_parameter_of_an_empty_container(self) -> None:
        class Odd(nn.ModuleList):
            """Empty, hence false."""

            def __init__(self) -> None:
                super().__init__()
                self.weight = nn.Parameter(torch.ones(8, 8))

            def forward(self, x: Tensor) -> Tensor:
                return x @ self.weight

        assert not Odd()
        once, twice = (self.steps(Odd(), count) for count in (1, 2))
        assert twice.model.own.arith - 2 * once.model.own.arith == 8 * 8

    def test_of_a_parameter_whose_module_runs_later(self) -> None:
        model = nn.Sequential(linear())
        with FlopCounter(model) as counter:
            for _ in range(2):
                (batch() @ model[0].weight).sum().backward()
            assert counter.report().model.own.arith == 8 * 8
            model[0](batch()).sum().backward()
        assert counter.report()["0"].own.arith == 8 * 8

    def test_of_two_modules_whose_parameters_meet(self) -> None:
        model = nn.Sequential(linear(), linear())
        with FlopCounter(model) as counter:
            model(batch())
            for _ in range(2):
                (model[0].weight * model[1].weight).sum().backward()
        report = counter.report()
        assert report["0"].own.arith == report["1"].own.arith == 8 * 8

    def test_of_a_tensor_that_is_no_parameter_is_the_blocks(self) -> None:
        layer, weight = linear(), torch.ones(8, 8, requires_grad=True)

        def own(count: int) -> int:
            weight.grad = None
            with FlopCounter(layer) as counter:
                for _ in range(count):
                    (layer(batch()) @ weight).sum().backward()
            return counter.report().root.own.arith

        assert own(2) - 2 * own(1) == 8 * 8


def test_the_same_graph_can_be_run_twice() -> None:
    layer = linear()
    with FlopCounter(layer) as counter:
        loss = layer(batch(grad=True)).sum()
        loss.backward(retain_graph=True)
        loss.backward()
    report = counter.report()
    assert units(report.model) == {"forward": 1, "backward": 4}
    assert report.model.gradients["weight"].matmul_flops == 2 * U
    assert report.model.gradients["input"].matmul_flops == 2 * U


class TestAutogradGrad:
    def test_by_a_leaf_input(self) -> None:
        layer, x = linear(), batch(grad=True)
        with FlopCounter(layer) as counter:
            grad(layer(x).sum(), x)
        report = counter.report()
        assert units(report.model) == {"forward": 1, "backward": 1}
        assert report.model.gradients["input"].matmul_flops == U

    def test_by_an_activation(self) -> None:
        model = nn.Sequential(linear(), linear(), linear())
        with FlopCounter(model) as counter:
            hidden = model[0](batch())
            grad(model[2](model[1](hidden)).sum(), hidden)
        report = counter.report()
        assert units(report["0"]) == {"forward": 1}
        assert units(report["1"]) == units(report["2"]) == {"forward": 1, "backward": 1}
        assert units(report["1"]) == {"forward": 1, "backward": 1}
        assert report.model.gradients["weight"].matmul_flops == 0

    def test_by_a_weight(self) -> None:
        model = two()
        with FlopCounter(model) as counter:
            grad(model(batch(grad=True)).sum(), model[0].weight)
        report = counter.report()
        assert report["1"].gradients["input"].matmul_flops == U
        assert report["1"].gradients["weight"].matmul_flops == 0
        assert report["0"].gradients["weight"].matmul_flops == U
        assert report["0"].gradients["input"].matmul_flops == 0


def test_a_graph_from_between_two_entries_is_unattributed() -> None:
    layer, unseen = linear(), linear()
    counter = FlopCounter(layer)
    with counter:
        y = layer(batch())
    y = unseen(y)
    with counter:
        y.sum().backward()
    report = counter.report()
    assert units(report.model) == {"forward": 1, "backward": 1}
    assert units(report["unattributed"]) == {"backward": 2}


def test_a_graph_may_be_run_in_a_later_entry() -> None:
    layer = linear()
    counter = FlopCounter(layer)
    with counter:
        loss = layer(batch()).sum()
    with counter:
        loss.backward()
    assert units(counter.report().model) == {"forward": 1, "backward": 1}


def test_a_recorded_pass_that_begins_with_the_node_that_the_last_one_ended_with() -> None:
    """A graph of one product, whose gradient is taken twice: only the second time as a graph."""
    x, weight = batch(grad=True), torch.randn(8, 8, requires_grad=True)
    with FlopCounter() as counter:
        y = x @ weight
        torch.autograd.grad(y, x, torch.ones(4, 8), retain_graph=True)
        (slope,) = torch.autograd.grad(y, x, torch.ones(4, 8), create_graph=True)
        slope.sum().backward()
    # a product for each gradient of x, and for that of the weight by the slope
    assert units(counter.report()) == {"forward": 1, "backward": 3}
