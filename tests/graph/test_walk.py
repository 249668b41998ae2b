"""Traced programs cost what the eager program costs, as far as they run the same ops."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn, ops
from torch._functorch.partitioners import default_partition, min_cut_rematerialization_partition
from torch.export import export
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

import flopcount
from flopcount import Cost, FlopCounter, UncountedOpWarning, count_graph
from tests.graph.graphs import ConvNet, Partition, U, compiled, macs, mlp, rows
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


class TestPhases:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(8, 8, bias=False)
            self.b = nn.Linear(8, 8, bias=False)

        def inner(self, x: Tensor) -> Tensor:
            return self.b(torch.sin(self.a(x)))

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.inner, x, use_reentrant=False).sum()

    def test_what_a_checkpoint_recomputes_is_told_from_backward(self) -> None:
        """As eagerly: a runs again, since b's gradient needs its sine; b does not."""
        model, x = self.Checkpointed(), torch.randn(4, 8, requires_grad=True)
        partition = min_cut_rematerialization_partition
        graphs = compiled(model, x, partition=partition)
        report = count_graph(graphs["forward"], graphs["backward"])
        check(report, plain=True)
        assert macs(report) == {
            "": {"forward": 2 * U, "backward": 4 * U, "recompute": U},
            "a": {"forward": U, "backward": 2 * U, "recompute": U},
            "b": {"forward": U, "backward": 2 * U},
        }
        assert report.phases["recompute"].special == 4 * 8  # the sine, again
        assert macs(report) == macs(flopcount.count(model, x))
        assert "recompute" not in macs(count_graph(graphs["joint"]))[""]

    def test_a_compiled_checkpoint_recomputes_its_result_where_what_follows_needs_it(self) -> None:
        """Eagerly the sine saves its input: it is outside of the checkpoint."""
        layer, x = nn.Linear(8, 8), torch.randn(4, 8)

        def step(x: Tensor) -> Tensor:
            return checkpoint(layer, x, use_reentrant=False).sin()

        graphs = compiled(step, x)
        report = count_graph(graphs["forward"], graphs["backward"])
        assert report.phases["recompute"].macs == U
        assert "recompute" not in macs(flopcount.count(step, x))[""]

    @pytest.mark.parametrize(
        ("partition", "recomputed"),
        [(default_partition, 0), (min_cut_rematerialization_partition, 2)],
        ids=["the default partition saves them", "a min-cut computes them again"],
    )
    def test_cosines_between_a_sine_and_its_gradient(
        self, partition: Partition, recomputed: int
    ) -> None:
        """Backward needs x, cos x and cos cos x: a min-cut keeps x alone."""
        x = torch.randn(100, requires_grad=True)
        graphs = compiled(lambda x: x.cos().cos().cos(), x, partition=partition)
        phases = count_graph(graphs["forward"], graphs["backward"]).phases
        assert phases["forward"].special == 300
        assert phases["backward"].special == 300  # the sine of each
        assert phases["recompute"].special == recomputed * 100

    def test_a_joint_graph_of_a_function_has_both(self) -> None:
        from torch._functorch.aot_autograd import aot_export_joint_simple

        x, w = torch.randn(4, 8), torch.randn(8, 8, requires_grad=True)
        joint = aot_export_joint_simple(lambda x, w: (torch.relu(x @ w),), [x, w], trace_joint=True)
        report = count_graph(joint)
        assert macs(report) == {"": {"forward": U, "backward": U}}
        assert {phase: cost.compare for phase, cost in report.phases.items() if cost.compare} == {
            "forward": 4 * 8,
            "backward": 4 * 8,
        }

    def test_without_tags_backward_begins_where_autograd_does(self) -> None:
        """``aot_export_module`` traces its joint graph twice, and loses the tags."""
        from torch._functorch.aot_autograd import aot_export_module

        class Loss(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b = (nn.Linear(8, 8, bias=False) for _ in range(2))

            def forward(self, x: Tensor) -> tuple[Tensor]:
                return (self.b(self.a(x).sin()).sum(),)

        joint, _ = aot_export_module(
            Loss(), [torch.ones(4, 8)], trace_joint=True, output_loss_index=0
        )
        # the gradients of both weights, and of the sine between
        assert macs(count_graph(joint)) == {"": {"forward": 2 * U, "backward": 3 * U}}

    def test_where_there_are_tags_a_one_begins_no_backward(self) -> None:
        x, w = torch.randn(4, 8), torch.randn(8, 8, requires_grad=True)
        graphs = compiled(lambda x, w: (x * torch.ones_like(x.sum())) @ w, x, w)
        assert macs(count_graph(graphs["forward"])) == {"": {"forward": U}}

    def test_a_mask_of_ones_begins_no_backward(self) -> None:
        graph = make_fx(lambda x: torch.tril(torch.ones_like(x)) @ x)(torch.ones(8, 8))
        assert macs(count_graph(graph)) == {"": {"forward": 8 * 8 * 8}}


class TestOperands:
    """Bytes of 4 × 8 floats: 128."""

    @pytest.mark.parametrize(
        ("function", "read", "written"),
        [
            (lambda x: x * x, 128, 128),
            (lambda x: x * x.expand(3, 4, 8), 2 * 128, 3 * 128),
            (lambda x: x.add_(x), 128, 128),
            (lambda x: torch.add(x, 1, out=torch.empty(4, 8)), 128, 128),
            (lambda x: x.t().exp(), 128, 128),
            (lambda x: x.max(0)[0] * 2, 128 + 32, 2 * 32 + 8 * 8),
        ],
        ids=[
            "a square reads its operand once",
            "an expanded dimension is there once",
            "an op in place returns what it changes",
            "out= is written once",
            "views move nothing",
            "of several results one goes on",
        ],
    )
    def test_bytes(self, function: Callable[[Tensor], Tensor], read: int, written: int) -> None:
        graph = make_fx(function)(torch.ones(4, 8))
        total = count_graph(graph).total
        assert (total.read, total.written) == (read, written)
        x = torch.ones(4, 8)
        with FlopCounter() as counter:
            function(x)
        assert counter.report().total == total


class TestUncounted:
    def test_an_op_without_a_formula_is_listed_and_warned_of_once(self) -> None:
        @torch.library.custom_op("graphs::mystery", mutates_args=())
        def mystery(x: Tensor) -> Tensor:
            return x.clone()

        mystery.register_fake(torch.empty_like)
        graph = make_fx(lambda x: mystery(mystery(x)))(torch.ones(4))
        with pytest.warns(UncountedOpWarning, match="mystery is uncounted") as warned:
            assert count_graph(graph).uncounted == {"graphs.mystery": 2}
        assert [str(w.filename) for w in warned if w.category is UncountedOpWarning] == [__file__]

    def test_sizes_that_depend_on_values_are_uncounted_unless_they_are_given(self) -> None:
        class Select(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                rows = x[torch.nonzero(x.sum(1)).squeeze(1)]
                return rows.mm(x.t()).sum() + x.sum()

        program = export(Select(), (torch.ones(4, 8),))
        with pytest.warns(UncountedOpWarning, match="u0, dimension 0 of result nonzero, depends"):
            unknown = count_graph(program)
        assert set(unknown.uncounted) == {"aten.nonzero", "aten.index", "aten.mm", "aten.sum"}
        assert unknown.total.arith == 4 * 7 + 31 + 1  # sums of rows, of all, and of both sums
        known = count_graph(program, sizes={"u0": 3})
        assert not known.uncounted
        assert known.total.macs == 3 * 4 * 8


class TestSurroundings:
    def test_nothing_is_seen_by_a_counter_or_changed_by_the_callers_modes(self) -> None:
        program = export(mlp(), (torch.randn(4, 8),))
        expected = count_graph(program)
        state = torch.get_rng_state()
        with torch.autocast("cpu", torch.bfloat16), torch.inference_mode(), FlopCounter() as watch:
            assert count_graph(program) == expected
        assert watch.report().total == Cost()
        assert torch.equal(torch.get_rng_state(), state)

    def test_graphs_stay_as_they_are(self) -> None:
        joint = compiled(ConvNet(), torch.randn(2, 3, 8, 8))["joint"]
        before = [(str(node), copy.copy(node.meta)) for node in joint.graph.nodes]
        code = joint.code
        count_graph(joint)
        assert joint.code == code
        assert [(str(node), node.meta) for node in joint.graph.nodes] == before

    def test_it_loads_no_part_of_the_compiler_that_the_tracer_did_not(self) -> None:
        script = (
            "import sys, torch, flopcount\n"
            "def loaded(): return {name for name in sys.modules if 'dynamo' in name}\n"
            "flopcount.count_graph\n"
            "assert 'torch._dynamo' not in loaded()\n"
            "from torch.fx.experimental.proxy_tensor import make_fx\n"
            "graph = make_fx(lambda x: torch.nn.functional.linear(x, x))(torch.ones(4, 4))\n"
            "before = loaded()\n"
            "print(flopcount.count_graph(graph).total.macs, loaded() - before)"
        )
        output = subprocess.run(
            [sys.executable, "-c", script], check=True, capture_output=True, text=True
        ).stdout
        assert output.split() == ["64", "set()"]

    def test_kernels_are_those_of_the_devices_in_the_graph(self) -> None:
        """One that this machine need not have."""
        from torch._subclasses.fake_tensor import FakeTensorMode

        with FakeTensorMode():
            x = torch.empty(4, 8, device="cuda")
            graph = make_fx(lambda x: x @ x.t() + torch.ones(4, device="cuda"))(x)
        assert count_graph(graph).total.macs == 4 * 4 * 8


class TestWhatIsNoGraph:
    @pytest.mark.parametrize(
        ("value", "name"),
        [(nn.Linear(2, 2), "Linear"), ([make_fx(torch.exp)(torch.ones(2))], "list")],
        ids=["a module", "a list of graphs"],
    )
    def test_it_is_a_type_error(self, value: Any, name: str) -> None:
        with pytest.raises(TypeError, match=rf"ExportedProgram or a torch.fx.GraphModule.*{name}$"):
            count_graph(value)

    def test_nothing_is_a_type_error(self) -> None:
        with pytest.raises(TypeError, match="expected a graph"):
            count_graph()

    def test_a_graph_of_python_functions_has_no_ops(self) -> None:
        graphs: list[fx.GraphModule] = []

        def backend(graph: fx.GraphModule, inputs: Any) -> Any:
            graphs.append(graph)
            return graph.forward

        torch._dynamo.reset()
        torch.compile(mlp(), backend=backend)(torch.ones(4, 8))
        torch._dynamo.reset()
        with pytest.raises(
            ValueError, match=r"<built-in function linear>, which is no op.*aot_autograd"
        ):
            count_graph(graphs[0])

    def test_a_graph_of_modules_has_no_ops_either(self) -> None:
        with pytest.raises(ValueError, match="node '_0' calls '0', which is no op"):
            count_graph(fx.symbolic_trace(mlp()))

    def test_what_gives_nothing_needs_no_shape(self) -> None:
        graph = fx.Graph()
        x = graph.placeholder("x")
        x.meta["val"] = torch.ones(4)
        graph.call_function(ops.aten._foreach_mul_.Scalar, ([x, x], 2.0))
        graph.output(x)
        assert count_graph(fx.GraphModule(nn.Module(), graph)).total.arith == 8

    def test_nodes_without_shapes_are_named(self) -> None:
        graph = fx.Graph()
        graph.output(graph.call_function(ops.aten.exp.default, (graph.placeholder("x"),)))
        with pytest.raises(ValueError, match=r"node 'x' has no meta\['val'\].*make_fx"):
            count_graph(fx.GraphModule(nn.Module(), graph))
