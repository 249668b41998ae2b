"""A counter is closed by another thread than the one that opened it, or by none."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import pytest
import torch

from flopcount import FlopCounter, FlopcountError
from flopcount.torch_private.modes import modes
from tests.counter.units import batch, close, mm, pair, products, run_aside
from tests.hooks import notes, watchers


class TestThreads:
    def test_an_exit_in_another_thread_ends_the_counting(self) -> None:
        counter = FlopCounter().__enter__()
        mm()
        run_aside(lambda: close(counter))
        mm()
        pair()(batch()).sum().backward()
        assert products(counter) == 1
        assert modes() == []

    def test_an_exit_in_another_thread_before_the_first_op(self) -> None:
        counter, steps = FlopCounter(), [threading.Event() for _ in range(2)]

        def work() -> None:
            counter.__enter__()
            steps[0].set()
            steps[1].wait()
            mm()

        thread = threading.Thread(target=work)
        thread.start()
        steps[0].wait()
        close(counter)
        steps[1].set()
        thread.join()
        assert products(counter) == 0

    def test_it_can_be_entered_again_after_that(self) -> None:
        counter = FlopCounter().__enter__()
        run_aside(lambda: close(counter))
        mm()
        with counter:
            assert modes() == [counter]
            mm()
        assert products(counter) == 1

    def test_an_uncounted_op_after_that_raises_nothing(self) -> None:
        counter = FlopCounter(strict=True).__enter__()
        run_aside(lambda: close(counter))
        sparse = torch.eye(3).to_sparse()
        sparse @ sparse
        assert counter.report().uncounted == {}

    def test_another_counter_takes_it_off(self) -> None:
        counter, other = FlopCounter().__enter__(), FlopCounter()
        run_aside(lambda: close(counter))
        assert modes() == [counter]
        with other:
            assert modes() == [other]
            mm()
        assert (products(counter), products(other)) == (0, 1)

    def test_counters_of_two_threads_that_overlap(self) -> None:
        """torch notes open modes for all threads at once: the last to close must leave no note."""
        first, second = FlopCounter(), FlopCounter()
        steps = [threading.Event() for _ in range(2)]

        def work() -> None:
            with second:
                steps[0].set()
                steps[1].wait()
                assert all(notes())
                mm()

        thread = threading.Thread(target=work)
        with first:
            thread.start()
            steps[0].wait()
            mm()
        steps[1].set()
        thread.join()
        assert (products(first), products(second)) == (1, 1)

    @pytest.mark.parametrize("opens", [FlopCounter.__enter__, FlopCounter.start])
    def test_a_thread_that_ends_without_leaving_is_let_go(self, opens: Any) -> None:
        counter, before = FlopCounter(), watchers()

        def work() -> None:
            opens(counter)
            mm()

        run_aside(work)
        assert watchers() == before
        assert not any(notes())
        assert products(counter) == 1
        counter.stop()
        with counter:
            mm()
        assert products(counter) == 2

    def test_an_exit_for_a_thread_that_has_ended_is_no_mistake_but_two_are(self) -> None:
        counter = FlopCounter()
        run_aside(counter.__enter__)
        close(counter)
        with pytest.raises(FlopcountError, match="or twice"):
            close(counter)

    def test_the_thread_that_closes_for_another_is_no_stranger(self) -> None:
        """A thread that makes nodes unseen would leave backward unattributed."""
        model = pair()
        with FlopCounter(model) as counter:
            loss = model(batch()).sum()
            counter.start()
            run_aside(counter.stop)
            loss.backward()
        assert "unattributed" not in counter.report()
        assert not counter._threads.are_several

    def test_a_program_that_ends_with_open_counters_ends_well(self) -> None:
        program = """
import threading, torch, flopcount
counter = flopcount.FlopCounter()
counter.start()
counter.__enter__()
thread = threading.Thread(target=counter.__enter__)
thread.start()
thread.join()
pause = flopcount.FlopCounter().__enter__().paused()
pause.__enter__()
def held():
    with counter:
        yield
generator = held()
next(generator)
torch.ones(3) + 1
"""
        ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert (ran.returncode, ran.stderr) == (0, "")
