"""Which module does an op of the forward pass belong to?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks

import flopcount
from flopcount import FlopCounter
from tests.attribution.units import batch, linear, own_units, paths, units
from tests.invariants import check


def test_keyword_arguments_are_as_good_as_positional_ones() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = linear()

        def forward(self, *, x: Tensor) -> Tensor:
            return self.layer(input=x)

    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([Block(), Block(), Block()])

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x=x)
            return x

    report = flopcount.count(Chain(), batch())
    totals = [sum(units(report[f"blocks.{index}"]).values()) for index in range(3)]
    assert totals == [2, 3, 3]  # the first input needs no gradient
    check(report, plain=True)


def test_towers_on_inputs_without_gradient_do_not_run_into_each_other() -> None:
    class Towers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = linear(), linear()

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.left(x) + self.right(y)

    report = flopcount.count(Towers(), batch(), batch())
    assert units(report["left"]) == units(report["right"]) == {"forward": 1, "backward": 1}


@dataclass
class Output:
    value: Tensor
    extra: list[Tensor]


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda y: y, id="tensor"),
        pytest.param(lambda y: Output(y, [y]), id="dataclass"),
        pytest.param(lambda y: {"value": y}, id="dict"),
        pytest.param(lambda y: (None, [y]), id="nested tuple"),
    ],
)
def test_what_a_block_returns_does_not_matter(wrap: Any) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = linear()

        def forward(self, x: Tensor) -> Any:
            self.kept = self.layer(x)
            return wrap(self.kept)

    block, head = Block(), linear()
    with FlopCounter() as counter:
        block(batch())
        head(block.kept).sum().backward()
    report = counter.report()
    assert units(report["Block.layer"]) == {"forward": 1, "backward": 1}
    assert units(report["Linear"]) == {"forward": 1, "backward": 2}


def test_recursion_keeps_its_row_and_counts_its_calls() -> None:
    class Recursive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(8, 8))

        def forward(self, x: Tensor, depth: int = 3) -> Tensor:
            x = x @ self.weight
            return self(x, depth - 1) if depth > 1 else x

    report = flopcount.count(Recursive(), batch(), backward=False)
    assert paths(report) == [""]
    assert (report.model.calls, own_units(report.model)) == (3, 3)


def test_recursion_by_way_of_a_module_that_does_not_own_it() -> None:
    class Helper(nn.Module):
        def forward(self, x: Tensor, back: nn.Module) -> Tensor:
            return back(x, None)

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = linear()

        def forward(self, x: Tensor, helper: nn.Module | None) -> Tensor:
            return helper(x, self) if helper else self.layer(x)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.outer = Outer()

        def forward(self, x: Tensor) -> Tensor:
            return self.outer(x, Helper())

    report = flopcount.count(Model(), batch(), backward=False)
    assert report["outer"].calls == 2
    assert units(report["outer.layer"]) == {"forward": 1}


class Failing(nn.Module):
    """Fails after its layer has run, or lets its layer fail."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.error = error
        self.layer = linear()

    def forward(self, x: Tensor) -> Tensor:
        self.layer(x)
        raise self.error


ERRORS = [ValueError, KeyboardInterrupt, SystemExit]


class TestExceptions:
    @pytest.mark.parametrize("error", ERRORS)
    def test_what_runs_next_is_not_under_the_module_that_failed(
        self, error: type[BaseException]
    ) -> None:
        failing, after = Failing(error), nn.Sequential(linear())
        with FlopCounter() as counter:
            with pytest.raises(error):
                failing(batch())
            after(batch()) @ torch.ones(8, 8)
        report = counter.report()
        check(report)
        assert units(report["Failing"]) == units(report["Sequential"]) == {"forward": 1}
        assert report["Failing"].children[0].path == "Failing.layer"
        assert own_units(report.root) == 1

    @pytest.mark.parametrize("error", ERRORS)
    def test_the_same_module_can_be_called_again(self, error: type[BaseException]) -> None:
        failing = Failing(error)
        with FlopCounter() as counter:
            for _ in range(2):
                with pytest.raises(error):
                    nn.Sequential(failing)(batch())
            failing.error = NotImplementedError
            with pytest.raises(NotImplementedError):
                failing(batch())
            linear()(batch())
        report = counter.report()
        # the Sequentials are gone after their calls, so that they share a row
        assert units(report["Sequential.0"]) == {"forward": 2}
        assert units(report["Failing"]) == units(report["Linear"]) == {"forward": 1}

    @pytest.mark.parametrize("error", ERRORS)
    def test_a_module_that_catches_goes_on_under_its_own_name(
        self, error: type[BaseException]
    ) -> None:
        class Careful(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.second = Failing(error), linear()

            def forward(self, x: Tensor) -> Tensor:
                try:
                    self.first(x)
                except BaseException:
                    return self.second(x)
                return x

        careful = Careful()
        with FlopCounter(careful) as counter:
            careful(batch())
            careful(batch()) @ torch.ones(8, 8)
        report = counter.report()
        check(report)
        assert [node.path for node in report.model.children] == ["first", "second"]
        assert units(report["first"]) == units(report["second"]) == {"forward": 2}
        assert own_units(report.root) == 1

    def test_a_backward_pass_after_a_failure_is_attributed_as_usual(self) -> None:
        failing, layer = Failing(KeyboardInterrupt), linear()
        with FlopCounter() as counter:
            with pytest.raises(KeyboardInterrupt):
                failing(batch())
            layer(batch()).sum().backward()
        assert units(counter.report()["Linear"]) == {"forward": 1, "backward": 1}

    def test_an_exception_that_leaves_the_block_leaves_nothing_behind(self) -> None:
        failing, layer = Failing(KeyboardInterrupt), linear()
        counter = FlopCounter()
        with pytest.raises(KeyboardInterrupt), counter:
            failing(batch())
        with counter:
            batch() @ torch.ones(8, 8)
            layer(batch()) @ torch.ones(8, 8)
        report = counter.report()
        assert units(report["Linear"]) == {"forward": 1}
        assert own_units(report.root) == 2


def test_a_counter_that_is_entered_inside_a_forward_sees_the_rest() -> None:
    counter = FlopCounter()

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = linear(), linear()

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            counter.__enter__()
            return self.second(x)

    model, after = Model(), linear()
    y = model(batch())
    after(y).sum().backward()
    counter.__exit__(None, None, None)
    report = counter.report()
    check(report)
    # nobody saw the model being entered: its second layer is a root; the first ran unseen
    assert [node.name for node in report.root.children] == ["Linear", "Linear#2", "unattributed"]
    assert units(report["Linear"]) == units(report["Linear#2"]) == {"forward": 1, "backward": 2}
    assert units(report["unattributed"]) == {"backward": 1}


def test_a_counter_that_is_left_inside_a_forward_sees_the_beginning() -> None:
    counter = FlopCounter()

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = linear(), linear()

        def forward(self, x: Tensor) -> Tensor:
            with counter:
                x = self.first(x)
            return self.second(x)

    Model()(batch())
    report = counter.report()
    assert units(report.root) == {"forward": 1}
    with counter:
        linear()(batch())
    assert units(counter.report().root) == {"forward": 2}


def test_a_module_that_a_hook_calls_is_counted() -> None:
    model, extra = nn.Sequential(linear()), linear()
    model[0].register_forward_pre_hook(lambda module, inputs: (extra(inputs[0]),))
    report = flopcount.count(model, batch(), backward=False)
    assert units(report["Linear"]) == units(report["0"]) == {"forward": 1}


def test_a_module_that_calls_the_hooks_itself_is_counted_like_any_other() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = linear()

        def __call__(self, x: Tensor) -> Tensor:
            for hook in _global_forward_pre_hooks.values():
                hook(self, (x,))
            y = self.layer(x)
            for hook in _global_forward_hooks.values():
                hook(self, (x,), y)
            return y

    model = nn.Sequential(Own(), linear())
    report = flopcount.count(model, batch(), backward=False)
    assert paths(report) == ["", "0", "0.layer", "1"]
    assert units(report["0.layer"]) == units(report["1"]) == {"forward": 1}
