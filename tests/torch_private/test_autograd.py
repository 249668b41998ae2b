"""Autograd: nodes, their numbers, their order, and who runs them."""

from __future__ import annotations

import threading
import traceback
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from flopcount.torch_private.autograd import (
    CHECKPOINT_NODE,
    GRADIENT_ORDER,
    NO_SEQUENCE_NR,
    VARIABLE,
    BackwardPreHook,
    backward_task,
    hook_nodes,
    next_sequence_nr,
    notes_of,
    of_checkpoint,
    running_node,
    saved_tensor_hooks,
    will_execute,
)
from flopcount.torch_private.modes import is_traceable_wrapper_subclass_type
from tests.torch_private.ops import Ops

aten = torch.ops.aten


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


def test_a_node_keeps_notes_as_long_as_it_lives(x: Tensor) -> None:
    y = x.requires_grad_().sin()
    notes_of(y.grad_fn)["ours"] = 1
    z = y.exp()
    del y
    assert z.grad_fn is not None
    assert notes_of(z.grad_fn) == {}
    assert notes_of(z.grad_fn.next_functions[0][0]) == {"ours": 1}


class TestCheckpoints:
    def test_a_checkpoint_that_is_not_reentrant_is_open_while_it_runs(
        self, x: Tensor, reentrant: bool
    ) -> None:
        seen: list[tuple[bool, bool]] = []

        def run(value: Tensor) -> Tensor:
            with torch.no_grad():
                seen.append((checkpoint_is_open(), type(running_node()) is CHECKPOINT_NODE))
            return value.exp().sin()

        assert not checkpoint_is_open()
        y = checkpoint(run, x, use_reentrant=reentrant)
        assert (type(y.grad_fn) is CHECKPOINT_NODE) == reentrant
        y.sum().backward()
        assert not checkpoint_is_open()
        assert seen == ([(False, False), (False, True)] if reentrant else 2 * [(True, False)])

    def test_other_hooks_on_saved_tensors_are_no_checkpoint(self, x: Tensor) -> None:
        with torch.autograd.graph.saved_tensors_hooks(lambda y: y, lambda y: y):
            assert not checkpoint_is_open()
        with torch.autograd.graph.save_on_cpu():
            assert not checkpoint_is_open()


def checkpoint_is_open() -> bool:
    hooks = saved_tensor_hooks(True)
    return hooks is not None and of_checkpoint(hooks)


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


def test_an_engine_that_is_an_object_of_ours_lives_as_long_as_its_pass() -> None:
    ended: list[str] = []

    class Engine(torch._C._ImperativeEngine):  # type: ignore[misc,name-defined]
        def __del__(self) -> None:
            ended.append("engine")

    x = torch.ones(2, requires_grad=True)
    x.register_hook(lambda gradient: ended.append("hook"))
    Engine().run_backward((x.sum(),), (torch.ones(()),), False, False, (), True, True)
    assert ended == ["hook", "engine"]


class TestBackwardPreHook:
    """``Variable._execution_engine.run_backward`` runs every pass that Python asks for."""

    def test_it_is_called_before_each_pass_in_its_thread_until_removed(self, x: Tensor) -> None:
        seen: list[tuple[str, bool]] = []
        hook = BackwardPreHook(
            lambda: seen.append((threading.current_thread().name, x.grad is None))
        )
        try:
            thread = threading.Thread(target=x.exp().sum().backward, name="aside")
            thread.start()
            thread.join()
            torch.autograd.grad(x.exp().sum(), x)
        finally:
            hook.remove()
        x.exp().sum().backward()
        assert seen == [("aside", True), (threading.current_thread().name, False)]

    def test_it_adds_no_frame_to_those_of_the_pass(self, x: Tensor) -> None:
        def depth() -> int:
            depths: list[int] = []
            y = x.exp()
            y.register_hook(lambda gradient: depths.append(len(traceback.extract_stack())))
            y.sum().backward()
            return depths[0]

        alone, hook = depth(), BackwardPreHook(lambda: None)
        try:
            assert depth() == alone
        finally:
            hook.remove()

    def test_torchs_own_engine_is_back_in_whatever_order_hooks_are_removed(self) -> None:
        engine = VARIABLE._execution_engine
        first, second = BackwardPreHook(print), BackwardPreHook(print)
        first.remove()
        assert VARIABLE._execution_engine is second
        second.remove()
        assert VARIABLE._execution_engine is engine

    def test_what_else_the_engine_does_it_does(self, x: Tensor) -> None:
        done: list[str] = []
        y = x.exp()
        y.register_hook(
            lambda gradient: VARIABLE._execution_engine.queue_callback(lambda: done.append("end"))
        )
        hook = BackwardPreHook(lambda: None)
        try:
            assert VARIABLE._execution_engine.is_checkpoint_valid()
            y.sum().backward()
        finally:
            hook.remove()
        assert done == ["end"]
