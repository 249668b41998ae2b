"""A counter is opened and closed by generators, hooks and callbacks, and reset in between."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flopcount import FlopCounter, FlopcountError
from flopcount.torch_private.modes import modes
from tests.counter.units import PRODUCT, batch, close, linear, mm, pair, products, run_aside
from tests.torch_private.ops import Ops


def counted(counter: FlopCounter) -> Iterator[Tensor]:
    """A generator that is counted from its first step to its end."""
    with counter:
        yield mm()


class TestGenerators:
    def test_one_that_is_closed_inside_another_counter(self) -> None:
        inner, outer = FlopCounter(), FlopCounter()
        generator: Any = counted(inner)
        next(generator)
        with outer:
            mm()
            generator.close()
            assert modes() == [outer]
            mm()
        assert (products(inner), products(outer)) == (2, 2)

    def test_two_that_take_turns(self) -> None:
        first, second = FlopCounter(), FlopCounter()
        for _ in zip(counted(first), counted(second), strict=True):
            mm()
        assert (products(first), products(second)) == (3, 2)

    @pytest.mark.parametrize("work", ["mm", "linear"])
    def test_one_that_ends_while_the_counter_runs_an_op(self, work: str) -> None:
        """As where garbage is collected: torch puts the mode back after the op. It counts no more.

        A linear is made of other ops, which the counter sees inside its own handler.
        """
        counter, held = FlopCounter(), []

        def drop(op: Any, args: Any) -> None:
            held.clear()  # runs the generator's __exit__

        run = {"mm": mm, "linear": lambda: nn.functional.linear(batch(), torch.ones(8, 8))}[work]
        outer = Ops(drop)
        with outer:
            held.append(counted(counter))
            generator = held[0]
            outer.look = lambda op, args: None
            next(generator)
            outer.look = drop
            del generator
            run()
            run()
            assert products(counter) == 1  # this takes the mode off
            assert modes() == [outer]

    def test_one_that_ends_in_the_function_of_a_control_flow_op(self) -> None:
        counter, outer = FlopCounter(), FlopCounter()
        generator: Any = counted(counter)

        def branch(x: Tensor) -> Tensor:
            generator.close()
            return x @ torch.ones(8, 8)

        with outer, torch.no_grad():
            next(generator)
            torch.cond(torch.tensor(True), branch, branch, (batch(),))
            mm()
            assert products(counter) == 1
            assert modes() == [outer]
        assert products(outer) == 1 + 2

    def test_one_that_is_collected_with_a_cycle(self) -> None:
        counter = FlopCounter()

        def cycle() -> None:
            held: list[Any] = [counted(counter)]
            held.append(held)
            next(held[0])

        gc.disable()
        try:
            cycle()
            mm()
            assert modes() == [counter]
        finally:
            gc.enable()
        gc.collect()
        assert modes() == []
        mm()
        assert products(counter) == 2


class TestBackward:
    def test_a_counter_that_a_hook_of_backward_closes_counts_no_more(self) -> None:
        """torch gives each node the stack of modes that was there when the pass began."""
        first, last = linear(), linear()
        counter = FlopCounter()
        hidden = first(batch())
        hidden.register_hook(lambda gradient: close(counter))
        loss = last(hidden).sum()
        counter.__enter__()
        loss.backward()  # last: dW and dx; then the hook; first: dW
        mm()
        assert products(counter) == 2
        assert modes() == []
        with counter:
            mm()
        assert products(counter) == 3

    def test_a_counter_that_is_entered_and_left_in_a_hook_counts_it(self) -> None:
        counter = FlopCounter()

        def hook(gradient: Tensor) -> None:
            with counter:
                mm()

        hidden = linear()(batch())
        hidden.register_hook(hook)
        linear()(hidden).sum().backward()
        assert products(counter) == 1

    def test_start_in_a_hook_is_refused(self) -> None:
        counter, errors = FlopCounter(), []

        def hook(gradient: Tensor) -> None:
            try:
                counter.start()
            except FlopcountError as error:
                errors.append(str(error))

        x = batch().requires_grad_()
        y = 2 * x
        y.register_hook(hook)
        y.sum().backward(retain_graph=True)
        assert "call start() before backward()" in errors.pop()
        counter.start()
        y.sum().backward()  # it is open, and stays so
        counter.stop()
        assert not errors


class Callbacks:
    """What trainers do: they call hooks, and those after one that raises are skipped."""

    def __init__(self, *counters: FlopCounter) -> None:
        self.counters = counters

    def step(self, work: Callable[[], Any]) -> None:
        for counter in self.counters:
            counter.start()
        work()
        for counter in self.counters:
            counter.stop()


class TestStartAndStop:
    def test_they_count_what_a_block_counts(self) -> None:
        model = pair()
        block, callback = FlopCounter(model), FlopCounter(model)
        with block:
            model(batch()).sum().backward()
        model.zero_grad()
        callback.start()
        model(batch()).sum().backward()
        callback.stop()
        assert callback.report().rows() == block.report().rows()

    def test_callbacks_in_list_order(self) -> None:
        counters = FlopCounter(), FlopCounter()
        trainer = Callbacks(*counters)
        for _ in range(3):
            trainer.step(mm)
            assert modes() == []
        assert [products(counter) for counter in counters] == [3, 3]

    def test_a_step_that_raises_is_not_counted_twice(self) -> None:
        counter = FlopCounter()
        trainer = Callbacks(counter)

        def fail() -> None:
            mm()
            raise ValueError("mine")

        with pytest.raises(ValueError, match="mine"):
            trainer.step(fail)
        for _ in range(2):
            trainer.step(mm)
        assert products(counter) == 3
        assert modes() == []

    def test_a_stop_without_a_start_is_harmless(self) -> None:
        counter = FlopCounter()
        counter.stop()
        with counter:
            mm()
            counter.stop()
            mm()
        counter.stop()
        assert products(counter) == 2

    @pytest.mark.parametrize("first", ["stop", "exit"])
    def test_with_a_block_inside_each_closes_what_it_opened(self, first: str) -> None:
        counter = FlopCounter()
        counter.start()
        counter.__enter__()
        ends = [counter.stop, lambda: close(counter)]
        for end in ends if first == "stop" else reversed(ends):
            mm()
            end()
        mm()
        assert products(counter) == 2

    def test_each_thread_starts_and_stops_for_itself(self) -> None:
        counter = FlopCounter()

        def work() -> None:
            counter.start()
            mm()
            counter.stop()
            mm()

        counter.start()
        run_aside(work)
        mm()
        counter.stop()
        assert products(counter) == 2

    def test_another_thread_may_stop_it(self) -> None:
        counter = FlopCounter()
        counter.start()
        mm()
        run_aside(counter.stop)
        mm()
        assert products(counter) == 1


class TestReset:
    def test_inside_a_module(self) -> None:
        """What is left of the call is counted; the call itself began before."""
        model = pair()
        counter = FlopCounter(model)
        model[1].register_forward_hook(lambda *args: counter.reset())
        with counter:
            loss = model(batch()).sum()
            assert products(counter) == 1
            loss.backward()
        report = counter.report()
        assert (report.model.calls, report["0"].calls, report["2"].calls) == (0, 0, 1)
        assert report["0"].total.macs == PRODUCT
        assert report["2"].total.macs == 3 * PRODUCT

    def test_in_one_thread_it_forgets_what_all_have_counted(self) -> None:
        counter, steps = FlopCounter(), [threading.Event() for _ in range(2)]

        def work() -> None:
            with counter:
                mm()
                steps[0].set()
                steps[1].wait()
                mm()

        thread = threading.Thread(target=work)
        with counter:
            mm()
            thread.start()
            steps[0].wait()
            counter.reset()
            steps[1].set()
            thread.join()
            assert products(counter) == 1
            mm()
        assert products(counter) == 2

    def test_after_another_thread_closed_the_counter(self) -> None:
        counter = FlopCounter().__enter__()
        mm()
        run_aside(lambda: close(counter))
        counter.reset()
        mm()
        assert products(counter) == 0
