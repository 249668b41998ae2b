"""Custom functions that run again: in a checkpoint, in a tracer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

import flopcount
from flopcount import Cost, FlopCounter
from flopcount.formulas import registry
from tests.counter.test_functions import Numpy, Scaled


class Wide(Function):
    """What it costs depends on a number that it is given."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, width: int, sizes: list[int]) -> Tensor:
        ctx.save_for_backward(x)
        return x * width

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return g * ctx.saved_tensors[0], None, None


def product_cost(x: Tensor, w: Tensor, *, out: Tensor) -> Cost:
    return Cost(macs=out.numel() * len(w))


class TestCheckpointsThatStop:
    """torch stops recomputing, by an exception, once the last tensor is saved."""

    LINEAR = 32 * 64 * 64

    def recomputed(self, block: Callable[[Tensor], Tensor], **options: Any) -> flopcount.Report:
        """A step with ``block``, in which forward ran whole, and then again."""
        with FlopCounter(**options) as counter:
            checkpoint(block, torch.randn(32, 64), use_reentrant=False).sum().backward()
        report = counter.report()
        assert report.phases["forward"].macs == report.phases["recompute"].macs
        return report

    @pytest.mark.parametrize("is_last", [True, False])
    def test_a_function_that_a_formula_counts(self, is_last: bool) -> None:
        layer, w = nn.Linear(64, 64), torch.randn(64, 64, requires_grad=True)

        def block(x: Tensor) -> Tensor:
            y = Scaled.apply(layer(x), w)
            return y if is_last else y + x

        report = self.recomputed(block, formulas={Scaled: product_cost})
        assert report.phases["recompute"].macs == 2 * self.LINEAR

    @pytest.mark.parametrize("number", [1, 2])
    def test_the_formula_of_a_node_does_not_count_what_is_computed_for_it(
        self, number: int
    ) -> None:
        """The node asks for what it keeps, and the checkpoint runs forward again, inside it."""
        layer, w = nn.Linear(64, 64), torch.randn(64, 64, requires_grad=True)

        def block(x: Tensor) -> Tensor:
            y = layer(x)
            for _ in range(number):
                y = Numpy.apply(y, w)
            return y

        def both(g: Tensor, *, out: Any) -> Cost:
            return Cost(macs=2 * g.numel() * 64)

        with registry.replaced():
            flopcount.formula(Numpy, backward=both)(product_cost)
            phases = self.recomputed(block).phases
        assert phases["recompute"].macs == (1 + number) * self.LINEAR
        assert phases["backward"].macs == (1 + 2 * number) * self.LINEAR  # x needs no gradient

    def test_a_function_that_is_named(self) -> None:
        layer, w = nn.Linear(64, 64), torch.randn(64, 64, requires_grad=True)
        report = self.recomputed(lambda x: Numpy.apply(layer(x), w))
        assert report.uncounted == {"Numpy": 2, "NumpyBackward": 1}
        assert report.phases["recompute"].macs == self.LINEAR

    def test_each_call_costs_what_its_own_arguments_say(self) -> None:
        layer = nn.Linear(64, 64)

        def block(x: Tensor) -> Tensor:
            y = Wide.apply(layer(x), 10 * len(x), [1])
            return Wide.apply(y, 1000 * len(x), [2])

        def cost(x: Tensor, width: int, sizes: list[int], *, out: Tensor) -> Cost:
            return Cost(macs=width * sizes[0])

        report = self.recomputed(block, formulas={Wide: cost})
        assert report.phases["recompute"].macs == self.LINEAR + 320 + 2 * 32000


@pytest.mark.parametrize("mode", ["symbolic", "fake", "real"])
def test_a_traced_function_is_counted_unless_its_sizes_are_symbols(mode: str) -> None:
    def cost(x: Tensor, width: int, sizes: list[int], *, out: Tensor) -> Cost:
        return Cost(macs=out.numel())

    x = torch.randn(4, 8, requires_grad=True)
    with FlopCounter(formulas={Wide: cost}) as counter:
        make_fx(lambda t: Wide.apply(t, t.shape[0], [1]), tracing_mode=mode)(x)
    report = counter.report()
    assert ("Wide" in report.uncounted) == (mode == "symbolic")
    assert report.total.macs == (0 if mode == "symbolic" else 32)
