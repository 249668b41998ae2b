"""Rows of modules that were traced: each is that of the same layer in the program itself."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.utils.checkpoint import checkpoint

import flopcount
from flopcount import FlopCounter, Report
from tests.attribution.units import batch, linear, units
from tests.counter.observation import Notes, assert_undisturbed
from tests.invariants import check


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(8, 8), nn.Linear(8, 8), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x + self.b(torch.relu(self.a(x))))
        return y


class Tied(nn.Module):
    """One layer is called twice, one has two names, one is in a list; one is a function's."""

    def __init__(self) -> None:
        super().__init__()
        self.again, self.one = linear(), linear()
        self.two = self.one
        self.layers = nn.ModuleList([linear(), nn.ReLU()])

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(self.again(x))
        x = self.two(self.one(x))
        for layer in self.layers:
            x = layer(x)
        return nn.functional.linear(x, self.again.weight)


class Frozen(nn.Module):
    """A part of it runs without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(linear(), linear())
        self.head = linear()

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.body(x)
        y: Tensor = self.head(x)
        return y


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        y: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return y


def exported(model: nn.Module, x: Tensor) -> nn.Module:
    return torch.export.export(model, (x,)).module()


def strictly_exported(model: nn.Module, x: Tensor) -> nn.Module:
    return torch.export.export(model, (x,), strict=True).module()


def traced(model: nn.Module, x: Tensor) -> nn.Module:
    return fx.symbolic_trace(model)


def unflattened(model: nn.Module, x: Tensor) -> nn.Module:
    return torch.export.unflatten(torch.export.export(model, (x,)))


def reloaded(model: nn.Module, x: Tensor) -> nn.Module:
    file = io.BytesIO()
    torch.export.save(torch.export.export(model, (x,)), file)
    file.seek(0)
    return torch.export.load(file).module()


EACH = pytest.mark.parametrize("trace", [exported, strictly_exported, traced, reloaded])


def rows(report: Report) -> dict[str, Any]:
    """Of each row: calls, parameters, type, and products by phase."""
    return {
        node.path: (node.calls, node.params, node.type, {p: c.macs for p, c in node.phases.items()})
        for node in report.root.walk()
        if node.total.flops
    }


def assert_as_eager(model: nn.Module, graph: nn.Module, x: Tensor) -> None:
    eager, report = flopcount.count(model, x), flopcount.count(graph, x)
    check(report, plain=True)
    wanted, found = rows(eager), rows(report)
    for path, row in found.items():
        if path and row[2] in ("", "Module", "InterpreterModule"):  # of a list, which is not called
            found[path] = (wanted[path][0], *row[1:2], *wanted[path][2:3], *row[3:])
    found[""] = (*found[""][:2], wanted[""][2], found[""][3])  # the graph has a class of its own
    assert found == wanted
    assert report.total.flops == eager.total.flops


@EACH
class TestAgainstTheProgramItself:
    def test_blocks(self, trace: Any) -> None:
        model = nn.Sequential(Block(), Block())
        assert_as_eager(model, trace(model, batch()), batch())

    def test_convolutions_and_attention(self, trace: Any) -> None:
        x = torch.randn(2, 3, 8, 8)
        model = Convolutions()
        if trace is traced:
            pytest.skip("attention asks for sizes in Python")
        eager, report = flopcount.count(model, x), flopcount.count(trace(model, x), x)
        for path in ("stem", "stem.0", "stem.1", "stem.2", "attention"):
            assert report[path].phases["forward"].macs == eager[path].phases["forward"].macs
            assert report[path].total.macs == eager[path].total.macs
            assert report[path].params == eager[path].params

    def test_a_layer_that_is_called_several_times(self, trace: Any) -> None:
        model = Tied()
        report = flopcount.count(trace(model, batch()), batch())
        check(report, plain=True)
        assert units(report) == {"forward": 6, "backward": 11}
        assert report["again"].calls == 2
        assert units(report["again"]) == {"forward": 2, "backward": 3}
        assert units(report["layers.0"]) == {"forward": 1, "backward": 2}
        names = {"one", "two"} & set(report)  # some tracers keep the name of each call
        assert sum(units(report[name])["forward"] for name in names) == 2
        assert report.model.own.matmul_flops == units_of(3)

    def test_two_calls(self, trace: Any) -> None:
        graph = trace(nn.Sequential(Block(), Block()), batch())
        with FlopCounter(graph) as counter:
            graph(batch())
            graph(batch()).sum().backward()
        report = counter.report()
        assert {report[path].calls for path in ("", "0", "0.a", "1.norm")} == {2}
        assert units(report["1.a"]) == {"forward": 2, "backward": 2}

    def test_it_is_named_by_what_owns_it(self, trace: Any) -> None:
        model = nn.Sequential(linear(), trace(Block(), batch()))
        report = flopcount.count(model, batch())
        assert units(report["1.a"]) == {"forward": 1, "backward": 2}
        assert units(report["1"]) == {"forward": 2, "backward": 4}

    def test_alone(self, trace: Any) -> None:
        graph = trace(Block(), batch())
        with FlopCounter() as counter:
            graph(batch())
        assert units(counter.report().model) == {"forward": 2}
        assert units(counter.report()["a"]) == {"forward": 1}

    def test_checkpointed(self, trace: Any) -> None:
        graph = trace(nn.Sequential(Block(), Block()), batch())
        with FlopCounter(graph) as counter:
            checkpoint(graph, batch(grad=True), use_reentrant=False).sum().backward()
        report = counter.report()
        check(report, plain=True)
        for path in ("0.a", "0.b", "1.a", "1.b"):
            assert units(report[path]) == {"forward": 1, "backward": 2, "recompute": 1}

    def test_it_goes_undisturbed(self, trace: Any) -> None:
        graph = trace(nn.Sequential(Block(), Block()), batch())

        def run(notes: Notes) -> Any:
            graph.zero_grad()
            y = graph(batch())
            y.sum().backward()
            return [y, *(p.grad for p in graph.parameters())]

        assert_undisturbed(run)


def units_of(number: int) -> int:
    return number * 2 * 4 * 8 * 8


def test_an_unflattened_program_has_the_rows_of_its_own_modules() -> None:
    model = nn.Sequential(Block(), Block())
    graph = unflattened(model, batch())
    report = flopcount.count(graph, batch())
    assert units(report["0.a"]) == {"forward": 1, "backward": 1}
    assert units(report["1.b"]) == {"forward": 1, "backward": 2}


@pytest.mark.parametrize("trace", [exported, strictly_exported, reloaded])
def test_a_part_without_gradients_is_a_graph_in_the_graph(trace: Callable[..., Any]) -> None:
    report = flopcount.count(trace(Frozen(), batch()), batch())
    check(report, plain=True)
    assert units(report["body"]) == {"forward": 2}
    assert [units(report[path]) for path in ("body.0", "body.1")] == [{"forward": 1}] * 2
    assert units(report["head"]) == {"forward": 1, "backward": 1}
    assert {report[path].calls for path in ("body", "body.0", "head")} == {1}


def test_a_graph_that_was_changed_and_compiled_again() -> None:
    graph = fx.symbolic_trace(Block())
    with FlopCounter(graph) as counter:
        graph(batch())
    for node in graph.graph.nodes:
        if node.target is torch.relu:
            node.target = torch.sigmoid
    graph.recompile()
    with FlopCounter(graph) as counter:
        graph(batch())
    report = counter.report()
    assert report.model.own.special == 32  # exp
    assert units(report["b"]) == {"forward": 1}


@pytest.mark.parametrize("make", [torch.jit.script, lambda m: torch.jit.trace(m, batch())])
def test_torchscript_has_its_root_alone(make: Any) -> None:
    report = flopcount.count(make(Block()), batch())
    assert units(report.model) == {"forward": 2, "backward": 3}
    assert list(report) == ["<block>", ""]
