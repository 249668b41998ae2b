"""``with counter.paused():`` leaves out what runs in it, and nothing else."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from flopcount import FlopCounter, FlopcountError
from flopcount.report.tree import ModuleNode
from flopcount.torch_private.modes import modes
from tests.counter.observation import Notes, observe
from tests.counter.units import PRODUCT, batch, linear, mm, pair, products, run_aside


@pytest.fixture(autouse=True)
def nobody_is_warned() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def units(node: ModuleNode) -> dict[str, float]:
    """Products by phase, where there are any."""
    return {phase: cost.macs / PRODUCT for phase, cost in node.phases.items() if cost.macs}


def train(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters())
    model(batch()).sum().backward()
    optimizer.step()


class TestWhatIsLeftOut:
    def test_ops(self) -> None:
        counter = FlopCounter()
        with counter:
            mm()
            with counter.paused():
                mm()
                assert modes() == []
            mm()
        assert products(counter) == 2

    def test_calls_rows_and_phases(self) -> None:
        """A step of a pair: 2 products forward, and 1 + 2 backward."""
        model, other = pair(), pair()
        counter = FlopCounter(model)
        with counter:
            train(model)
            with counter.paused():
                train(model)
                train(other)
                with torch.no_grad():
                    model.eval()(batch())
        alone = FlopCounter(model)
        model.train().zero_grad()
        for parameter in model.parameters():
            parameter.grad = None
        with alone:
            train(model)
        assert units(counter.report().root) == {"forward": 2, "backward": 3}
        assert counter.report().rows() == alone.report().rows()
        assert list(counter.report()) == list(alone.report())
        assert {node.calls for node in counter.report().model.walk()} == {1}

    def test_pauses_in_a_pause(self) -> None:
        counter = FlopCounter()
        with counter:
            with counter.paused():
                with counter.paused():
                    mm()
                mm()
            mm()
        assert products(counter) == 1

    def test_one_object_may_pause_twice_and_in_itself(self) -> None:
        counter = FlopCounter()
        pause = counter.paused()
        with counter:
            for _ in range(2):
                with pause, pause:
                    mm()
                mm()
        assert products(counter) == 2

    def test_a_counter_that_is_not_open(self) -> None:
        counter = FlopCounter()
        with counter.paused():
            mm()
        with counter:
            mm()
        assert products(counter) == 1

    def test_another_counter_goes_on(self) -> None:
        first, second = FlopCounter(), FlopCounter()
        with first, second:
            with first.paused():
                mm()
                assert modes() == [second]
            with second.paused():
                assert modes() == [first]
            mm()
        assert (products(first), products(second)) == (1, 2)

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    def test_exceptions_end_a_pause(self, error: type[BaseException]) -> None:
        class Failing(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                raise error("mine")

        counter, layer = FlopCounter(), linear()
        with counter:
            with pytest.raises(error, match="mine"), counter.paused():
                Failing()(mm())
            layer(batch())
        report = counter.report()
        assert list(report) == ["<block>", ""]
        assert report.model.calls == 1
        assert products(counter) == 1


class TestOpeningInAPause:
    @pytest.mark.parametrize("way", ["block", "start"])
    def test_it_has_no_effect_before_the_pause_ends(self, way: str) -> None:
        counter = FlopCounter()
        with counter.paused():
            if way == "block":
                counter.__enter__()
            else:
                counter.start()
            mm()
        mm()
        if way == "block":
            counter.__exit__()
        else:
            counter.stop()
        mm()
        assert products(counter) == 1

    def test_it_may_close_there(self) -> None:
        counter, layer = FlopCounter(), linear()
        counter.start()
        with counter.paused():
            counter.stop()
            mm()
        mm()
        with counter:
            layer(batch())
        assert units(counter.report().model) == {"forward": 1}
        assert products(counter) == 1


class Pausing(nn.Module):
    """Pauses the counter for one of its layers, or for a call of its own."""

    def __init__(self, counter: Callable[[], FlopCounter]) -> None:
        super().__init__()
        self.counter = counter
        self.before, self.aside, self.after = linear(), linear(), linear()

    def forward(self, x: Tensor, calls_itself: bool = False) -> Tensor:
        y: Tensor = self.before(x)
        with self.counter().paused():
            y = self(y) if calls_itself else self.aside(y)
        return self.after(y) @ torch.ones(8, 8)


class TestInsideModules:
    def test_what_comes_after_belongs_to_the_module(self) -> None:
        model = nn.Sequential(Pausing(lambda: counter))
        counter = FlopCounter(model)
        with counter:
            model(batch())
        report = counter.report()
        assert list(report) == ["<block>", "", "0", "0.before", "0.after"]
        assert units(report["0"]) == {"forward": 3}
        assert report["0"].own.macs == PRODUCT

    def test_a_module_that_calls_itself_in_a_pause(self) -> None:
        model = Pausing(lambda: counter)
        counter = FlopCounter(model)
        with counter:
            model(batch(), calls_itself=True)
        report = counter.report()
        assert report.model.calls == 1
        assert units(report["after"]) == {"forward": 1}
        assert report.model.own.macs == PRODUCT

    def test_backward_of_a_pause_is_the_modules_that_it_stood_in(self) -> None:
        """Forward 3, of before and after and the last; backward before 1, after 2, the last 1.

        The layer aside makes two products, of dx and dW, that are its owner's.
        """
        model = nn.Sequential(Pausing(lambda: counter))
        counter = FlopCounter(model)
        with counter:
            model(batch()).sum().backward()
        report = counter.report()
        assert units(report["0"]) == {"forward": 3, "backward": 1 + 2 + 2 + 1}
        assert units(report["0.before"]) == {"forward": 1, "backward": 1}
        assert report["0"].own.macs == (1 + 1 + 2) * PRODUCT

    def test_a_module_that_is_entered_before_the_pause_and_left_in_it(self) -> None:
        model, after = linear(), linear()
        counter = FlopCounter(model)
        pause = counter.paused()
        model.register_forward_pre_hook(lambda *args: pause.__enter__())
        with counter:
            y = model(batch())
            pause.__exit__()
            mm()
            after(y).sum().backward()
        report = counter.report()
        assert report.model.calls == 1
        assert "forward" not in units(report.model)
        assert report.root.own.macs == PRODUCT
        assert units(report["Linear#2"]) == {"forward": 1, "backward": 2}
        # its node was made while the pause stood in it
        assert units(report.model) == {"backward": 1}

    def test_a_module_that_is_entered_in_the_pause_and_left_after_it(self) -> None:
        class Resuming(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = linear()

            def forward(self, x: Tensor) -> Tensor:
                pause.__exit__()
                return self.layer(x)

        model = Resuming()
        counter = FlopCounter(model)
        pause = counter.paused()
        with counter:
            pause.__enter__()
            model(batch())
            mm()
        report = counter.report()
        assert report.model.calls == 0
        assert units(report["layer"]) == {"forward": 1}
        assert report.root.own.macs == PRODUCT


class TestBackward:
    def test_of_what_a_pause_made_is_counted_outside_without_a_module(self) -> None:
        """As of a forward pass before the block: 1 + 2 products."""
        model = pair()
        counter = FlopCounter(model)
        with counter:
            model(batch())
            with counter.paused():
                loss = model(batch()).sum()
            loss.backward()
        report = counter.report()
        assert units(report["unattributed"]) == {"backward": 3}
        assert units(report.model) == {"forward": 2}

    def test_in_a_pause_is_left_out(self) -> None:
        model = pair()
        counter = FlopCounter(model)
        with counter:
            for _ in range(2):
                loss = model(batch()).sum()
                with counter.paused():
                    loss.backward()
        assert units(counter.report().root) == {"forward": 4}

    @pytest.mark.parametrize(("reentrant", "recomputed"), [(False, 1), (True, 2)])
    def test_recomputation_in_a_pause_is_left_out(self, reentrant: bool, recomputed: int) -> None:
        """A checkpoint that is not reentrant stops before the last product, which nobody needs."""
        model = pair()
        counter = FlopCounter(model)

        def run() -> Tensor:
            x = batch().requires_grad_()
            return checkpoint(model, x, use_reentrant=reentrant).sum()

        with counter:
            loss = run()
            with counter.paused():
                loss.backward()
            run().backward()
        report = counter.report()
        # backward: dx and dW of both
        assert units(report.model) == {"forward": 4, "recompute": recomputed, "backward": 4}
        assert report.model.calls == 2

    def test_a_hook_that_pauses(self) -> None:
        model, aside = pair(), linear()
        counter = FlopCounter(model)

        def hook(gradient: Tensor) -> None:
            with counter.paused(), torch.enable_grad():
                aside(batch()).sum().backward()

        with counter:
            hidden = model[0](batch())
            hidden.register_hook(hook)
            model[2](hidden).sum().backward()
        report = counter.report()
        assert units(report["0"]) == {"forward": 1, "backward": 1}
        assert units(report["2"]) == {"forward": 1, "backward": 2}
        assert products(counter) == 5


class TestThreads:
    def test_a_pause_is_of_the_thread_that_opens_it(self) -> None:
        counter = FlopCounter()

        def work() -> None:
            with counter:
                mm()
                with counter.paused():
                    mm()

        with counter, counter.paused():
            run_aside(work)
            mm()
        assert products(counter) == 1

    def test_a_thread_that_paused_is_not_taken_for_unwatched(self) -> None:
        counter, layer = FlopCounter(), linear()

        def work() -> None:
            with counter.paused():
                layer(batch()).sum().backward()
                torch.optim.SGD(layer.parameters()).step()

        with counter:
            run_aside(work)
        assert counter.report().unwatched == {}

    def test_a_pause_that_another_thread_ends(self) -> None:
        counter = FlopCounter()
        pause = counter.paused()
        with counter:
            pause.__enter__()
            with pytest.raises(FlopcountError, match="'aside' ends a pause that another thread"):
                run_aside(pause.__exit__, "aside")
            mm()
            with counter:
                mm()
        assert products(counter) == 1

    def test_a_pause_that_is_left_twice(self) -> None:
        counter = FlopCounter()
        pause = counter.paused()
        with counter:
            with pytest.raises(FlopcountError, match="the pause was left twice"):
                pause.__exit__()
            mm()
        assert products(counter) == 1


class TestHarmlessness:
    def test_compiled_functions_run_compiled_in_a_pause(self) -> None:
        runs: list[str] = []

        def backend(graph: Any, inputs: Any) -> Any:
            return lambda *args: runs.append("compiled") or graph(*args)

        function = torch.compile(lambda x: x.sin(), backend=backend)
        with FlopCounter() as counter:
            function(batch())
            with counter.paused():
                function(batch())
            function(batch())
        assert runs == ["compiled"]
        function(batch())
        assert runs == ["compiled", "compiled"]

    def test_a_program_runs_in_a_pause_as_it_does_alone(self) -> None:
        def program(notes: Notes, counter: FlopCounter | None = None) -> Any:
            torch.manual_seed(0)
            model = nn.Sequential(linear(), nn.Dropout(), linear())
            model[0].register_forward_hook(lambda *args: notes.append("hook"))
            loss = model(batch()).sum()
            loss.backward()
            return loss, [parameter.grad for parameter in model.parameters()], modes()

        def paused(notes: Notes) -> Any:
            with FlopCounter() as counter, counter.paused():
                return program(notes)

        alone, ours = observe(program, watch=False), observe(paused, watch=False)
        assert ours.error == alone.error == []
        assert torch.equal(ours.result[0], alone.result[0])
        assert ours.result[2] == alone.result[2] == []
        assert (ours.notes, ours.warnings) == (alone.notes, alone.warnings)

    def test_a_traceback_has_no_frames_of_ours(self) -> None:
        with (
            FlopCounter() as counter,
            pytest.raises(ValueError, match="mine") as caught,
            counter.paused(),
        ):
            raise ValueError("mine")
        assert [entry.path.name for entry in caught.traceback] == ["test_paused.py"]


class TestReset:
    def test_in_a_pause(self) -> None:
        counter, layer = FlopCounter(), linear()
        with counter:
            layer(batch())
            with counter.paused():
                counter.reset()
                layer(batch())
            layer(batch())
        assert (products(counter), counter.report().model.calls) == (1, 1)
