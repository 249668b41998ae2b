"""Ops that call functions: of branches the one that is taken, of loops each round, and gradients.

The functions multiply a 4 × 8 by an 8 × 8 matrix. With gradients torch makes a graph of each, and
another one of its gradient; this does the forward pass again, whether or not a gradient needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops.associative_scan import associative_scan
from torch._higher_order_ops.map import map as map_rows
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop

from flopcount import Cost, FlopCounter
from tests.attribution.units import paths, units
from tests.counter.units import PRODUCT, batch, linear, mm
from tests.graph.graphs import keeping
from tests.invariants import check

WEIGHT = torch.randn(8, 8)


def macs(counter: FlopCounter) -> dict[str, int]:
    """MACs of each phase that has any, in products."""
    report = counter.report()
    check(report, plain=True)
    phases = {name: cost.macs / PRODUCT for name, cost in report.phases.items() if cost.macs}
    assert sum(phases.values()) * PRODUCT == report.root.own.macs  # no graph is a module
    return phases


@pytest.mark.parametrize("taken", [True, False])
def test_of_two_branches_the_one_that_runs_is_counted(taken: bool) -> None:
    x = batch()
    with FlopCounter() as counter:
        y = torch.cond(torch.tensor(taken), lambda x: x @ WEIGHT, lambda x: x + 1, (x,))
    report = counter.report()
    assert torch.equal(y, x @ WEIGHT if taken else x + 1)
    expected = Cost(macs=PRODUCT, dots=PRODUCT // 8) if taken else Cost(arith=x.numel())
    assert replace(report.total, read=0, written=0) == expected
    assert not report.uncounted


def test_an_exception_in_a_branch_leaves_the_counter_as_it_was() -> None:
    def fail(x: Tensor) -> Tensor:
        raise KeyError("of the user's own")

    with FlopCounter() as counter:
        with pytest.raises(KeyError, match="of the user's own"):
            torch.ops.higher_order.cond(torch.tensor(True), fail, fail, (batch(),))
        mm()
    assert counter.report().total.macs == PRODUCT


def branching(x: Tensor, weight: Tensor) -> Tensor:
    return torch.cond(x.sum() > -1e9, lambda x: x @ weight, lambda x: x + 1, (x,))


def nested(x: Tensor, weight: Tensor) -> Tensor:
    return torch.cond(x.sum() > -1e9, lambda x: branching(x, weight), lambda x: x + 1, (x,))


def looping(x: Tensor, weight: Tensor) -> Tensor:
    _, y = while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, x @ weight), (torch.tensor(0), x))
    return y


def scanning(x: Tensor, weight: Tensor) -> Tensor:
    """Four rounds, each a product of one row."""
    _, y = scan(lambda carry, row: (carry + row, row @ weight), torch.zeros(8), x)
    return y


def mapping(x: Tensor, weight: Tensor) -> Tensor:
    return map_rows(lambda row: row @ weight, x)


def scanning_in_pairs(x: Tensor, weight: Tensor) -> Tensor:
    return associative_scan(torch.add, x @ weight, 0, combine_mode="generic")


FORWARD: dict[Callable[[Tensor, Tensor], Tensor], int] = {
    branching: 1,
    nested: 1,
    looping: 3,
    scanning: 1,
    mapping: 1,
    scanning_in_pairs: 1,
}

RECOMPUTED: dict[Callable[[Tensor, Tensor], Tensor], dict[str, int]] = {
    branching: {"recompute": 1},
    # the outer gradient runs the inner branch again, and the inner gradient once more
    nested: {"recompute": 2},
    looping: {"recompute": 3},
    scanning: {},  # its forward pass keeps what the gradient needs
    mapping: {"recompute": 1},
    scanning_in_pairs: {},  # the product is outside of it
}


OLD = torch.__version__ < "2.12"
ROUND_MORE = pytest.mark.skipif(OLD, reason="scan runs its first round twice in torch 2.11")


@pytest.mark.parametrize(
    "program",
    [pytest.param(p, marks=[ROUND_MORE] if p is scanning else []) for p in FORWARD],
)
class TestPrograms:
    def test_without_gradients(self, program: Callable[[Tensor, Tensor], Tensor]) -> None:
        x = torch.randn(4, 8)
        with torch.no_grad():
            expected = program(x, WEIGHT)
            with FlopCounter() as counter:
                found = program(x, WEIGHT)
        assert torch.equal(found, expected)
        assert macs(counter) == {"other": FORWARD[program]}  # no module runs

    def test_with_gradients(self, program: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Backward: a product for the input, and one for the weight."""
        x, weight = torch.randn(4, 8, requires_grad=True), WEIGHT.clone().requires_grad_()

        def step() -> tuple[Tensor, ...]:
            y = program(x, weight)
            return y, *torch.autograd.grad(y.sin().sum(), (x, weight))

        expected = step()
        with FlopCounter() as counter:
            found = step()
        assert all(map(torch.equal, found, expected))
        assert macs(counter) == {
            "forward": FORWARD[program],
            "backward": 2 * FORWARD[program],
            **RECOMPUTED[program],
        }


class Gate(nn.Module):
    """Calls one of its two modules."""

    def __init__(self) -> None:
        super().__init__()
        self.yes, self.no = linear(), linear()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > -1e9, lambda x: self.yes(x), lambda x: self.no(x), (x,))


def test_a_module_in_a_branch_has_its_row_where_no_gradient_is_wanted() -> None:
    model = Gate()
    with torch.no_grad(), FlopCounter(model) as counter:
        model(batch())
    report = counter.report()
    assert paths(report) == ["", "yes"]
    assert units(report["yes"]) == {"forward": 1}


def test_with_gradients_a_branch_belongs_to_the_module_that_calls_the_op() -> None:
    """The weight's gradient and, as the input wants one, the input's."""
    model, x = Gate(), batch().requires_grad_()
    with FlopCounter(model) as counter:
        model(x).sum().backward()
    report = counter.report()
    assert paths(report) == [""]
    assert units(report.model) == {"forward": 1, "backward": 2, "recompute": 1}
    assert report.model.calls == 1
    assert model.yes.weight.grad is not None


def test_other_compiled_functions_stay_eager_beside_it() -> None:
    backend, graphs = keeping()
    function = torch.compile(lambda x: branching(x, WEIGHT) + mm(), backend=backend)
    with FlopCounter() as counter:
        function(batch())
    assert macs(counter) == {"forward": 2}
    assert not graphs
    function(batch())
    assert len(graphs) == 1
