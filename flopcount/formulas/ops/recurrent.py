"""Recurrent layers as whole kernels: LSTM, GRU and RNN, forward and backward.

Letters: x the input of a step, h and h' the state before and after it, c and c' the memory of an
LSTM, σ the sigmoid. Each gate is activated W·x + b + U·h + b', with both biases, as torch.nn
documents it:

    RNN     h' = φ(a), φ being tanh or ReLU
    LSTM    c' = f·c + i·g          h' = o·tanh(c')         i, f, o = σ(…), g = tanh(…)
    GRU     h' = n + z·(h - n)      n = tanh(W·x + b + r·(U·h + b'))         r, z = σ(…)

A layer costs what it does unrolled, step by step, as torch runs it where there is no kernel for
the whole; only that a weight's gradient is one dot product over all steps here, and unrolled one
for each step and their sum, which is as many operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from torch import Tensor

from flopcount.cost import ZERO, Cost
from flopcount.formulas import bytes as traffic
from flopcount.formulas.call import Call
from flopcount.formulas.registry import Gradients, formula, free
from flopcount.formulas.steps import contraction, elementwise, fold


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What one unit does in one step, once the two products of each of its gates are there."""

    gates: int
    forward: Cost
    backward: Cost
    carried: Cost = ZERO  # to hand the gradient to the step before, beside U's product
    again: Cost = ZERO  # of the forward pass, which kernels do not keep
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
"""By the number that all libraries have for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One layer in one direction."""

    cell: Cell
    tokens: int  # steps of all sequences together, each as long as it is
    sequences: int
    inputs: int
    hidden: int
    outputs: int  # as long as h: ``hidden``, but where that is projected
    projected: bool
    biased: bool

    @property
    def units(self) -> int:
        """Units of all steps."""
        return self.tokens * self.hidden

    def forward(self) -> Cost:
        """W·x + b + U·h + b' for each gate, the cell's steps, and the projection."""
        gates = self.units * self.cell.gates
        products = contraction(dots=gates, length=self.inputs)
        products += contraction(dots=gates, length=self.outputs)
        if self.projected:
            products += contraction(dots=self.tokens * self.outputs, length=self.hidden)
        sums = Cost(arith=gates * (1 + 2 * self.biased))
        return products + sums + self.units * self.cell.forward

    def backward(self, given: Sequence[bool], wanted: Sequence[bool]) -> Gradients:
        """Through the cell; dx = Wᵀ·da, dh = Uᵀ·da; dW = da·xᵀ, dU = da·hᵀ; db = db' = Σ da.

        ``given`` are the gradients of the results, of the last h and of the last c; ``wanted``
        those of x, of the first h and of the first c, and of weights. The sums in dW, dU and db
        go over all tokens.
        """
        gates, n = self.cell.gates * self.hidden, self.tokens
        for_x, for_h, for_c, for_weight = wanted
        handed = n if for_h else n - self.sequences  # to the step before
        chain = self._arriving(given) + self.units * self.cell.backward
        chain += contraction(dots=handed * self.outputs, length=gates)
        carries = n if (for_c if self.cell.memory else for_h) else n - self.sequences
        chain += carries * self.hidden * self.cell.carried
        weights = contraction(dots=gates * (self.inputs + self.outputs), length=n)
        if self.projected:
            chain += contraction(dots=self.units, length=self.outputs)
            weights += contraction(dots=self.outputs * self.hidden, length=n)
        bias = Cost(arith=2 * fold(n * gates, gates))
        return Gradients(
            input=chain + (contraction(dots=n * self.inputs, length=gates) if for_x else ZERO),
            weight=weights if for_weight else ZERO,
            bias=bias if for_weight and self.biased else ZERO,
            recompute=self.units * self.cell.again,
        )

    def _arriving(self, given: Sequence[bool]) -> Cost:
        """h gets gradients from above, from the next step and at the end, c those of h, too."""
        from_result, last_h, last_c = given
        next_step, above = self.tokens - self.sequences, self.tokens * from_result
        sums = fold(above + next_step + self.sequences * last_h, self.tokens) * self.outputs
        if self.cell.memory:
            sums += (next_step + self.sequences * last_c) * self.hidden
        return Cost(arith=sums)


# -- oneDNN: one layer in one direction


def one_pass(x: Tensor, weight: Tensor, hx: Tensor, mode: int, hidden: int, biased: bool) -> Pass:
    """The sizes of a call whose state has the shape (sequences, hidden)."""
    return Pass(
        cell=CELLS[mode],
        tokens=prod(x.shape[:-1]),
        sequences=hx.shape[-2],
        inputs=weight.shape[-1],
        hidden=hidden,
        outputs=hidden,
        projected=False,
        biased=biased,
    )


def real_biases_traffic(call: Call) -> tuple[int, int]:
    """Where there are no biases, zeros in the shape of the weights stand in for them."""
    x, w, u, *biases = call.args[:5]
    real = [bias for bias in biases if bias.dim() == 1]
    return traffic.read_and_written([x, w, u, real, *call.operands[5:]], call.results)


@formula("aten::mkldnn_rnn_layer", traffic=real_biases_traffic)
def mkldnn_rnn_layer(
    x: Tensor,
    weight_x: Tensor,
    weight_h: Tensor,
    bias_x: Tensor,
    bias_h: Tensor,
    hx: Tensor,
    cx: Tensor,
    reverse: bool,
    batch_sizes: Sequence[int],
    mode: int,
    hidden_size: int,
    num_layers: int,
    has_biases: bool,
    *args: bool,
    out: Sequence[Tensor],
) -> Cost:
    """One layer in one direction, whatever the whole has."""
    return one_pass(x, weight_x, hx, mode, hidden_size, has_biases).forward()


@formula("aten::mkldnn_rnn_layer_backward", traffic=real_biases_traffic)
def mkldnn_rnn_layer_backward(
    x: Tensor,
    weight_x: Tensor,
    weight_h: Tensor,
    bias_x: Tensor,
    bias_h: Tensor,
    hx: Tensor,
    cx: Tensor,
    output: Tensor,
    hy: Tensor,
    cy: Tensor,
    grad_output: Tensor | None,
    grad_hy: Tensor | None,
    grad_cy: Tensor | None,
    reverse: bool,
    mode: int,
    hidden_size: int,
    num_layers: int,
    has_biases: bool,
    *args: Any,
    out: Sequence[Tensor],
) -> Gradients:
    """All gradients of one layer in one direction; oneDNN keeps the gates, but not tanh(c')."""
    given = grad_output is not None, grad_hy is not None, grad_cy is not None
    layer = one_pass(x, weight_x, hx, mode, hidden_size, has_biases)
    return layer.backward(given, (True, True, True, True))


# -- cuDNN and MIOpen: all layers in all directions


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Layers of one pass, or of two in opposite directions, on top of each other."""

    layers: list[list[Pass]]
    dropped: int  # numbers between layers that dropout reaches

    def forward(self) -> Cost:
        """Every pass, and dropout between layers: x·mask / (1 - p), two products."""
        passes = sum((each.forward() for layer in self.layers for each in layer), ZERO)
        return passes + Cost(arith=2 * self.dropped)

    def backward(self, given: Sequence[bool], wanted: Sequence[bool]) -> Gradients:
        """Every pass; two directions add what they give to their input. Dropout as before."""
        from_result, *last = given
        for_x, *others = wanted
        parts, below = [Gradients(input=Cost(arith=2 * self.dropped))], len(self.layers) - 1
        for depth, layer in enumerate(self.layers):
            arrives, leaves = from_result or depth < below, for_x or depth > 0
            ends = (arrives, *last), (leaves, *others)
            parts += [each.backward(*ends) for each in layer]
            inputs = layer[0].tokens * layer[0].inputs * (len(layer) - 1)
            parts.append(Gradients(input=Cost(arith=inputs if leaves else 0)))
        return sum(parts, Gradients())


def stacked(
    x: Tensor,
    weights: Sequence[Tensor],
    stride: int,
    hx: Tensor,
    mode: int,
    hidden: int,
    projected: bool,
    bidirectional: bool,
    dropout: float,
) -> Stack:
    """The sizes of a call whose state has the shape (layers·directions, sequences, h's length).

    Of ``stride`` weights for each pass come first W and U, then two biases, if any, and the
    projection. Packed sequences lie one after the other, without padding.
    """
    firsts = weights[::stride]
    passes = [
        Pass(
            cell=CELLS[mode],
            tokens=prod(x.shape[:-1]),
            sequences=hx.shape[-2],
            inputs=weight.shape[-1],
            hidden=hidden,
            outputs=hx.shape[-1],
            projected=projected,
            biased=stride >= 4,
        )
        for weight in firsts
    ]
    directions = 2 if bidirectional else 1
    upper = sum(each.tokens * each.inputs for each in passes[directions::directions])
    return Stack(
        layers=[passes[i : i + directions] for i in range(0, len(passes), directions)],
        dropped=upper if dropout else 0,
    )


def flat_weights_traffic(call: Call) -> tuple[int, int]:
    """The buffer of all weights, which comes in and goes out, holds those that are in the list."""
    operands = call.operands
    return traffic.read_and_written([*operands[:3], *operands[4:]], [call.out[:4], *call.mutated])


@formula("aten::_cudnn_rnn", traffic=flat_weights_traffic)
def cudnn_rnn(
    x: Tensor,
    weight: Sequence[Tensor],
    weight_stride0: int,
    weight_buf: Tensor | None,
    hx: Tensor,
    cx: Tensor | None,
    mode: int,
    hidden_size: int,
    proj_size: int,
    num_layers: int,
    batch_first: bool,
    dropout: float,
    train: bool,
    bidirectional: bool,
    *args: Any,
    out: Sequence[Tensor],
) -> Cost:
    """All layers in all directions, and dropout between them in training."""
    sizes = weight_stride0, hx, mode, hidden_size, proj_size != 0, bidirectional
    return stacked(x, weight, *sizes, dropout if train else 0.0).forward()


@formula("aten::_cudnn_rnn_backward", traffic=flat_weights_traffic)
def cudnn_rnn_backward(
    x: Tensor,
    weight: Sequence[Tensor],
    weight_stride0: int,
    weight_buf: Tensor,
    hx: Tensor,
    cx: Tensor | None,
    output: Tensor,
    grad_output: Tensor | None,
    grad_hy: Tensor | None,
    grad_cy: Tensor | None,
    mode: int,
    hidden_size: int,
    proj_size: int,
    num_layers: int,
    batch_first: bool,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_sizes: Sequence[int],
    dropout_state: Tensor | None,
    reserve: Tensor,
    output_mask: Sequence[bool],
    *,
    out: Sequence[Any],
) -> Gradients:
    """The gradients that ``output_mask`` wants: of x, of h, of c, of the weights.

    What the forward pass has reserved is not known to leave anything to be computed again.
    """
    sizes = weight_stride0, hx, mode, hidden_size, proj_size != 0, bidirectional
    layers = stacked(x, weight, *sizes, dropout if train else 0.0)
    given = grad_output is not None, grad_hy is not None, grad_cy is not None
    for_x, for_h, for_c, for_weight = output_mask
    costs = layers.backward(given, (for_x, for_h, for_c, for_weight))
    return replace(costs, recompute=ZERO)


@formula("aten::miopen_rnn")
def miopen_rnn(
    x: Tensor,
    weight: Sequence[Tensor],
    weight_stride0: int,
    hx: Tensor,
    cx: Tensor | None,
    mode: int,
    hidden_size: int,
    *args: Any,
    out: Sequence[Tensor],
) -> Cost:
    """As cuDNN's, which has a buffer of weights and a projection more."""
    given = x, weight, weight_stride0, None, hx, cx, mode, hidden_size, 0
    return cudnn_rnn(*given, *args, out=out)


@formula("aten::miopen_rnn_backward", traffic=flat_weights_traffic)
def miopen_rnn_backward(
    x: Tensor,
    weight: Sequence[Tensor],
    weight_stride0: int,
    weight_buf: Tensor,
    hx: Tensor,
    cx: Tensor | None,
    output: Tensor,
    grad_output: Tensor | None,
    grad_hy: Tensor | None,
    grad_cy: Tensor | None,
    mode: int,
    hidden_size: int,
    *args: Any,
    out: Sequence[Any],
) -> Gradients:
    """As cuDNN's, which has a projection more."""
    given = x, weight, weight_stride0, weight_buf, hx, cx, output, grad_output, grad_hy, grad_cy
    return cudnn_rnn_backward(*given, mode, hidden_size, 0, *args, out=out)


# -- cells: one step, whose products other ops have computed


def cell_forward(cell: Cell, gates: Tensor, bias: Tensor | None) -> Cost:
    """W·x + b + U·h + b' for each gate, the products being there, and the cell's steps."""
    units = gates.numel() // cell.gates
    return elementwise(gates, add=3 if bias is not None else 1) + units * cell.forward


@formula("aten::_thnn_fused_lstm_cell")
def thnn_fused_lstm_cell(
    input_gates: Tensor,
    hidden_gates: Tensor,
    cx: Tensor,
    input_bias: Tensor | None = None,
    hidden_bias: Tensor | None = None,
    *,
    out: Sequence[Tensor],
) -> Cost:
    """c' = f·c + i·g and h' = o·tanh(c') from the gates' products."""
    return cell_forward(LSTM_CELL, input_gates, input_bias)


@formula("aten::_thnn_fused_gru_cell")
def thnn_fused_gru_cell(
    input_gates: Tensor,
    hidden_gates: Tensor,
    hx: Tensor,
    input_bias: Tensor | None = None,
    hidden_bias: Tensor | None = None,
    *,
    out: Sequence[Tensor],
) -> Cost:
    """h' = n + z·(h - n) from the gates' products."""
    return cell_forward(GRU_CELL, input_gates, input_bias)


@formula("aten::_thnn_fused_lstm_cell_backward_impl")
def thnn_fused_lstm_cell_backward(
    grad_hy: Tensor | None,
    grad_cy: Tensor | None,
    cx: Tensor,
    cy: Tensor,
    workspace: Tensor,
    has_bias: bool,
    *,
    out: Sequence[Tensor],
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


free("aten::_cudnn_rnn_flatten_weight")
free("aten::_pack_padded_sequence", traffic=traffic.gathered)  # what is padding is not read
