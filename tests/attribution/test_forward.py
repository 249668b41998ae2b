"""Which module does an op of the forward pass belong to?"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks

import flopcount
from flopcount import FlopCounter
from tests.attribution.units import batch, linear, own_units, paths, units


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
