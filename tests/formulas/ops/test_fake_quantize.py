"""Training for quantisation: the textbook's steps, run on numbers that count."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from flopcount import Cost, FlopCounter
from tests.formulas.counting import Number, counting, floats, numbers
from tests.formulas.decomposed import measured

aten = torch.ops.aten
LOW, HIGH = -3, 4
X = torch.tensor([[-2.0, 0.31, 0.66, 0.1], [0.95, 0.42, -0.77, 5.0], [0.04, -0.5, 0.2, -1.4]])
G = torch.arange(12.0).view(3, 4) - 4
N, C = 12, 3


def quantised(x: Number, scale: float, zero: float) -> tuple[Number, Number]:
    """q before it is clamped, and what x becomes."""
    level = x / scale
    q = Number(level._compared(round(level.value))) + zero
    return q, (q.larger(LOW).smaller(HIGH) - zero) * scale


def within(q: Number) -> bool:
    above, below = q >= LOW, q <= HIGH
    q._compared(None)  # and
    return above and below


def test_rounding_and_a_mask_of_where_it_was_within_bounds() -> None:
    with counting() as tally:
        pairs = [quantised(x, 0.25, 1) for x in numbers(X).ravel()]
        mask = [within(q) for q, _ in pairs]
    op = aten.fake_quantize_per_tensor_affine_cachemask
    result, kept = op(X, 0.25, 1, LOW, HIGH)
    assert torch.allclose(floats([y for _, y in pairs]).float(), result.ravel())
    assert torch.equal(torch.tensor(mask), kept.ravel())
    assert 0 < sum(mask) < N
    # x / s, + z, - z, · s; rounding, two bounds, two comparisons and their conjunction
    assert measured(op, X, 0.25, 1, LOW, HIGH) == tally.cost == Cost(arith=4 * N, compare=6 * N)


SCALE, ZERO = torch.tensor([0.25]), torch.tensor([1.0])
SCALES, ZEROS = torch.tensor([0.25, 0.5, 0.1]), torch.tensor([1.0, 0.0, -1.0])


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(
            lambda: aten.fake_quantize_per_channel_affine_cachemask(
                X, SCALES, ZEROS.int(), 0, LOW, HIGH
            ),
            id="by channels",
        ),
        pytest.param(
            lambda: aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams(
                X, SCALE, ZERO.int(), torch.ones(1, dtype=torch.int64), LOW, HIGH
            ),
            id="by a scale in a tensor",
        ),
    ],
)
def test_wherever_scales_are_the_steps_are_the_same(call: Any) -> None:
    assert measured(call) == Cost(arith=4 * N, compare=6 * N)


def test_a_gradient_passes_where_the_mask_says() -> None:
    x = X.clone().requires_grad_()
    with FlopCounter() as counter:
        torch.fake_quantize_per_tensor_affine(x, 0.25, 1, LOW, HIGH).sum().backward()
    report = counter.report()
    assert not report.uncounted
    assert report.by_operator()["aten.mul"].flops == N  # g · mask


def learned(axis: int | None, backward: bool, factor: float = 1.0) -> Any:
    kind = "per_tensor" if axis is None else "per_channel"
    op = getattr(aten, f"_fake_quantize_learnable_{kind}_affine{'_backward' * backward}")
    scales = (SCALE, ZERO) if axis is None else (SCALES, ZEROS)
    where = () if axis is None else (axis,)
    return op, ((G,) * backward) + (X, *scales, *where, LOW, HIGH, factor)


@pytest.mark.parametrize(("axis", "m"), [(None, 1), (0, 3)], ids=["one", "by channels"])
def test_zero_points_that_are_learned_are_rounded_too(axis: int | None, m: int) -> None:
    op, args = learned(axis, backward=False)
    # as above, without the three steps of a mask; a zero point: rounding and two bounds
    assert measured(op, *args) == Cost(arith=4 * N, compare=3 * N + 3 * m)


def gradients(
    x: Tensor, g: Tensor, scale: float, zero: float, factor: float
) -> tuple[list[float], float, float]:
    """Of x, the scale and the zero point, as the docstring of the formula has them."""
    for_x, for_scale, for_zero = [], 0.0, 0.0
    for each, slope in zip(x.tolist(), g.tolist(), strict=True):
        q = round(each / scale) + zero
        clamped = min(max(q, LOW), HIGH)
        result = (clamped - zero) * scale
        for_x.append(slope if q == clamped else 0.0)
        for_scale += slope * ((result - each) / scale if q == clamped else clamped - zero)
        for_zero += 0.0 if q == clamped else slope * -scale
    return for_x, for_scale * factor, for_zero * factor


@pytest.mark.parametrize("axis", [None, 0], ids=["one scale", "by channels"])
def test_gradients_of_scales_and_zero_points(axis: int | None) -> None:
    op, args = learned(axis, backward=True, factor=0.5)
    m = 1 if axis is None else C
    rows = X.view(m, -1), G.view(m, -1)
    scales, zeros = args[2].tolist(), args[3].tolist()
    expected = [
        gradients(x, g, scale, zero, 0.5)
        for x, g, scale, zero in zip(*rows, scales, zeros, strict=True)
    ]
    of_x, of_scale, of_zero = op(*args)
    assert torch.allclose(torch.tensor([e[0] for e in expected]).view(3, 4), of_x)
    assert torch.allclose(torch.tensor([e[1] for e in expected]), of_scale)
    assert torch.allclose(torch.tensor([e[2] for e in expected]), of_zero)
    cost = measured(op, *args)
    # again 4·n + 3·n + 3·m; dx 2·n selects
    # ds: a difference, a division, a product each, n - m additions, 2 differences, a factor
    # dz: a product each, n - m additions, a factor
    arith = 4 * N + (3 * N + (N - m) + 3 * m) + (N + (N - m) + m)
    compare = (3 * N + 3 * m) + 2 * N + 2 * N + (2 * N + m)
    assert cost == Cost(arith=arith, compare=compare)
    unscaled, args = learned(axis, backward=True)
    assert measured(unscaled, *args).arith == arith - 2 * m


def observed(x: Tensor, per_row: bool, symmetric: bool) -> Cost:
    rows = x.shape[0] if per_row else 1
    on = torch.ones(1, dtype=torch.int64)
    low, high = torch.zeros(rows), torch.ones(rows)
    scale, zero = torch.ones(rows), torch.zeros(rows, dtype=torch.int32)
    return measured(
        aten._fused_moving_avg_obs_fq_helper,
        *(x, on, on, low, high, scale, zero, 0.01, 0, 255, 0, per_row, symmetric),
    )


@pytest.mark.parametrize(("per_row", "m"), [(False, 1), (True, 3)], ids=["of all", "of rows"])
def test_an_observer_and_what_it_chooses(per_row: bool, m: int) -> None:
    # extremes 2·(n - m); each r + c·(new - r), 3 operations
    # low and high 2, s = (high - low) / levels 2, ε 1, z = min - round(low / s) 3, its bounds 2
    arith = 2 * 3 * m + (2 + 2) * m + 4 * N
    compare = 2 * (N - m) + (2 + 1 + 1 + 2) * m + 6 * N
    assert observed(X, per_row, symmetric=False) == Cost(arith=arith, compare=compare)


def test_a_symmetric_scale_takes_one_division() -> None:
    # low and high 2, max(-low, high) 2, ε 1
    arith, compare = 2 * 3 + 1 + 4 * N, 2 * (N - 1) + (2 + 2 + 1) + 6 * N
    assert observed(X, per_row=False, symmetric=True) == Cost(arith=arith, compare=compare)


def test_a_scale_from_the_range_of_what_is_quantised() -> None:
    # minimum and maximum, a difference and a division; x / s, and a rounding
    cost = measured(torch.quantize_per_tensor_dynamic, X, torch.quint8, False)
    assert cost == Cost(arith=2 + N, compare=2 * (N - 1) + N)


def test_integers_that_are_given_a_scale() -> None:
    whole = torch.arange(4, dtype=torch.uint8)
    with FlopCounter(strict=True) as counter:
        torch._make_per_tensor_quantized_tensor(whole, 0.5, 1)
    total = counter.report().total
    assert (total.flops, total.read, total.written) == (0, 4, 4)
