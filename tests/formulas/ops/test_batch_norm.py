"""Batch norms in one process and over several: arithmetic by hand, decompositions, a loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn, ops

import flopcount
from flopcount import Cost, Report
from flopcount.formulas import plan_of
from tests.formulas.counting import counting, floats, numbers
from tests.formulas.decomposed import billed, decomposed_calls, decomposed_cost, measured, plain

aten = ops.aten
N, C, S, G = 2, 6, 5, 3  # samples, channels, positions, groups of channels
n = N * C * S
x, g = torch.randn(2, N, C, S, generator=torch.Generator().manual_seed(0), device="cpu")
weight, bias, mean, var = torch.rand(4, C) + 0.5
ALL, INPUT_ONLY, AFFINE_ONLY = (True, True, True), (True, False, False), (False, True, True)
EPS = 1e-5


def batch_norm_args(affine: bool, train: bool) -> tuple[Any, ...]:
    return (x, *((weight, bias) if affine else (None, None)), mean, var, train, 0.1, EPS)


def arith(cost: Cost) -> int:
    assert cost == Cost(arith=cost.arith)
    return cost.arith


# batch norm

FORWARD = [
    pytest.param(
        batch_norm_args(True, True),
        # mean and variance 4·n, x̂ 2·n, affine 2·n; rstd 3·C; running mean 3·C and variance 4·C
        8 * n + 10 * C,
        id="training",
    ),
    pytest.param(batch_norm_args(False, True), 6 * n + 10 * C, id="training without affine"),
    pytest.param(batch_norm_args(True, False), 4 * n + 3 * C, id="evaluation"),
    pytest.param(batch_norm_args(False, False), 2 * n + 3 * C, id="evaluation without affine"),
]


@pytest.mark.parametrize(("args", "expected"), FORWARD)
def test_batch_norm(args: tuple[Any, ...], expected: int) -> None:
    op = aten.native_batch_norm.default
    args = tuple(a.clone() if isinstance(a, torch.Tensor) else a for a in args)
    assert arith(measured(op, *args)) == expected
    # a torch that writes 1 / √ as a reciprocal times 1 has C products more
    times_one = C * decomposed_calls(op, "aten.reciprocal", *args)
    assert arith(decomposed_cost(op, *args)) == expected + times_one


BATCH_NORM_FORMS = {
    "legit": (aten._native_batch_norm_legit.default, (mean, var, True, 0.1, EPS), 8 * n + 10 * C),
    "functional": (
        aten._native_batch_norm_legit_functional.default,
        (mean, var, True, 0.1, EPS),
        8 * n + 10 * C,
    ),
    "without running statistics": (
        aten._native_batch_norm_legit.no_stats,
        (True, 0.1, EPS),
        8 * n + 3 * C,
    ),
    "without training": (
        aten._native_batch_norm_legit_no_training.default,
        (mean, var, 0.1, EPS),
        4 * n + 3 * C,
    ),
    "with update": (aten._batch_norm_with_update.default, (mean, var, 0.1, EPS), 8 * n + 10 * C),
}


@pytest.mark.parametrize(
    ("op", "rest", "expected"), BATCH_NORM_FORMS.values(), ids=BATCH_NORM_FORMS
)
def test_every_form_of_batch_norm_costs_the_same(
    op: Callable[..., Any], rest: tuple[Any, ...], expected: int
) -> None:
    rest = tuple(a.clone() if isinstance(a, torch.Tensor) else a for a in rest)
    assert arith(measured(op, x, weight, bias, *rest)) == expected


@pytest.mark.parametrize(
    "op", [aten.cudnn_batch_norm.default, aten.miopen_batch_norm.default], ids=["cudnn", "miopen"]
)
def test_a_vendors_batch_norm_costs_the_same(op: Callable[..., Any]) -> None:
    out = (x, mean, var)
    assert arith(billed(op, x, weight, bias, mean, var, True, 0.1, EPS, out=out)) == 8 * n + 10 * C


def test_vendor_backward_swaps_the_first_two_operands_and_wants_every_gradient() -> None:
    meta = [t.to("meta") for t in (x, g, weight, mean, var, mean, var)]
    reserve = torch.empty(0, device="meta", dtype=torch.uint8)
    cost = measured(aten.cudnn_batch_norm_backward.default, *meta, EPS, reserve)
    assert arith(cost) == 8 * n + 4 * C


BACKWARD = {
    # db n - C; dw 3·n; dx 4·n + 5·C. torch's decomposition subtracts the mean twice: n more
    "training": (True, True, ALL, 8 * n + 4 * C, n),
    # nobody takes the C products of dw
    "training, input alone": (True, True, INPUT_ONLY, 8 * n + 3 * C, n),
    # rstd·weight falls away, where torch multiplies by 1
    "training without affine": (True, False, INPUT_ONLY, 8 * n + 2 * C, n + C),
    # torch's decomposition does all the work of dx: 5·n + 5·C
    "training, affine alone": (True, True, AFFINE_ONLY, 4 * n - C, 5 * n + 5 * C),
    # db n - C; dw 3·n; dx n + C and rstd 3·C. torch still takes 4·C factors of the two sums
    "evaluation": (False, True, ALL, 5 * n + 3 * C, 4 * C),
    # ... and the sums themselves, 4·n - 2·C
    "evaluation, input alone": (False, True, INPUT_ONLY, n + 4 * C, 4 * n - 2 * C + 4 * C),
}


@pytest.mark.parametrize(
    ("train", "affine", "mask", "expected", "decomposition_adds"), BACKWARD.values(), ids=BACKWARD
)
def test_batch_norm_backward(
    train: bool, affine: bool, mask: tuple[bool, ...], expected: int, decomposition_adds: int
) -> None:
    args = (g, x, weight if affine else None, mean, var, mean, var, train, EPS, mask)
    assert arith(measured(aten.native_batch_norm_backward.default, *args)) == expected
    decomposed = decomposed_cost(aten.native_batch_norm_backward.default, *args)
    assert arith(decomposed) == expected + decomposition_adds


def test_batch_norm_backward_is_what_its_derivation_takes_when_it_is_carried_out() -> None:
    """The line of the docstring, run on numbers that count, gives torch's own gradients."""
    leaf, scale, shift = (t.double().requires_grad_() for t in (x, weight, bias))
    F.batch_norm(leaf, None, None, scale, shift, training=True, eps=EPS).backward(g.double())
    save_mean = x.double().mean((0, 2))
    save_rstd = (x.double().var((0, 2), correction=0) + EPS).rsqrt()
    grads, values, m, r, w = map(numbers, (g, x, save_mean, save_rstd, weight))
    k = N * S
    m, column = m[None, :, None], (None, slice(None), None)

    def over_group(array: np.ndarray) -> np.ndarray:
        """Added up channel by channel, the channel's k values in a row."""
        return array.transpose(1, 0, 2).reshape(C, -1).sum(axis=1)

    with counting() as tally:
        db = over_group(grads)
        difference = values - m
        projection = over_group(grads * difference)
        dw = projection * r
        from_mean = db * (1 / k)
        from_variance = projection * (1 / k) * (r * r)
        slope = r * w
        dx = (grads - difference * from_variance[column] - from_mean[column]) * slope[column]
    np.testing.assert_allclose(floats(dx), leaf.grad, atol=1e-6)
    np.testing.assert_allclose(floats(dw), scale.grad, atol=1e-6)
    np.testing.assert_allclose(floats(db), shift.grad, atol=1e-6)
    args = (g, x, weight, None, None, mean, var, True, EPS, ALL)
    assert measured(aten.native_batch_norm_backward.default, *args) == tally.cost


def gradients_of(model: nn.Module, *args: Tensor) -> tuple[Report, dict[str, int]]:
    report = flopcount.count(model, *args)
    return report, {name: cost.flops for name, cost in report.model.gradients.items()}


def test_batch_norm_splits_its_backward_by_gradient() -> None:
    _, gradients = gradients_of(nn.BatchNorm1d(C), x.clone().requires_grad_())
    assert gradients == {"input": 4 * n + 5 * C, "weight": 3 * n, "bias": n - C}


def test_frozen_affine_leaves_all_work_to_the_input() -> None:
    norm = nn.BatchNorm1d(C).requires_grad_(False)
    _, gradients = gradients_of(norm, x.clone().requires_grad_())
    assert gradients == {"input": 8 * n + 3 * C, "weight": 0, "bias": 0}


def test_instance_norm_is_a_batch_norm_of_every_channel_of_every_sample() -> None:
    report = flopcount.count(nn.InstanceNorm1d(C), x.clone().requires_grad_())
    assert arith(plain(report.by_operator()["aten.native_batch_norm"])) == 6 * n + 3 * N * C
    backward = plain(report.by_operator()["aten.native_batch_norm_backward"])
    assert arith(backward) == 8 * n + 2 * N * C


def test_training_writes_the_running_statistics() -> None:
    with flopcount.FlopCounter() as counter:
        nn.BatchNorm1d(C)(x)
    cost = counter.report().by_operator()["aten.native_batch_norm"]
    assert cost.read == 4 * (n + 4 * C)  # x; weight, bias, running mean and variance
    assert cost.written == 4 * (n + 2 * C + 2 * C)  # y, the batch's statistics, the running ones


def test_backward_in_training_does_not_read_the_running_statistics() -> None:
    with flopcount.FlopCounter() as counter:
        aten.native_batch_norm_backward(g, x, weight, mean, var, mean + 0, var + 0, True, EPS, ALL)
    cost = counter.report().by_operator()["aten.native_batch_norm_backward"]
    assert cost.read == 4 * (2 * n + 3 * C)  # g, x; weight, the batch's mean and rstd


def test_backward_in_evaluation_reads_the_running_statistics_alone() -> None:
    unread = torch.empty(3), torch.empty(5)
    with flopcount.FlopCounter() as counter:
        aten.native_batch_norm_backward(g, x, weight, mean, var, *unread, False, EPS, ALL)
    cost = counter.report().by_operator()["aten.native_batch_norm_backward"]
    assert cost.read == 4 * (2 * n + 3 * C)


def test_statistics_of_one_process_are_those_of_a_batch_norm() -> None:
    cost = billed(aten.batch_norm_stats.default, x, EPS, out=(mean, var))
    assert arith(cost) == 4 * n + 3 * C
    applied = billed(aten.batch_norm_elemt.default, x, weight, bias, mean, var, EPS, out=x)
    assert arith(cost + applied) == 8 * n + 3 * C


def test_statistics_over_processes_add_up_to_one_backward() -> None:
    statistics = (mean, var, weight)
    reduce = billed(aten.batch_norm_backward_reduce.default, g, x, *statistics, True, True, True)
    assert arith(reduce) == 4 * n - C  # db and dw, as in one process
    sums = (mean, var, torch.ones(1, dtype=torch.int32))
    elementwise = billed(aten.batch_norm_backward_elemt.default, g, x, *statistics, *sums)
    assert arith(elementwise) == 4 * n + 5 * C + n  # dx, the mean subtracted anew


def test_statistics_of_processes_are_joined() -> None:
    processes = 4
    means, rstds = torch.rand(2, processes, C)
    counts = torch.full((processes,), 10.0)
    op = aten.batch_norm_gather_stats_with_counts.default
    cost = billed(op, x, means, rstds, mean, var, 0.1, EPS, counts)
    m, r, count = map(numbers, (means, rstds, counts))
    running_mean, running_var = map(numbers, (mean, var))
    with counting() as tally:
        total = count.sum()
        joint = (count[:, None] * m).sum(axis=0) / total
        spread = 1 / (r * r) - EPS + (m - joint) * (m - joint)
        variance = (count[:, None] * spread).sum(axis=0) / total
        1 / np.sqrt(variance + EPS)
        0.1 * joint + (1 - 0.1) * running_mean
        0.1 * (variance * (40 / 39)) + (1 - 0.1) * running_var
    twice = processes * C  # the loop subtracts the joint mean twice for its square
    assert cost == Cost(arith=tally.arith - twice)
    moved = plan_of(op).bill((x, means, rstds, mean, var, 0.1, EPS, counts), {}, (mean, var)).cost
    assert moved.read == 4 * (2 * processes * C + 2 * C + processes)  # of x only the dtype
