"""Recurrent layers as whole kernels: LSTM, GRU and RNN, forward and backward.

Letters and cells are those of ``recurrent_cells``. A layer costs what it costs unrolled, step by
step, as torch runs it where there is no kernel for the whole. Here a weight's gradient is one dot
product over all steps; unrolled it is one for each step and their sum, as many operations.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from torch import Tensor

from flopcount.cost import ZERO, Cost
from flopcount.formulas import bytes as traffic
from flopcount.formulas.call import Call
from flopcount.formulas.ops.recurrent_cells import CELLS, Cell
from flopcount.formulas.registry import Gradients, formula, free
from flopcount.formulas.steps import contraction, fold


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One layer in one direction."""

    cell: Cell
    tokens: int  # steps of all sequences together, each as long as it is
    sequences: int
    inputs: int
    hidden: int
    outputs: int  # the length of h: ``hidden``, unless that is projected
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
        sums = Cost(arith=gates * (3 if self.biased else 1))
        return products + sums + self.units * self.cell.forward

    def backward(self, arriving: Sequence[bool], wanted: Sequence[bool]) -> Gradients:
        """Through the cell; dx = Wᵀ·da, dh = Uᵀ·da; dW = da·xᵀ, dU = da·hᵀ; db = db' = Σ da.

        ``arriving`` are the gradients of the results, of the last h and of the last c; ``wanted``
        those of x, of the first h and of the first c, and of weights. The sums in dW, dU and db
        go over all tokens.
        """
        gates, n = self.cell.gates * self.hidden, self.tokens
        for_x, for_h, for_c, for_weight = wanted
        into_h = n if for_h else n - self.sequences  # gradients that reach the step before
        into_state = n if (for_c if self.cell.memory else for_h) else n - self.sequences
        chain = self._sums(arriving) + self.units * self.cell.backward
        chain += contraction(dots=into_h * self.outputs, length=gates)
        chain += into_state * self.hidden * self.cell.carried
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

    def _sums(self, arriving: Sequence[bool]) -> Cost:
        """h gets gradients from above, from the next step and at the end; c from h, too."""
        from_result, last_h, last_c = arriving
        next_step = self.tokens - self.sequences
        into_h = next_step + (self.tokens if from_result else 0)
        into_h += self.sequences if last_h else 0
        additions = fold(into_h, self.tokens) * self.outputs
        if self.cell.memory:
            additions += (next_step + (self.sequences if last_c else 0)) * self.hidden
        return Cost(arith=additions)


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


@formula("aten::mkldnn_rnn_layer", traffic=real_biases_traffic, by_name=True)
def mkldnn_rnn_layer(
    *,
    input: Tensor,
    weight0: Tensor,
    hx_: Tensor,
    mode: int,
    hidden_size: int,
    has_biases: bool,
    out: Any,
    **others: Any,
) -> Cost:
    """One layer in one direction, even where the module has more."""
    return one_pass(input, weight0, hx_, mode, hidden_size, has_biases).forward()


@formula("aten::mkldnn_rnn_layer_backward", traffic=real_biases_traffic, by_name=True)
def mkldnn_rnn_layer_backward(
    *,
    input: Tensor,
    weight1: Tensor,
    hx_: Tensor,
    grad_output: Tensor | None,
    grad_hy: Tensor | None,
    grad_cy: Tensor | None,
    mode: int,
    hidden_size: int,
    has_biases: bool,
    out: Any,
    **others: Any,
) -> Gradients:
    """All gradients of one layer in one direction. oneDNN keeps the gates, and not tanh(c')."""
    arriving = grad_output is not None, grad_hy is not None, grad_cy is not None
    layer = one_pass(input, weight1, hx_, mode, hidden_size, has_biases)
    return layer.backward(arriving, (True, True, True, True))


# -- cuDNN and MIOpen: all layers in all directions


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Layers of one pass, or of two in opposite directions, on top of each other."""

    layers: list[list[Pass]]
    dropped: int  # numbers between layers that dropout reaches

    def forward(self) -> Cost:
        """Every pass, and dropout between layers: x·mask / (1 - p), two products."""
        passes = (one.forward() for layer in self.layers for one in layer)
        return sum(passes, ZERO) + Cost(arith=2 * self.dropped)

    def backward(self, arriving: Sequence[bool], wanted: Sequence[bool]) -> Gradients:
        """Every pass; two directions add what they give to their input. Dropout as before."""
        from_result, *last = arriving
        for_x, *others = wanted
        parts, below = [Gradients(input=Cost(arith=2 * self.dropped))], len(self.layers) - 1
        for depth, layer in enumerate(self.layers):
            arrives, leaves = from_result or depth < below, for_x or depth > 0
            ends = (arrives, *last), (leaves, *others)
            parts += [one.backward(*ends) for one in layer]
            inputs = layer[0].tokens * layer[0].inputs * (len(layer) - 1)
            parts.append(Gradients(input=Cost(arith=inputs if leaves else 0)))
        return sum(parts, Gradients())


def stacked(
    *,
    input: Tensor,
    weight: Sequence[Tensor],
    weight_stride0: int,
    hx: Tensor,
    mode: int,
    hidden_size: int,
    proj_size: int = 0,
    dropout: float,
    train: bool,
    bidirectional: bool,
    **others: Any,
) -> Stack:
    """The sizes of a call whose state has the shape (layers·directions, sequences, h's length).

    Of ``weight_stride0`` weights for each pass come first W and U, then two biases, if any, and
    the projection. Packed sequences lie one after the other, without padding.
    """
    passes = [
        Pass(
            cell=CELLS[mode],
            tokens=prod(input.shape[:-1]),
            sequences=hx.shape[-2],
            inputs=first.shape[-1],
            hidden=hidden_size,
            outputs=hx.shape[-1],
            projected=proj_size != 0,
            biased=weight_stride0 >= 4,
        )
        for first in weight[::weight_stride0]
    ]
    directions = 2 if bidirectional else 1
    upper = sum(one.tokens * one.inputs for one in passes[directions::directions])
    return Stack(
        layers=[passes[i : i + directions] for i in range(0, len(passes), directions)],
        dropped=upper if train and dropout else 0,
    )


def flat_weights_traffic(call: Call) -> tuple[int, int]:
    """The buffer of all weights, which comes in and goes out, holds those that are in the list."""
    operands = call.operands
    return traffic.read_and_written([*operands[:3], *operands[4:]], [call.out[:4], *call.mutated])


@formula("aten::_cudnn_rnn", traffic=flat_weights_traffic, by_name=True)
@formula("aten::miopen_rnn", by_name=True)
def cudnn_rnn(*, out: Any, **arguments: Any) -> Cost:
    """All layers in all directions, and dropout between them in training."""
    return stacked(**arguments).forward()


@formula(
    "aten::_cudnn_rnn_backward",
    "aten::miopen_rnn_backward",
    traffic=flat_weights_traffic,
    by_name=True,
)
def cudnn_rnn_backward(
    *,
    grad_output: Tensor | None,
    grad_hy: Tensor | None,
    grad_cy: Tensor | None,
    output_mask: Sequence[bool],
    out: Any,
    **arguments: Any,
) -> Gradients:
    """The gradients that ``output_mask`` wants: of x, of h, of c, of the weights.

    What the forward pass has reserved is not known to leave anything to be computed again.
    """
    arriving = grad_output is not None, grad_hy is not None, grad_cy is not None
    return replace(stacked(**arguments).backward(arriving, output_mask), recompute=ZERO)


free("aten::_cudnn_rnn_flatten_weight")
free("aten::_pack_padded_sequence", traffic=traffic.gathered)  # what is padding is not read
