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


@pytest.mark.parametrize("trace", [exported, strictly_exported, reloaded])
def test_convolutions_and_attention(trace: Any) -> None:
    x = torch.randn(2, 3, 8, 8)
    model = Convolutions()
    eager, report = flopcount.count(model, x), flopcount.count(trace(model, x), x)
    for path in ("stem", "stem.0", "stem.1", "stem.2", "attention"):
        assert report[path].phases["forward"].macs == eager[path].phases["forward"].macs
        assert report[path].total.macs == eager[path].total.macs
        assert report[path].params == eager[path].params


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


class Masked(nn.Module):
    """Lines whose first op makes no node, though it takes what needs a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = linear(), linear()

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        z: Tensor = self.b(y) * (y > 0) + torch.zeros_like(y)
        return z


class Expands(nn.Module):
    """A line that begins with a view, whose gradient is a sum."""

    def forward(self, x: Tensor) -> Tensor:
        return x.expand(16, 4, 8) * 2


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        z: Tensor = y + self.layer(y)
        return z


class Writes(nn.Module):
    """Ops that write to a part of a tensor make their node after they ran."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = linear(), linear()

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).clone()
        y[:2] = 0.0
        y[2:].mul_(2.0)
        z: Tensor = self.b(y)
        return z


LINES = {
    "dropout": (lambda: nn.Sequential(linear(), nn.Dropout(0.5), linear()), (4, 8)),
    "masks": (Masked, (4, 8)),
    "expand": (lambda: nn.Sequential(linear(), Expands()), (4, 8)),
    "residual": (Residual, (2, 3, 8)),
    "writes": (Writes, (4, 8)),
    "transformer": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True),
        (2, 3, 8),
    ),
}


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("trace", [exported, strictly_exported])
def test_each_node_is_of_the_line_that_made_it(name: str, trace: Any) -> None:
    make, shape = LINES[name]
    model, x = make(), torch.randn(shape)
    graph = trace(model, x)
    eager, report = flopcount.count(model, x), flopcount.count(graph, x)
    for path in eager:
        if path not in ("<block>", "") and path in list(report):
            for phase in ("forward", "backward"):
                found, wanted = report[path].phases[phase], eager[path].phases[phase]
                assert (path, phase, found.flops) == (path, phase, wanted.flops)
    assert report.total.flops == eager.total.flops


@pytest.mark.parametrize("trace", [exported, traced])
def test_gradients_of_torch_func(trace: Any) -> None:
    model = nn.Sequential(linear(), nn.Tanh(), linear())
    graph = trace(model, batch())
    with FlopCounter(graph) as counter:
        torch.func.grad(lambda x: graph(x).sum())(batch())
    backward = {
        path: counter.report()[path].phases["backward"].macs for path in ("", "0", "1", "2")
    }
    assert backward == {"": 512, "0": 256, "1": 0, "2": 256}


@pytest.mark.parametrize("trace", [exported, traced])
def test_a_counter_goes_on_when_the_code_is_made_again(trace: Any) -> None:
    graph = trace(nn.Sequential(linear(), linear()), batch())
    counter = FlopCounter(graph)
    for _ in range(2):
        counter.reset()
        with counter:
            graph(batch())
        assert [units(counter.report()[path]) for path in ("0", "1")] == [{"forward": 1}] * 2
        graph.recompile()


def test_layers_of_a_list_are_named_as_in_the_program() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [linear()]
            self.weight = self.layers[0].weight  # what an exported program has must be registered
            self.head = linear()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.head(self.layers[0](x))
            return y

    model = Listed()
    report = flopcount.count(strictly_exported(model, batch()), batch())
    assert units(report["layers.0"]) == {"forward": 1, "backward": 1}
    assert list(report) == list(flopcount.count(model, batch()))


def test_a_branch_of_cond_is_no_module() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = linear(), linear()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = torch.cond(x.sum() > 0, self.a, self.b, (x,))
            return y

    with torch.no_grad():
        graph = exported(Branches(), batch())
        report = flopcount.count(graph, batch(), backward=False)
    assert units(report.model) == {"forward": 1}
    assert not any("true_graph" in path for path in report)
