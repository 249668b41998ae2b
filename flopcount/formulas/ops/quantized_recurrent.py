"""Recurrent layers for inference, with weights of 8 or 16 bits; their states are floats.

Weights of 8 bits cost more than the float layer: x and h are quantised, the operand of each
product as one row, and both products of a gate are multiplied by their scales. W·x is one product
for all steps; where a layer runs backwards it is one for each step (torch, RNN.cpp). Weights of 16
bits are widened, which is no arithmetic.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import Tensor

from flopcount.cost import Cost
from flopcount.formulas.ops.lowprecision import quantizing
from flopcount.formulas.ops.quantized import packed_traffic
from flopcount.formulas.ops.recurrent import Pass
from flopcount.formulas.ops.recurrent_cells import GRU_CELL, LSTM_CELL, RELU_CELL, TANH_CELL, Cell
from flopcount.formulas.registry import Formula, Gradients, Uncountable, formula, free
from flopcount.formulas.steps import of_integers


def products(
    cell: Cell, tokens: int, inputs: int, hx: Tensor, packed: Any, rows: tuple[int, int] = (1, 1)
) -> Gradients:
    """One layer in one direction, which quantises x and h in so many ``rows``."""
    sequences, hidden = hx.shape[-2:]
    layer = Pass(
        cell=cell,
        tokens=tokens,
        sequences=sequences,
        inputs=inputs,
        hidden=hidden,
        outputs=hidden,
        projected=False,
        biased=True,
    )
    weight, _ = packed.unpack()
    if not weight.is_quantized:
        return Gradients(unsplit=layer.forward())
    quantised = quantizing(tokens * inputs, rows[0]) + quantizing(layer.units, rows[1])
    return of_integers(layer.forward() + quantised + Cost(arith=2 * layer.units * cell.gates))


def layers(
    cell: Cell,
    x: Tensor,
    steps: int,
    hx: Tensor | Sequence[Tensor],
    *,
    params: Sequence[Any],
    dropout: float,
    train: bool,
    bidirectional: bool,
    **others: Any,
) -> Gradients:
    """All layers in all directions; dropout between them is two products, x·mask / (1 - p)."""
    tokens, directions = prod(x.shape[:-1]), 2 if bidirectional else 1
    state = hx if isinstance(hx, Tensor) else hx[0]
    cost = Gradients()
    for place, opaque in enumerate(params):
        if isinstance(opaque, Tensor):
            raise Uncountable("weights packed by an older torch")
        (*_, (packed, _)), _ = opaque.__getstate__()
        depth, backward = divmod(place, directions)
        inputs = directions * state.shape[-1] if depth else x.shape[-1]
        cost += products(cell, tokens, inputs, state, packed, (steps if backward else 1, steps))
        if depth and not backward and dropout and train:
            cost += Gradients(unsplit=Cost(arith=2 * tokens * inputs))
    return cost


def batch(cell: Cell) -> Formula:
    """The formula of layers of ``cell`` on a batch, whose sequences are all as long."""

    def cost(*, input: Tensor, hx: Any, batch_first: bool, out: Any, **settings: Any) -> Gradients:
        """All layers; with weights of 8 bits x and h are quantised, and products scaled."""
        return layers(cell, input, input.shape[1 if batch_first else 0], hx, **settings)

    return cost


def sequences(cell: Cell) -> Formula:
    """The formula of layers of ``cell`` on packed sequences, each as long as it is."""

    def cost(*, data: Tensor, batch_sizes: Tensor, hx: Any, out: Any, **settings: Any) -> Gradients:
        """All layers; weights of 8 bits want x and h quantised, and products scaled."""
        return layers(cell, data, batch_sizes.shape[0], hx, **settings)

    return cost


formula("aten::quantized_lstm.input", traffic=packed_traffic, by_name=True)(batch(LSTM_CELL))
formula("aten::quantized_gru.input", traffic=packed_traffic, by_name=True)(batch(GRU_CELL))
formula("aten::quantized_lstm.data", traffic=packed_traffic, by_name=True)(sequences(LSTM_CELL))
formula("aten::quantized_gru.data", traffic=packed_traffic, by_name=True)(sequences(GRU_CELL))


@formula("quantized::quantized_lstm_cell_dynamic", traffic=packed_traffic)
def lstm_cell(
    x: Tensor, hx: Sequence[Tensor], packed: Any, *args: Any, out: Sequence[Tensor]
) -> Gradients:
    """One step of an LSTM."""
    return products(LSTM_CELL, x.shape[0], x.shape[-1], hx[0], packed)


@formula("quantized::quantized_gru_cell_dynamic", traffic=packed_traffic)
def gru_cell(x: Tensor, hx: Tensor, packed: Any, *args: Any, out: Tensor) -> Gradients:
    """One step of a GRU."""
    return products(GRU_CELL, x.shape[0], x.shape[-1], hx, packed)


@formula("quantized::quantized_rnn_tanh_cell_dynamic", traffic=packed_traffic)
def tanh_cell(x: Tensor, hx: Tensor, packed: Any, *args: Any, out: Tensor) -> Gradients:
    """tanh(W·x + b + U·h + b')."""
    return products(TANH_CELL, x.shape[0], x.shape[-1], hx, packed)


@formula("quantized::quantized_rnn_relu_cell_dynamic", traffic=packed_traffic)
def relu_cell(x: Tensor, hx: Tensor, packed: Any, *args: Any, out: Tensor) -> Gradients:
    """max(0, W·x + b + U·h + b')."""
    return products(RELU_CELL, x.shape[0], x.shape[-1], hx, packed)


free(
    "quantized::make_quantized_cell_params",
    "quantized::make_quantized_cell_params_dynamic",
    "quantized::make_quantized_cell_params_fp16",
)
