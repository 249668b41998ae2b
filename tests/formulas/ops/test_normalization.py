import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn, ops

import flopcount
from flopcount import Cost
from flopcount.formulas import plan_of
from tests.formulas.counting import counting, floats, numbers
from tests.formulas.decomposed import billed, decomposed_cost, measured, plain

aten = ops.aten

N, C, S, G = 2, 6, 5, 3  # samples, channels, positions, groups of channels
n = N * C * S
x, g = torch.randn(2, N, C, S, generator=torch.Generator().manual_seed(0), device="cpu")
weight, bias, mean, var = torch.rand(4, C) + 0.5
ALL, INPUT_ONLY, AFFINE_ONLY = (True, True, True), (True, False, False), (False, True, True)
EPS = 1e-5


def batch_norm_args(affine, train):
    return (x, *((weight, bias) if affine else (None, None)), mean, var, train, 0.1, EPS)


def arith(cost):
    assert cost == Cost(arith=cost.arith)
    return cost.arith


# batch norm

FORWARD = [
    pytest.param(
        batch_norm_args(True, True),
        # mean and variance 4·n, x̂ 2·n, affine 2·n; rstd 3·C; running mean 3·C and variance 4·C
        8 * n + 10 * C,
        0,
        id="training",
    ),
    pytest.param(batch_norm_args(False, True), 6 * n + 10 * C, 0, id="training without affine"),
    # in evaluation torch writes 1 / √ as a reciprocal times 1: C products more
    pytest.param(batch_norm_args(True, False), 4 * n + 3 * C, C, id="evaluation"),
    pytest.param(batch_norm_args(False, False), 2 * n + 3 * C, C, id="evaluation without affine"),
]


@pytest.mark.parametrize(("args", "expected", "decomposition_adds"), FORWARD)
def test_batch_norm(args, expected, decomposition_adds):
    args = tuple(a.clone() if isinstance(a, torch.Tensor) else a for a in args)
    assert arith(measured(aten.native_batch_norm.default, *args)) == expected
    decomposed = decomposed_cost(aten.native_batch_norm.default, *args)
    assert arith(decomposed) == expected + decomposition_adds


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
def test_every_form_of_batch_norm_costs_the_same(op, rest, expected):
    rest = tuple(a.clone() if isinstance(a, torch.Tensor) else a for a in rest)
    assert arith(measured(op, x, weight, bias, *rest)) == expected


@pytest.mark.parametrize(
    "op", [aten.cudnn_batch_norm.default, aten.miopen_batch_norm.default], ids=["cudnn", "miopen"]
)
def test_a_vendors_batch_norm_costs_the_same(op):
    out = (x, mean, var)
    assert arith(billed(op, x, weight, bias, mean, var, True, 0.1, EPS, out=out)) == 8 * n + 10 * C


def test_vendor_backward_swaps_the_first_two_operands_and_wants_every_gradient():
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
def test_batch_norm_backward(train, affine, mask, expected, decomposition_adds):
    args = (g, x, weight if affine else None, mean, var, mean, var, train, EPS, mask)
    assert arith(measured(aten.native_batch_norm_backward.default, *args)) == expected
    decomposed = decomposed_cost(aten.native_batch_norm_backward.default, *args)
    assert arith(decomposed) == expected + decomposition_adds


def test_batch_norm_backward_is_what_its_derivation_takes_when_it_is_carried_out():
    """The line of the docstring, run on numbers that count, gives torch's own gradients."""
    leaf, scale, shift = (t.double().requires_grad_() for t in (x, weight, bias))
    F.batch_norm(leaf, None, None, scale, shift, training=True, eps=EPS).backward(g.double())
    save_mean = x.double().mean((0, 2))
    save_rstd = (x.double().var((0, 2), correction=0) + EPS).rsqrt()
    grads, values, m, r, w = map(numbers, (g, x, save_mean, save_rstd, weight))
    k = N * S
    m, column = m[None, :, None], (None, slice(None), None)

    def over_group(array):  # added up channel by channel, the channel's k values in a row
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


def gradients_of(model, *args):
    report = flopcount.count(model, *args)
    return report, {name: cost.flops for name, cost in report.model.gradients.items()}


def test_batch_norm_splits_its_backward_by_gradient():
    _, gradients = gradients_of(nn.BatchNorm1d(C), x.clone().requires_grad_())
    assert gradients == {"input": 4 * n + 5 * C, "weight": 3 * n, "bias": n - C}


def test_frozen_affine_leaves_all_work_to_the_input():
    norm = nn.BatchNorm1d(C).requires_grad_(False)
    _, gradients = gradients_of(norm, x.clone().requires_grad_())
    assert gradients == {"input": 8 * n + 3 * C, "weight": 0, "bias": 0}


def test_instance_norm_is_a_batch_norm_of_every_channel_of_every_sample():
    report = flopcount.count(nn.InstanceNorm1d(C), x.clone().requires_grad_())
    assert arith(plain(report.by_operator()["aten.native_batch_norm"])) == 6 * n + 3 * N * C
    backward = plain(report.by_operator()["aten.native_batch_norm_backward"])
    assert arith(backward) == 8 * n + 2 * N * C


def test_training_writes_the_running_statistics():
    with flopcount.FlopCounter() as counter:
        nn.BatchNorm1d(C)(x)
    cost = counter.report().by_operator()["aten.native_batch_norm"]
    assert cost.read == 4 * (n + 4 * C)  # x; weight, bias, running mean and variance
    assert cost.written == 4 * (n + 2 * C + 2 * C)  # y, the batch's statistics, the running ones


def test_backward_in_training_does_not_read_the_running_statistics():
    with flopcount.FlopCounter() as counter:
        aten.native_batch_norm_backward(g, x, weight, mean, var, mean + 0, var + 0, True, EPS, ALL)
    cost = counter.report().by_operator()["aten.native_batch_norm_backward"]
    assert cost.read == 4 * (2 * n + 3 * C)  # g, x; weight, the batch's mean and rstd


def test_backward_in_evaluation_reads_the_running_statistics_alone():
    unread = torch.empty(3), torch.empty(5)
    with flopcount.FlopCounter() as counter:
        aten.native_batch_norm_backward(g, x, weight, mean, var, *unread, False, EPS, ALL)
    cost = counter.report().by_operator()["aten.native_batch_norm_backward"]
    assert cost.read == 4 * (2 * n + 3 * C)


def test_statistics_of_one_process_are_those_of_a_batch_norm():
    cost = billed(aten.batch_norm_stats.default, x, EPS, out=(mean, var))
    assert arith(cost) == 4 * n + 3 * C
    applied = billed(aten.batch_norm_elemt.default, x, weight, bias, mean, var, EPS, out=x)
    assert arith(cost + applied) == 8 * n + 3 * C


def test_statistics_over_processes_add_up_to_one_backward():
    statistics = (mean, var, weight)
    reduce = billed(aten.batch_norm_backward_reduce.default, g, x, *statistics, True, True, True)
    assert arith(reduce) == 4 * n - C  # db and dw, as in one process
    sums = (mean, var, torch.ones(1, dtype=torch.int32))
    elementwise = billed(aten.batch_norm_backward_elemt.default, g, x, *statistics, *sums)
    assert arith(elementwise) == 4 * n + 5 * C + n  # dx, the mean subtracted anew


def test_statistics_of_processes_are_joined():
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


# layer norm

ROWS, K = 12, 5
row_mean, row_rstd = torch.rand(2, N, C, 1)
row_weight, row_bias = torch.rand(2, K)


@pytest.mark.parametrize(
    ("affine", "expected"),
    [
        # mean and variance 4·n, x̂ 2·n, affine 2·n; rstd three steps a row
        pytest.param((row_weight, row_bias), 8 * n + 3 * ROWS, id="with affine"),
        pytest.param((row_weight, None), 7 * n + 3 * ROWS, id="with weight alone"),
        pytest.param((None, None), 6 * n + 3 * ROWS, id="without affine"),
    ],
)
def test_layer_norm(affine, expected):
    args = (x, [K], *affine, EPS)
    assert arith(measured(aten.native_layer_norm.default, *args)) == expected
    assert arith(decomposed_cost(aten.native_layer_norm.default, *args)) == expected


LAYER_BACKWARD = {
    # x̂ 2·n, ĝ n, six steps of n and two sums n - m each, m; dw 2·n - k; db n - k
    "with affine": (True, ALL, 11 * n - 2 * ROWS + ROWS + 3 * n - 2 * K, 0),
    "input alone": (True, INPUT_ONLY, 11 * n - ROWS, 0),
    "without affine": (False, INPUT_ONLY, 10 * n - ROWS, 0),
    # the decomposition takes dx's part all the same, but for rstd / k and the last product
    "affine alone": (True, AFFINE_ONLY, 2 * n + 3 * n - 2 * K, 8 * n - 2 * ROWS),
}


@pytest.mark.parametrize(
    ("affine", "mask", "expected", "decomposition_adds"),
    LAYER_BACKWARD.values(),
    ids=LAYER_BACKWARD,
)
def test_layer_norm_backward(affine, mask, expected, decomposition_adds):
    parameters = (row_weight, row_bias) if affine else (None, None)
    args = (g, x, [K], row_mean, row_rstd, *parameters, mask)
    assert arith(measured(aten.native_layer_norm_backward.default, *args)) == expected
    decomposed = decomposed_cost(aten.native_layer_norm_backward.default, *args)
    assert arith(decomposed) == expected + decomposition_adds


def test_layer_norm_backward_does_not_read_the_bias():
    args = (g, x, [K], row_mean, row_rstd, row_weight, row_bias, ALL)
    with flopcount.FlopCounter() as counter:
        aten.native_layer_norm_backward(*args)
    cost = counter.report().by_operator()["aten.native_layer_norm_backward"]
    assert cost.read == 4 * (2 * n + 2 * ROWS + K)


def test_layer_norm_agrees_with_xla():
    """XLA's cost analysis of 64 rows of 1000 is 512,064 flops and 64 evaluations.

    Its rsqrt is one evaluation a row, here a root and a division.
    """
    args = torch.ones(64, 1000), [1000], torch.ones(1000), torch.ones(1000), EPS
    assert arith(measured(aten.native_layer_norm.default, *args)) == 512_064 + 2 * 64


# group norm

group_mean, group_rstd = torch.rand(2, N, G)


@pytest.mark.parametrize(
    ("affine", "expected"),
    [
        pytest.param((weight, bias), 8 * n + 3 * N * G, id="with affine"),
        pytest.param((None, None), 6 * n + 3 * N * G, id="without affine"),
    ],
)
def test_group_norm(affine, expected):
    args = (x, *affine, N, C, S, G, EPS)
    assert arith(measured(aten.native_group_norm.default, *args)) == expected
    assert arith(decomposed_cost(aten.native_group_norm.default, *args)) == expected


P, M = N * C, N * G
GROUP_BACKWARD = {
    # s 2·n - p, b n - p; sums over groups 2·(p - m), affine 3·p, c2 and c3 10·m, dx 4·n;
    # dw 4·p - C; db p - C
    "with affine": (True, ALL, 7 * n - 2 * P + 5 * P - 2 * M + 10 * M + 5 * P - 2 * C, M, 0),
    "input alone": (True, INPUT_ONLY, 7 * n - 2 * P + 5 * P - 2 * M + 10 * M, M, 0),
    # rstd·1 is what torch multiplies where there is no weight
    "without affine": (False, INPUT_ONLY, 7 * n - 2 * P + 2 * P - 2 * M + 10 * M, M, P),
    "affine alone": (True, AFFINE_ONLY, 3 * n - 2 * P + 5 * P - 2 * C, 0, 0),
}


@pytest.mark.parametrize(
    ("affine", "mask", "expected", "negations", "decomposition_adds"),
    GROUP_BACKWARD.values(),
    ids=GROUP_BACKWARD,
)
def test_group_norm_backward(affine, mask, expected, negations, decomposition_adds):
    scale = weight if affine else None
    args = (g, x, group_mean, group_rstd, scale, N, C, S, G, mask)
    cost = measured(aten.native_group_norm_backward.default, *args)
    assert cost == Cost(arith=expected, compare=negations)
    decomposed = decomposed_cost(aten.native_group_norm_backward.default, *args)
    assert decomposed == cost + Cost(arith=decomposition_adds)


# root mean square norm


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        # squares n, their mean n, x·rstd n; rstd three steps a row
        pytest.param(row_weight, 4 * n + 3 * ROWS, id="with weight"),
        pytest.param(None, 3 * n + 3 * ROWS, id="without weight"),
    ],
)
def test_rms_norm(scale, expected):
    # torch takes the op apart wherever it has no kernel for it
    args = (x, [K], scale, EPS)
    assert arith(billed(aten._fused_rms_norm.default, *args, out=(x, row_rstd))) == expected
    assert arith(decomposed_cost(aten._fused_rms_norm.default, *args)) == expected


@pytest.mark.parametrize(
    ("with_weight", "mask", "expected"),
    [
        # x̂ n, ĝ n, ĝ·x̂ n, its sum n - m, four steps of n; dw 2·n - k
        pytest.param(True, ALL[:2], 8 * n - ROWS + 2 * n - K, id="with weight"),
        pytest.param(True, INPUT_ONLY[:2], 8 * n - ROWS, id="input alone"),
        pytest.param(False, INPUT_ONLY[:2], 7 * n - ROWS, id="without weight"),
    ],
)
def test_rms_norm_backward(with_weight, mask, expected):
    args = (g, x, [K], row_rstd, row_weight if with_weight else None, mask)
    assert arith(billed(aten._fused_rms_norm_backward.default, *args)) == expected
    assert arith(decomposed_cost(aten._fused_rms_norm_backward.default, *args)) == expected


def test_weight_norm_agrees_with_its_decomposition():
    v, scale = torch.rand(4, 6), torch.rand(4, 1)
    # norm 2·24 - 4 and 4 roots, g / norm 4, v times it 24
    expected = 2 * 24 + 4 + 24
    assert arith(measured(aten._weight_norm_interface.default, v, scale, 0)) == expected
    assert arith(decomposed_cost(aten._weight_norm_interface.default, v, scale, 0)) == expected


def test_gradient_of_weight_norm_is_what_a_loop_counts():
    generator = torch.Generator().manual_seed(0)
    v, grad = torch.rand(2, 4, 6, generator=generator)
    scale, norms = torch.rand(4, 1, generator=generator), v.norm(dim=1, keepdim=True)
    values, grads, g, norm = map(numbers, (v, grad, scale, norms))
    with counting() as tally:
        s = (grads * values).sum(axis=1, keepdims=True)
        dg = s / norm
        dv = (g / norm) * (grads - values * (s / (norm * norm)))
    op = aten._weight_norm_interface_backward.default
    expected_dv, expected_dg = op(grad, v, scale, norms, 0)
    np.testing.assert_allclose(floats(dv), expected_dv, atol=1e-6)
    np.testing.assert_allclose(floats(dg), expected_dg, atol=1e-6)
    assert measured(op, grad, v, scale, norms, 0) == tally.cost


def test_statistics_that_are_only_remembered():
    x = torch.rand(N, C, S)
    cost = measured(aten.batch_norm_update_stats, x, torch.zeros(C), torch.ones(C), 0.1)
    # two passes, 4·n; a mean is remembered in 3 steps, a variance, made unbiased, in 4
    assert cost == Cost(arith=4 * n + (3 + 4) * C)
