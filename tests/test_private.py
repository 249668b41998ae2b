"""What the private names of torch promise, one by one: a new torch is first tried here."""

from __future__ import annotations

import threading
from importlib import import_module
from typing import Any

import pytest
import torch
from functorch.compile import aot_function
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from flopcount import _private
from flopcount._private import (
    COO_PARTS,
    DENSE_LAYOUTS,
    FORWARD_TAG,
    GRADIENT_ORDER,
    NO_MODULE,
    NO_SEQUENCE_NR,
    UNBACKED,
    CustomOpDef,
    FakeTensorMode,
    HigherOrderOperator,
    OpOverload,
    OpOverloadPacket,
    all_overloads,
    backward_started_here,
    backward_task,
    bound_call,
    checkpoint_recomputes,
    component_shapes,
    composite_kernel,
    custom_op_name,
    decomposition_of,
    dimension_names,
    expression,
    forget_compiled,
    has_kernel,
    has_nested_kernel,
    has_symbolic_sizes,
    hook_nodes,
    is_captured,
    is_compiling_for_op,
    is_composite,
    is_graph_of_torchs_own,
    is_traceable_wrapper_subclass_type,
    modes,
    next_sequence_nr,
    no_autocast,
    notes_of,
    open_calls,
    overload_name,
    packet_name,
    pop_mode,
    push_mode,
    remainders,
    resolving_views,
    running_node,
    schema_of,
    set_stance,
    sharding_is_planned,
    stance,
    traced_range,
    tree_leaves,
    untraced,
    will_execute,
    without_modes,
)

aten = torch.ops.aten


class Ops(TorchDispatchMode):
    """Writes down what ``look(op, arguments)`` answers for every op."""

    supports_higher_order_operators = True

    def __init__(self, look: Any) -> None:
        super().__init__()
        self.look = look
        self.seen: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(self.look(func, args))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def x() -> Tensor:
    return torch.ones(3, requires_grad=True)


def test_every_name_that_is_used_is_listed() -> None:
    assert set(_private.__all__) <= set(vars(_private))


class TestSequenceNumbers:
    def test_they_increase_by_one_a_node(self, x: Tensor) -> None:
        first = next_sequence_nr()
        y = x.exp()
        z = y.sin()
        assert [y.grad_fn._sequence_nr(), z.grad_fn._sequence_nr()] == [first, first + 1]
        assert next_sequence_nr() == first + 2

    def test_an_op_that_is_not_recorded_takes_none(self, x: Tensor) -> None:
        first = next_sequence_nr()
        x.detach().exp()
        with torch.no_grad():
            x.exp()
        assert next_sequence_nr() == first

    def test_a_dispatch_mode_runs_after_the_node_was_made(self, x: Tensor) -> None:
        first = next_sequence_nr()
        with Ops(lambda func, args: next_sequence_nr()) as ops:
            x.sin()
        assert ops.seen == [first + 1]

    def test_a_custom_function_takes_its_number_before_its_forward_runs(self, x: Tensor) -> None:
        inside = []

        class Double(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, value: Tensor) -> Tensor:
                inside.append(next_sequence_nr())
                return 2 * value

        first = next_sequence_nr()
        y = Double.apply(x)
        assert (y.grad_fn._sequence_nr(), inside) == (first, [first + 1])

    def test_each_thread_counts_from_zero(self) -> None:
        seen: list[int] = []
        thread = threading.Thread(target=lambda: seen.append(next_sequence_nr()))
        thread.start()
        thread.join()
        assert seen == [0]

    def test_accumulate_grad_has_none(self, x: Tensor) -> None:
        accumulate = x.exp().grad_fn.next_functions[0][0]
        assert type(accumulate).__name__ == "AccumulateGrad"
        assert accumulate._sequence_nr() == NO_SEQUENCE_NR
        assert accumulate.variable is x


class TestRunningNode:
    def test_there_is_none_outside_backward(self, x: Tensor) -> None:
        assert running_node() is None
        with Ops(lambda func, args: running_node()) as ops:
            x.sin()
        assert ops.seen == [None]

    def test_it_is_the_node_whose_ops_run(self, x: Tensor) -> None:
        loss = (x * 2).sin().sum()
        names = Ops(lambda func, args: (type(running_node()).__name__, func._schema.name))
        with names:
            loss.backward()
        assert [op for node, op in names.seen if node == "SinBackward0"] == [
            "aten::cos",
            "aten::mul",
        ]
        assert [op for node, op in names.seen if node == "MulBackward0"] == ["aten::mul"]

    def test_its_number_is_that_of_the_forward_op(self, x: Tensor) -> None:
        y = x.exp()
        number = y.grad_fn._sequence_nr()
        with Ops(lambda func, args: running_node() and running_node()._sequence_nr()) as ops:
            y.sum().backward()
        assert number in ops.seen


class TestBackwardTask:
    def test_there_is_none_outside_backward(self) -> None:
        assert backward_task() == -1

    def test_each_backward_pass_has_one_of_its_own(self, x: Tensor) -> None:
        tasks = []
        x.register_hook(lambda grad: tasks.append(backward_task()))
        x.exp().sum().backward()
        x.exp().sum().backward()
        assert len(set(tasks)) == 2
        assert -1 not in tasks
        assert backward_task() == -1

    def test_a_nested_pass_has_another_and_gives_back_the_outer(self, x: Tensor) -> None:
        tasks = []

        def nest(grad: Tensor) -> None:
            tasks.append(backward_task())
            with torch.enable_grad():
                inner = torch.ones(2, requires_grad=True)
                inner.register_hook(lambda grad: tasks.append(backward_task()))
                inner.exp().sum().backward()
            tasks.append(backward_task())

        x.register_hook(nest)
        x.exp().sum().backward()
        before, inside, after = tasks
        assert before == after != inside


PRODUCTS = {
    # (m, k) @ (k, n) with three different sizes, so that a product tells by its shape what it is
    "mm": (lambda a, b: torch.mm(a, b), (2, 3), (3, 5)),
    "bmm": (lambda a, b: torch.bmm(a, b), (7, 2, 3), (7, 3, 5)),
    "addmm": (lambda a, b: torch.addmm(torch.zeros(5, requires_grad=True), a, b), (2, 3), (3, 5)),
}
NODES = {"mm": "MmBackward0", "bmm": "BmmBackward0", "addmm": "AddmmBackward0"}


@pytest.mark.parametrize("wanted", ["both", "first", "second"])
@pytest.mark.parametrize("name", PRODUCTS)
def test_a_matmul_node_computes_gradients_in_the_order_of_the_table(name: str, wanted: str) -> None:
    run, left, right = PRODUCTS[name]
    a = torch.ones(left, requires_grad=wanted != "second")
    b = torch.ones(right, requires_grad=wanted != "first")
    out = run(a, b)
    node = out.grad_fn
    assert type(node).__name__ == NODES[name]
    operands = {"addmm": (torch.zeros(5), a, b)}.get(name, (a, b))
    in_order = [operands[index] for index in GRADIENT_ORDER[NODES[name]]]
    expected = [tuple(operand.shape) for operand in in_order if operand.requires_grad]

    products: list[tuple[int, ...]] = []

    class Shapes(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            result = func(*args, **(kwargs or {}))
            if func in (aten.mm.default, aten.bmm.default):
                products.append(tuple(result.shape))
            return result

    with Shapes():
        out.sum().backward()
    assert products == expected


def test_a_linear_node_of_a_jagged_tensor_computes_them_in_the_order_of_the_table() -> None:
    rows = [torch.ones(2, 3), torch.ones(4, 3)]
    x = torch.nested.nested_tensor(rows, layout=torch.jagged, requires_grad=True)
    out = torch.nn.functional.linear(x, torch.ones(5, 3, requires_grad=True))
    node = out.grad_fn
    assert type(node).__name__ == "LinearBackward0"
    shapes: list[tuple[int, ...]] = []

    class Shapes(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if any(map(is_traceable_wrapper_subclass_type, types)):
                return NotImplemented
            result = func(*args, **(kwargs or {}))
            if func is aten.matmul.default:
                shapes.append(tuple(result.shape))
            return result

    with Shapes():
        torch.cat(out.unbind()).sum().backward()
    of = {0: (2 + 4, 3), 1: (5, 3)}
    assert shapes == [of[index] for index in GRADIENT_ORDER["LinearBackward0"]]


class TestWillExecute:
    """Which of a product's two gradients the running pass wants."""

    @staticmethod
    def wanted(run: Any) -> list[list[bool]]:
        """What will_execute says of the edges of every mm node that ``run`` evaluates."""

        def look(func: Any, args: Any) -> list[bool] | None:
            node = running_node()
            if func is not aten.mm.default or type(node).__name__ != "MmBackward0":
                return None
            return [edge is not None and will_execute(edge) for edge, _ in node.next_functions]

        with Ops(look) as ops:
            run()
        return [answer for answer in ops.seen if answer is not None]

    @pytest.fixture
    def operands(self) -> tuple[Tensor, Tensor]:
        return torch.ones(2, 3, requires_grad=True), torch.ones(3, 5, requires_grad=True)

    def test_backward_wants_all(self, operands: tuple[Tensor, Tensor]) -> None:
        a, b = operands
        assert self.wanted((a @ b).sum().backward) == [[True, True]] * 2

    def test_grad_wants_the_leaf_that_it_is_asked_for(
        self, operands: tuple[Tensor, Tensor]
    ) -> None:
        a, b = operands
        loss = (a @ b).sum()
        assert self.wanted(lambda: torch.autograd.grad(loss, a)) == [[True, False]]

    def test_grad_wants_what_leads_to_an_activation(self, operands: tuple[Tensor, Tensor]) -> None:
        a, b = operands
        hidden = a.exp()
        loss = (hidden @ b).sum()
        assert self.wanted(lambda: torch.autograd.grad(loss, hidden)) == [[True, False]]

    def test_backward_wants_its_inputs_only(self, operands: tuple[Tensor, Tensor]) -> None:
        a, b = operands
        loss = (a @ b).sum()
        assert self.wanted(lambda: loss.backward(inputs=[b])) == [[False, True]]


class TestBoundCall:
    def test_it_gives_what_the_op_gives(self) -> None:
        a, b = torch.rand(2, 3), torch.rand(3, 4)
        assert torch.equal(bound_call(aten.mm.default)(a, b), aten.mm.default(a, b))
        assert bound_call(aten.sum.dim_IntList)(a, [0], keepdim=True).shape == (1, 3)

    def test_it_passes_modes_on(self) -> None:
        with Ops(lambda func, args: func) as ops:
            bound_call(aten.exp.default)(torch.ones(2))
        assert aten.exp.default in ops.seen

    def test_another_callable_stays_itself(self) -> None:
        cond = torch.ops.higher_order.cond
        assert bound_call(cond) is cond


def test_a_node_keeps_notes_as_long_as_it_lives(x: Tensor) -> None:
    y = x.requires_grad_().sin()
    notes_of(y.grad_fn)["ours"] = 1
    z = y.exp()
    del y
    assert z.grad_fn is not None
    assert notes_of(z.grad_fn) == {}
    assert notes_of(z.grad_fn.next_functions[0][0]) == {"ours": 1}


def test_leaves_are_found_in_what_a_module_takes_or_returns() -> None:
    assert tree_leaves(({"a": [1, None]}, (2,))) == [1, None, 2]


class TestFrames:
    def test_open_calls_lists_modules_innermost_first(self) -> None:
        seen: list[list[object]] = []

        class Look(nn.Module):
            def forward(self, value: int) -> int:
                seen.append(open_calls())
                return value

        model = nn.Sequential(nn.Sequential(Look()))
        model(1)
        assert [id(call) for call in seen[0]] == [id(model[0][0]), id(model[0]), id(model)]
        assert open_calls() == []

    def test_open_calls_lists_a_step(self, x: Tensor) -> None:
        seen: list[list[object]] = []
        optimizer = torch.optim.SGD([x])
        optimizer.register_step_pre_hook(lambda *args: seen.append(open_calls()))
        optimizer.step()
        assert seen == [[optimizer]]

    def test_a_method_of_a_module_is_no_call_of_it(self) -> None:
        class Model(nn.Module):
            def method(self) -> list[object]:
                return open_calls()

        assert Model().method() == []

    def test_backward_started_here(self, x: Tensor) -> None:
        seen: list[bool] = []
        x.register_hook(lambda grad: seen.append(backward_started_here()))
        x.exp().sum().backward()
        torch.autograd.grad(x.exp().sum(), x)
        assert seen == [True, True]
        assert not backward_started_here()

    @pytest.fixture(params=[True, False], ids=["reentrant", "not reentrant"])
    def reentrant(self, request: pytest.FixtureRequest) -> bool:
        return request.param

    def test_a_checkpoint_recomputes_in_backward_only(self, x: Tensor, reentrant: bool) -> None:
        seen: list[tuple[bool, bool]] = []

        def run(value: Tensor) -> Tensor:
            seen.append((backward_task() != -1, checkpoint_recomputes()))
            return value.exp().sin()

        y = checkpoint(run, x, use_reentrant=reentrant)
        with Ops(
            lambda func, args: (func._schema.name, running_node() and checkpoint_recomputes())
        ) as ops:
            y.sum().backward()
        assert seen[1] == (True, True)
        assert ("aten::exp", True) in ops.seen
        # what the reentrant kind runs backward through is a pass of its own
        assert ("aten::cos", False) in ops.seen


class TestHookNodes:
    """After its forward hooks torch wraps what a module returns, to run its backward hooks."""

    @pytest.mark.parametrize(
        ("register", "results", "count"),
        [
            pytest.param(lambda module: None, lambda y: y, 0, id="no hook"),
            pytest.param(
                lambda module: module.register_full_backward_hook(print), lambda y: y, 1, id="full"
            ),
            pytest.param(
                lambda module: module.register_full_backward_pre_hook(print),
                lambda y: (None, y, y),
                1,
                id="before, several results",
            ),
            pytest.param(
                lambda module: module_hooks.register_module_full_backward_hook(print),
                lambda y: y,
                1,
                id="of all modules",
            ),
            pytest.param(
                lambda module: module.register_backward_hook(print), lambda y: y, 0, id="not full"
            ),
            pytest.param(
                lambda module: module.register_full_backward_hook(print),
                lambda y: y.detach(),
                0,
                id="no gradient",
            ),
            pytest.param(
                lambda module: module.register_full_backward_hook(print),
                lambda y: [y],
                0,
                marks=pytest.mark.filterwarnings("ignore:For backward hooks to be called"),
                id="a list",
            ),
        ],
    )
    def test_they_are_told_before_they_are_made(
        self, x: Tensor, register: Any, results: Any, count: int
    ) -> None:
        class Module(nn.Module):
            def forward(self, x: Tensor) -> Any:
                return results(x.sin())

        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            told.append(hook_nodes(module, output))
            told.append(next_sequence_nr())

        module, told = Module(), list[int]()
        module.register_forward_hook(look)
        handle = register(module)
        module(x)
        if handle is not None:
            handle.remove()
        assert told == [count, next_sequence_nr() - count]

    def test_there_is_none_without_gradients(self, x: Tensor) -> None:
        module = nn.Identity()
        module.register_full_backward_hook(print)
        with torch.no_grad():
            assert hook_nodes(module, x) == 0


def test_wrapper_subclasses_are_told_from_tensors() -> None:
    from torch.testing._internal.two_tensor import TwoTensor

    assert is_traceable_wrapper_subclass_type(TwoTensor)
    assert not is_traceable_wrapper_subclass_type(Tensor)
    assert not is_traceable_wrapper_subclass_type(nn.Parameter)


class TestNamesOfOps:
    """What a plan reads of an op."""

    def test_an_overload_and_its_packet_have_one_name(self) -> None:
        add = torch.ops.aten.add
        assert packet_name(add) == packet_name(add.Tensor) == "aten::add"
        assert isinstance(add, OpOverloadPacket)
        assert isinstance(add.Tensor, OpOverload)

    def test_an_overload_has_a_name_of_its_own(self) -> None:
        assert overload_name(torch.ops.aten.add.Tensor) == "Tensor"
        assert overload_name(torch.ops.aten.mm.default) == "default"

    def test_a_custom_op_knows_its_name(self) -> None:
        @torch.library.custom_op("flopcount_private::named", mutates_args=())
        def named(x: Tensor) -> Tensor:
            return x.clone()

        assert isinstance(named, CustomOpDef)
        assert custom_op_name(named) == "flopcount_private::named"
        assert packet_name(torch.ops.flopcount_private.named) == custom_op_name(named)

    def test_the_kernel_of_a_composite_op_is_what_runs(self) -> None:
        x = torch.ones(2, 2)
        with Ops(lambda op, args: op) as ops:
            product = composite_kernel(aten.matmul.default)(x, x)
        assert product.equal(x @ x)
        assert ops.seen == [aten.mm.default]

    def test_a_higher_order_op_has_an_eager_kernel(self) -> None:
        from torch.nn.attention import flex_attention  # defines the op's kernels

        assert flex_attention
        assert callable(composite_kernel(torch.ops.higher_order.flex_attention))

    def test_all_overloads_are_there_those_of_libraries_too(self) -> None:
        library = torch.library.Library("private_tests", "FRAGMENT")
        library.define("listed(Tensor x) -> Tensor")
        overloads = set(all_overloads())
        assert {aten.mm.default, aten.mm.out, aten.add.Tensor} < overloads
        assert torch.ops.private_tests.listed.default in overloads

    def test_a_schema_tells_what_is_written_and_what_is_a_view(self) -> None:
        written, other, _ = schema_of(torch.ops.aten.add_.Tensor).arguments
        assert written.alias_info.is_write
        assert other.alias_info is None
        (view,) = schema_of(torch.ops.aten.t.default).returns
        assert not view.alias_info.is_write

    def test_a_higher_order_op_has_no_schema(self) -> None:
        assert schema_of(torch.ops.higher_order.cond) is None
        assert isinstance(torch.ops.higher_order.cond, HigherOrderOperator)
        assert not isinstance(torch.ops.aten.mm.default, HigherOrderOperator)

    def test_a_composite_kernel_is_found_beside_one_for_a_device(self) -> None:
        assert has_kernel(torch.ops.aten.linear.default, "CompositeImplicitAutograd")
        assert not has_kernel(torch.ops.aten.mm.default, "CompositeImplicitAutograd")

    def test_composites_are_those_that_decompose(self) -> None:
        x = torch.ones(2, 2)
        assert is_composite(torch.ops.aten.matmul.default)
        assert torch.ops.aten.matmul.default.decompose(x, x).equal(x @ x)
        assert not is_composite(torch.ops.aten.mm.default)
        # with a composite kernel, and one of its own for the CPU
        assert not is_composite(torch.ops.aten.mish_backward.default)

    @pytest.mark.parametrize("overload", ["mish.default", "mish_.default", "mish.out"])
    def test_a_decomposition_does_what_the_op_does(self, overload: str) -> None:
        packet, _, name = overload.partition(".")
        op = getattr(getattr(torch.ops.aten, packet), name)
        decomposition = decomposition_of(op)
        assert decomposition is not None
        x = torch.linspace(-3, 3, 7)
        assert decomposition(x.clone()).allclose(torch.nn.functional.mish(x))

    def test_an_op_with_a_composite_kernel_beside_its_own_is_taken_apart_by_it(self) -> None:
        assert decomposition_of(torch.ops.aten.matmul.default) is not None
        assert decomposition_of(torch.ops.aten.mm.default) is None

    def test_symbolic_sizes_are_told_from_numbers(self) -> None:
        from torch.fx.experimental.symbolic_shapes import ShapeEnv

        x = torch.ones(3, 4)
        symbolic = FakeTensorMode(shape_env=ShapeEnv()).from_tensor(x)
        assert has_symbolic_sizes([1, (symbolic,)])
        assert not has_symbolic_sizes((x, FakeTensorMode().from_tensor(x), 2))


class TestCompiler:
    @pytest.fixture(autouse=True)
    def fresh(self) -> Any:
        torch._dynamo.reset()
        yield
        torch._dynamo.reset()

    @staticmethod
    def compiled() -> tuple[Any, list[Any]]:
        graphs: list[Any] = []

        def backend(graph: Any, inputs: Any) -> Any:
            graphs.append(graph)
            return graph.forward

        return torch.compile(lambda x: x + is_captured(), backend=backend), graphs

    def test_code_that_it_reads_is_told_so(self) -> None:
        function, _ = self.compiled()
        assert function(torch.tensor(1)) == 2
        assert not is_captured()

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
            assert function(torch.tensor(1)) == 1
            assert not graphs
            ours.stance = "default"
            assert function(torch.tensor(1)) == 2
        finally:
            set_stance(prior)
        assert len(graphs) == 1

    def test_it_leaves_a_function_alone_that_it_met_under_a_mode_until_it_forgets(self) -> None:
        function, graphs = self.compiled()
        with Ops(lambda op, args: None):
            function(torch.tensor(1))
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


def test_a_coo_tensor_holds_values_and_their_places() -> None:
    twice = torch.sparse_coo_tensor(torch.tensor([[1, 1]]), torch.tensor([2.0, 3.0]), (4,))
    assert not twice.is_coalesced()
    values, places = (part(twice) for part in COO_PARTS)
    assert (values.tolist(), places.tolist()) == ([2, 3], [[1, 1]])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
class TestNestedTensors:
    def test_they_tell_the_shape_of_each_component_and_no_mode_sees_it(self) -> None:
        shapes = [(2, 4), (0, 4), (3, 4)]
        nested = torch.nested.nested_tensor([torch.ones(shape) for shape in shapes])
        with Ops(lambda func, args: func) as ops:
            assert component_shapes(nested) == shapes
            assert component_shapes(nested.transpose(1, 2)) == [(4, 2), (4, 0), (4, 3)]
        assert ops.seen == [aten.transpose.int]

    def test_of_no_component_and_of_scalars(self) -> None:
        assert component_shapes(torch.nested.nested_tensor([])) == []
        scalars = torch.nested.nested_tensor([torch.tensor(1.0), torch.tensor(2.0)])
        assert component_shapes(scalars) == [(), ()]

    def test_some_ops_have_a_kernel_of_their_own_for_them(self) -> None:
        assert has_nested_kernel(aten.matmul.default)
        assert has_nested_kernel(aten.linear.default)
        assert not has_nested_kernel(aten.softmax.int)
        assert not has_nested_kernel(aten.mm.default)


def test_modes_are_a_stack_on_which_handlers_are_not() -> None:
    inside: list[list[Any]] = []
    outer, inner = (Ops(lambda op, args: inside.append(modes())) for _ in range(2))
    assert modes() == []
    with outer:
        push_mode(inner)
        assert modes() == [outer, inner]
        torch.ones(1)
        pop_mode()
        assert modes() == [outer]
    assert inside == [[outer], []]
    assert modes() == []


def test_what_is_untraced_leaves_nothing_in_a_traced_graph() -> None:
    def function(x: Tensor) -> Tensor:
        with untraced():
            assert x.numel() == 2
        return x * 2

    traced = torch.jit.trace(function, torch.ones(2))
    assert {node.kind() for node in traced.graph.nodes()} == {"prim::Constant", "aten::mul"}


def test_without_modes_no_mode_sees_anything_and_all_are_back_afterwards() -> None:
    class Functions(TorchFunctionMode):
        def __init__(self) -> None:
            self.seen: list[Any] = []

        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.seen.append(func)
            return func(*args, **(kwargs or {}))

    x = torch.ones(2)
    with Functions() as functions, Ops(lambda func, args: func) as ops:
        with without_modes():
            torch.exp(x)
        torch.sin(x)
    assert functions.seen == [torch.sin]
    assert ops.seen == [aten.sin.default]


def test_in_a_handler_conjugated_views_are_resolved_only_if_that_is_asked_for() -> None:
    z = torch.tensor([1 + 2j])

    def look(op: Any, args: Any) -> list[Tensor]:
        taken = z.conj().exp()
        with resolving_views():
            return [taken, z.conj().exp()]

    with Ops(look) as ops:
        torch.ones(1)
    ((taken, resolved),) = ops.seen
    assert torch.equal(taken, z.exp())
    assert torch.equal(resolved, z.conj().exp())


def test_no_sharding_is_planned_without_dtensor() -> None:
    """That it is, inside DTensor, ``tests/attribution/test_dtensor.py`` shows by its counts."""
    assert not sharding_is_planned()


def test_dense_layouts_hold_every_element() -> None:
    x = torch.ones(2, 3)
    assert x.layout in DENSE_LAYOUTS
    assert x.to_sparse().layout not in DENSE_LAYOUTS
    if torch.backends.mkldnn.is_available():
        assert x.to_mkldnn().layout in DENSE_LAYOUTS
