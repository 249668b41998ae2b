"""With the model at hand, recorded modules have the names and parameters that it gives them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import flopcount
from flopcount import FlopCounter, Report, TraceError
from tests.trace.recordings import recorded


class Block(nn.Module):
    """Two layers of one class, of which the second is called first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out, self.into = nn.Linear(2 * width, width), nn.Linear(width, 2 * width)
        self.norm, self.act = nn.LayerNorm(width), nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(self.act(self.into(self.norm(x))))


class Net(nn.Module):
    """Blocks in a list, called in a loop, and a head of the class that they hold, too."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(8) for _ in range(3))
        self.embed = nn.Embedding(10, 8)
        self.head = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 10))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def tokens() -> Tensor:
    return torch.arange(8).view(2, 4)


def compared(model: nn.Module, other: nn.Module, *inputs: Any) -> tuple[Report, Report]:
    """The recorded report with names, and a counter's."""
    report = recorded(lambda: model(*inputs).sum().backward(), model=other)
    with FlopCounter(other) as counter:
        other(*inputs).sum().backward()
    return report, counter.report()


def test_names_and_parameters_are_those_of_a_counter() -> None:
    report, expected = compared(Net(), Net(), tokens())
    assert set(report) == set(expected)
    for path in expected:
        ours, theirs = report[path], expected[path]
        assert (ours.type, ours.params, ours.trainable, ours.calls) == (
            theirs.type,
            theirs.params,
            theirs.trainable,
            theirs.calls,
        )
        assert ours.total.macs == theirs.total.macs
    assert report["blocks.1.into"].total.macs == 3 * 8 * 8 * 16
    assert report.model.type == "Net"


def test_one_like_it_may_be_on_the_meta_device() -> None:
    with torch.device("meta"):
        other = Net()
    report = recorded(lambda: Net()(tokens()), model=other)
    assert report["head.1"].params == 90


def test_layers_that_nothing_tells_apart_keep_their_own_names() -> None:
    """One of three equal blocks is not called: nobody knows which."""
    net, other = Net(), Net()
    del net.blocks[1]
    report = recorded(lambda: net(tokens()), model=other)
    assert "embed" in report
    assert "head.1" in report
    assert not any(path.startswith("blocks") for path in report)
    assert report["Block_0"].params is None
    assert report["Block_0.Linear_0"].total.macs > 0


def test_shapes_tell_layers_that_are_called_in_another_order() -> None:
    model = Block(4)
    report = recorded(lambda: model(torch.ones(2, 4)), model=model)
    assert {path: report[path].params for path in ("into", "out")} == {"into": 40, "out": 36}


def test_a_model_inside_of_another_program() -> None:
    model = Net()
    wrapped = nn.Sequential(nn.Identity(), model)
    report = recorded(lambda: wrapped(tokens()), model=model)
    assert report["head.1"].total.macs == 8 * 8 * 10


def test_a_recording_that_has_names_keeps_them(tmp_path: Any) -> None:
    model = Net()
    with flopcount.record(model) as recording:
        model(tokens())
    recording.save(tmp_path / "trace.json")
    report = flopcount.read_trace(tmp_path / "trace.json", model=model)
    assert report == recording.report()


def test_another_model_is_refused() -> None:
    with pytest.raises(
        TraceError, match="no call of Block is recorded; modules are of these classes"
    ):
        recorded(lambda: nn.Linear(8, 2)(torch.ones(2, 8)), model=Block(4))
    with pytest.raises(TraceError, match="modules are none: record with with_stack=True"):
        recorded(lambda: nn.Linear(8, 2)(torch.ones(2, 8)), stacks=False, model=Block(4))
