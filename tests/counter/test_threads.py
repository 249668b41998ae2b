"""Threads that share a counter, and threads that do not."""

from __future__ import annotations

import multiprocessing
import threading
import warnings
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from flopcount import FlopCounter, UnwatchedThreadWarning
from flopcount.cost import ZERO
from tests.counter.units import PRODUCT, batch, linear, run_aside
from tests.invariants import check


def product_aside() -> dict[str, int]:
    """MACs of backward where a thread that enters late multiplies by a weight, without a module.

    Its node has the number of one of the stem's, which was made before.
    """
    model = nn.Sequential(linear(), nn.Tanh(), nn.Tanh())
    weight, losses = torch.randn(8, 8, requires_grad=True), []

    def forward() -> None:
        with counter:
            losses.append((batch() @ weight).sum())

    with FlopCounter(model) as counter:
        losses.append(model(batch()).sum())
        run_aside(forward)
        torch.autograd.backward(losses)
    report = counter.report()
    nodes = {"root": report.root, "unattributed": report["unattributed"]}
    return {name: node.phases["backward"].macs for name, node in nodes.items()}


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

    def test_a_thread_that_does_not_enter_is_not_watched_and_the_report_says_so(self) -> None:
        layer = linear()
        with FlopCounter() as counter:
            thread = threading.Thread(target=lambda: layer(batch()).sum().backward(), name="aside")
            thread.start()
            thread.join()
        with pytest.warns(UnwatchedThreadWarning, match="Linear ran in thread 'aside'") as caught:
            report = counter.report()
        assert caught[0].filename == __file__
        assert report.unwatched == {"aside": "Linear"}
        assert str(report).endswith(
            "not counted, in threads that had not entered: Linear in 'aside'"
        )
        assert report.total == ZERO
        assert report.root.children == ()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            counter.report()  # it was said

    @pytest.mark.parametrize("by", ["backward", "autograd.backward", "autograd.grad"])
    def test_a_backward_pass_of_a_thread_that_did_not_enter_is_not_taken_for_none(
        self, by: str
    ) -> None:
        layer = linear()
        with FlopCounter() as counter:
            loss = layer(batch()).sum()
            passes = {
                "backward": loss.backward,
                "autograd.backward": lambda: torch.autograd.backward(loss),
                "autograd.grad": lambda: torch.autograd.grad(loss, [layer.weight]),
            }
            thread = threading.Thread(target=passes[by], name="aside")
            thread.start()
            thread.join()
        with pytest.warns(UnwatchedThreadWarning, match="backward ran in thread 'aside'"):
            report = counter.report()
        assert report.unwatched == {"aside": "backward"}
        assert report.total.macs == PRODUCT

    def test_a_step_of_an_optimizer_in_a_thread_that_did_not_enter_is_not_taken_for_none(
        self,
    ) -> None:
        layer = linear()
        optimizer = torch.optim.SGD(layer.parameters())
        with FlopCounter() as counter:
            layer(batch()).sum().backward()
            run_aside(optimizer.step)
        with pytest.warns(UnwatchedThreadWarning, match="SGD ran in thread"):
            counter.report()

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("reentrant", [False, True])
    def test_a_thread_that_enters_is_watched_whatever_it_runs(self, reentrant: bool) -> None:
        model = nn.Sequential(linear(), linear())
        optimizer = torch.optim.SGD(model.parameters())

        def step() -> None:
            with counter:
                x = batch().requires_grad_()
                checkpoint(model, x, use_reentrant=reentrant).sum().backward()
                optimizer.step()

        with FlopCounter() as counter:
            run_aside(step)
        assert counter.report().unwatched == {}

    def test_reset_forgets_the_threads_that_did_not_enter(self) -> None:
        layer = linear()
        with FlopCounter() as counter:
            thread = threading.Thread(target=lambda: layer(batch()))
            thread.start()
            thread.join()
            counter.reset()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            counter.report()

    def test_after_the_block_other_threads_are_their_own_masters(self) -> None:
        layer, counter = linear(), FlopCounter()
        with counter:
            layer(batch())
        thread = threading.Thread(target=lambda: layer(batch()))
        thread.start()
        thread.join()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert counter.report().total.macs == PRODUCT

    def test_nodes_that_two_threads_numbered_alike_have_gradients_of_their_own(self) -> None:
        """Each thread numbers its nodes from 0; a third one, which made none, runs them back."""
        model = nn.ModuleDict({"first": linear(), "second": linear()})
        counter, losses = FlopCounter(model), []
        x = batch().requires_grad_()

        def forward(name: str) -> None:
            with counter:
                losses.append(model[name](x).sum())

        def backward() -> None:
            with counter:
                torch.autograd.backward(losses)

        for work in (lambda: forward("first"), lambda: forward("second"), backward):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        report = counter.report()
        for name in model:
            gradients = {key: cost.macs for key, cost in report[name].gradients.items()}
            assert gradients == {"input": PRODUCT, "weight": PRODUCT, "bias": 0}

    def test_a_node_that_two_threads_may_have_made_is_unattributed_not_guessed(self) -> None:
        """What a call leaves behind, and does not return, is not followed to its nodes."""

        class Aside(nn.Linear):
            def forward(self, x: torch.Tensor) -> None:
                self.left_behind = super().forward(x)

        model = nn.ModuleDict({name: Aside(8, 8, bias=False) for name in ("first", "second")})
        counter = FlopCounter(model)

        def forward(name: str) -> None:
            with counter:
                model[name](batch())

        def backward() -> None:
            with counter:
                for layer in model.values():
                    layer.left_behind.sum().backward()

        for work in (lambda: forward("first"), lambda: forward("second"), backward):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        report = counter.report()
        assert report.root.phases["backward"].macs == 2 * PRODUCT
        assert report["unattributed"].phases["backward"].macs == 2 * PRODUCT

    def test_what_another_thread_made_without_a_module_is_not_taken_for_a_layers(self) -> None:
        """In a new process, whose first thread numbers nodes from 0, too."""
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            macs = pool.apply(product_aside)
        assert macs == {"root": 2 * PRODUCT, "unattributed": 2 * PRODUCT}

    def test_nodes_of_threads_that_nobody_watches_are_not_taken_for_a_layers(self) -> None:
        """A batch in two halves, as DataParallel does: the numbers are the stem's, too."""
        parts = {"stem": nn.Sequential(linear(), nn.Tanh(), nn.Tanh()), "body": linear()}
        model = nn.ModuleDict(parts)

        class Split(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.parts, self.head = model, linear()

            def forward(self, x: torch.Tensor) -> Any:
                y = self.parts["stem"](x)
                halves: list[torch.Tensor] = []
                for half in y.chunk(2):
                    run_aside(lambda half=half: halves.append(self.parts["body"](half)))
                return self.head(torch.cat(halves))

        split = Split()
        with FlopCounter(split) as counter:
            for _ in range(3):
                split(batch()).sum().backward()
        with pytest.warns(UnwatchedThreadWarning):
            report = counter.report()
        assert report["head"].phases["backward"].macs == 3 * 2 * PRODUCT
        # each step the stem's gradient is one product, the body's two, of half a batch each
        stem = report["parts.stem"].phases["backward"].macs
        assert report["parts.stem.1"].total.macs == report["parts.stem.2"].total.macs == 0
        unknown = report["unattributed"].phases["backward"].macs
        assert stem + unknown == 3 * (1 + 2) * PRODUCT
        assert unknown >= 3 * 2 * PRODUCT

    def test_a_thread_without_gradients_that_nobody_watches_makes_no_nodes(self) -> None:
        model, other = nn.Sequential(linear(), linear()), linear()

        def evaluate() -> None:
            with torch.no_grad():
                other(batch())

        with FlopCounter(model) as counter:
            loss = model(batch()).sum()
            run_aside(evaluate)
            loss.backward()
        with pytest.warns(UnwatchedThreadWarning):
            report = counter.report()
        assert report["0"].phases["backward"].macs == PRODUCT
        assert report["1"].phases["backward"].macs == 2 * PRODUCT

    def test_what_runs_in_threads_of_torchs_own_is_unattributed(self) -> None:
        """``torch.jit.fork`` takes the counter along, and not the module."""

        class Forks(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b = linear(), linear()

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                a, b = torch.jit.fork(self.a, x), torch.jit.fork(self.b, x)
                return torch.jit.wait(a) + torch.jit.wait(b)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            model = nn.Sequential(linear(), torch.jit.script(Forks()))
        with FlopCounter(model) as counter:
            model(batch()).sum().backward()
        report = counter.report()
        phases = {name: cost.macs / PRODUCT for name, cost in report.root.phases.items()}
        assert phases == {"forward": 3, "backward": 5, "recompute": 0, "optimizer": 0, "other": 0}
        assert report["unattributed"].phases["forward"].macs == 2 * PRODUCT
        assert report["1"].total.macs == 0
        assert report.root.own.macs == 0

    def test_function_modes_see_nothing_of_what_is_noted_on_nodes(self) -> None:
        class Names(TorchFunctionMode):
            def __init__(self) -> None:
                super().__init__()
                self.seen: list[str] = []

            def __torch_function__(
                self, func: Any, types: Any, args: Any = (), kwargs: Any = None
            ) -> Any:
                self.seen.append(func.__name__)
                return func(*args, **(kwargs or {}))

        def seen(counter: Any) -> list[str]:
            layer, names = linear(), Names()
            layer.register_full_backward_hook(lambda *gradients: None)

            def step() -> None:
                with counter, names:
                    layer(batch().requires_grad_()).sum().backward()

            thread = threading.Thread(target=step)
            thread.start()
            thread.join()
            return names.seen

        assert seen(FlopCounter()) == seen(nullcontext())
