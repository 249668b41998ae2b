"""A program in any surrounding: modes, hooks and settings, around a counter or inside it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import disable_saved_tensors_hooks, save_on_cpu, saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import flopcount
from flopcount import Cost, FlopCounter
from tests.counter.observation import Notes, Surrounding, assert_undisturbed
from tests.counter.units import PRODUCT, batch, linear, mm
from tests.invariants import check


def step(notes: Notes) -> Any:
    """Forward and, if anything is recorded, backward of a model that draws random numbers."""
    model = nn.Sequential(linear(), nn.Dropout(0.5), nn.ReLU(), linear())
    loss = model(torch.rand(4, 8)).square().mean()
    if loss.requires_grad:
        loss.backward()
    return loss, model.state_dict(), [p.grad for p in model.parameters()]


FORWARD = 2
STEP = FORWARD + 3  # the input needs no gradient


class Logging(TorchDispatchMode):
    """Notes the ops that it sees."""

    def __init__(self, notes: Notes) -> None:
        super().__init__()
        self.notes = notes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.notes.append(str(func))
        return func(*args, **(kwargs or {}))


class Replacing(TorchDispatchMode):
    """Computes something else than it is asked for: two products for each."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        return out + func(*args) if func is torch.ops.aten.mm.default else out


class Refusing(TorchDispatchMode):
    """Does not know how to compute a product."""

    def __repr__(self) -> str:
        return "Refusing()"  # without an address, as it is in the error's message

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return NotImplemented if func is torch.ops.aten.mm.default else func(*args, **kwargs or {})


class Functions(TorchFunctionMode):
    """Notes the functions that are called."""

    def __init__(self, notes: Notes) -> None:
        super().__init__()
        self.notes = notes

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.notes.append(getattr(func, "__name__", str(func)))
        return func(*args, **(kwargs or {}))


@contextmanager
def deterministic(notes: Notes) -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def double_precision(notes: Notes) -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def noted_hooks(notes: Notes) -> Any:
    def pack(tensor: Tensor) -> Tensor:
        notes.append(("pack", tensor.shape))
        return tensor.detach().clone()

    def unpack(tensor: Tensor) -> Tensor:
        notes.append(("unpack", tensor.shape))
        return tensor

    return saved_tensors_hooks(pack, unpack)


SURROUNDINGS: dict[str, tuple[Surrounding, int]] = {
    "nothing": (lambda notes: torch.enable_grad(), STEP),
    "no_grad": (lambda notes: torch.no_grad(), FORWARD),
    "inference_mode": (lambda notes: torch.inference_mode(), FORWARD),
    "set_grad_enabled(False)": (lambda notes: torch.set_grad_enabled(False), FORWARD),
    "set_grad_enabled(True)": (lambda notes: torch.set_grad_enabled(True), STEP),
    "autocast": (lambda notes: torch.autocast("cpu", torch.bfloat16), STEP),
    "deterministic algorithms": (deterministic, STEP),
    "double precision": (double_precision, STEP),
    "anomaly mode": (lambda notes: torch.autograd.detect_anomaly(), STEP),
    "saved tensors on the CPU": (lambda notes: save_on_cpu(), STEP),
    "saved tensors by hooks": (noted_hooks, STEP),
    "no hooks for saved tensors": (lambda notes: disable_saved_tensors_hooks("none"), STEP),
    "fake tensors": (lambda notes: FakeTensorMode(), STEP),
    "meta device": (lambda notes: torch.device("meta"), STEP),
    "a dispatch mode": (Logging, STEP),
    "a dispatch mode that refuses": (lambda notes: Refusing(), 0),
    "a function mode": (Functions, STEP),
    "profiler": (lambda notes: torch.profiler.profile(), STEP),
}


@pytest.mark.parametrize("outside", [True, False], ids=["outside", "inside"])
@pytest.mark.parametrize("name", SURROUNDINGS)
def test_in_surroundings(name: str, outside: bool) -> None:
    around, products = SURROUNDINGS[name]

    def inside(notes: Notes) -> Any:
        with around(notes):
            return step(notes)

    report = assert_undisturbed(step, around=around) if outside else assert_undisturbed(inside)
    assert report.total.macs == products * PRODUCT
    assert not report.uncounted


@pytest.mark.parametrize(
    ("outside", "products"),
    [
        pytest.param(True, STEP, id="what a mode outside does is not seen"),
        pytest.param(False, 2 * STEP, id="what a mode inside does is counted"),
    ],
)
def test_a_dispatch_mode_that_computes_something_else(outside: bool, products: int) -> None:
    def inside(notes: Notes) -> Any:
        with Replacing():
            return step(notes)

    report = (
        assert_undisturbed(step, around=lambda notes: Replacing())
        if outside
        else assert_undisturbed(inside)
    )
    assert report.total.macs == products * PRODUCT


MODES: dict[str, Callable[[], Any]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "enable_grad": torch.enable_grad,
}


class TestModesAndKindsOfTensors:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("outside", [True, False])
    def test_grad_modes(self, mode: str, outside: bool) -> None:
        layer, counter = nn.Linear(8, 8), FlopCounter()
        first, second = (MODES[mode](), counter) if outside else (counter, MODES[mode]())
        with first, second:
            layer(batch())
            torch.einsum("ij,jk->ik", batch(), torch.ones(8, 8))
            torch.matmul(torch.ones(3, 4, 8), torch.ones(8, 8))
        report = counter.report()
        check(report, plain=True)
        assert report.total.macs == (1 + 1 + 3) * PRODUCT

    def test_meta_tensors(self) -> None:
        model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
        real = flopcount.count(model, batch())
        before = [p.clone() for p in model.parameters()]
        meta = flopcount.count(model, batch(), meta=True)
        assert meta == real
        with torch.device("meta"), FlopCounter() as counter:
            mm()
        assert counter.report().total.macs == PRODUCT
        assert all(map(torch.equal, before, model.parameters()))

    @pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
    def test_sparse_tensors_do_not_crash(self) -> None:
        dense = torch.eye(4)
        with FlopCounter() as counter:
            for sparse in (dense.to_sparse(), dense.to_sparse_csr()):
                assert torch.equal(sparse @ dense, dense)
                sparse.to_dense()
            (dense.to_sparse() + dense.to_sparse()).coalesce()
        counter.report()

    def test_complex_tensors_do_not_crash(self) -> None:
        x = torch.ones(4, 4, dtype=torch.complex64, requires_grad=True)
        with FlopCounter() as counter:
            (x @ x * x).abs().sum().backward()
            torch.view_as_real(x.exp()).sum().backward()
        counter.report()

    @pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype")
    @pytest.mark.parametrize("formulas", [None, {torch.ops.aten.relu: lambda x, *, out: Cost()}])
    def test_jagged_tensors_open_themselves(self, formulas: Any) -> None:
        """Rows of 2 and 3 vectors of 8: their values are one matrix of 5 rows."""
        rows = [torch.ones(2, 8), torch.ones(3, 8)]
        jagged = torch.nested.nested_tensor(rows, layout=torch.jagged)
        layer = nn.Linear(8, 8, bias=False)
        with FlopCounter(formulas=formulas) as counter:
            layer(jagged)
        assert counter.report().total.macs == 5 * 8 * 8

    def test_nested_tensors_do_not_crash(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nested = torch.nested.nested_tensor([torch.ones(2, 8), torch.ones(3, 8)])
        with FlopCounter() as counter:
            (2 * nested).to_padded_tensor(0)
        check(counter.report())

    def test_a_wrapper_subclass_opens_itself(self) -> None:
        from torch.testing._internal.two_tensor import TwoTensor

        pair = TwoTensor(batch(), batch())
        with FlopCounter() as counter:
            pair @ torch.ones(8, 8)
        assert counter.report().total.macs == 2 * PRODUCT
