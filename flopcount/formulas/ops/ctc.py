"""Connectionist temporal classification: Graves et al., ICML 2006, with logarithms throughout.

A sample of T frames and S labels has 2·S + 1 states in each frame: its labels, with blanks before,
between and after them. Where lengths are in tensors, their values are read.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from flopcount.cost import ZERO, Cost
from flopcount.formulas.registry import Gradients, formula
from flopcount.formulas.steps import elementwise, lengths

Lengths = Sequence[int] | Tensor


def samples(inputs: Lengths, targets: Lengths) -> Iterator[tuple[int, int]]:
    """The frames and states of each sample."""
    frames, labels = (
        lengths(sizes) if isinstance(sizes, Tensor) else sizes for sizes in (inputs, targets)
    )
    return ((t, 2 * s + 1) for t, s in zip(frames, labels, strict=True))


def recursion(log_probs: Tensor, frames: int, states: int) -> Cost:
    """log Σ e^(α - m) + m + log p for each state of each frame but the first.

    The sum is of three states of the frame before, m the largest: 2 comparisons, 3 differences,
    3 exponentials, 2 additions and a logarithm.
    """
    return elementwise(log_probs, max(frames - 1, 0) * states, compare=2, add=7, special=4)


@formula("aten::_ctc_loss.Tensor", values=True, by_name=True)
@formula("aten::_ctc_loss", by_name=True)
def ctc_loss(
    *, log_probs: Tensor, input_lengths: Lengths, target_lengths: Lengths, out: Any, **others: Any
) -> Cost:
    """-log Σ e^α: the recursion of α, and the sum of the last frame's two last states.

    That is a maximum, 2 differences, 2 exponentials, an addition, a logarithm, the maximum added
    and a negation.
    """
    losses = (
        recursion(log_probs, *sizes) + end(log_probs)
        for sizes in samples(input_lengths, target_lengths)
    )
    return sum(losses, ZERO)


def end(log_probs: Tensor) -> Cost:
    """The steps after the last frame of a sample."""
    return elementwise(log_probs, 1, compare=2, add=4, special=3)


@formula("aten::_ctc_loss_backward.Tensor", values=True, by_name=True)
@formula("aten::_ctc_loss_backward", by_name=True)
def ctc_loss_backward(
    *, log_probs: Tensor, input_lengths: Lengths, target_lengths: Lengths, out: Any, **others: Any
) -> Gradients:
    """g·(e^log p - e^(log Σ e^(α + β) + nll - log p)) of each class, the sum over its states.

    The recursion of β runs backwards. A state's α + β is one addition, and comes to its class's sum
    by max + log(e^(a - max) + e^(b - max)): 1 comparison, 4 additions and 3 evaluations.
    """
    slopes = (slope(log_probs, *sizes) for sizes in samples(input_lengths, target_lengths))
    return Gradients(input=sum(slopes, ZERO))


def slope(log_probs: Tensor, frames: int, states: int) -> Cost:
    """The gradient of one sample."""
    cost = recursion(log_probs, frames, states)
    cost += elementwise(log_probs, frames * states, compare=1, add=5, special=3)
    return cost + elementwise(log_probs, frames * log_probs.shape[-1], add=3, mul=1, special=2)


@formula("aten::_cudnn_ctc_loss.Tensor", "aten::miopen_ctc_loss.Tensor", values=True, by_name=True)
@formula("aten::_cudnn_ctc_loss", "aten::miopen_ctc_loss", by_name=True)
def cudnn_ctc_loss(
    *, log_probs: Tensor, input_lengths: Lengths, target_lengths: Lengths, out: Any, **others: Any
) -> Gradients:
    """The loss, and its gradient at once, which waits for the factor g."""
    sizes = list(samples(input_lengths, target_lengths))
    forward = sum((recursion(log_probs, *size) + end(log_probs) for size in sizes), ZERO)
    backward = sum((slope(log_probs, *size) for size in sizes), ZERO)
    factor = sum(t for t, _ in sizes) * log_probs.shape[-1]
    return Gradients(unsplit=forward, input=backward - elementwise(log_probs, factor, mul=1))
