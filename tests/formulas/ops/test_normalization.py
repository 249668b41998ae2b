from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, ops

import flopcount
from flopcount import Cost
from tests.formulas.counting import counting, floats, numbers
from tests.formulas.decomposed import billed, decomposed_calls, decomposed_cost, measured

aten = ops.aten
N, C, S, G = 2, 6, 5, 3  # samples, channels, positions, groups of channels
n = N * C * S
x, g = torch.randn(2, N, C, S, generator=torch.Generator().manual_seed(0), device="cpu")
weight, bias, mean, var = torch.rand(4, C) + 0.5
ALL, INPUT_ONLY, AFFINE_ONLY = (True, True, True), (True, False, False), (False, True, True)
EPS = 1e-5


def arith(cost: Cost) -> int:
    assert cost == Cost(arith=cost.arith)
    return cost.arith


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
def test_layer_norm(affine: tuple[Tensor | None, Tensor | None], expected: int) -> None:
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
def test_layer_norm_backward(
    affine: bool, mask: tuple[bool, ...], expected: int, decomposition_adds: int
) -> None:
    parameters = (row_weight, row_bias) if affine else (None, None)
    args = (g, x, [K], row_mean, row_rstd, *parameters, mask)
    assert arith(measured(aten.native_layer_norm_backward.default, *args)) == expected
    decomposed = decomposed_cost(aten.native_layer_norm_backward.default, *args)
    assert arith(decomposed) == expected + decomposition_adds


def test_layer_norm_backward_does_not_read_the_bias() -> None:
    args = (g, x, [K], row_mean, row_rstd, row_weight, row_bias, ALL)
    with flopcount.FlopCounter() as counter:
        aten.native_layer_norm_backward(*args)
    cost = counter.report().by_operator()["aten.native_layer_norm_backward"]
    assert cost.read == 4 * (2 * n + 2 * ROWS + K)


def test_layer_norm_agrees_with_xla() -> None:
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
def test_group_norm(affine: tuple[Tensor | None, Tensor | None], expected: int) -> None:
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
def test_group_norm_backward(
    affine: bool, mask: tuple[bool, ...], expected: int, negations: int, decomposition_adds: int
) -> None:
    scale = weight if affine else None
    args = (g, x, group_mean, group_rstd, scale, N, C, S, G, mask)
    op = aten.native_group_norm_backward.default
    assert measured(op, *args) == Cost(arith=expected, compare=negations)
    # c3 has a minus; a torch that writes c2's difference as a sum has another
    written = M * decomposed_calls(op, "aten.neg", *args)
    assert decomposed_cost(op, *args) == Cost(arith=expected + decomposition_adds, compare=written)


# root mean square norm


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        # squares n, their mean n, x·rstd n; rstd three steps a row
        pytest.param(row_weight, 4 * n + 3 * ROWS, id="with weight"),
        pytest.param(None, 3 * n + 3 * ROWS, id="without weight"),
    ],
)
def test_rms_norm(scale: Tensor | None, expected: int) -> None:
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
def test_rms_norm_backward(with_weight: bool, mask: tuple[bool, ...], expected: int) -> None:
    args = (g, x, [K], row_rstd, row_weight if with_weight else None, mask)
    assert arith(billed(aten._fused_rms_norm_backward.default, *args)) == expected
    assert arith(decomposed_cost(aten._fused_rms_norm_backward.default, *args)) == expected


def test_weight_norm_agrees_with_its_decomposition() -> None:
    v, scale = torch.rand(4, 6), torch.rand(4, 1)
    # norm 2·24 - 4 and 4 roots, g / norm 4, v times it 24
    expected = 2 * 24 + 4 + 24
    assert arith(measured(aten._weight_norm_interface.default, v, scale, 0)) == expected
    assert arith(decomposed_cost(aten._weight_norm_interface.default, v, scale, 0)) == expected


def test_gradient_of_weight_norm_is_what_a_loop_counts() -> None:
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


def test_statistics_that_are_only_remembered() -> None:
    x = torch.rand(N, C, S)
    cost = measured(aten.batch_norm_update_stats, x, torch.zeros(C), torch.ones(C), 0.1)
    # two passes, 4·n; a mean is remembered in 3 steps, a variance, made unbiased, in 4
    assert cost == Cost(arith=4 * n + (3 + 4) * C)
