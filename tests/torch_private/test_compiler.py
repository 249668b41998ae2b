"""torch's compiler and tracers, and the graphs that they make."""

from __future__ import annotations

import threading
import warnings
from functools import partial
from importlib import import_module
from typing import Any

import pytest
import torch
from functorch.compile import aot_function
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from flopcount.torch_private.autograd import backward_task
from flopcount.torch_private.compiler import (
    FORWARD_TAG,
    GRADIENTS,
    NO_MODULE,
    UNBACKED,
    around_compilation,
    compiles_backward,
    dimension_names,
    expression,
    forget_compiled,
    forward_code,
    ignore_when_captured,
    is_compiling_for_op,
    is_graph_of_torchs_own,
    leave_to_interpreter,
    nodes_by_line,
    remainders,
    set_stance,
    stance,
    traced_range,
    unseen_by_compiler,
    untraced,
    without_compiled_autograd,
)
from flopcount.torch_private.frames import frames
from flopcount.torch_private.modes import FakeTensorMode, TorchDispatchMode, no_autocast
from tests.graph.graphs import compiled, keeping
from tests.torch_private.ops import Ops

aten = torch.ops.aten


class TestCompiler:
    @pytest.fixture(autouse=True)
    def fresh(self) -> Any:
        torch._dynamo.reset()
        yield
        torch._dynamo.reset()

    @staticmethod
    def compiled() -> tuple[Any, list[Any]]:
        backend, graphs = keeping()
        return torch.compile(lambda x: x + 1, backend=backend), graphs

    def test_it_takes_a_function_for_one_that_does_nothing_if_told_so(self) -> None:
        class Counts:
            calls = 0

            def call(self, x: Tensor) -> None:
                self.calls += backward_task()  # what it cannot read

            ignore_when_captured(call)

        counts = Counts()

        def function(x: Tensor) -> Tensor:
            counts.call(x)
            return x + 1

        compiled = torch.compile(function, backend="eager", fullgraph=True)
        assert compiled(torch.tensor(1)) == 2
        assert counts.calls == 0
        function(torch.tensor(1))
        assert counts.calls == -1

    def test_it_asks_a_stance_at_each_call(self) -> None:
        class Stance:
            skip_guard_eval_unsafe = False
            backend = None
            stance = "force_eager"

        function, graphs = self.compiled()
        prior, ours = stance(), Stance()
        set_stance(ours)
        try:
            assert stance() is ours
            assert function(torch.tensor(1)) == 2
            assert not graphs
            ours.stance = "default"
            assert function(torch.tensor(1)) == 2
        finally:
            set_stance(prior)
        assert len(graphs) == 1

    def test_it_compiles_a_function_that_it_met_under_a_mode_once_it_forgets(self) -> None:
        function, graphs = self.compiled()
        with Ops(lambda op, args: None):
            function(torch.tensor(1))
        assert not graphs
        forget_compiled()
        function(torch.tensor(1))
        assert len(graphs) == 1

    def test_it_is_at_work_for_an_op_while_that_calls_its_functions(self) -> None:
        x = torch.ones(2)
        mode = Ops(lambda op, args: (op, is_compiling_for_op()))
        with mode:
            torch.cond(x[0] > 0, lambda x: x.sin(), lambda x: x.cos(), (x,))
        assert mode.seen[-2:] == [
            (aten.gt.Scalar, False),
            (torch.ops.higher_order.cond, True),
        ]
        assert not is_compiling_for_op()

    def test_its_own_graphs_are_told_from_those_of_the_program(self) -> None:
        graphs: list[Any] = []

        def keep(graph: Any, inputs: Any) -> Any:
            graphs.append(graph)
            return graph

        x = torch.ones(2, requires_grad=True)
        aot_function(lambda x: x.sin().sum(), fw_compiler=keep, bw_compiler=keep)(x).backward()
        assert len(graphs) == 2
        assert all(map(is_graph_of_torchs_own, graphs))
        assert not is_graph_of_torchs_own(torch.fx.symbolic_trace(nn.ReLU()))
        assert not is_graph_of_torchs_own(nn.ReLU())

    def test_it_tells_forward_from_backward_in_the_graph_of_a_gradient(self) -> None:
        """sin forward; cos and a product backward."""

        class Graphs(Ops):
            @classmethod
            def ignore_compile_internals(cls) -> bool:
                return True

        def graph(op: Any, args: Any) -> Any:
            return args[1] if isinstance(args[1:2], tuple) and op is cond else None

        cond = torch.ops.higher_order.cond
        mode, x = Graphs(graph), torch.ones(2, requires_grad=True)
        with mode:
            y = torch.cond(torch.tensor(True), lambda x: x.sin(), lambda x: x * 2, (x,))
            torch.autograd.grad(y.sum(), x)
        _, gradient = filter(None, mode.seen)
        tags = {
            node.target: node.meta.get("partitioner_tag") == FORWARD_TAG
            for node in gradient.graph.nodes
            if node.op == "call_function"
        }
        assert tags == {aten.sin.default: True, aten.cos.default: False, aten.mul.Tensor: False}


class TestSymbols:
    @pytest.fixture
    def program(self) -> torch.export.ExportedProgram:
        class Doubled(nn.Module):
            def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
                return torch.cat([x, x]), torch.nonzero(x)

        batch = {0: torch.export.Dim("batch", min=3, max=9)}
        return torch.export.export(Doubled(), (torch.ones(4),), dynamic_shapes=(batch,))

    def test_a_number_has_an_expression_a_range_and_perhaps_a_name(self, program: Any) -> None:
        (x,) = program.graph.find_nodes(op="placeholder")
        cat, nonzero = program.graph.find_nodes(op="output")[0].all_input_nodes
        (size,) = x.meta["val"].shape
        symbol = expression(size)
        assert expression(cat.meta["val"].shape[0]) == 2 * symbol
        assert dimension_names(size) == {"batch": symbol.name}
        assert traced_range(size, symbol) == (3, 9)
        found = expression(nonzero.meta["val"].shape[0])
        assert found.name.startswith(UNBACKED)
        assert not symbol.name.startswith(UNBACKED)

    def test_a_size_that_is_halved_has_no_remainder(self) -> None:
        from torch.fx.experimental.proxy_tensor import make_fx

        graph = make_fx(lambda x: x.view(-1, 2), tracing_mode="symbolic")(torch.ones(6))
        (x,) = graph.graph.find_nodes(op="placeholder")
        (size,) = x.meta["val"].shape
        symbol = expression(size)
        (remainder,) = remainders(size)
        assert [remainder.subs({symbol: n}) for n in (6, 7)] == [0, 1]

    def test_equal_dimensions_have_one_symbol_and_derived_ones_that_of_their_base(self) -> None:
        class Sums(torch.nn.Module):
            def forward(self, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
                return x + y, z.exp()

        batch, half = torch.export.Dim("batch"), torch.export.Dim("half", max=8)
        shapes = ({0: batch}, {0: batch}, {0: 2 * half})
        args = torch.ones(4), torch.ones(4), torch.ones(6)
        program = torch.export.export(Sums(), args, dynamic_shapes=shapes)
        x, y, z = (n.meta["val"].shape[0] for n in program.graph.find_nodes(op="placeholder"))
        assert expression(x) == expression(y)
        (base,) = expression(z).free_symbols
        assert expression(z) == 2 * base
        names = {"batch": expression(x).name, "half": base.name}
        assert dimension_names(x) == dimension_names(z) == names
        assert traced_range(x, expression(x)) == (2, None)

    def test_a_float_has_no_range_of_whole_numbers(self) -> None:
        from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

        env = ShapeEnv()
        source = torch._dynamo.source.ConstantSource("scale")
        symbol = env.create_symbol(1.5, source, DimDynamic.DYNAMIC, None)
        number = env.create_symfloatnode(symbol, hint=1.5, source=source)
        assert traced_range(number, symbol) is None


def test_passes_of_the_exporter_say_that_no_module_called() -> None:
    hook = import_module("torch._export.passes._node_metadata_hook")
    assert hook._EMPTY_NN_MODULE_STACK_KEY == NO_MODULE


def test_ops_of_a_gradient_that_a_compiled_function_asks_for_remember_who_gave_it() -> None:
    graphs = compiled(torch.func.grad(lambda x: x.sin().sum()), torch.ones(4, requires_grad=True))
    asked = [
        node.target
        for node in graphs["forward"].graph.nodes
        if any(function in GRADIENTS for _, function in node.meta.get("source_fn_stack", ()))
    ]
    assert aten.cos.default in asked
    assert aten.sin.default not in asked
    assert torch.autograd.grad in GRADIENTS


def test_fake_tensors_choose_the_kernels_of_their_device() -> None:
    with FakeTensorMode():
        q = torch.empty(1, 2, 4, 8)
    with Ops(lambda func, args: func) as ops:
        torch.nn.functional.scaled_dot_product_attention(q, q, q)
    assert aten._scaled_dot_product_flash_attention_for_cpu.default in ops.seen


def test_without_autocast_nothing_is_cast() -> None:
    x = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        with no_autocast():
            assert (x @ x).dtype == torch.float32
        assert (x @ x).dtype == torch.bfloat16


def test_what_is_untraced_leaves_nothing_in_a_traced_graph() -> None:
    def function(x: Tensor) -> Tensor:
        with untraced():
            assert x.numel() == 2
        return x * 2

    traced = torch.jit.trace(function, torch.ones(2))
    assert {node.kind() for node in traced.graph.nodes()} == {"prim::Constant", "aten::mul"}


@pytest.mark.parametrize("export", [False, True])
def test_each_line_of_a_graph_module_runs_a_node(export: bool) -> None:
    """The last line of all that ran says which it was, as torch's own messages do."""

    class Program(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = torch.sin(x)
            for _ in range(3):
                y = torch.cos(y)
            return y * 2

    x, seen = torch.ones(2), []
    module = torch.export.export(Program(), (x,)).module() if export else None
    module = module or torch.fx.symbolic_trace(Program())
    code, nodes = forward_code(module), nodes_by_line(module)
    assert code is not None

    class Lines(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            frame = next(frame for frame in frames() if frame.f_code is code)
            seen.append(nodes[frame.f_lineno].name)
            return func(*args, **(kwargs or {}))

    with Lines():
        module(x)
    calls = [node.name for node in module.graph.nodes if node.op == "call_function"]
    assert seen == calls
    assert len(seen) == 1 + 3 + 1


def test_compiled_autograd_can_be_switched_off_for_a_while() -> None:
    compiled_autograd = import_module("torch._dynamo.compiled_autograd")
    graphs = []

    def keep(graph: Any) -> Any:
        graphs.append(graph)
        return graph

    def run() -> None:
        torch.ones(2, requires_grad=True).sum().backward()

    assert not compiles_backward()
    with compiled_autograd._enable(keep):
        assert compiles_backward()
        with without_compiled_autograd():
            assert not compiles_backward()
            run()
        assert not graphs
        run()
        assert len(graphs) == 1
    assert not compiles_backward()


def test_what_is_called_around_a_compilation() -> None:
    """Before the code is read, and once it is compiled, be it for a graph or in vain."""
    called: list[str] = []
    torch._dynamo.reset()
    stop = around_compilation(lambda _: called.append("begin"), partial(called.append, "end"))

    def backend(graph: Any, inputs: Any) -> Any:
        called.append("compile")
        return graph

    compiled = torch.compile(lambda x: 2 * x, backend=backend)
    compiled(torch.ones(2))
    assert called == ["begin", "compile", "end"]
    compiled(torch.ones(2))
    assert called == ["begin", "compile", "end"]
    called.clear()

    def failing(graph: Any, inputs: Any) -> Any:
        raise ValueError("no backend")

    with pytest.raises(Exception, match="no backend"):
        torch.compile(lambda x: x + 1, backend=failing)(torch.ones(2))
    assert called == ["begin", "end"]
    torch._dynamo.reset()
    torch.compile(lambda x: x + 2, backend="eager")(torch.ones(2))
    assert called == ["begin", "end"] * 2
    stop()
    torch.compile(lambda x: x + 3, backend="eager")(torch.ones(2))
    assert called == ["begin", "end"] * 2


def test_a_function_that_is_left_to_the_interpreter_calls_code_that_is_compiled() -> None:
    def inner(x: Tensor) -> Tensor:
        return x.sin()

    def outer(x: Tensor) -> Tensor:
        return inner(x) + 1

    leave_to_interpreter(outer)
    torch._dynamo.reset()
    backend, graphs = keeping()
    torch.compile(outer, backend=backend)(torch.ones(2))
    (graph,) = graphs
    assert [node.name for node in graph.graph.nodes if "call" in node.op] == ["sin"]


def test_code_that_is_compiled_again() -> None:
    """For other shapes: the compiler tells that it knows it."""
    called: list[bool] = []
    torch._dynamo.reset()
    stop = around_compilation(called.append, lambda: None)
    double = torch.compile(lambda x: 2 * x, backend="eager")
    for size in (2, 3):
        double(torch.ones(size))
    stop()
    assert called == [True, False]


def test_a_hook_that_is_unseen_is_called_by_eager_code_alone() -> None:
    """It neither breaks a graph nor becomes one, also where it does what no graph can hold."""
    calls: list[int] = []
    lock = threading.Lock()

    def note(*args: Any) -> None:
        with lock:
            calls.append(len(calls))

    class Own(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sin() + 1

    torch._dynamo.reset()
    own, whole = Own(), torch.compile(nn.Sequential(Own(), nn.ReLU()), backend="eager")
    own.compile(backend="eager", fullgraph=True)
    x = torch.ones(2)
    for model in (own, whole):
        model(x)
    torch._dynamo.utils.counters.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hook = register_module_forward_pre_hook(unseen_by_compiler(note))
        try:
            for model in (own, whole, nn.ReLU()):
                model(x)
        finally:
            hook.remove()
    assert calls
    assert not torch._dynamo.utils.counters["graph_break"]
    assert not torch._dynamo.utils.counters["stats"]
