"""Jagged tensors where torch pads them, and where they only move."""

from __future__ import annotations

import pytest
import torch

from flopcount import Cost
from tests.formulas.decomposed import plain
from tests.formulas.ops.test_nested import Program, two
from tests.formulas.reports import report_of

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")


@pytest.mark.parametrize(
    ("program", "cost"),
    [
        pytest.param(
            lambda x: torch.softmax(x, 1),
            # 24 scores in 2·4 rows
            Cost(compare=24 - 8, arith=2 * 24 + (24 - 8), special=24),
            id="softmax along the ragged dimension",
        ),
        pytest.param(lambda x: x.sum(1), Cost(arith=24 - 8), id="sum of components"),
        pytest.param(lambda x: x.mean(1), Cost(arith=24 - 8 + 8), id="mean of components"),
        pytest.param(
            lambda x: x @ torch.rand(2, 4, 6),
            Cost(macs=2 * 3 * 4 * 6, dots=2 * 3 * 6),
            id="product with a matrix for each component",
        ),
        pytest.param(
            lambda x: x @ torch.rand(4, 6), Cost(macs=5 * 4 * 6, dots=5 * 6), id="product with one"
        ),
        pytest.param(lambda x: x.mean(-1, keepdim=True), Cost(arith=5 * 4), id="mean of rows"),
    ],
)
def test_padding_of_jagged_tensors_is_counted(program: Program, cost: Cost) -> None:
    x = two(4, layout=torch.jagged)
    assert plain(report_of(lambda: program(x)).total) == cost


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(lambda x: torch.nested.to_padded_tensor(x, 0.0), id="padded"),
        pytest.param(lambda x: torch.cat([x, x.detach()], -1), id="side by side"),
        pytest.param(lambda x: x.chunk(2, -1)[1], id="a half"),
        pytest.param(lambda x: x.unbind()[1], id="a component"),
        pytest.param(lambda x: x.clone(), id="a copy"),
        pytest.param(
            lambda x: torch.nested.as_nested_tensor(list(x.unbind()), layout=torch.jagged),
            id="put together",
        ),
        pytest.param(
            lambda x: torch.nested.narrow(
                torch.nested.to_padded_tensor(x, 0.0),
                *(1, torch.tensor([1, 0]), torch.tensor([1, 3])),
                layout=torch.jagged,
            ),
            id="cut out",
        ),
    ],
)
def test_what_only_moves_jagged_tensors_is_free_forward_and_backward(program: Program) -> None:
    x = two(4, layout=torch.jagged).requires_grad_()

    def step() -> None:
        y = program(x)
        y.backward(torch.ones_like(y))

    assert report_of(step).total.flops == 0
