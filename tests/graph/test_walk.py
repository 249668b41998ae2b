"""Traced programs cost what the eager program costs, as far as they run the same ops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.export import export

import flopcount
from flopcount import Cost, count_graph
from tests.graph.graphs import ConvNet, U, compiled, macs, mlp, rows
from tests.invariants import check
from tests.models import SMALL

MODELS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    **SMALL,
    "a conv net with batch norm": lambda: (ConvNet(), torch.randn(2, 3, 8, 8)),
    "an MLP": lambda: (mlp(), torch.randn(4, 8)),
}


class Twice(nn.Module):
    """Calls a layer twice, which sits in a container."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 8)])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[0](self.layers[0](x))


class TestExportedPrograms:
    @pytest.mark.parametrize("device", ["cpu", "meta"])
    @pytest.mark.parametrize("name", MODELS)
    def test_they_cost_what_the_eager_forward_does_row_by_row(self, name: str, device: str) -> None:
        model, x = MODELS[name]()
        model, x = model.to(device), x.to(device)
        report = count_graph(export(model, (x,)))
        check(report, plain=True)
        eager = flopcount.count(model, x, backward=False)
        assert rows(report) == rows(eager)
        modules = [(m.path, m.calls, m.params) for m in report.modules]
        assert modules == [(m.path, m.calls, m.params) for m in eager.modules]
        assert report.model_path == eager.model_path

    @pytest.mark.parametrize("name", ["an MLP", "a conv net with batch norm", "Llama"])
    def test_decomposed_they_have_the_same_products_in_the_same_modules(self, name: str) -> None:
        model, x = MODELS[name]()
        report = count_graph(export(model, (x,)).run_decompositions())
        assert not report.uncounted
        assert macs(report) == macs(flopcount.count(model, x, backward=False))

    def test_traced_strictly_their_modules_have_the_same_paths(self) -> None:
        model, x = MODELS["a conv net with batch norm"]()
        strict = count_graph(export(model, (x,), strict=True))
        assert rows(strict) == rows(count_graph(export(model, (x,))))

    def test_as_modules_they_cost_the_same(self) -> None:
        program = export(mlp(), (torch.randn(4, 8),))
        assert count_graph(program.module()) == count_graph(program)

    def test_a_module_that_is_called_twice_has_two_calls(self) -> None:
        report = count_graph(export(Twice(), (torch.ones(4, 8),)))
        layer = report["layers.0"]
        assert (layer.type, layer.calls, layer.total.macs, layer.params) == ("Linear", 2, 2 * U, 72)
        assert (report["layers"].calls, report["layers"].params) == (0, 72)

    def test_programs_of_two_models_are_two_roots(self) -> None:
        programs = [
            export(model, (x,)) for model, x in (MODELS[name]() for name in list(MODELS)[-2:])
        ]
        report = count_graph(*programs)
        assert [(node.name, node.params) for node in report.root.children] == [
            ("ConvNet", (3 * 6 * 9 + 6) + 2 * 6 + (6 * 2 + 2)),
            ("Sequential", (8 * 16 + 16) + (16 * 2 + 2)),
        ]
        assert report.total == sum((count_graph(p).total for p in programs), Cost())

    def test_a_parameter_that_two_modules_share_is_counted_once_in_the_model(self) -> None:
        model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
        model[1].weight = model[0].weight
        report = count_graph(export(model, (torch.ones(4, 8),)))
        assert [node.params for node in report.model.walk()] == [64, 64, 64]


class TestCompiledSteps:
    @pytest.mark.parametrize("name", ["an MLP", "a conv net with batch norm", "GPT-2"])
    def test_they_have_the_products_of_the_eager_step_in_each_module(self, name: str) -> None:
        """Other ops differ: AOT autograd traces a fused dropout, which keeps its mask, and takes
        ``unbind`` apart, whose gradient is then a sum of slices, where eagerly it is a stack."""
        model, x = MODELS[name]()
        eager = macs(flopcount.count(model, x))
        graphs = compiled(model, x)
        joint = count_graph(graphs["joint"])
        check(joint, plain=True)
        assert macs(joint) == {path: eager[path] for path in macs(joint)}
        assert macs(joint)[""] == eager[""]
        assert {path for path in eager if eager[path]} <= set(macs(joint))
        parts = count_graph(graphs["forward"], graphs["backward"])
        assert rows(parts) == rows(joint)  # the default partition saves all that backward needs

    def test_calls_are_those_of_the_forward(self) -> None:
        graphs = compiled(Twice(), torch.ones(4, 8))
        for parts in ([graphs["joint"]], [graphs["forward"], graphs["backward"]]):
            report = count_graph(*parts)
            assert [node.calls for node in report.model.walk()] == [1, 0, 2]
            assert macs(report)["layers.0"] == {"forward": 2 * U, "backward": 3 * U}
        backward = count_graph(graphs["backward"])
        assert {node.calls for node in backward.model.walk()} == {0}

    def test_a_function_that_calls_a_model_has_it_as_a_root(self) -> None:
        model = ConvNet()
        graphs = compiled(lambda x: 2 * model(x), torch.randn(2, 3, 8, 8))
        report = count_graph(graphs["joint"])
        assert (report.model.name, report["stem.0"].type) == ("ConvNet", "Conv2d")
        assert report.root.own.arith == 2 * 2 * 2  # 2 × 2 results doubled, and their gradient

    def test_the_model_that_is_compiled_itself_is_named_self(self) -> None:
        report = count_graph(compiled(ConvNet(), torch.randn(2, 3, 8, 8))["joint"])
        assert [node.path for node in report.root.walk()] == [
            "<block>",
            *("", "stem", "stem.0", "stem.1", "stem.2", "pool", "head"),
        ]
        assert report.model.name == "self"

    def test_two_models_of_one_class_are_two_roots(self) -> None:
        models = [nn.Linear(8, 8), nn.Linear(8, 8)]
        report = count_graph(compiled(lambda x: models[1](models[0](x)), torch.ones(4, 8))["joint"])
        assert [(node.name, node.phases["forward"].macs) for node in report.root.children] == [
            ("Linear", U),
            ("Linear#2", U),
        ]

    def test_a_graph_that_runs_for_two_layers_counts_twice_if_it_is_given_twice(self) -> None:
        """A break inside of a layer: torch compiles its halves, and calls them for each layer."""
        from torch._dynamo.backends.common import aot_autograd
        from torch._functorch.aot_autograd import make_boxed_func

        class Layer(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b = (nn.Linear(8, 8, bias=False) for _ in range(2))

            def forward(self, x: Tensor) -> Tensor:
                x = self.a(x)
                torch._dynamo.graph_break()
                return self.b(x.sin())

        ran: list[fx.GraphModule] = []

        def keep(graph: fx.GraphModule, inputs: Any) -> Any:
            def run(*args: Any) -> Any:
                ran.append(graph)
                return graph(*args)

            return make_boxed_func(run)

        layers = nn.Sequential(Layer(), Layer())
        x = torch.randn(4, 8, requires_grad=True)
        backend = aot_autograd(fw_compiler=keep, bw_compiler=keep)
        torch._dynamo.reset()
        torch.compile(layers, backend=backend)(x).sum().backward()
        torch._dynamo.reset()
        assert (len(ran), len(set(ran))) == (8, 4)  # two halves, forward and backward
        report = count_graph(*ran)
        assert [report.model.phases[phase].macs for phase in ("forward", "backward")] == [
            4 * U,
            8 * U,
        ]
        assert macs(report)["a"] == {"forward": 2 * U, "backward": 4 * U}

    def test_symbolic_sizes_are_those_of_both_parts(self) -> None:
        graphs = compiled(mlp(), torch.randn(4, 8), dynamic=True)
        with pytest.raises(ValueError, match="is dimension 0 of input primals_") as error:
            count_graph(graphs["forward"], graphs["backward"])
        (symbol,) = str(error.value).split("'")[1::2]
        report = count_graph(graphs["forward"], graphs["backward"], sizes={symbol: 32})
        assert macs(report) == macs(flopcount.count(mlp(), torch.randn(32, 8)))
