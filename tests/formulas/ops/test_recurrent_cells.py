"""One step of a recurrent layer in one op: what its loop counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import flopcount
from flopcount import Cost
from flopcount.formulas import plan_of
from tests.formulas.counting import Number, counting
from tests.formulas.decomposed import plain

aten = torch.ops.aten


# -- cells


def sigmoid(x: Number) -> Number:
    return Number(1) / ((-x).exp() + 1)


def tanh(x: Number) -> Number:
    return x._special(math.tanh(x.value))


def lstm_unit(w: list[Number], u: list[Number], c: Number) -> list[Number]:
    a = [x + y for x, y in zip(w, u, strict=True)]
    memory = sigmoid(a[1]) * c + sigmoid(a[0]) * tanh(a[2])
    return [sigmoid(a[3]) * tanh(memory), memory]


def gru_unit(w: list[Number], u: list[Number], h: Number) -> list[Number]:
    r, z = (sigmoid(w[gate] + u[gate]) for gate in (0, 1))
    n = tanh(w[2] + r * u[2])
    return [n + z * (h - n)]


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(
    ("op", "gates", "unit", "cell"),
    [
        pytest.param("_thnn_fused_lstm_cell", 4, lstm_unit, nn.LSTMCell, id="LSTM"),
        pytest.param("_thnn_fused_gru_cell", 3, gru_unit, nn.GRUCell, id="GRU"),
    ],
)
def test_a_cell_is_a_loop_that_counts(
    op: str, gates: int, unit: Callable[..., list[Number]], cell: Any, biased: bool
) -> None:
    x, h, c = (torch.linspace(start, 1, 6).view(2, 3) for start in (-1, -0.5, 0.3))
    module = cell(3, 3)
    with torch.no_grad():
        w, u = x @ module.weight_ih.t(), h @ module.weight_hh.t()
    state = c if gates == 4 else h

    def gate_inputs(products: Tensor, bias: Tensor, row: int, column: int) -> list[Number]:
        places = range(column, gates * 3, 3)
        inputs = [Number(float(products[row, place])) for place in places]
        return (
            [a + bias[p].item() for a, p in zip(inputs, places, strict=True)] if biased else inputs
        )

    with counting() as tally:
        results = [
            unit(
                gate_inputs(w, module.bias_ih, row, column),
                gate_inputs(u, module.bias_hh, row, column),
                Number(float(state[row, column])),
            )[0]
            for row in range(2)
            for column in range(3)
        ]
    biases = [module.bias_ih, module.bias_hh] if biased else [None, None]
    bill = plan_of(getattr(aten, op).default).bill([w, u, state, *biases], {}, [state, w])
    assert plain(bill.cost) == tally.cost
    if biased:
        expected = module(x, (h, c))[0] if gates == 4 else module(x, h)
        found = torch.tensor([float(each) for each in results]).view(2, 3)
        torch.testing.assert_close(found, expected.detach())


def backward_cost(results: Sequence[Tensor]) -> Cost:
    with flopcount.FlopCounter() as counter:
        torch.autograd.backward(results, [torch.ones_like(each) for each in results])
    return plain(counter.report().total)


@pytest.mark.parametrize("given", ["h", "h and c"])
def test_an_lstm_cells_gradients_are_those_of_its_steps(given: str) -> None:
    w = torch.zeros(2, 12, requires_grad=True)
    c = torch.zeros(2, 3, requires_grad=True)
    i, f, g, o = w.unsafe_chunk(4, 1)
    memory = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * memory.tanh()
    grad_c = c if given == "h and c" else None
    op = aten._thnn_fused_lstm_cell_backward_impl.default
    bill = plan_of(op).bill([h, grad_c, c, memory, w, True], {}, [w, c, None])
    expected = backward_cost([h, memory] if given == "h and c" else [h])
    assert plain(bill.cost) == plain(bill.gradients["input"]) == expected
    assert bill.recompute == Cost(special=2 * 3)  # tanh(c')


@pytest.mark.parametrize("biased", [False, True])
def test_a_gru_cells_gradients_are_those_of_its_steps(biased: bool) -> None:
    w, u = (torch.zeros(2, 9, requires_grad=True) for _ in range(2))
    h = torch.zeros(2, 3, requires_grad=True)
    a, b = w.unsafe_chunk(3, 1), u.unsafe_chunk(3, 1)
    r, z = (a[0] + b[0]).sigmoid(), (a[1] + b[1]).sigmoid()
    n = (a[2] + r * b[2]).tanh()
    result = n + z * (h - n)
    op = aten._thnn_fused_gru_cell_backward.default
    bill = plan_of(op).bill([h, w, biased], {}, [w, w, h, None, None])
    assert bill.gradients["input"] == backward_cost([result])
    bias = bill.gradients.get("bias", Cost())
    assert bias == Cost(arith=2 * 9 * (2 - 1) if biased else 0)
