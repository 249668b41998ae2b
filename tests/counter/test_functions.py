"""Custom autograd functions: one around a kernel that no op shows is named, no other is."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import Function

import flopcount
from flopcount import Cost, FlopCounter, UncountedOpError
from flopcount.formulas import registry
from flopcount.torch_private.functions import LOOKS_UP
from tests.counter.observation import assert_undisturbed


def outside(*operands: Tensor) -> Tensor:
    """A product that torch does not see, of two or more matrices."""
    return torch.from_numpy(np.linalg.multi_dot([t.detach().numpy() for t in operands]))


def write_outside(into: Tensor, numbers: Tensor) -> None:
    """Write to memory as a kernel does that is handed a pointer."""
    source = numbers.detach().contiguous()
    ctypes.memmove(into.data_ptr(), source.data_ptr(), into.numel() * into.element_size())


KERNELS: dict[str, type[Function]] = {}
"""Functions around kernels: both directions are to be named."""


def kernel(cls: type[Function]) -> type[Function]:
    KERNELS[cls.__name__] = cls
    return cls


class Product(Function):
    """A product of two matrices, whose kernels the subclasses define."""

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)


@kernel
class Numpy(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return outside(x, w)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        return outside(g, w.mT), outside(x.mT, g)


@kernel
class SetUpContext(Product):
    @staticmethod
    def forward(x: Tensor, w: Tensor) -> Tensor:
        return outside(x, w)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        return outside(g, w.mT), outside(x.mT, g)


@kernel
class Double(Product):
    """The kernel computes in another dtype, so an op converts its result."""

    @staticmethod
    def forward(x: Tensor, w: Tensor) -> Tensor:
        return outside(x.double(), w.double()).float()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        return outside(g.double(), w.mT.double()).float(), outside(x.mT, g).mul_(1)


@kernel
class Pointer(Product):
    """The kernel writes to memory that torch allocates, as extensions do."""

    @staticmethod
    def forward(x: Tensor, w: Tensor) -> Tensor:
        out = torch.empty(len(x), w.shape[1])
        write_outside(out, outside(x, w))
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        dx, dw = torch.empty_like(x), x.new_empty(w.shape)
        write_outside(dx, outside(g, w.mT))
        write_outside(dw, outside(x.mT, g))
        return dx, dw


@kernel
class Scaled(Product):
    """An op reads what the kernel wrote, and something that was given."""

    @staticmethod
    def forward(x: Tensor, w: Tensor) -> Tensor:
        out = torch.empty(len(x), w.shape[1])
        write_outside(out, outside(x, w))
        return out + x.sum()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        dx = torch.empty_like(x)
        write_outside(dx, outside(g, w.mT))
        return dx * g.sum(), None


@kernel
class Accumulated(Product):
    """The kernel adds to zeros, as those do that scatter: deformable attention's."""

    @staticmethod
    def forward(x: Tensor, w: Tensor) -> Tensor:
        out = torch.zeros(len(x), w.shape[1])
        write_outside(out, outside(x, w))
        return out.view(len(x), -1)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        dx = torch.zeros_like(x)
        write_outside(dx, outside(g, w.mT))
        return dx, None


@kernel
class Changed(Function):
    """The kernel changes its argument."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        ctx.save_for_backward(w)
        write_outside(x, outside(x, w))
        return x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (w,) = ctx.saved_tensors
        return outside(g, w.mT), None


@kernel
class Several(Product):
    """Ops compute some gradients, and a kernel the others."""

    @staticmethod
    def forward(x: Tensor, w: Tensor) -> Any:
        y = outside(x, w)
        return y, torch.from_numpy(y.numpy().max(1))

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Tensor) -> Any:
        x, w = ctx.saved_tensors
        return g @ w.mT, outside(x.mT, g)


def step(function: type[Function]) -> Callable[[list[Any]], Any]:
    def program(notes: list[Any]) -> Any:
        x, w = torch.randn(32, 64, requires_grad=True), torch.randn(64, 64, requires_grad=True)
        y = function.apply(x * 1.0, w)
        y = y[0] if isinstance(y, tuple) else y
        y.sum().backward()
        return y, x.grad, w.grad

    return program


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_is_named_in_both_directions(name: str) -> None:
    report = assert_undisturbed(step(KERNELS[name]))
    assert report.uncounted == {name: 1, f"{name}Backward": 1}


@pytest.mark.parametrize("name", KERNELS)
def test_without_gradients_too(name: str) -> None:
    with FlopCounter() as counter, torch.no_grad():
        KERNELS[name].apply(torch.randn(8, 16), torch.randn(16, 16))
    assert counter.report().uncounted == {name: 1}


def test_strict_raises_at_the_call() -> None:
    x, w = torch.randn(32, 64, requires_grad=True), torch.randn(64, 64)
    message = r"^Numpy is uncounted: .* called with \(float32\[32, 64\], float32\[64, 64\]\)"
    with pytest.raises(UncountedOpError, match=message), FlopCounter(strict=True):
        Numpy.apply(x, w)
    y = Numpy.apply(x, w)
    with pytest.raises(UncountedOpError, match=r"^NumpyBackward"), FlopCounter(strict=True):
        y.sum().backward()
    with pytest.raises(UncountedOpError, match=r"^Accumulated"), FlopCounter(strict=True):
        Accumulated.apply(x, w)


def test_it_is_named_in_its_module() -> None:
    class Layer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Numpy.apply(x, x.mT)

    model = nn.Sequential(Layer(), nn.Linear(4, 1))
    with FlopCounter(model) as counter:
        model(torch.randn(4, 8, requires_grad=True)).sum().backward()
    rows = counter.report().entries
    places = {row.op: (row.module, row.phase) for row in rows if row.uncounted}
    expected = {"Numpy": "forward", "NumpyBackward": "backward"}
    assert places == {op: ("Sequential.0", phase) for op, phase in expected.items()}


def test_zeros_that_stay_zeros_are_no_work_of_a_kernel() -> None:
    with FlopCounter() as counter:
        Accumulated.apply(torch.zeros(3, 4), torch.ones(4, 4))
    assert not counter.report().uncounted


def test_every_counter_sees_it() -> None:
    x, w = torch.randn(2, 3, requires_grad=True), torch.randn(3, 3)
    with FlopCounter() as outer:
        with FlopCounter() as inner:
            y = Numpy.apply(x, w)
        y.sum().backward()
    assert inner.report().uncounted == {"Numpy": 1}
    assert outer.report().uncounted == {"Numpy": 1, "NumpyBackward": 1}


def test_an_apply_kept_from_before_is_watched() -> None:
    if not LOOKS_UP:
        pytest.skip("Function.apply of this torch looks nothing up")
    apply = Numpy.apply
    with FlopCounter() as counter:
        apply(torch.randn(2, 3), torch.randn(3, 3))
    assert counter.report().uncounted == {"Numpy": 1}


def test_a_function_around_another_is_not_named_besides() -> None:
    class Around(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
            return Numpy.apply(x, w)

    with FlopCounter() as counter:
        Around.apply(torch.randn(2, 3), torch.randn(3, 3))
    assert counter.report().uncounted == {"Numpy": 1}


def test_an_error_inside_leaves_nothing_open() -> None:
    class Failing(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()[len(x) + 1]

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Any:
            raise ValueError

    x = torch.ones(3, requires_grad=True)
    with FlopCounter() as counter:
        with pytest.raises(IndexError):
            Failing.apply(x)
        x.exp()
        tally = counter._local.tally
        x.exp()
        assert tally.calls is tally.counted
    assert [row.calls for row in counter.report().entries if row.op == "aten.exp"] == [2]


def kept_on_the_cpu(function: Callable[[], Tensor]) -> Tensor:
    with torch.autograd.graph.save_on_cpu():
        return function()


def kept_elsewhere(function: Callable[[], Tensor]) -> Tensor:
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.tolist(), torch.tensor):
        return function()


@pytest.mark.parametrize("kept", [kept_on_the_cpu, kept_elsewhere])
def test_a_node_is_named_whose_tensors_are_kept_by_hooks(kept: Callable[..., Tensor]) -> None:
    x, w = torch.randn(4, 8, requires_grad=True), torch.randn(8, 2, requires_grad=True)
    with FlopCounter() as counter:
        kept(lambda: Numpy.apply(x, w)).sum().backward()
    assert counter.report().uncounted == {"Numpy": 1, "NumpyBackward": 1}


class TestFormulas:
    """A function's formula counts all that it does."""

    MACS = 32 * 64 * 64

    def counted(self, **options: Any) -> flopcount.Report:
        x, w = torch.randn(32, 64, requires_grad=True), torch.randn(64, 64, requires_grad=True)
        with FlopCounter(**options) as counter:
            Scaled.apply(x, w).sum().backward()
        return counter.report()

    def forward(self, x: Tensor, w: Tensor, *, out: Tensor) -> Cost:
        return Cost(macs=out.numel() * len(w))

    def backward(self, g: Tensor, *, out: Any) -> Cost:
        return Cost(macs=out[0].numel() * g.shape[1])

    def test_both_directions(self) -> None:
        with registry.replaced():
            flopcount.formula(Scaled, backward=self.backward)(self.forward)
            report = self.counted()
        assert not report.uncounted
        assert report.total.macs == 2 * self.MACS
        # nothing but the function, the sum and its gradient
        assert report.total.arith == 32 * 64 - 1
        others = {"aten.sum", "aten.ones_like"}
        assert {row.op for row in report.entries} == {"Scaled", "ScaledBackward"} | others

    def test_bytes_are_those_of_operands_and_results(self) -> None:
        with registry.replaced():
            flopcount.formula(Scaled, backward=self.backward)(self.forward)
            costs = self.counted().by_operator()
        assert costs["Scaled"].bytes == 4 * (32 * 64 + 64 * 64 + 32 * 64)
        assert costs["ScaledBackward"].bytes == 4 * (1 + 32 * 64)  # the sum's, expanded

    def test_one_direction(self) -> None:
        with registry.replaced():
            flopcount.formula(Scaled)(self.forward)
            report = self.counted()
        assert report.uncounted == {"ScaledBackward": 1}
        assert report.total.macs == self.MACS

    def test_of_one_counter(self) -> None:
        report = self.counted(formulas={Scaled: self.forward})
        assert report.uncounted == {"ScaledBackward": 1}
        assert report.total.macs == self.MACS
        assert "Scaled" in self.counted().uncounted

    def test_classes_of_one_name_are_told_apart(self) -> None:
        twin = type("Scaled", (Scaled,), {})
        report = self.counted(formulas={twin: self.forward})
        assert report.uncounted == {"Scaled": 1, "ScaledBackward": 1}

    def test_what_backward_is_for(self) -> None:
        with pytest.raises(TypeError, match=r"backward= is for a torch.autograd.Function, got"):
            flopcount.formula(torch.ops.aten.mm, backward=self.backward)
