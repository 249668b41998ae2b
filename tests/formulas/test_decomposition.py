"""The fallback: ops that have no formula, and cost what torch takes them apart into."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._decomp import decomposition_table
from torch.library import Library
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from flopcount import Cost, FlopCounter, Report

NAMESPACE = "decomposition_tests"


@pytest.fixture
def define(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Defines an op on CPU tensors that copies its first operand, and how torch takes it apart."""
    library = Library(NAMESPACE, "FRAGMENT")

    def define(name: str, decomposition: Callable[..., Any], arguments: str = "Tensor x") -> Any:
        library.define(f"{name}({arguments}) -> Tensor")
        library.impl(name, lambda x, *args, **kwargs: x.clone(), "CPU")
        op = getattr(getattr(torch.ops, NAMESPACE), name)
        monkeypatch.setitem(decomposition_table, op.default, decomposition)
        return op

    return define


def counted(op: Any, *args: Any, **kwargs: Any) -> Report:
    with FlopCounter() as counter:
        op(*args, **kwargs)
    return counter.report()


N = 12
x = torch.ones(3, 4)


def test_it_costs_the_sum_of_its_steps_and_its_own_bytes(define: Any) -> None:
    op = define("chain", lambda x: x.exp() * x + 1)
    report = counted(op, x)
    assert report.by_operator() == {
        f"{NAMESPACE}.chain": Cost(arith=2 * N, special=N, read=4 * N, written=4 * N)
    }
    assert not report.uncounted


def test_products_keep_their_macs(define: Any) -> None:
    op = define("square", lambda x: x.T @ x)
    assert counted(op, x).total.macs == 4 * 3 * 4


def test_complex_products_are_not_scaled_twice(define: Any) -> None:
    op = define("complex_square", lambda x: x.T @ x)
    assert counted(op, x.cfloat()).total.macs == 4 * (4 * 3 * 4)


def test_an_op_of_ops_that_are_taken_apart(define: Any) -> None:
    inner = define("inner", lambda x: x + 1)
    outer = define("outer", lambda x: inner(inner(x)))
    assert counted(outer, x).total.arith == 2 * N


def test_it_is_taken_apart_once_for_each_shape(define: Any) -> None:
    seen: list[torch.Size] = []

    def decomposition(x: Tensor) -> Tensor:
        seen.append(x.shape)
        return x + 1

    op = define("memoised", decomposition)
    for size in (3, 3, 4):
        assert counted(op, torch.ones(size)).total.arith == size
    assert seen == [(3,), (4,)]


def test_it_gets_shapes_and_no_data(define: Any) -> None:
    seen: list[Any] = []

    def decomposition(x: Tensor, others: list[Tensor], device: Any) -> Tensor:
        seen.extend([x.device.type, x.stride(), x is others[0], x is others[1], device.type])
        others[0].add_(1)
        return torch.ones_like(x) + torch.zeros(3, device=device) + torch.zeros(3)

    op = define("shapes", decomposition, "Tensor x, Tensor[] others, Device device")
    operand = torch.ones(4, 3).T[:, :1].expand(3, 3)
    report = counted(op, operand, [operand, torch.ones(3, 3)], torch.device("cpu"))
    assert seen == ["meta", (1, 0), True, False, "meta"]
    assert report.total.arith == 3 * 9
    assert operand.eq(1).all()


def test_random_numbers_of_the_program_stay_where_they_are(define: Any) -> None:
    op = define("random", lambda x: torch.rand_like(x) + torch.bernoulli(x))
    state = torch.get_rng_state()
    assert counted(op, x).total.arith == N
    assert torch.get_rng_state().equal(state)


def test_other_modes_see_the_op_and_nothing_of_its_parts(define: Any) -> None:
    dispatched: list[str] = []
    called: list[str] = []

    class Dispatch(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            dispatched.append(str(func))
            return func(*args, **(kwargs or {}))

    class Function(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            called.append(str(func))
            return func(*args, **(kwargs or {}))

    op = define("seen", lambda x: torch.exp(x) + 1)
    with Function(), Dispatch(), FlopCounter() as counter:
        op(x)
    assert counter.report().total.special == N
    assert dispatched == [f"{NAMESPACE}.seen.default"]
    assert not any("exp" in name for name in called)


@torch.library.custom_op(f"{NAMESPACE}::mystery", mutates_args=())
def mystery(x: Tensor) -> Tensor:
    """Nobody knows what this is made of."""
    return x.clone()


@mystery.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


UNKNOWN: dict[str, Callable[[Tensor], Tensor]] = {
    "what depends on values": lambda x: x + x.sum().item(),
    "what is made of an op that is unknown": lambda x: mystery(x) + 1,
    "what fails": lambda x: x.no_such_method(),  # type: ignore[operator]  # that is the failure
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_uncounted_stays(case: str, define: Any) -> None:
    op = define(f"unknown_{list(UNKNOWN).index(case)}", UNKNOWN[case])
    report = counted(op, x)
    assert report.uncounted == {f"{NAMESPACE}.unknown_{list(UNKNOWN).index(case)}": 1}
    assert report.total.flops == 0


def test_an_in_place_op_is_its_functional_one() -> None:
    costs = [counted(op, torch.ones(5)).total for op in (torch.ops.aten.celu, torch.ops.aten.celu_)]
    assert costs[0] == costs[1]
    assert costs[0].special == 5
