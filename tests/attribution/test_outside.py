"""The phase of what runs outside every module: steps without hooks, closures, clipping, averages.

The layer has 64 weights, no bias. ``SGD`` does 2 operations for each.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

import flopcount
from flopcount import FlopCounter
from tests.attribution.optimizers import UPDATE, Plain, flops, update
from tests.attribution.units import batch, linear, units
from tests.invariants import check


class NoInit(torch.optim.Optimizer):
    """It does not call ``Optimizer.__init__``, so torch has no hooks for it."""

    def __init__(self, params: Iterable[Tensor]) -> None:
        self.params = list(params)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for p in self.params:
            p.add_(p.grad, alpha=-0.1)


class WithGradientsOn(NoInit):
    def step(self, closure: Any = None) -> None:
        for p in self.params:
            update(p)


class PlainWithoutGradients(Plain):
    @torch.no_grad()
    def step(self) -> None:
        for p in self.params:
            update(p)


class OfGroups(Plain):
    """Its tensors are hidden in groups."""

    def __init__(self, params: Iterable[Tensor]) -> None:
        self.param_groups = [{"params": list(params)}]

    def step(self) -> None:
        with torch.no_grad():
            self.update()

    def update(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                update(p)


UNHOOKED = [NoInit, WithGradientsOn, Plain, PlainWithoutGradients, OfGroups]


@pytest.mark.parametrize("make", UNHOOKED)
class TestAStepThatTorchHasNoHooksFor:
    def test_under_count(self, make: Callable[..., Any]) -> None:
        layer = linear()
        report = flopcount.count(layer, batch(), optimizer=make(layer.parameters()))
        check(report, plain=True)
        assert flops(report) == {"optimizer": UPDATE}
        assert units(report) == {"forward": 1, "backward": 1}

    def test_in_a_loop(self, make: Callable[..., Any]) -> None:
        layer = linear()
        optimizer = make(layer.parameters())
        with FlopCounter(layer) as counter:
            for _ in range(3):
                layer.zero_grad()
                layer(batch()).square().sum().backward()
                optimizer.step()
            layer.weight.detach() * 2.0  # no step's
        report = counter.report()
        check(report, plain=True)
        assert flops(report) == {"optimizer": 3 * UPDATE}
        assert report.root.own.flops - 3 * UPDATE == 3 * (32 + 31 + 2 * 32) + 64

    def test_that_does_what_the_program_does_elsewhere(self, make: Callable[..., Any]) -> None:
        layer = linear()
        layer(batch()).sum().backward()
        optimizer = make(layer.parameters())
        with FlopCounter(layer) as counter:
            update(layer.weight)
            layer(batch()).sum().backward()
            optimizer.step()
            update(layer.weight)
        assert flops(counter.report()) == {"optimizer": UPDATE}
        assert counter.report().root.own.flops == 31 + 3 * UPDATE

    def test_alone(self, make: Callable[..., Any]) -> None:
        layer = linear()
        layer(batch()).sum().backward()
        with FlopCounter(layer) as counter:
            make(layer.parameters()).step()
        assert flops(counter.report()) == {"optimizer": UPDATE}


class Scaling:
    """A wrapper with work of its own around a step that torch has hooks for, as LARC is."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optim = optimizer

    @property
    def param_groups(self) -> Any:
        return self.optim.param_groups

    def step(self) -> None:
        with torch.no_grad():
            for p in self.param_groups[0]["params"]:
                p.grad.mul_(0.5)
        self.optim.step()
        for p in self.param_groups[0]["params"]:
            p.data.mul_(0.9)


def test_a_wrapper_with_work_of_its_own() -> None:
    layer = linear()
    optimizer = Scaling(torch.optim.SGD(layer.parameters(), lr=0.1, foreach=False))
    report = flopcount.count(layer, batch(), optimizer=optimizer)
    assert flops(report) == {"optimizer": 64 + UPDATE + 64}
    with FlopCounter(layer) as counter:
        for _ in range(2):
            layer(batch()).sum().backward()
            optimizer.step()
    assert flops(counter.report()) == {"optimizer": 2 * (64 + UPDATE + 64)}


class Closing(NoInit):
    """It works before and after the closure, in helpers and directly."""

    def step(self, closure: Any = None) -> Any:
        (p,) = self.params
        self.shrink(p)
        loss = closure()
        update(p)
        return loss

    def shrink(self, p: Tensor) -> None:
        p.data.mul_(0.9)


class Hooked(torch.optim.Optimizer):
    def __init__(self, params: Iterable[Tensor]) -> None:
        super().__init__(params, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        (p,) = self.param_groups[0]["params"]
        p.data.mul_(0.9)
        with torch.enable_grad():
            loss = closure()
        update(p)
        return loss


def as_function(closure: Callable[[], Tensor]) -> Callable[[], Tensor]:
    return closure


def as_partial(closure: Callable[[], Tensor]) -> Callable[[], Tensor]:
    return functools.partial(closure)


def as_object(closure: Callable[[], Tensor]) -> Any:
    class Closure:
        def __call__(self) -> Tensor:
            return closure()

    return Closure()


def as_decorated(closure: Callable[[], Tensor]) -> Any:
    return torch.enable_grad()(closure)


@pytest.mark.parametrize("make", [Closing, Hooked])
@pytest.mark.parametrize("wrap", [as_function, as_partial, as_object, as_decorated])
def test_a_closure_is_no_part_of_the_step(make: Any, wrap: Any) -> None:
    layer = linear()
    optimizer = make(layer.parameters())

    def closure() -> Tensor:
        layer.zero_grad()
        target = torch.ones(4, 8) * 3.0  # 32, though nothing here needs a gradient
        loss = (layer(batch()) - target).square().sum()  # 32 + 32 + 31
        loss.backward()  # 2·32 of the square
        nn.utils.clip_grad_value_([layer.weight], 1.0)
        return loss

    with FlopCounter(layer) as counter:
        for _ in range(2):
            optimizer.step(wrap(closure))
    report = counter.report()
    check(report, plain=True)
    assert units(report) == {"forward": 2, "backward": 2}
    assert report.root.phases["optimizer"].flops == 2 * (64 + UPDATE)
    assert report.root.phases["other"].flops == 2 * (2 * 64)  # clamped on both sides
    outside = report.root.phases["forward"].flops - report.model.phases["forward"].flops
    assert outside == 2 * (32 + 32 + 32 + 31)


def test_count_gives_a_step_the_closure_that_it_needs() -> None:
    layer = linear()
    optimizer = torch.optim.LBFGS(layer.parameters(), lr=0.1, max_iter=1)
    report = flopcount.count(layer, batch(), optimizer=optimizer)
    assert units(report.model) == {"forward": 1, "backward": 1}
    assert report.phases["optimizer"].arith >= 64
    assert report.phases["forward"].flops == report.model.phases["forward"].flops + 31


class TestWhatIsNoStep:
    def test_clipping(self) -> None:
        layer = linear()
        with FlopCounter(layer) as counter:
            layer(batch()).sum().backward()
            nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
            nn.utils.clip_grad_value_(layer.parameters(), 1.0)
        report = counter.report()
        assert report.phases["other"].flops >= 2 * 64 + 2 * 64
        assert not report.phases["optimizer"].flops
        assert report.model_flops == report.model.total.matmul_flops

    def test_a_scaler(self) -> None:
        layer = linear()
        scaler = torch.amp.GradScaler("cpu")
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, foreach=False)
        with FlopCounter(layer) as counter:
            scaler.scale(layer(batch()).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
        found = flops(counter.report())
        assert found["optimizer"] == UPDATE
        assert found["other"] >= 64  # unscaled, and looked at

    def test_a_scaler_inside_of_a_step(self) -> None:
        class Wrapper(NoInit):
            def step(self, closure: Any = None) -> None:
                scaler.step(optimizer)
                scaler.update()

        layer = linear()
        scaler = torch.amp.GradScaler("cpu")
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, foreach=False)
        with FlopCounter(layer) as counter:
            scaler.scale(layer(batch()).sum()).backward()
            Wrapper(layer.parameters()).step()
        found = flops(counter.report())
        assert found["optimizer"] == UPDATE
        assert found["other"] >= 64

    def test_an_average_of_weights(self) -> None:
        layer = linear()
        average = AveragedModel(layer, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        average.update_parameters(layer)  # the first time copies
        with FlopCounter(layer) as counter:
            average.update_parameters(layer)
        found = flops(counter.report())
        assert set(found) == {"other"}
        assert found["other"] >= 3 * 64  # lerp

    def test_a_metric(self) -> None:
        layer = linear()
        with FlopCounter(layer) as counter:
            y = layer(batch())
            with torch.no_grad():
                (y - 1.0).square().mean()
            (y - 1.0).square().sum().backward()
        report = counter.report()
        assert flops(report) == {"other": 32 + 32 + 31 + 1}
        assert units(report) == {"forward": 1, "backward": 1}

    def test_modules_without_gradients_go_forward(self) -> None:
        layer = linear()
        with torch.no_grad(), FlopCounter(layer) as counter:
            layer(batch())
        assert units(counter.report()) == {"forward": 1}

    @pytest.mark.parametrize("grad", [False, True])
    def test_other_things_that_step(self, grad: bool) -> None:
        """A solver, as a pipeline's scheduler; and a trainer, whose step is all of it."""

        class Solver:
            def __init__(self) -> None:
                self.weight = nn.Parameter(torch.ones(8))

            def zero_grad(self) -> None:
                self.weight.grad = None

            def step(self, x: Tensor, scale: float = 2.0) -> Tensor:
                return x * scale

        class Trainer:
            def __init__(self, model: nn.Module) -> None:
                self.model = model
                self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=False)

            def step(self, x: Tensor) -> None:
                with torch.enable_grad():
                    self.model(x).square().sum().backward()
                self.optimizer.step()

        layer = linear()
        solver, trainer = Solver(), Trainer(layer)
        with torch.set_grad_enabled(grad), FlopCounter(layer) as counter:
            trainer.step(batch())
            solver.step(batch())
        expected = {"optimizer": UPDATE} | ({} if grad else {"other": 32})
        assert flops(counter.report()) == expected


def test_products_of_a_step_are_hardware_flops_alone() -> None:
    """As Muon's, which orthogonalises gradients."""

    class Products(Plain):
        def step(self) -> None:
            for p in self.params:
                update(p)
                p.data @ p.data

    layer = linear()
    report = flopcount.count(layer, batch(), optimizer=Products(layer.parameters()))
    assert units(report) == {"forward": 1, "backward": 1, "optimizer": 2}
    assert report.hardware_flops == 2 * report.model_flops


def test_a_pause_leaves_a_step_out() -> None:
    layer = linear()
    layer(batch()).sum().backward()
    optimizer = Plain(layer.parameters())
    with FlopCounter(layer) as counter:
        with counter.paused():
            optimizer.step()
        optimizer.step()
    assert flops(counter.report()) == {"optimizer": UPDATE}


class Square(torch.autograd.Function):
    """Made of ops; inside, gradients are off."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * gradient * x


class Fails(Square):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        raise ValueError("here")


class TestCustomFunctions:
    def test_they_go_forward(self) -> None:
        x = batch(grad=True)
        with FlopCounter() as counter:
            Square.apply(Square.apply(x)).sum().backward()
            with torch.no_grad():
                Square.apply(x)
                x * 2.0
            Square.apply(x)
        assert flops(counter.report()) == {"other": 32 + 32}
        assert counter.report().phases["forward"].flops == 3 * 32 + 31

    def test_one_that_raises_leaves_nothing(self) -> None:
        x = batch(grad=True)
        with FlopCounter() as counter:
            with pytest.raises(ValueError, match="here"):
                Fails.apply(x)
            with torch.no_grad():
                x * 2.0
        assert flops(counter.report()) == {"other": 32}

    def test_a_function_of_a_library_in_a_step(self) -> None:
        class Steps(Plain):
            @torch.no_grad()
            def step(self) -> None:
                for p in self.params:
                    p.data.sub_(Square.apply(p.grad))

        layer = linear()
        report = flopcount.count(layer, batch(), optimizer=Steps(layer.parameters()))
        assert flops(report) == {"optimizer": 2 * 64}

    def test_a_reentrant_checkpoint_of_a_function(self) -> None:
        x = batch(grad=True)
        with FlopCounter() as counter:
            checkpoint(lambda x: (x * 2.0).sin(), x, use_reentrant=True).sum().backward()
        report = counter.report()
        assert not report.phases["other"].flops
        assert report.phases["forward"].flops == 32 + 32 + 31
        assert report.phases["recompute"].flops == 32 + 32

    def test_a_branch_of_cond(self) -> None:
        x = batch(grad=True)
        with FlopCounter() as counter:
            torch.cond(x.sum() > 0, lambda x: x * 2.0, lambda x: x.sin(), (x,)).sum().backward()
        assert not counter.report().phases["other"].flops
