"""The dispatch mode: what it counts, and that a program runs as it would alone."""

from __future__ import annotations

import gc
import threading
import tracemalloc
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules import module as module_hooks
from torch.optim import optimizer as optimizer_hooks
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

import flopcount
from flopcount import Cost, FlopCounter, FlopcountError, UncountedOpError
from flopcount.cost import ZERO
from tests.invariants import check

aten = torch.ops.aten

PRODUCT = 4 * 8 * 8
"""MACs of a Linear(8, 8) on a 4 × 8 input."""


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Any:
    """No test leaves a hook or a mode behind."""
    before = watchers()
    yield
    assert watchers() == before


def watchers() -> tuple[int, ...]:
    return (
        len(module_hooks._global_forward_hooks),
        len(module_hooks._global_forward_pre_hooks),
        len(module_hooks._global_forward_hooks_always_called),
        len(module_hooks._global_backward_hooks),
        len(optimizer_hooks._global_optimizer_pre_hooks),
        len(optimizer_hooks._global_optimizer_post_hooks),
        len(_get_current_dispatch_mode_stack()),
    )


def linear() -> nn.Linear:
    return nn.Linear(8, 8, bias=False)


def batch() -> Tensor:
    return torch.ones(4, 8)


def mm() -> Tensor:
    return torch.mm(batch(), torch.ones(8, 8))


class TestEntering:
    def test_entered_again_it_adds_up(self) -> None:
        counter = FlopCounter()
        for _ in range(3):
            with counter:
                mm()
        assert counter.report().total.macs == 3 * PRODUCT

    def test_nothing_is_counted_outside(self) -> None:
        counter = FlopCounter()
        mm()
        with counter:
            pass
        mm()
        assert counter.report().total == ZERO

    def test_reset_starts_afresh(self) -> None:
        layer = linear()
        counter = FlopCounter(layer)
        with counter:
            layer(batch()).sum().backward()
            counter.reset()
            layer(batch())
        report = counter.report()
        check(report)
        assert report.total.macs == PRODUCT
        assert report.model.calls == 1

    def test_a_backward_after_reset_finds_its_modules(self) -> None:
        layer = linear()
        with FlopCounter(layer) as counter:
            loss = layer(batch()).sum()
            counter.reset()
            loss.backward()
        assert counter.report().model.phases["backward"].macs == PRODUCT

    def test_inside_itself_it_counts_once(self) -> None:
        counter = FlopCounter()
        with counter, counter:
            mm()
            with counter:
                mm()
            mm()
        assert counter.report().total.macs == 3 * PRODUCT

    def test_two_counters_both_see_everything(self) -> None:
        layer = linear()
        outer, inner = FlopCounter(layer), FlopCounter()
        with outer:
            mm()
            with inner:
                layer(batch()).sum().backward()
            mm()
        assert inner.report().total.macs == 2 * PRODUCT
        assert outer.report().total.macs == 4 * PRODUCT
        assert outer.report().model.phases == inner.report().model.phases

    def test_counters_may_be_left_in_another_order_of_use(self) -> None:
        first, second = FlopCounter(), FlopCounter()
        with first:
            with second:
                mm()
            with second:
                mm()
        assert first.report().total == second.report().total

    def test_a_report_is_a_snapshot(self) -> None:
        counter = FlopCounter()
        with counter:
            mm()
            before = counter.report()
            text = before.to_json()
            mm()
        assert before.total.macs == PRODUCT
        assert before.to_json() == text
        assert counter.report().total.macs == 2 * PRODUCT

    def test_other_modes_go_on_working(self) -> None:
        seen: list[Any] = []

        class Mode(TorchDispatchMode):
            def __torch_dispatch__(
                self, func: Any, types: Any, args: Any = (), kwargs: Any = None
            ) -> Any:
                seen.append(func)
                return func(*args, **(kwargs or {}))

        with Mode(), FlopCounter() as counter, Mode():
            mm()
        assert seen.count(aten.mm.default) == 2
        assert counter.report().total.macs == PRODUCT

    def test_a_model_must_be_a_module(self) -> None:
        with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module, got function"):
            FlopCounter(lambda x: x)  # type: ignore[arg-type]


class TestExceptions:
    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    def test_they_pass_through_and_leave_nothing(self, error: type[BaseException]) -> None:
        class Failing(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                raise error("mine")

        before, counter = watchers(), FlopCounter()
        with pytest.raises(error, match="mine"), counter:
            Failing()(mm())
        assert watchers() == before
        assert counter.report().total.macs == PRODUCT

    def test_an_error_of_an_op_is_torchs_own(self) -> None:
        def failure(*contexts: Any) -> str:
            with pytest.raises(RuntimeError) as caught:
                torch.mm(torch.ones(2, 3), torch.ones(2, 3))
            return str(caught.value)

        alone = failure()
        with FlopCounter() as counter:
            assert failure() == alone
        assert counter.report().total.macs == 0

    def test_an_error_in_backward_passes_through(self) -> None:
        x = torch.ones(3, requires_grad=True)
        y = 2 * x
        y.register_hook(lambda grad: 1 / 0)
        with FlopCounter() as counter, pytest.raises(ZeroDivisionError):
            y.sum().backward()
        check(counter.report())


@torch.library.custom_op("flopcount_tests::mystery", mutates_args=())
def mystery(x: Tensor) -> Tensor:
    return x.clone()


@torch.library.custom_op("flopcount_tests::scale", mutates_args=())
def scale(x: Tensor, factor: float) -> Tensor:
    return x * factor


MYSTERY = torch.ops.flopcount_tests.mystery
SCALE = torch.ops.flopcount_tests.scale


class TestUncounted:
    def test_it_is_listed_with_its_calls(self) -> None:
        with FlopCounter() as counter:
            mystery(torch.ones(3))
            mystery(torch.ones(3))
            mystery(torch.ones(5))
        report = counter.report()
        check(report)
        assert report.uncounted == {"flopcount_tests.mystery": 3}
        assert report.total.flops == 0
        assert report.by_operator()["flopcount_tests.mystery"].bytes == 2 * 4 * (3 + 3 + 5)

    def test_strict_names_the_op_its_shapes_and_the_scope(self) -> None:
        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = Inner()

            def forward(self, x: Tensor) -> Tensor:
                return self.inner(x)

        class Inner(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return mystery(x)

        model = Model()
        with pytest.raises(UncountedOpError) as caught, FlopCounter(model, strict=True):
            model(torch.ones(2, 3))
        message = str(caught.value)
        assert "flopcount_tests.mystery" in message
        assert "float32[2, 3]" in message
        assert "Model.inner" in message
        assert "forward" in message
        assert isinstance(caught.value, FlopcountError)

    def test_strict_lets_counted_ops_pass(self) -> None:
        layer = nn.Linear(8, 8)
        with FlopCounter(layer, strict=True) as counter:
            layer(batch()).sum().backward()
        check(counter.report(), plain=True)


def elements(x: Tensor, *args: Any, out: Tensor) -> Cost:
    return Cost(arith=x.numel())


class TestUserFormulas:
    @pytest.mark.parametrize(
        "op",
        [
            pytest.param(MYSTERY, id="packet"),
            pytest.param(MYSTERY.default, id="overload"),
            pytest.param("flopcount_tests::mystery", id="name"),
        ],
    )
    def test_of_one_counter(self, op: Any) -> None:
        counter = FlopCounter(formulas={op: elements})
        for _ in range(2):
            with counter, FlopCounter() as other:
                mystery(torch.ones(7))
        report = counter.report()
        assert report.total.flops == 2 * 7
        assert not report.uncounted
        assert other.report().uncounted == {"flopcount_tests.mystery": 1}

    def test_they_come_before_the_registered_ones(self) -> None:
        with FlopCounter(formulas={aten.mm: lambda a, b, *, out: Cost(macs=1)}) as counter:
            mm()
        assert counter.report().total.macs == 1

    def test_an_overload_comes_before_its_packet(self) -> None:
        formulas: dict[Any, Any] = {
            aten.add.Tensor: lambda *args, out, **kwargs: Cost(arith=2),
            aten.add: lambda *args, out, **kwargs: Cost(arith=1),
        }
        with FlopCounter(formulas=formulas) as counter:
            torch.ones(3) + torch.ones(3)
        assert counter.report().total.arith == 2

    def test_registered_for_all_counters(self) -> None:
        counter = FlopCounter()
        with counter:
            scale(torch.ones(7), 2.0)
        assert counter.report().uncounted == {"flopcount_tests.scale": 1}

        flopcount.formula(SCALE)(elements)
        with counter:
            scale(torch.ones(7), 2.0)
        assert counter.report().total.flops == 7

        with pytest.raises(ValueError, match="flopcount_tests::scale has a formula already"):
            flopcount.formula(SCALE)(elements)

    @pytest.mark.parametrize("op", [torch.mm, "mm", 3, None])
    def test_something_that_is_no_op_is_refused(self, op: Any) -> None:
        with pytest.raises(TypeError, match="expected an op"):
            flopcount.formula(op)
        with pytest.raises(TypeError, match="expected an op"):
            FlopCounter(formulas={op: elements})

    def test_one_that_fails_warns_and_leaves_its_op_uncounted(self) -> None:
        def broken(*args: Any, out: Tensor) -> Cost:
            raise IndexError("beyond")

        with (
            FlopCounter(formulas={MYSTERY: broken}) as counter,
            pytest.warns(RuntimeWarning, match="flopcount_tests.mystery failed.*beyond"),
        ):
            mystery(torch.ones(7))
        assert counter.report().uncounted == {"flopcount_tests.mystery": 1}


class TestMemory:
    def test_folding_the_tally_changes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def run() -> flopcount.Report:
            model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
            with FlopCounter(model) as counter:
                for size in (1, 2, 3, 2, 1):
                    model(torch.ones(size, 8)).sum().backward()
            return counter.report()

        unfolded = run()
        monkeypatch.setattr("flopcount.counter.TALLY_LIMIT", 3)
        folded = run()
        check(folded, plain=True)
        assert set(folded.modules) == set(unfolded.modules)
        assert folded.total == unfolded.total
        key = lambda row: (row.module, row.phase, row.op, row.dtype)  # noqa: E731
        assert sorted(folded.entries, key=key) == sorted(unfolded.entries, key=key)

    def test_a_number_that_changes_at_every_step_is_not_a_new_signature(self) -> None:
        layer = linear()
        optimizer = torch.optim.SGD(layer.parameters(), lr=1.0, foreach=False)
        counter = FlopCounter()

        def train(steps: int) -> int:
            with counter:
                for step in range(steps):
                    optimizer.param_groups[0]["lr"] = 0.1 + 1 / (step + 3)
                    optimizer.zero_grad()
                    layer(batch()).sum().backward()
                    optimizer.step()
            return len(counter._local.thread.tally)

        assert train(3) == train(100)

    def test_entering_again_keeps_nothing_of_the_last_time(self) -> None:
        counter = FlopCounter()
        for _ in range(100):
            with counter:
                mm()
        assert len(counter._ops) < 10

    def test_threads_that_have_ended_and_counted_nothing_are_forgotten(self) -> None:
        counter, layer = FlopCounter(), linear()
        with counter:
            for _ in range(20):
                thread = threading.Thread(target=lambda: layer(batch()))
                thread.start()
                thread.join()
        assert len(counter._attribution.threads) <= 2

    @pytest.mark.parametrize(
        "steps", [300, pytest.param(10_000, marks=pytest.mark.slow)], ids="{} steps".format
    )
    def test_it_does_not_grow_with_steps(self, steps: int) -> None:
        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x = torch.ones(2, 4)

        def train(count: int) -> None:
            for _ in range(count):
                optimizer.zero_grad()
                model(x).sum().backward()
                optimizer.step()

        with FlopCounter(model) as counter:
            train(20)
            gc.collect()
            tracemalloc.start()
            try:
                train(steps)
                gc.collect()
                grown, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        # the record of scopes grows until it is full: 7 changes a step of 16 bytes each
        assert grown < min(20_000_000, 200_000 + 1_000 * steps)
        assert counter.report().model.calls == 20 + steps


class TestTheProgramIsTheSame:
    def train(self, watch: bool) -> dict[str, Any]:
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Dropout(), nn.Flatten(),
            nn.Linear(2 * 4 * 4, 3),
        )  # fmt: skip
        optimizer = torch.optim.Adam(model.parameters())
        losses = []

        def steps() -> None:
            for _ in range(3):
                optimizer.zero_grad()
                loss = model(torch.randn(4, 1, 6, 6)).square().mean()
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())

        if watch:
            with FlopCounter(model):
                steps()
        else:
            steps()
        return {
            **model.state_dict(),
            **{f"grad of {name}": p.grad for name, p in model.named_parameters()},
            **{f"loss {step}": loss for step, loss in enumerate(losses)},
            "random state": torch.get_rng_state(),
        }

    def test_bit_by_bit(self) -> None:
        alone, watched = self.train(watch=False), self.train(watch=True)
        assert list(alone) == list(watched)
        for name, value in alone.items():
            assert torch.equal(value, watched[name]), name

    def test_nothing_is_put_on_the_users_objects(self) -> None:
        model = nn.Sequential(linear())
        optimizer = torch.optim.SGD(model.parameters())
        x = batch().requires_grad_()
        before = {key: len(value) for key, value in vars(model[0]).items() if "hooks" in key}
        names = set(vars(model[0])), set(vars(optimizer)), set(vars(x))
        with FlopCounter(model):
            y = model(x)
            y.sum().backward()
            optimizer.step()
        assert {
            key: len(value) for key, value in vars(model[0]).items() if "hooks" in key
        } == before
        assert (set(vars(model[0])), set(vars(optimizer)), set(vars(x))) == names
        assert not x._backward_hooks
        assert not y._backward_hooks

    def test_models_die_when_their_owner_lets_go(self) -> None:
        import weakref

        counter = FlopCounter()
        with counter:
            model = linear()
            y = model(batch())
            alive = weakref.ref(model)
            del model, y
            assert alive() is None


class TestThreads:
    def test_two_threads_in_one_counter_add_up(self) -> None:
        model = nn.Sequential(linear(), nn.ReLU(), linear())
        counter, steps = FlopCounter(model), 50
        ready = threading.Barrier(2)
        errors: list[BaseException] = []

        def work() -> None:
            try:
                ready.wait()
                with counter:
                    for _ in range(steps):
                        torch.autograd.grad(model(batch()).sum(), list(model.parameters()))
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        report = counter.report()
        check(report, plain=True)
        assert report.model.calls == 2 * steps
        # forward 2 products; backward 1 + 2
        assert report.phases["forward"].macs == 2 * steps * 2 * PRODUCT
        assert report.phases["backward"].macs == 2 * steps * 3 * PRODUCT
        assert report["0"].phases["backward"].macs == 2 * steps * PRODUCT

    def test_a_thread_that_does_not_enter_is_not_watched(self) -> None:
        layer = linear()
        with FlopCounter() as counter:
            thread = threading.Thread(target=lambda: layer(batch()).sum().backward())
            thread.start()
            thread.join()
        report = counter.report()
        assert report.total == ZERO
        assert report.root.children == ()

    def test_backward_in_another_thread_than_forward(self) -> None:
        layer = linear()
        counter = FlopCounter(layer)
        with counter:
            loss = layer(batch()).sum()

        def work() -> None:
            with counter:
                loss.backward()

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        report = counter.report()
        assert report.model.phases["backward"].macs == PRODUCT


MODES: dict[str, Callable[[], Any]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "enable_grad": torch.enable_grad,
}


class TestSurroundings:
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

    @pytest.mark.parametrize("outside", [True, False])
    def test_fake_tensors(self, outside: bool) -> None:
        counter, fake = FlopCounter(), FakeTensorMode()
        first, second = (fake, counter) if outside else (counter, fake)
        with first, second:
            layer = linear()
            y = layer(torch.ones(4, 8))
            y.sum().backward()
        report = counter.report()
        check(report)
        assert type(y).__name__ == "FakeTensor"
        assert report.total.macs == 2 * PRODUCT

    @pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
    def test_sparse_tensors_do_not_crash(self) -> None:
        dense = torch.eye(4)
        with FlopCounter() as counter:
            for sparse in (dense.to_sparse(), dense.to_sparse_csr()):
                assert torch.equal(sparse @ dense, dense)
                sparse.to_dense()
            (dense.to_sparse() + dense.to_sparse()).coalesce()
        check(counter.report())

    def test_complex_tensors_do_not_crash(self) -> None:
        x = torch.ones(4, 4, dtype=torch.complex64, requires_grad=True)
        with FlopCounter() as counter:
            (x @ x * x).abs().sum().backward()
            torch.view_as_real(x.exp()).sum().backward()
        check(counter.report())

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

    def test_a_higher_order_op_runs_and_is_reported(self) -> None:
        x = batch()
        with FlopCounter() as counter:
            y = torch.cond(x.sum() > 0, lambda x: x @ torch.ones(8, 8), lambda x: x + 1, (x,))
        report = counter.report()
        check(report)
        assert torch.equal(y, x @ torch.ones(8, 8))
        assert (report.total.macs, report.uncounted) in [(PRODUCT, {}), (0, {"cond": 1})]


class TestCompiledFunctions:
    @pytest.fixture(autouse=True)
    def fresh(self) -> Any:
        torch._dynamo.reset()
        yield
        torch._dynamo.reset()

    @staticmethod
    def compiled() -> tuple[Callable[[Tensor], Tensor], list[int]]:
        """A function, and the sizes of the graphs that it was compiled to."""
        graphs: list[int] = []

        def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
            graphs.append(len(graph.graph.nodes))
            return graph.forward

        def double_product(x: Tensor) -> Tensor:
            return 2 * (x @ torch.ones(8, 8))

        return torch.compile(double_product, backend=backend, fullgraph=True), graphs

    def test_first_called_inside_it_is_compiled_afterwards(self) -> None:
        function, graphs = self.compiled()
        with FlopCounter() as counter:
            y = function(batch())
        assert torch.equal(y, 2 * mm())
        assert counter.report().total.macs == PRODUCT
        assert graphs == []  # under a dispatch mode torch runs it eagerly
        for _ in range(2):
            assert torch.equal(function(batch()), y)
        assert len(graphs) == 1

    def test_compiled_before_it_stays_compiled(self) -> None:
        function, graphs = self.compiled()
        y = function(batch())
        with FlopCounter() as counter:
            assert torch.equal(function(batch()), y)
        assert counter.report().total.macs == PRODUCT
        assert torch.equal(function(batch()), y)
        assert len(graphs) == 1

    @pytest.mark.filterwarnings("ignore:Using `torch.compile")  # said of any global hook
    @pytest.mark.parametrize("fullgraph", [True, False])
    @pytest.mark.parametrize("backend", ["eager", "aot_eager"])
    def test_a_model_that_trains(self, fullgraph: bool, backend: str) -> None:
        model = nn.Sequential(linear(), nn.ReLU(), linear())
        function = torch.compile(model, backend=backend, fullgraph=fullgraph)
        counter = FlopCounter(model)
        for _ in range(2):
            with counter:
                function(batch()).sum().backward()
            function(batch()).sum().backward()
        report = counter.report()
        check(report, plain=True)
        assert [node.calls for node in report.model.walk()] == [2] * 4
        assert report.model.total.macs == 2 * (2 + 3) * PRODUCT


class TestBytes:
    """Every distinct operand is read once, every result written once."""

    @staticmethod
    def moved(run: Callable[[], Any], op: str) -> tuple[int, int]:
        with FlopCounter() as counter:
            run()
        cost = counter.report().by_operator()[op]
        return cost.read, cost.written

    def test_a_square_reads_its_operand_once(self) -> None:
        x, y = torch.ones(5), torch.ones(5)
        assert self.moved(lambda: x * x, "aten.mul") == (4 * 5, 4 * 5)
        assert self.moved(lambda: x * y, "aten.mul") == (4 * 10, 4 * 5)

    def test_both_in_one_counter(self) -> None:
        x, y = torch.ones(5), torch.ones(5)
        assert self.moved(lambda: (x * x, x * y), "aten.mul") == (4 * 15, 4 * 10)

    def test_an_expanded_dimension_is_read_once(self) -> None:
        x, wide = torch.ones(3, 5), torch.ones(5).expand(3, 5)
        assert self.moved(lambda: x + wide, "aten.add") == (4 * (15 + 5), 4 * 15)
        assert self.moved(lambda: x + x.clone(), "aten.add") == (4 * 30, 4 * 15)

    def test_a_broadcast_operand_is_read_once(self) -> None:
        x, row = torch.ones(3, 5), torch.ones(5)
        assert self.moved(lambda: x + row, "aten.add") == (4 * (15 + 5), 4 * 15)

    def test_a_view_moves_nothing(self) -> None:
        x = torch.ones(3, 5)
        with FlopCounter() as counter:
            x.T.reshape(5, 3)[0].unsqueeze(0).expand(7, 3)
        assert counter.report().total == ZERO

    def test_an_op_in_place_writes_what_it_changes(self) -> None:
        x, y = torch.ones(5), torch.ones(5)
        assert self.moved(lambda: x.add_(y), "aten.add_") == (4 * 10, 4 * 5)

    def test_an_op_with_out_writes_it(self) -> None:
        x, y, out = torch.ones(5), torch.ones(5), torch.empty(5)
        assert self.moved(lambda: torch.mul(x, y, out=out), "aten.mul") == (4 * 10, 4 * 5)

    def test_foreach_ops_that_change_their_inputs(self) -> None:
        xs, ys = [torch.ones(5), torch.ones(3)], [torch.ones(5), torch.ones(3)]
        read, written = self.moved(lambda: torch._foreach_add_(xs, ys), "aten._foreach_add_")
        assert (read, written) == (4 * 16, 4 * 8)

    def test_half_precision_moves_half(self) -> None:
        x = torch.ones(5, dtype=torch.bfloat16)
        assert self.moved(lambda: x * x, "aten.mul") == (2 * 5, 2 * 5)


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
