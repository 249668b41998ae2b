"""A linear layer and its cross entropy in one op, against the steps that torch's own file takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from flopcount import Cost, Report
from tests.formulas.counting import opened
from tests.formulas.reports import report_of

chunked = pytest.importorskip("torch.nn.modules.linear_cross_entropy")
accumulate = getattr(chunked, "_linear_cross_entropy_batch_chunked_accumulator", None)
if accumulate is None:
    pytest.skip("this torch has no chunked op", allow_module_level=True)

N, F, V = 6, 4, 5
X, W, B = torch.rand(N, F), torch.rand(V, F), torch.rand(V)
TARGET, OF_CLASS = torch.arange(N) % V, torch.rand(V)
POLICY = ("compact", torch.float32)


def plain(report: Report) -> Cost:
    return replace(report.total, read=0, written=0)


def whole(
    wanted: tuple[bool, bool, bool],
    bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    chunk: int = N,
) -> Report:
    """The op on a batch of N."""
    return report_of(
        torch.ops.torch_nn._linear_cross_entropy_batch_chunked,
        *(X, W, TARGET, bias, weight, reduction, -100, 0.0, chunk, *POLICY, True, *wanted),
    )


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weight", [None, OF_CLASS], ids=["all alike", "classes weighted"])
@pytest.mark.parametrize("bias", [None, B], ids=["no bias", "bias"])
@pytest.mark.parametrize(
    "wanted",
    [(False, False, False), (True, False, False), (False, True, False), (True, True, True)],
    ids=["loss alone", "gradient of the input", "gradient of the weight", "all gradients"],
)
def test_it_costs_what_its_steps_do(
    wanted: tuple[bool, bool, bool], bias: Tensor | None, weight: Tensor | None, reduction: str
) -> None:
    wanted = (*wanted[:2], wanted[2] and bias is not None)
    steps = plain(
        report_of(
            accumulate,
            *(X, W, TARGET, bias, weight, reduction, -100, 0.0, N, *POLICY, *wanted),
        )
    )
    # the loss and both sums of weights begin at zero: an addition; -1 of a difference is a factor
    extra = Cost(arith=1, compare=int(reduction == "mean"))  # a comparison, and a select on it
    extra += Cost(arith=wanted[0] * N * F + wanted[1] * V * F)
    cost = plain(whole(wanted, bias, weight, reduction))
    assert opened(cost) + extra == opened(steps)
    assert cost.macs == steps.macs


def test_the_numbers_of_a_mean_with_every_gradient() -> None:
    report = whole((True, True, True), B, OF_CLASS)
    assert report.total.macs == 3 * (N * V * F) + 2 * N  # logits, two gradients; two sums of losses
    assert report.root.gradients["input"] == Cost(macs=N * F * V, dots=N * F, arith=2 * N * F)
    assert report.root.gradients["weight"] == Cost(
        macs=V * F * N, dots=V * F, arith=2 * N * F + V * F
    )
    assert report.root.gradients["bias"] == Cost(arith=N * V + N)
    assert report.total.special == N * V + N  # exp, log


def test_chunks_are_counted_as_the_batch_that_they_are_part_of() -> None:
    every = (True, True, False)
    assert plain(whole(every, chunk=2)) == plain(whole(every))


def test_losses_of_each_sample() -> None:
    report = report_of(
        torch.ops.torch_nn._linear_cross_entropy_batch_chunked_no_reduction,
        *(X, W, TARGET, B, OF_CLASS, -100, N, *POLICY),
    )
    steps = report_of(
        accumulate,
        *(X, W, TARGET, B, OF_CLASS, "none", -100, 0.0, N, *POLICY, False, False, False),
    )
    assert plain(report) == plain(steps)
    assert report.total.macs == N * V * F
    assert report.total.arith == N * V + N * V + N * (V - 1) + 2 * N  # bias, -max, sum; loss
    assert report.total.compare == N * (V - 1) + N  # max; weights of ignored targets


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_training_step_has_the_products_of_the_two_ops_that_it_stands_for(reduction: str) -> None:
    options = torch.nn.LinearCrossEntropyOptions(
        batch_chunk_size=N, acc_policy="compact", acc_dtype=torch.float32
    )
    x, w = X.clone().requires_grad_(), W.clone().requires_grad_()

    def step(options: Any) -> Report:
        function = torch.nn.functional.linear_cross_entropy
        return report_of(
            lambda: function(x, w, TARGET, reduction=reduction, options=options).sum().backward()
        )

    one, two = step(options).total, step(None).total
    losses = 2 * N  # as dot products, in the backward pass again if need be, as are the logits
    again = N * V * F if reduction == "none" else 0
    assert two.macs == 3 * N * V * F
    assert one.macs == two.macs + losses + again
