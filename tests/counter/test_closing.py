"""Counters and other modes close in any order; what is closed wrongly is told so."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from flopcount import FlopCounter, FlopcountError
from flopcount.torch_private.modes import FakeTensorMode, modes
from tests.counter.units import PRODUCT, batch, close, mm, pair, products
from tests.hooks import notes
from tests.torch_private.ops import Ops


class TestOrder:
    def test_two_counters_that_close_in_the_order_in_which_they_opened(self) -> None:
        first, second = FlopCounter(), FlopCounter()
        first.__enter__()
        second.__enter__()
        mm()
        close(first)
        assert modes() == [second]
        mm()
        close(second)
        mm()
        assert (products(first), products(second)) == (1, 2)

    @pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
    def test_three_counters_in_any_order(self, order: tuple[int, ...]) -> None:
        """The counter that is closed as the n-th sees n products."""
        counters = [FlopCounter().__enter__() for _ in order]
        for closed, index in enumerate(order, 1):
            mm()
            close(counters[index])
            assert modes() == [counters[i] for i in sorted(order[closed:])]
            assert all(notes()) == (closed < len(order))
        mm()
        assert [products(counters[index]) for index in order] == [1, 2, 3]

    @pytest.mark.parametrize(
        ("others", "place", "num_closed"),
        [
            (others, place, num_closed)
            for others in ("U", "F", "C", "UU", "UF", "FU", "CU", "CF", "UFU")
            for place in range(len(others) + 1)
            for num_closed in range(len(others) - place + 1)
        ],
    )
    def test_modes_of_others_stay_in_their_order(
        self, others: str, place: int, num_closed: int
    ) -> None:
        """U is a user's mode, F makes fake tensors, C is torch's own counter.

        Our counter stands in one ``place`` among them, and closes after some of those inside it.
        """
        make: dict[str, Callable[[], Any]] = {
            "U": lambda: Ops(lambda op, args: None),
            "F": FakeTensorMode,
            "C": lambda: FlopCounterMode(display=False),
        }
        counter, theirs = FlopCounter(), [make[kind]() for kind in others]
        for mode in (*theirs[:place], counter, *theirs[place:]):
            mode.__enter__()
        mm()
        for _ in range(num_closed):
            close(theirs.pop())
        left = [mode for mode in modes() if mode is not counter]
        close(counter)
        assert modes() == left
        assert notes()[0] == bool(left)
        assert notes()[1] == any(not mode.is_infra_mode() for mode in left)
        mm()
        while theirs:
            close(theirs.pop())
        assert modes() == []
        assert products(counter) == 1

    def test_a_mode_that_closes_before_a_counter_inside_it_does_not_stay(self) -> None:
        """torch closes the mode on top, which is the counter; what it misses is in the limits."""
        theirs, ours = FlopCounterMode(display=False), FlopCounter()
        theirs.__enter__()
        ours.__enter__()
        mm()
        close(theirs)
        close(ours)
        mm()
        assert products(ours) == 1
        assert theirs.get_total_flops() == 2 * PRODUCT

    def test_a_mode_that_is_open_twice_stays_twice(self) -> None:
        ops, counter = Ops(lambda op, args: op), FlopCounter()
        with ops:
            counter.__enter__()
            with ops:
                close(counter)
                assert modes() == [ops, ops]
                assert all(notes())
            assert modes() == [ops]
            assert all(notes())

    def test_a_compiled_function_runs_compiled_after_them(self) -> None:
        compiled: list[Any] = []

        def backend(graph: Any, inputs: Any) -> Any:
            compiled.append(graph)
            return graph

        function = torch.compile(lambda x: x.sin(), backend=backend)
        first, second = FlopCounter().__enter__(), FlopCounter().__enter__()
        function(batch())
        close(first)
        function(batch())
        assert not compiled
        close(second)
        function(batch())
        assert len(compiled) == 1

    def test_a_stance_of_the_users_that_outlives_the_counter(self) -> None:
        runs: list[str] = []

        def backend(graph: Any, inputs: Any) -> Any:
            runs.append("compiled")
            return graph

        function = torch.compile(lambda x: x.cos(), backend=backend)
        function(batch())  # the compiler is loaded
        runs.clear()
        torch.compiler.reset()
        counter = FlopCounter().__enter__()
        with torch.compiler.set_stance("eager_on_recompile"):
            close(counter)
        function(batch())
        assert runs == ["compiled"]
        with counter:
            function(batch())
        torch.compiler.reset()
        function(batch())
        assert runs == ["compiled", "compiled"]
        torch.compiler.set_stance("default")

    def test_rows_and_phases_are_those_of_nested_counters(self) -> None:
        model = pair()
        first, second, nested = (FlopCounter(model) for _ in range(3))
        optimizer = torch.optim.SGD(model.parameters())

        def step() -> None:
            optimizer.zero_grad()
            model(batch()).sum().backward()
            optimizer.step()

        with nested:
            step()
        first.start()
        second.start()
        step()
        first.stop()
        step()
        second.stop()
        assert first.report().rows() == nested.report().rows()
        assert second.report().total == nested.report().total + nested.report().total


class TestWrongExits:
    def test_without_an_enter(self) -> None:
        with pytest.raises(FlopcountError, match="without being entered, or twice"):
            close(FlopCounter())

    def test_twice(self) -> None:
        with FlopCounter() as outer:
            with FlopCounter() as counter:
                mm()
            with pytest.raises(FlopcountError, match="or twice"):
                close(counter)
            assert modes() == [outer]
            mm()
        assert (products(counter), products(outer)) == (1, 2)

    def test_inside_the_block(self) -> None:
        counter = FlopCounter()

        def leave_twice() -> None:
            with counter:
                mm()
                close(counter)
                mm()

        with pytest.raises(FlopcountError, match="or twice"):
            leave_twice()
        assert products(counter) == 1

    def test_of_what_start_opened(self) -> None:
        counter = FlopCounter()
        counter.start()
        with pytest.raises(FlopcountError, match=r"what start\(\) opens, stop\(\) closes"):
            close(counter)
        mm()
        counter.stop()
        assert products(counter) == 1

    def test_in_a_thread_where_several_others_are_open(self) -> None:
        counter, ready, done = FlopCounter(), threading.Barrier(3), threading.Event()

        def work() -> None:
            with counter:
                ready.wait()
                done.wait()

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        ready.wait()
        try:
            with pytest.raises(FlopcountError, match="and 2 other threads have"):
                close(counter)
        finally:
            done.set()
            for thread in threads:
                thread.join()
