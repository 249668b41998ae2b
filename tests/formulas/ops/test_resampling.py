from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn, ops

import flopcount
from flopcount import Cost
from tests.formulas.counting import Number, counting, floats, numbers, total
from tests.formulas.decomposed import measured, plain
from tests.formulas.ops.taps import cubic_taps, joint, linear_taps

aten = ops.aten


def resized_places(
    size: tuple[int, ...], resized: tuple[int, ...], taps_of: Any, align_corners: bool
) -> Any:
    """Places and weights of each result's taps."""
    axes = []
    for length, count in zip(size, resized, strict=True):
        scale = (length - 1) / (count - 1) if align_corners else length / count
        axis = []
        for i in range(count):
            position = scale * Number(i) if align_corners else scale * (Number(i + 0.5)) - 0.5
            if not align_corners:
                # the half of (i + ½): an addition that Number(i + ½) does not show
                _ = Number(i) + 0.5
                if taps_of is linear_taps:
                    position = position if position > 0 else Number(0.0)
            indices, weights, slopes = taps_of(position)
            axis.append(([min(max(j, 0), length - 1) for j in indices], weights, slopes))
        axes.append(axis)
    return {
        place: joint([axis[i] for axis, i in zip(axes, place, strict=True)])
        for place in np.ndindex(*resized)
    }


RESIZINGS = {
    f"{mode} {sides}": (mode, size, resized, align)
    for mode, size, resized in [
        ("linear", (4,), (7,)),
        ("bilinear", (3, 5), (5, 4)),
        ("trilinear", (3, 2, 4), (4, 3, 2)),
        ("bicubic", (4, 5), (6, 3)),
    ]
    for sides, align in [("with corners aligned", True), ("with half pixels", False)]
}


@pytest.mark.parametrize(("mode", "size", "resized", "align"), RESIZINGS.values(), ids=RESIZINGS)
def test_interpolation_is_what_a_loop_counts(
    mode: str, size: tuple[int, ...], resized: tuple[int, ...], align: bool
) -> None:
    x = torch.rand(2, 3, *size, dtype=torch.double, requires_grad=True)
    values = numbers(x)
    taps_of = cubic_taps if mode == "bicubic" else linear_taps
    result = np.empty((2, 3, *resized), dtype=object)
    with counting() as forward:
        for place, (taps, weights) in resized_places(size, resized, taps_of, align).items():
            for image in np.ndindex(2, 3):
                terms = [
                    weight * values[image + tap] for tap, weight in zip(taps, weights, strict=True)
                ]
                result[image + place] = total(terms)
    y = F.interpolate(x, resized, mode=mode, align_corners=align)
    np.testing.assert_allclose(floats(result), y.detach(), atol=1e-6)

    gradient = np.vectorize(lambda v: Number(0.0), otypes=[object])(values)
    with counting() as backward:
        for taps, weights in resized_places(size, resized, taps_of, align).values():
            for image in np.ndindex(2, 3):
                for tap, weight in zip(taps, weights, strict=True):
                    gradient[image + tap] = gradient[image + tap] + weight * Number(1.0)
    y.sum().backward()
    np.testing.assert_allclose(floats(gradient), x.grad, atol=1e-6)

    report = flopcount.count(nn.Upsample(resized, mode=mode, align_corners=align), x)
    assert plain(report.model.phases["forward"]) == forward.cost
    assert report.model.gradients["input"] == backward.cost


def test_bilinear_upsampling_by_hand() -> None:
    """1 image, 2 channels, 2 x 2 to 3 x 3: 18 results of 4 taps, 9 places."""
    sums = 18 * (4 + 3)
    axes = 6 * (3 + 2)  # scale·(i + ½) - ½; fraction and its complement
    bounds = 6 * (1 + 1)  # floor, not below 0
    products = 9 * 4
    cost = measured(aten.upsample_bilinear2d.default, torch.rand(1, 2, 2, 2), [3, 3], False)
    assert cost == Cost(arith=sums + axes + products, compare=bounds)


def test_an_interpolation_costs_the_same_called_whole() -> None:
    x = torch.rand(1, 2, 3, 3)
    # in inference mode torch does not take apart what it calls
    with torch.inference_mode(), flopcount.FlopCounter() as counter:
        F.interpolate(x, (5, 5), mode="bilinear")
    expected = measured(aten.upsample_bilinear2d.default, x, [5, 5], False)
    assert plain(counter.report().total) == expected


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
def test_nearest_only_copies_and_its_gradient_adds_each_result(mode: str, dimensions: int) -> None:
    x = torch.rand(1, 2, *[3] * dimensions, requires_grad=True)
    report = flopcount.count(nn.Upsample(scale_factor=2, mode=mode), x)
    assert report.model.phases["forward"].flops == 0
    assert report.model.phases["forward"].written == 4 * 2 * 6**dimensions
    assert report.model.gradients["input"] == Cost(arith=2 * 6**dimensions)


# antialiasing


def filter_taps(length: int, count: int, mode: str, aligned: bool) -> Any:
    """Elements and weights of each place, by the definition of a widened filter."""

    def triangle(x: float) -> float:
        return max(1 - abs(x), 0)

    def keys(x: float, a: float = -0.5) -> float:
        x = abs(x)
        if x < 1:
            return ((a + 2) * x - (a + 3)) * x * x + 1
        return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0

    def windowed(x: float) -> float:
        return np.sinc(x) * np.sinc(x / 3) if abs(x) < 3 else 0

    scale = length / count
    if aligned:
        scale = (length - 1) / (count - 1) if count > 1 else 0
    stretch = max(scale, 1)
    shapes = {"bilinear": (1, triangle), "bicubic": (2, keys), "lanczos": (3, windowed)}
    radius, shape = shapes[mode]
    support = stretch * radius
    for i in range(count):
        center = scale * (i + 0.5)
        elements = range(
            max(int(center - support + 0.5), 0), min(int(center + support + 0.5), length)
        )
        weights = [shape((j - center + 0.5) / stretch) for j in elements]
        yield elements, [weight / sum(weights) for weight in weights]


def resampled(values: Any, count: int, mode: str, aligned: bool) -> Any:
    """One pass, along the last dimension."""
    result = np.empty((*values.shape[:-1], count), dtype=object)
    for i, (elements, weights) in enumerate(filter_taps(values.shape[-1], count, mode, aligned)):
        for row in np.ndindex(*values.shape[:-1]):
            terms = [w * values[(*row, j)] for j, w in zip(elements, weights, strict=True)]
            result[(*row, i)] = total(terms)
    return result


@pytest.mark.parametrize(
    "mode",
    [
        "bilinear",
        "bicubic",
        pytest.param(
            "lanczos",
            marks=pytest.mark.skipif(
                not hasattr(aten, "_upsample_lanczos2d_aa"), reason="this torch has no such filter"
            ),
        ),
    ],
)
@pytest.mark.parametrize("aligned", [False, True], ids=["", "corners aligned"])
@pytest.mark.parametrize(
    "resized", [(4, 3), (9, 11), (3, 11), (1, 4)], ids=["smaller", "larger", "both", "to one row"]
)
def test_antialiasing_is_two_passes(mode: str, resized: tuple[int, ...], aligned: bool) -> None:
    if aligned and mode == "lanczos":
        pytest.skip("torch refuses it")
    x = torch.rand(2, 1, 7, 8, dtype=torch.double, requires_grad=True)
    with counting() as tally:
        across = resampled(numbers(x), resized[1], mode, aligned)
        down = resampled(across.swapaxes(2, 3), resized[0], mode, aligned).swapaxes(2, 3)
    y = F.interpolate(x, resized, mode=mode, antialias=True, align_corners=aligned)
    np.testing.assert_allclose(floats(down), y.detach(), atol=1e-6)
    op = getattr(aten, f"_upsample_{mode}2d_aa")
    assert measured(op.default, x, resized, aligned) == tally.cost
    with flopcount.FlopCounter() as counter:
        F.interpolate(x, resized, mode=mode, antialias=True, align_corners=aligned).sum().backward()
    backward = counter.report().by_operator()[f"aten._upsample_{mode}2d_aa_backward"]
    # each tap a product and an addition: where forward has one addition less a value
    assert backward.flops == tally.arith + across.size + down.size


# padding and reordering


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_padding_is_free_and_its_gradient_adds_each_element(mode: str, dimensions: int) -> None:
    x = torch.rand(1, 2, *[4] * dimensions, requires_grad=True)
    report = flopcount.count(Function(lambda x: F.pad(x, (1, 2) * dimensions, mode=mode)), x)
    assert not report.uncounted
    assert report.model.phases["forward"].flops == 0
    assert report.model.gradients["input"] == Cost(arith=2 * 7**dimensions)


class Function(nn.Module):
    def __init__(self, function: Callable[[float], float]) -> None:
        super().__init__()
        self.forward = function


def test_padding_with_a_constant_and_its_gradient_only_move_bytes() -> None:
    report = flopcount.count(
        Function(lambda x: F.pad(x, (1, 2, 1, 1))), torch.rand(1, 2, 4, 4, requires_grad=True)
    )
    cost = report.by_operator()["aten.constant_pad_nd"]  # forward, and cut off again in backward
    inner, outer = 4 * 2 * 4 * 4, 4 * 2 * 7 * 6
    # the gradient of a sum is one number, expanded
    assert cost == Cost(read=inner + 4, written=outer + inner)


def test_shuffled_pixels_only_move_bytes() -> None:
    for op, shape in [(aten.pixel_shuffle, (1, 8, 3, 3)), (aten.pixel_unshuffle, (1, 2, 6, 6))]:
        with flopcount.FlopCounter() as counter:
            op(torch.zeros(shape), 2)
        cost = counter.report().by_operator()[f"aten.{op.__name__}"]
        assert cost == Cost(read=4 * math.prod(shape), written=4 * math.prod(shape))
