"""Threads that share a counter, and threads that do not."""

from __future__ import annotations

import threading
import warnings
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from flopcount import FlopCounter, UnwatchedThreadWarning
from flopcount.cost import ZERO
from tests.counter.units import PRODUCT, batch, linear
from tests.invariants import check


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
