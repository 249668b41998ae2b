from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import flopcount
from flopcount import Cost
from tests.formulas.counting import Number, counting, floats, numbers
from tests.formulas.decomposed import measured

DATA = torch.tensor([[3.0, 1], [2, 5], [4, 2], [4, 7], [1, 6], [9, 8]])
LENGTHS = torch.tensor([2, 1, 3])
STEPS: dict[str, Any] = {
    "sum": lambda a, b: a + b,
    "mean": lambda a, b: a + b,
    "prod": lambda a, b: a * b,
    "max": lambda a, b: a.larger(b),
    "min": lambda a, b: a.smaller(b),
}


def segments() -> list[list[Any]]:
    """The columns of each segment."""
    parts = DATA.split(LENGTHS.tolist())
    return [list(column) for part in parts for column in numbers(part).T]


def reduced(reduce: str, initial: float | None) -> list[Number]:
    results = []
    for values in segments():
        start, *rest = values if initial is None else [Number(initial), *values]
        for value in rest:
            start = STEPS[reduce](start, value)
        results.append(start / len(values) if reduce == "mean" else start)
    return results


@pytest.mark.parametrize("initial", [None, 0.0, 2.0])
@pytest.mark.parametrize("reduce", STEPS)
@pytest.mark.parametrize(
    "where", [{"lengths": LENGTHS}, {"offsets": torch.tensor([0, 2, 3, 6])}], ids=str
)
def test_segments(reduce: str, initial: float | None, where: dict[str, Tensor]) -> None:
    with counting() as tally:
        results = reduced(reduce, initial)

    def call() -> Tensor:
        return torch.segment_reduce(DATA, reduce, initial=initial, **where)

    assert torch.allclose(call().flatten(), floats(results).float())
    assert measured(call) == tally.cost
    # 12 values in 6 results; an initial value is one more in each
    mean = 6 if reduce == "mean" else 0
    assert tally.cost.flops == 12 - (6 if initial is None else 0) + mean


def gradient(reduce: str) -> list[Number]:
    """The gradient of each value, the segments' own being 1."""
    given = []
    for values in segments():
        g, n = Number(1.0), len(values)
        if reduce == "sum":
            given += [g] * n
        elif reduce == "mean":
            given += [g / n] * n
        elif reduce == "prod":
            held = g * float(torch.tensor([float(x) for x in values]).prod())
            given += [held / x if not x <= 0 else held for x in values]
        else:
            y = (max if reduce == "max" else min)(float(x) for x in values)
            met = [x >= y if reduce == "max" else x <= y for x in values]
            share = g / sum(met)
            given += [share if each else Number(0) for each in met]
    return given


@pytest.mark.parametrize("reduce", STEPS)
def test_gradients_of_segments(reduce: str) -> None:
    x = DATA.clone().requires_grad_()
    with counting() as tally:
        expected = gradient(reduce)
    with flopcount.FlopCounter() as counter:
        y = torch.segment_reduce(x, reduce, lengths=LENGTHS)
        y.backward(torch.ones_like(y))
    assert x.grad is not None
    by_segment = [column for part in x.grad.split(LENGTHS.tolist()) for column in part.T]
    assert torch.allclose(torch.cat(by_segment), floats(expected).float())
    report = counter.report()
    assert not report.uncounted
    cost = report.by_operator()["aten._segment_reduce_backward"]
    assert Cost(arith=cost.arith, compare=cost.compare) == tally.cost
    # 12 values in 6 segments
    by_hand = {"sum": 0, "mean": 6, "max": 12 + 6, "min": 12 + 6, "prod": 6 + 12 + 12}
    assert cost.flops == by_hand[reduce]
    assert report.root.gradients.get("input", Cost()).flops == cost.flops
