"""What one unit of a recurrent layer does in one step, and the ops that do one step.

Letters: x the input of a step, h and h' the state before and after it, c and c' the memory of an
LSTM, σ the sigmoid. Each gate is activated W·x + b + U·h + b', with both biases, as torch.nn
documents it:

    RNN     h' = φ(a), φ being tanh or ReLU
    LSTM    c' = f·c + i·g          h' = o·tanh(c')         i, f, o = σ(…), g = tanh(…)
    GRU     h' = n + z·(h - n)      n = tanh(W·x + b + r·(U·h + b'))         r, z = σ(…)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from flopcount.cost import ZERO, Cost
from flopcount.formulas.registry import Gradients, formula
from flopcount.formulas.steps import elementwise, fold


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What one unit does in one step, once the two products of each of its gates are there."""

    gates: int
    forward: Cost
    backward: Cost
    carried: Cost = ZERO  # takes the gradient to the step before, beside U's product
    again: Cost = ZERO  # steps of the forward pass whose results kernels do not keep
    memory: bool = False


SIGMOID = Cost(special=1, compare=1, arith=2)  # 1 / (1 + e^-x)
TANH = Cost(special=1)
SLOPE = Cost(arith=3)  # dy·y·(1 - y) of a sigmoid, dy·(1 - y²) of tanh

RELU_CELL = Cell(gates=1, forward=Cost(compare=1), backward=Cost(compare=1))
TANH_CELL = Cell(gates=1, forward=TANH, backward=SLOPE)
LSTM_CELL = Cell(
    gates=4,
    forward=3 * SIGMOID + 2 * TANH + Cost(arith=4),  # f·c + i·g, o·tanh(c')
    # do = dh·tanh(c'), dh·o; di = dc·g, dg = dc·i, df = dc·c
    backward=5 * SLOPE + Cost(arith=2 + 3),
    carried=Cost(arith=1),  # dc·f
    again=TANH,  # of c'
    memory=True,
)
GRU_CELL = Cell(
    gates=3,
    forward=2 * SIGMOID + TANH + Cost(arith=4),  # r·(U·h + b'), n + z·(h - n)
    # dh·z, dz = dh·(h - n), dn = dh + -(dh·z); dr = da·(U·h + b'), da·r
    backward=3 * SLOPE + Cost(arith=2 + 1 + 2, compare=1),
    carried=Cost(arith=1),  # dh·z + Uᵀ·da
)
CELLS = RELU_CELL, TANH_CELL, LSTM_CELL, GRU_CELL
"""In the order in which all libraries number them."""


# -- fused cells: one step, whose products other ops have computed


def cell_forward(cell: Cell, gates: Tensor, bias: Tensor | None) -> Cost:
    """W·x + b + U·h + b' for each gate, the products being there, and the cell's steps."""
    units = gates.numel() // cell.gates
    return elementwise(gates, add=3 if bias is not None else 1) + units * cell.forward


@formula("aten::_thnn_fused_lstm_cell", by_name=True)
def thnn_fused_lstm_cell(
    *, input_gates: Tensor, input_bias: Tensor | None = None, out: Any, **others: Any
) -> Cost:
    """c' = f·c + i·g and h' = o·tanh(c') from the gates' products."""
    return cell_forward(LSTM_CELL, input_gates, input_bias)


@formula("aten::_thnn_fused_gru_cell", by_name=True)
def thnn_fused_gru_cell(
    *, input_gates: Tensor, input_bias: Tensor | None = None, out: Any, **others: Any
) -> Cost:
    """h' = n + z·(h - n) from the gates' products."""
    return cell_forward(GRU_CELL, input_gates, input_bias)


@formula("aten::_thnn_fused_lstm_cell_backward_impl")
def thnn_fused_lstm_cell_backward(
    grad_hy: Tensor | None, grad_cy: Tensor | None, cx: Tensor, *args: Any, out: Any
) -> Gradients:
    """Of the gates and of c, dc·f; tanh(c') is computed again. Biases' sums are another op's."""
    arriving = Cost(arith=int(grad_hy is not None and grad_cy is not None))
    steps = LSTM_CELL.backward + LSTM_CELL.carried + arriving
    units = cx.numel()
    return Gradients(input=units * steps, recompute=units * LSTM_CELL.again)


@formula("aten::_thnn_fused_gru_cell_backward")
def thnn_fused_gru_cell_backward(
    grad_hy: Tensor, workspace: Tensor, has_bias: bool, *, out: Sequence[Tensor | None]
) -> Gradients:
    """Of the gates, and dh·z of h: U's product joins it elsewhere. Each bias sums its gates."""
    units, rows = grad_hy.numel(), grad_hy.shape[0]
    gates = units * GRU_CELL.gates
    bias = Cost(arith=2 * fold(gates, gates // rows)) if has_bias and rows else ZERO
    return Gradients(input=units * GRU_CELL.backward, bias=bias)
