"""CTC by the recursions of Graves et al., run on numbers that count."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import flopcount
from flopcount import Cost
from flopcount.formulas import plan_of
from tests.formulas.counting import Number, counting, floats, numbers
from tests.formulas.decomposed import billed

aten = torch.ops.aten
FRAMES, SAMPLES, CLASSES = 6, 3, 4
LENGTHS, LABELS = [6, 4, 5], [2, 1, 2]
TARGETS = torch.tensor([[1, 2], [3, 0], [2, 2]])
VOID = Number(-math.inf)


def log(x: Number) -> Number:
    """Of what may be zero: no path leads here."""
    return x._special(math.log(float(x)) if float(x) else -math.inf)


def log_sum(*terms: Number) -> Number:
    largest = terms[0]
    for term in terms[1:]:
        largest = largest.larger(term)
    if float(largest) == -math.inf:
        largest = Number(0)
    first, *rest = ((term - largest).exp() for term in terms)
    for each in rest:
        first = first + each
    return log(first) + largest


def recursion(log_probs: Any, labels: list[int]) -> list[list[Number]]:
    """log α of each frame and state: of the states s, s - 1 and s - 2 of the frame before."""
    size = len(labels)
    alpha = [[log_probs[0][label] if s < 2 else VOID for s, label in enumerate(labels)]]
    for t in range(1, len(log_probs)):
        before = [VOID, VOID, *alpha[-1]]
        alpha.append([])
        for s in range(size):
            skips = s >= 2 and labels[s] != labels[s - 2]
            terms = before[s + 2], before[s + 1], before[s] if skips else VOID
            alpha[-1].append(log_sum(*terms) + log_probs[t][labels[s]])
    return alpha


def extended(row: Tensor, size: int) -> list[int]:
    """The labels with blanks around them."""
    return [0, *(label for each in row[:size].tolist() for label in (each, 0))]


def gradient(log_probs: Any, labels: list[int], loss: Number, g: Number) -> list[list[Number]]:
    with counting():  # α is there
        alpha = recursion(log_probs, labels)
    backwards = recursion(log_probs[::-1], labels[::-1])
    result = []
    for t, row in enumerate(log_probs):
        sums = [VOID] * CLASSES
        for s, label in enumerate(labels):
            state = alpha[t][s] + backwards[-1 - t][-1 - s]
            sums[label] = log_sum(sums[label], state)
        result.append([g * (p.exp() - (sums[c] + loss - p).exp()) for c, p in enumerate(row)])
    return result


def test_the_recursions_take_as_many_steps() -> None:
    log_probs = torch.randn(FRAMES, SAMPLES, CLASSES, generator=torch.Generator().manual_seed(3))
    log_probs = log_probs.double().log_softmax(-1)
    counted = numbers(log_probs)
    losses, slopes = [], torch.zeros_like(log_probs)
    with counting() as forward:
        for i, (length, size) in enumerate(zip(LENGTHS, LABELS, strict=True)):
            *_, last = recursion(counted[:length, i], extended(TARGETS[i], size))
            losses.append(-log_sum(last[-1], last[-2]))
    call = log_probs, TARGETS, LENGTHS, LABELS
    with flopcount.FlopCounter() as counter:
        made, log_alpha = aten._ctc_loss(*call)
    torch.testing.assert_close(made, floats(losses))
    assert bare(counter) == forward.cost

    g = torch.tensor([0.5, 2.0, 1.5]).double()
    with counting() as backward:
        for i, (length, size) in enumerate(zip(LENGTHS, LABELS, strict=True)):
            labels = extended(TARGETS[i], size)
            own = gradient(counted[:length, i], labels, losses[i], Number(g[i]))
            slopes[:length, i] = floats(own)
    with flopcount.FlopCounter() as counter:
        computed = aten._ctc_loss_backward(g, *call, made, log_alpha, 0)
    torch.testing.assert_close(computed, slopes)
    assert bare(counter) == backward.cost


def bare(counter: flopcount.FlopCounter) -> Cost:
    total = counter.report().total
    assert not counter.report().uncounted
    return Cost(arith=total.arith, compare=total.compare, special=total.special)


def test_lengths_in_tensors_are_read_at_each_call() -> None:
    """A state of all frames but the first takes 13 steps; 9 sum up a sample's last states."""
    log_probs = torch.randn(FRAMES, SAMPLES, CLASSES).log_softmax(-1)
    calls = (LENGTHS, LABELS), (torch.tensor(LENGTHS), torch.tensor(LABELS))
    for inputs, labels in calls:
        with flopcount.FlopCounter() as counter:
            aten._ctc_loss(log_probs, TARGETS, inputs, labels)
        assert bare(counter).flops == 13 * (5 * 5 + 3 * 3 + 4 * 5) + 9 * SAMPLES
    with flopcount.FlopCounter() as counter:
        for inputs in (torch.tensor([6, 6, 6]), torch.tensor([6, 6, 5])):
            aten._ctc_loss(log_probs, TARGETS, inputs, torch.tensor([2, 2, 2]))
    assert bare(counter).flops == 13 * (3 * 25 + 3 * 25 - 5) + 2 * 9 * SAMPLES


def test_lengths_without_values_are_unknown() -> None:
    log_probs = torch.empty(FRAMES, SAMPLES, CLASSES, device="meta")
    lengths = torch.empty(SAMPLES, dtype=torch.int64, device="meta")
    bill = plan_of(aten._ctc_loss.Tensor).bill([log_probs, log_probs, lengths, lengths], {}, ())
    assert bill.unknown == "lengths of sequences are values, and here there are none"


def test_a_training_step_has_nothing_uncounted() -> None:
    logits = torch.randn(FRAMES, SAMPLES, CLASSES, requires_grad=True)
    with flopcount.FlopCounter() as counter:
        loss = F.ctc_loss(logits.log_softmax(-1), TARGETS, LENGTHS, LABELS, zero_infinity=True)
        loss.backward()
    report = counter.report()
    assert not report.uncounted
    assert report.by_operator()["aten._ctc_loss_backward"].flops > 0


@pytest.mark.parametrize("name", ["_cudnn_ctc_loss", "miopen_ctc_loss"])
def test_an_accelerator_computes_the_gradient_with_the_loss(name: str) -> None:
    log_probs = torch.randn(FRAMES, SAMPLES, CLASSES).log_softmax(-1)
    call = log_probs, TARGETS, LENGTHS, LABELS
    with flopcount.FlopCounter() as counter:
        nll, log_alpha = aten._ctc_loss(*call)
        aten._ctc_loss_backward(torch.ones(3), *call, nll, log_alpha, 0)
    both = bare(counter)
    out = nll, torch.empty_like(log_probs)
    flat = torch.tensor([1, 2, 3, 2, 2])
    factors = sum(LENGTHS) * CLASSES  # g comes later
    op = getattr(aten, name)
    cost = billed(op.default, log_probs, flat, LENGTHS, LABELS, 0, False, False, out=out)
    assert cost + Cost(arith=factors) == both

    lengths = torch.tensor(LENGTHS), torch.tensor(LABELS)
    assert billed(op.Tensor, log_probs, flat, *lengths, 0, False, False, out=out) == cost
