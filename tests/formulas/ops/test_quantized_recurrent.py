"""Recurrent layers with narrow weights: the float layer, and what quantising adds to it."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

import flopcount
from flopcount import Cost
from tests.formulas.ops.test_quantized import engine

__all__ = ["engine"]

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

STEPS, BATCH, INPUTS, HIDDEN = 3, 2, 5, 7
TOKENS = STEPS * BATCH
X = torch.rand(STEPS, BATCH, INPUTS)


def narrowed(layer: nn.Module, dtype: torch.dtype = torch.qint8) -> nn.Module:
    """The layer as ``quantize_dynamic`` leaves it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.ModuleDict({"layer": layer})
        return torch.ao.quantization.quantize_dynamic(model, {type(layer)}, dtype=dtype)["layer"]


def cost_of(layer: nn.Module, *inputs: Any) -> Cost:
    with flopcount.FlopCounter(strict=True) as counter, torch.no_grad():
        layer(*inputs)
    return counter.report().total


def work(cost: Cost) -> Cost:
    return Cost(
        macs=cost.macs, dots=cost.dots, arith=cost.arith, compare=cost.compare, special=cost.special
    )


def quantised(values: int, rows: int) -> Cost:
    """max and min, then a scale, of each row; round(x / scale)."""
    return Cost(compare=2 * (values - rows) + values, arith=2 * rows + values)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("batch_first", [False, True])
def test_one_layer_quantises_x_once_and_h_at_each_step(kind: Any, batch_first: bool) -> None:
    layer = kind(INPUTS, HIDDEN, batch_first=batch_first)
    x = X.transpose(0, 1) if batch_first else X
    gates = {nn.LSTM: 4, nn.GRU: 3}[kind] * TOKENS * HIDDEN
    extra = quantised(TOKENS * INPUTS, 1) + quantised(TOKENS * HIDDEN, STEPS)
    extra += Cost(arith=2 * gates)  # each product by the two scales, which are one factor
    assert work(cost_of(narrowed(layer), x)) == work(cost_of(layer, x)) + extra
    assert extra.flops == (2 * 29 + 30 + 2 + 30) + (2 * 39 + 42 + 6 + 42) + 2 * gates


def test_a_backward_direction_quantises_x_at_each_step() -> None:
    layer = nn.LSTM(INPUTS, HIDDEN, num_layers=2, bidirectional=True)
    extra = Cost(arith=4 * 2 * (4 * TOKENS * HIDDEN))
    for inputs in (INPUTS, 2 * HIDDEN):
        extra += quantised(TOKENS * inputs, 1) + quantised(TOKENS * inputs, STEPS)
        extra += 2 * quantised(TOKENS * HIDDEN, STEPS)
    assert work(cost_of(narrowed(layer), X)) == work(cost_of(layer, X)) + extra


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_weights_of_16_bits_add_nothing(kind: Any) -> None:
    layer = kind(INPUTS, HIDDEN, num_layers=2)
    assert work(cost_of(narrowed(layer, torch.float16), X)) == work(cost_of(layer, X))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_packed_sequences_are_as_long_as_they_are(kind: Any) -> None:
    layer = kind(INPUTS, HIDDEN)
    packed = nn.utils.rnn.pack_padded_sequence(X, [3, 1])
    tokens = 3 + 1
    gates = {nn.LSTM: 4, nn.GRU: 3}[kind] * tokens * HIDDEN
    extra = quantised(tokens * INPUTS, 1) + quantised(tokens * HIDDEN, STEPS)
    extra += Cost(arith=2 * gates)
    got = work(cost_of(narrowed(layer), packed))
    assert got == work(cost_of(layer, packed)) + extra
    assert got.macs == gates * (INPUTS + HIDDEN)


def test_dropout_between_layers_in_training() -> None:
    layer = narrowed(nn.LSTM(INPUTS, HIDDEN, num_layers=2, dropout=0.5))
    dropped = cost_of(layer.train(), X)
    kept = cost_of(layer.eval(), X)
    assert dropped.arith - kept.arith == 2 * TOKENS * HIDDEN


@pytest.mark.parametrize(("dtype", "size"), [(torch.qint8, 1), (torch.float16, 2)])
def test_packed_weights_are_read(dtype: torch.dtype, size: int) -> None:
    layer = narrowed(nn.LSTM(INPUTS, HIDDEN), dtype)
    h, c = torch.zeros(1, BATCH, HIDDEN), torch.zeros(1, BATCH, HIDDEN)
    with flopcount.FlopCounter() as counter:
        layer(X, (h, c))
    rows = [r for r in counter.report().rows() if r["op"] == "aten.quantized_lstm"]
    row = rows[0]
    integers = {"int8"} if dtype == torch.qint8 else {"float32"}
    assert {r["dtype"] for r in rows if r["macs"]} == integers
    assert sum(r["calls"] for r in rows) == 1
    weights, biases = size * 4 * HIDDEN * (INPUTS + HIDDEN), 2 * 4 * (4 * HIDDEN)
    states = 4 * 2 * h.numel()
    assert row["read"] == 4 * X.numel() + states + weights + biases
    assert row["written"] == 4 * TOKENS * HIDDEN + states


CELLS: dict[str, tuple[Any, int]] = {
    "LSTM": (nn.LSTMCell, 4),
    "GRU": (nn.GRUCell, 3),
    "RNN with tanh": (nn.RNNCell, 1),
    "RNN with ReLU": (lambda i, h: nn.RNNCell(i, h, nonlinearity="relu"), 1),
}


@pytest.mark.parametrize(("cell", "gates"), CELLS.values(), ids=CELLS.keys())
def test_a_cell_quantises_x_and_h_once(cell: Any, gates: int) -> None:
    layer = cell(INPUTS, HIDDEN)
    extra = quantised(BATCH * INPUTS, 1) + quantised(BATCH * HIDDEN, 1)
    extra += Cost(arith=2 * (gates * BATCH * HIDDEN))
    assert work(cost_of(narrowed(layer), X[0])) == work(cost_of(layer, X[0])) + extra
