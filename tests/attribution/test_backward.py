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

    def test_inside_a_forward(self) -> None:
        """A model of forces: it differentiates its energy, and goes on with the result."""

        class Forces(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.energy, self.head = linear(), linear()

            def forward(self, x: Tensor) -> Tensor:
                energy = self.energy(x).sin().sum()
                (force,) = grad(energy, x, create_graph=True)
                mixed = force @ torch.ones(8, 8)
                return self.head(mixed)

        report = flopcount.count(Forces(), batch(grad=True))
        check(report, plain=True)
        # Backward of energy = sum(sin(h)), h = x·W: dx = cos(h)·Wᵀ, 1 U. Then backward of the
        # loss: head 2 U, mixed 1 U (the model's own, as its forward), the product of dx two
        # gradients, and that to cos(h) reaches h: two gradients more.
        assert units(report["head"]) == {"forward": 1, "backward": 2}
        assert own_units(report.model) == 1 + 1
        assert units(report["energy"]) == {"forward": 1, "backward": 1 + 2 + 2}


class TestDoubleBackward:
    def test_of_a_gradient_penalty(self) -> None:
        model = nn.Sequential(linear(), nn.Tanh(), linear())
        with FlopCounter(model) as counter:
            x = batch(grad=True)
            (slope,) = grad(model(x).sum(), x, create_graph=True)
            penalty = (slope @ torch.ones(8, 8)).square().sum()
            penalty.backward()
        report = counter.report()
        # First order, by x alone: 1 U in each Linear. Second order: the product of "0" in the
        # first gradient, g·W, has two gradients; that of "2", 1·W, one (1 needs none). Through
        # tanh's second derivative it reaches h = x·W: two more in "0".
        assert units(report["0"]) == {"forward": 1, "backward": 1 + 2 + 2}
        assert units(report["2"]) == {"forward": 1, "backward": 1 + 1}
        # the penalty's product belongs to the block, forward and backward
        assert own_units(report.root) == 2
        assert units(report) == {"forward": 2 + 1, "backward": 7 + 1}

    def test_with_a_module_that_is_applied_to_the_gradient(self) -> None:
        model, critic = linear(), linear()
        with FlopCounter() as counter:
            x = batch(grad=True)
            (slope,) = grad(model(x).sin().sum(), x, create_graph=True)
            critic(slope).sum().backward()
        report = counter.report()
        assert units(report["Linear"]) == {"forward": 1, "backward": 1 + 2 + 2}
        assert units(report["Linear#2"]) == {"forward": 1, "backward": 2}

    def test_of_third_order(self) -> None:
        layer = linear()
        with FlopCounter() as counter:
            x = batch(grad=True)
            y = layer(x).sin().sum()
            for _ in range(3):
                (slope,) = grad(y, x, create_graph=True)
                y = slope.sum()
        report = counter.report()
        assert units(report.root) == units(report.model)
        # With h = x·W the first is f'(h)·Wᵀ: 1 U. The second goes back through that product to
        # f', and through x·W to x: 2 U, and is (1·W * f''(h))·Wᵀ. The third takes the same two
        # steps, since 1·W does not depend on x.
        assert units(report)["backward"] == 1 + 2 + 2

    def test_hessian_vector_product_of_torch_func(self) -> None:
        layer = linear()
        weight = layer.weight.detach()

        def loss(w: Tensor) -> Tensor:
            return torch.func.functional_call(layer, {"weight": w}, (batch(),)).sin().sum()

        with FlopCounter() as counter:
            torch.func.grad(loss)(weight)
        report = counter.report()
        assert units(report) == {"forward": 1, "backward": 1}


class Scaled(torch.autograd.Function):
    """x·w with a backward of its own: the product by w only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return x @ weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (weight,) = ctx.saved_tensors
        return gradients[0] @ weight.T, None


def test_a_custom_function_belongs_to_the_module_that_applied_it() -> None:
    class Custom(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weight", torch.ones(8, 8))

        def forward(self, x: Tensor) -> Tensor:
            return Scaled.apply(x, self.weight)

    model = nn.Sequential(linear(), Custom(), linear())
    report = flopcount.count(model, batch())
    check(report, plain=True)
    assert units(report["1"]) == {"forward": 1, "backward": 1}
    assert units(report["0"]) == {"forward": 1, "backward": 1}


def test_a_tensor_hook_belongs_to_the_module_whose_gradient_it_changes() -> None:
    class Hooked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = linear()

        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x)
            y.register_hook(lambda gradient: gradient @ torch.ones(8, 8))
            return y

    model = nn.Sequential(Hooked(), linear())
    report = flopcount.count(model, batch())
    check(report, plain=True)
    assert units(report["0.layer"]) == {"forward": 1, "backward": 1 + 1}


def test_a_graph_from_before_the_counter_is_unattributed() -> None:
    layer, later = linear(), linear()
    y = layer(batch())
    with FlopCounter() as counter:
        later(y).sum().backward()
    report = counter.report()
    assert units(report) == {"forward": 1, "backward": 3}
    assert units(report["unattributed"]) == {"backward": 1}
    assert units(report.model) == {"forward": 1, "backward": 2}


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
