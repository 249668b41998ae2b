"""The optimizer's phase: what its step does, without the modules that it calls."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import flopcount
from flopcount import Cost, FlopCounter
from flopcount.cost import ZERO
from tests.attribution.units import batch, linear, own_units, units
from tests.invariants import check


def step(optimizer: torch.optim.Optimizer, layer: nn.Module) -> Cost:
    """What one step costs, in its own phase."""
    with FlopCounter(layer) as counter:
        layer(batch()).sum().backward()
        optimizer.step()
    report = counter.report()
    check(report, plain=True)
    assert units(report.model) == {"forward": 1, "backward": 1}
    assert report.model.phases["optimizer"] == ZERO  # a step runs outside the modules
    return report.phases["optimizer"]


@pytest.mark.parametrize("foreach", [False, True])
def test_sgd_is_a_product_and_an_addition_for_each_parameter(foreach: bool) -> None:
    layer = linear()
    cost = step(torch.optim.SGD(layer.parameters(), lr=0.1, foreach=foreach), layer)
    assert cost.flops == 2 * (8 * 8)


def test_adam_is_thirteen_operations_for_each_parameter() -> None:
    layer = linear()
    cost = step(torch.optim.Adam(layer.parameters(), foreach=False, fused=False), layer)
    # m: difference, product, sum; v: product, then g·g·(1 - b) and sum; root, division by the
    # bias correction, epsilon; step·m / root and sum; and 1 is added to the number of steps
    assert cost.arith == (3 + 1 + 3 + 1 + 1 + 1 + 3) * (8 * 8) + 1


def test_count_takes_a_step() -> None:
    layer = linear()
    report = flopcount.count(
        layer, batch(), optimizer=torch.optim.SGD(layer.parameters(), lr=0.1, foreach=False)
    )
    assert report.phases["optimizer"].flops == 2 * (8 * 8)


class Broken(torch.optim.Optimizer):
    """Multiplies once, then fails."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__([weight], {})
        self.error: type[BaseException] | None = ValueError

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        (weight,) = self.param_groups[0]["params"]
        with torch.no_grad():
            weight @ weight[:, :4]  # 8 · 8 · 4 MACs: a unit
        if self.error:
            raise self.error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
class TestAStepThatRaises:
    def test_does_not_take_later_modules_with_it(self, error: type[BaseException]) -> None:
        layer = linear()
        optimizer = Broken(layer.weight)
        optimizer.error = error
        with FlopCounter(layer) as counter:
            layer(batch())
            with pytest.raises(error):
                optimizer.step()
            layer(batch()) @ torch.ones(8, 8)
        report = counter.report()
        assert units(report.model) == {"forward": 2}
        assert units(report.root) == {"optimizer": 1, "forward": 2 + 1}

    def test_can_be_tried_again(self, error: type[BaseException]) -> None:
        layer = linear()
        optimizer = Broken(layer.weight)
        optimizer.error = error
        with FlopCounter(layer) as counter:
            with pytest.raises(error):
                optimizer.step()
            optimizer.error = None
            optimizer.step()
            batch() @ torch.ones(8, 8)
        assert units(counter.report().root) == {"optimizer": 2, "forward": 1}

    def test_inside_a_module_leaves_the_rest_to_the_module(
        self, error: type[BaseException]
    ) -> None:
        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = linear()

            def forward(self, x: Tensor) -> Tensor:
                with pytest.raises(error):
                    optimizer.step()
                return self.layer(x) @ torch.ones(8, 8)

        model = Model()
        optimizer = Broken(model.layer.weight)
        optimizer.error = error
        report = flopcount.count(model, batch(), backward=False)
        assert units(report["layer"]) == {"forward": 1}
        assert own_units(report.model) == 1 + 1
        assert units(report.model) == {"optimizer": 1, "forward": 2}


def test_modules_in_the_closure_of_a_step_are_forward_and_backward() -> None:
    layer = linear()
    optimizer = torch.optim.LBFGS(layer.parameters(), lr=0.1, max_iter=1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = layer(batch()).square().sum()
        loss.backward()
        return loss

    with FlopCounter(layer) as counter:
        optimizer.step(closure)
        layer(batch()) @ torch.ones(8, 8)
    report = counter.report()
    assert report.model.calls == 2
    assert units(report.model) == {"forward": 1 + 1, "backward": 1}
    assert own_units(report.root) == 1  # the product after the step
    assert report.root.phases["optimizer"].arith >= 8 * 8
    assert report.model.phases["optimizer"] == ZERO


def test_a_step_that_a_hook_takes_while_backward_runs_is_the_optimizers() -> None:
    model = nn.Sequential(linear(), linear())
    optimizers = {
        parameter: torch.optim.SGD([parameter], lr=0.1, foreach=False)
        for parameter in model.parameters()
    }
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: optimizers[p].step())
    with FlopCounter(model) as counter:
        model(batch()).sum().backward()
    report = counter.report()
    check(report, plain=True)
    assert report.phases["optimizer"].flops == 2 * (2 * 8 * 8)
    assert units(report.model) == {"forward": 2, "backward": 3}
