"""A row is named as its caller owns the module."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import flopcount
from flopcount import FlopCounter
from tests.attribution.units import U, batch, linear, paths, units


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = linear()
        self.conv2 = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))


class Net(nn.Module):
    """A stem, and a Sequential of two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = linear()
        self.layer1 = nn.Sequential(Block(), Block())

    def forward(self, x: Tensor) -> Tensor:
        return self.layer1(self.stem(x))


NET_PATHS = [
    "",
    "stem",
    "layer1",
    *("layer1.0", "layer1.0.conv1", "layer1.0.conv2"),
    *("layer1.1", "layer1.1.conv1", "layer1.1.conv2"),
]


def test_paths_are_relative_to_the_given_model() -> None:
    model = Net()
    with FlopCounter(model) as counter:
        model(batch())
    report = counter.report()
    assert paths(report) == NET_PATHS
    assert units(report["layer1.0.conv1"]) == {"forward": 1}
    assert units(report["layer1"]) == {"forward": 4}
    assert report.model.type == "Net"
    assert report["layer1.0"].type == "Block"


def test_a_model_that_is_not_given_is_the_only_root() -> None:
    model = Net()
    with FlopCounter() as counter:
        model(batch())
    report = counter.report()
    assert paths(report) == NET_PATHS
    assert (report.model.name, report.model.calls) == ("Net", 1)


def test_submodules_of_the_given_model_are_found_under_it_when_only_they_are_called() -> None:
    model = Net()
    with FlopCounter(model) as counter:
        model.layer1[1].conv2(batch())
    report = counter.report()
    assert units(report["layer1.1.conv2"]) == {"forward": 1}
    assert units(report.model) == {"forward": 1}
    assert [report[path].calls for path in ("", "layer1", "layer1.1", "layer1.1.conv2")] == [
        0,
        0,
        0,
        1,
    ]


def test_modules_that_are_gone_are_forgotten() -> None:
    with FlopCounter() as counter:
        layers = [linear() for _ in range(50)]
        for layer in layers:
            layer(batch())
        assert len(counter.report().root.children) == 50
        del layer, layers
    assert not counter._attribution.tree.root.forward.entered


def test_modules_that_change_places_before_they_run_are_found_where_they_are() -> None:
    model = nn.Sequential(linear(), linear(), linear())
    with FlopCounter(model) as counter:
        model[2](batch())
        model[0], model[1] = model[1], model[0]
        model[0](batch())
    assert paths(counter.report()) == ["", "2", "0"]


def test_a_module_that_is_put_in_anothers_place_takes_its_row() -> None:
    model = nn.Sequential(linear())
    with FlopCounter(model) as counter:
        model(batch())
        model[0] = nn.Linear(8, 16)
        model(batch())
    report = counter.report()
    assert report["0"].calls == 2
    assert report["0"].params == 8 * 16 + 16
    assert report["0"].total.matmul_flops == U + 2 * U


def test_a_tied_weight_is_one_parameter() -> None:
    model = nn.Sequential(linear(), linear())
    model[1].weight = model[0].weight
    assert flopcount.count(model, batch()).model.params == 8 * 8


def test_a_lazy_module_has_its_parameters_counted_after_its_first_call() -> None:
    report = flopcount.count(nn.LazyLinear(8, bias=False), batch())
    assert report.model.params == 8 * 8
    assert units(report.model) == {"forward": 1, "backward": 1}


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_scripted_model_is_one_row_and_others_still_have_theirs() -> None:
    model = torch.jit.script(nn.Sequential(linear()))
    loss = nn.MSELoss()
    with FlopCounter(model) as counter:
        loss(model(batch()), batch())
    report = counter.report()
    assert report["MSELoss"].calls == 1
    assert units(report) == {"forward": 1}


def test_reset_forgets_the_modules_too() -> None:
    counter = FlopCounter()
    with counter:
        nn.Sequential(linear())(batch())
        counter.reset()
        linear()(batch())
    report = counter.report()
    assert [(node.name, node.calls) for node in report.root.children] == [("Linear", 1)]
    assert report.model.name == "Linear"


def test_a_class_may_define_parameters_and_equality_of_its_own() -> None:
    class Groups(nn.Linear):
        def parameters(self, recurse: bool = True) -> Any:
            return [{"params": super().parameters(recurse)}]

        def __eq__(self, other: object) -> bool:
            raise AssertionError("nobody compares modules")

        __hash__ = nn.Module.__hash__

    with FlopCounter() as counter:
        for layer in Groups(8, 8, bias=False), Groups(8, 8, bias=False):
            layer(batch()).sum().backward()
    report = counter.report()
    assert paths(report)[0] == "Groups"
    assert report["Groups"].params == 64


def test_a_root_named_like_the_row_of_the_unattributed_has_another_name() -> None:
    unattributed = type("unattributed", (nn.Linear,), {})
    layer, before = unattributed(8, 8, bias=False), linear()(batch())
    with FlopCounter() as counter:
        layer(batch())
        before.sum().backward()
    report = counter.report()
    assert (report.model.name, units(report.model)) == ("unattributed#2", {"forward": 1})
    assert units(report["unattributed"]) == {"backward": 1}


def test_a_report_tells_which_modules_ran() -> None:
    report = flopcount.count(nn.Sequential(linear()), batch())
    assert list(report) == ["<block>", "", "0"]
    assert "0" in report
    assert "1" not in report
