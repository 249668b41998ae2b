"""Callables that run kernels without an op are named, or counted where their cost is known."""

from __future__ import annotations

import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import flopcount
from flopcount import Cost, FlopCounter, UncountedOpError, UncountedOpWarning
from tests.counter.observation import Notes, assert_undisturbed
from tests.counter.stand_ins import look_for_stand_ins
from tests.counter.units import PRODUCT, batch

HIDDEN = torch.ones(8, 8)


def hidden_product(x: Tensor) -> Tensor:
    """A product that no op shows, as a kernel of another library computes it."""
    return torch.from_numpy(x.detach().numpy() @ HIDDEN.numpy())


# -- stand-ins for what cannot be had everywhere; the Python layers around them are the real ones


class Loader:
    """What torch loads a package of AOTInductor with."""

    def get_call_spec(self) -> list[str]:
        from torch.utils import _pytree as pytree

        inputs, outputs = ((batch(),), {}), batch()
        return [pytree.treespec_dumps(pytree.tree_structure(t)) for t in (inputs, outputs)]

    def run(self, inputs: list[Tensor]) -> list[Tensor]:
        if inputs[0].shape[1] != 8:
            raise RuntimeError("expected 8 columns")
        warnings.warn("the kernel runs", stacklevel=2)
        return [hidden_product(inputs[0])]

    boxed_run = run


class Context:
    """A context of TensorRT."""

    def execute_async_v3(self, stream: int) -> bool:
        hidden_product(batch())
        return True


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Callable[[Tensor], Tensor]:
    """A package of AOTInductor; only its loader is a stand-in."""
    from torch._inductor.package.package import AOTICompiledModel

    look_for_stand_ins(monkeypatch)
    monkeypatch.setattr(torch._C._aoti, "AOTIModelPackageLoader", Loader)
    return AOTICompiledModel(Loader())  # type: ignore[arg-type]


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> Context:
    look_for_stand_ins(monkeypatch)
    module = types.ModuleType("tensorrt")
    module.IExecutionContext = Context  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return Context()


class Kernel:
    """A kernel that a program has written in Triton."""

    __name__ = "softmax_kernel"

    def run(self, out: Tensor, x: Tensor, *, grid: Any, warmup: bool) -> None:
        out.numpy()[:] = hidden_product(x).numpy()

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return lambda *args: self.run(*args, grid=grid, warmup=False)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    look_for_stand_ins(monkeypatch)
    module = types.ModuleType("triton.runtime.jit")
    module.JITFunction = Kernel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "triton.runtime.jit", module)
    return Kernel()


class Around(nn.Module):
    """A module around a callable, in whose backward it runs once more."""

    def __init__(self, run: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        self.run(x)
        y = x * 1.0
        if y.requires_grad:
            y.register_hook(lambda gradient: [self.run(gradient), None][1])
        return y


NAME = "AOTInductor package"


class TestNames:
    def test_by_module_and_phase(self, package: Any) -> None:
        model = nn.Sequential(Around(package))
        with FlopCounter(model) as counter:
            for _ in range(3):
                model(batch().requires_grad_()).sum().backward()
        report = counter.report()
        rows = {(e.module, e.phase): e.calls for e in report.entries if e.op == NAME}
        assert rows == {("Sequential.0", "forward"): 3, ("Sequential.0", "backward"): 3}
        assert report.uncounted == {NAME: 6}
        assert f"{NAME} (6 calls)" in report.table()

    def test_the_report_warns_once(self, package: Any) -> None:
        with FlopCounter() as counter:
            package(batch())
        with pytest.warns(UncountedOpWarning, match=f"{NAME} is uncounted.*no op shows"):
            counter.report()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            counter.report()

    def test_strict_raises_before_it_runs(self, package: Any) -> None:
        model = Around(package)
        with (
            pytest.raises(UncountedOpError, match=f"{NAME} is uncounted.*in Around, phase forward"),
            FlopCounter(model, strict=True),
        ):
            model(batch())

    def test_of_another_library_that_is_imported_inside_the_block(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        look_for_stand_ins(monkeypatch)
        with FlopCounter() as counter:
            module = types.ModuleType("tensorrt")
            module.IExecutionContext = Context  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, "tensorrt", module)
            monkeypatch.delitem(sys.modules, "this", raising=False)
            monkeypatch.setattr(sys, "stdout", None)  # the module `this` prints
            import this  # noqa: F401

            assert Context().execute_async_v3(0)
        assert counter.report().uncounted == {"tensorrt.IExecutionContext": 1}

    def test_a_method_that_is_kept(self, tensorrt: Context) -> None:
        with FlopCounter() as counter:
            run = tensorrt.execute_async_v3
            assert [run(0), run(1)] == [True, True]
        run(2)
        assert counter.report().uncounted == {"tensorrt.IExecutionContext": 2}

    def test_a_kernel_of_triton(self, kernel: Kernel) -> None:
        out = batch()
        with FlopCounter() as counter:
            for _ in range(3):
                kernel[1,](out, batch())
        assert counter.report().uncounted == {"triton.softmax_kernel": 3}

    def test_a_kernel_of_triton_in_a_function(self, kernel: Kernel) -> None:
        class Softmax(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Tensor) -> Tensor:
                out = torch.empty_like(x)
                kernel[1,](out, x.detach())
                return out

        with FlopCounter() as counter:
            Softmax.apply(batch()).relu()
        assert counter.report().uncounted == {"triton.softmax_kernel": 1}
        with FlopCounter(formulas={Softmax: lambda x, *, out: Cost(special=7)}) as counter:
            Softmax.apply(batch())
        assert (counter.report().uncounted, counter.report().total.special) == ({}, 7)

    def test_every_open_counter_names_it(self, package: Any) -> None:
        with FlopCounter() as outer:
            with FlopCounter() as inner:
                package(batch())
            package(batch())
        package(batch())
        assert (outer.report().uncounted, inner.report().uncounted) == ({NAME: 2}, {NAME: 1})

    def test_in_a_thread_that_did_not_enter(self, package: Any) -> None:
        with FlopCounter() as counter:
            thread = threading.Thread(target=package, args=(batch(),), name="aside")
            thread.start()
            thread.join()
        report = counter.report()
        assert (report.uncounted, report.unwatched) == ({}, {"aside": NAME})

    def test_in_a_thread_that_entered(self, package: Any) -> None:
        counter = FlopCounter()

        def work() -> None:
            with counter:
                package(batch())

        with counter:
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        report = counter.report()
        assert (report.uncounted, report.unwatched) == ({NAME: 1}, {})

    def test_in_a_custom_op_it_has_the_ops_formula(self, package: Any) -> None:
        @torch.library.custom_op("flopcount_tests::packaged", mutates_args=())
        def packaged(x: Tensor) -> Tensor:
            return package(x)

        cost = flopcount.Cost(macs=PRODUCT)
        with FlopCounter(formulas={packaged: lambda x, *, out: cost}, strict=True) as counter:
            packaged(batch())
        assert counter.report().total.macs == PRODUCT


class TestUndisturbed:
    def test_results_and_warnings(self, package: Any) -> None:
        def run(notes: Notes) -> Any:
            return package(batch())

        assert_undisturbed(run)

    def test_errors(self, package: Any) -> None:
        def run(notes: Notes) -> Any:
            return package(torch.ones(2, 3))

        assert_undisturbed(run)

    def test_no_hook_is_left(self, package: Any) -> None:
        with FlopCounter(), FlopCounter():
            assert Loader.__dict__["run"] is not Loader.run
        assert Loader.__dict__["run"] is Loader.run

    def test_an_error_in_the_block(self, package: Any) -> None:
        with pytest.raises(RuntimeError), FlopCounter():
            package(torch.ones(2, 3))
        assert Loader.__dict__["run"] is Loader.run


# -- what torch compiles


class TestInductor:
    @pytest.fixture(autouse=True)
    def own_caches(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
        torch._dynamo.reset()
        yield
        torch._dynamo.reset()

    def test_backward_of_what_ran_compiled_before_the_block(self) -> None:
        x = torch.ones(4, 8, requires_grad=True)
        y = torch.compile(lambda x: x.sin().cos())(x)
        with FlopCounter() as counter:
            y.sum().backward()
        report = counter.report()
        assert report.uncounted == {"inductor graph": 1}
        assert [e.phase for e in report.entries if e.uncounted] == ["backward"]

    def test_a_graph_that_calls_ops_alone_is_counted(self) -> None:
        """The gradients of both operands of one product."""
        x, weight = batch().requires_grad_(), torch.ones(8, 8, requires_grad=True)
        y = torch.compile(torch.mm)(x, weight)
        with FlopCounter() as counter:
            y.backward(torch.ones(4, 8))
        report = counter.report()
        assert (report.uncounted, report.total.macs) == ({}, 2 * PRODUCT)

    @pytest.mark.slow
    def test_a_package_of_aot_inductor(self, tmp_path: Path) -> None:
        model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64))
        x = torch.randn(8, 64)
        path = str(tmp_path / "model.pt2")
        program = torch.export.export(model, (x,))
        torch._inductor.aoti_compile_and_package(program, package_path=path)
        package = torch._inductor.aoti_load_package(path)
        with FlopCounter() as counter:
            y = package(x)
        assert torch.allclose(y, model(x), atol=1e-5)
        assert counter.report().uncounted == {NAME: 1}
