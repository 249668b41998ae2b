from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import ops

import flopcount
from flopcount import Cost
from flopcount.torch_private.ops import is_composite
from tests.formulas.counting import Number, counting, floats, numbers, total
from tests.formulas.decomposed import billed, measured, plain
from tests.formulas.ops.taps import (
    cubic_slopes,
    cubic_taps,
    joint,
    linear_taps,
    nearest_tap,
    product,
)

aten = ops.aten


def index_of(coordinate: Any, size: tuple[int, ...], padding: str, align: bool) -> Any:
    """A coordinate in [-1, 1] as an index of an axis."""
    index = (coordinate + 1) / 2 * (size - 1) if align else ((coordinate + 1) * size - 1) / 2
    if padding == "reflection":
        low, span = (0, size - 1) if align else (-0.5, size)
        distance = abs(index - low)
        rest = distance - (distance / span).floor() * span
        odd = (distance / span).floor().value % 2
        turned = span - rest
        index = (turned if Number(odd) > 0.5 else rest) + low
    if padding != "zeros":
        index = index if index > 0 else Number(0.0)
        index = index if index < size - 1 else Number(float(size - 1))
    return index


def tap_value(values: Any, image: Any, tap: Any, padding: str) -> Any:
    size = values.shape[2:]
    inside = all(0 <= i < length for i, length in zip(tap, size, strict=True))
    if not inside and padding == "zeros":
        return Number(0.0)
    return values[image + tuple(min(max(i, 0), s - 1) for i, s in zip(tap, size, strict=True))]


def sampled_taps(
    values: Any, grid: Any, n: int, place: Any, mode: str, padding: str, align: bool
) -> Any:
    size = values.shape[2:]
    coordinates = grid[(n, *place)][::-1]  # the grid is ordered x, y
    of_axis = {"bilinear": linear_taps, "bicubic": cubic_taps, "nearest": nearest_tap}[mode]
    return [
        of_axis(index_of(coordinate, length, padding, align))
        for coordinate, length in zip(coordinates, size, strict=True)
    ]


SAMPLERS = {
    f"{mode}, {padding}, {'corners' if align else 'half pixels'}, {len(size)} dimensions": (
        mode,
        padding,
        align,
        size,
    )
    for mode, padding, align, size in [
        ("bilinear", "zeros", False, (3, 4)),
        ("bilinear", "zeros", True, (3, 4)),
        ("bilinear", "border", False, (3, 4)),
        ("bilinear", "reflection", False, (3, 4)),
        ("bilinear", "reflection", True, (3, 4)),
        ("bilinear", "zeros", False, (3, 4, 2)),
        ("bilinear", "border", True, (3, 4, 2)),
        ("bicubic", "zeros", False, (4, 5)),
    ]
}


@pytest.mark.parametrize(("mode", "padding", "align", "size"), SAMPLERS.values(), ids=SAMPLERS)
def test_grid_sampler_is_what_a_loop_counts(
    mode: str, padding: str, align: bool, size: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(2, 3, *size, generator=generator, dtype=torch.double)
    spots = [2] * len(size)
    grid = torch.rand(2, *spots, len(size), generator=generator, dtype=torch.double) * 3 - 1.5
    values, coordinates = numbers(x), numbers(grid)
    result = np.empty((2, 3, *spots), dtype=object)
    with counting() as tally:
        for n, *place in np.ndindex(2, *spots):
            taps, weights = joint(sampled_taps(values, coordinates, n, place, mode, padding, align))
            for c in range(3):
                result[(n, c, *place)] = total(
                    w * tap_value(values, (n, c), tap, padding)
                    for tap, w in zip(taps, weights, strict=True)
                )
    settings = {"mode": mode, "padding_mode": padding, "align_corners": align}
    if (mode, padding) == ("bicubic", "zeros") or mode == "bilinear":
        expected = F.grid_sample(x, grid, **settings)
        np.testing.assert_allclose(floats(result), expected, atol=1e-6)
    assert measured(F.grid_sample, x, grid, **settings) == tally.cost


@pytest.mark.parametrize(
    ("mode", "size"),
    [
        pytest.param("bilinear", (3, 4), id="bilinear"),
        pytest.param("bilinear", (3, 4, 2), id="trilinear"),
        pytest.param("bicubic", (4, 5), id="bicubic"),
    ],
)
@pytest.mark.parametrize("wanted", ["image", "grid", "both"])
def test_gradient_of_a_grid_sampler_is_what_a_loop_counts(
    mode: str, size: tuple[int, ...], wanted: str
) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(1, 3, *size, generator=generator, dtype=torch.double)
    spots = [2] * len(size)
    grid = torch.rand(1, *spots, len(size), generator=generator, dtype=torch.double) * 2 - 1
    x.requires_grad_(wanted != "grid")
    grid.requires_grad_(wanted != "image")
    values, coordinates = numbers(x), numbers(grid)
    one = Number(1.0)
    to_image = np.vectorize(lambda v: Number(0.0), otypes=[object])(values)
    to_grid = np.empty(grid.shape, dtype=object)
    with counting() as tally:
        for n, *place in np.ndindex(1, *spots):
            axes = sampled_taps(values, coordinates, n, place, mode, "zeros", False)
            taps, weights = joint(axes)
            if wanted != "grid":
                for (tap, weight), c in itertools.product(
                    zip(taps, weights, strict=True), range(3)
                ):
                    inside = all(0 <= i < s for i, s in zip(tap, size, strict=True))
                    here = (n, c, *tap)
                    change = weight * one
                    kept = (to_image[here] if inside else Number(0.0)) + change
                    if inside:
                        to_image[here] = kept
            if wanted != "image":
                dw = [
                    total(one * tap_value(values, (n, c), tap, "zeros") for c in range(3))
                    for tap in taps
                ]
                for axis, length in enumerate(size):
                    factors, signs = zip(*slopes_of(axes, axis, mode), strict=True)
                    terms = [product([d, *f]) for d, f in zip(dw, factors, strict=True)]
                    slope = signed_total(terms, signs) * (length / 2)
                    to_grid[(n, *place, len(size) - 1 - axis)] = slope
    with flopcount.FlopCounter() as counter:
        y = F.grid_sample(x, grid, mode=mode, align_corners=False)
        y.sum().backward()
    if wanted != "grid":
        np.testing.assert_allclose(floats(to_image), x.grad, atol=1e-6)
    if wanted != "image":
        np.testing.assert_allclose(floats(to_grid), grid.grad, atol=1e-6)
    operators = counter.report().by_operator()
    assert plain(operators[f"aten.grid_sampler_{len(size)}d_backward"]) == tally.cost


def slopes_of(axes: Any, axis: int, mode: str) -> Any:
    """For each tap the factors of its weight's slope along ``axis``, and the slope's sign."""
    reach = axes[axis][2]
    slopes, signs = ([None, None], [-1, 1]) if mode == "bilinear" else cubic_slopes(reach)
    factors = [slopes if other == axis else w for other, (_, w, _) in enumerate(axes)]
    for spot in np.ndindex(*map(len, factors)):
        chosen = [of_axis[i] for of_axis, i in zip(factors, spot, strict=True)]
        yield [factor for factor in chosen if factor is not None], signs[spot[axis]]


def signed_total(terms: Any, signs: Any) -> Any:
    """A sum whose terms are added or subtracted; a leading minus costs nothing."""
    pairs = sorted(zip(terms, signs, strict=True), key=lambda pair: -pair[1])
    result = pairs[0][0]
    for term, sign in pairs[1:]:
        result = result + term if sign > 0 else result - term
    return result


def test_cudnns_sampler_is_linear_with_aligned_corners_and_zeros_outside() -> None:
    x, grid, out = torch.rand(2, 3, 4, 5), torch.rand(2, 3, 2, 2), torch.empty(2, 3, 3, 2)
    own = [0, 0, True]  # linear, zeros, corners
    forward = billed(aten.cudnn_grid_sampler.default, x, grid, out=out)
    assert forward == measured(aten.grid_sampler_2d.default, x, grid, *own)
    # a place has 2 coordinates of 3 + 2 steps and a floor, 4 taps; a result 4 products and 3 sums
    assert forward == Cost(arith=12 * (2 * (3 + 2) + 4) + 36 * (4 + 3), compare=12 * 2)
    both = aten.cudnn_grid_sampler_backward.default
    whole = aten.grid_sampler_2d_backward.default
    assert billed(both, x, grid, out, out=(x, grid)) == measured(
        whole, out, x, grid, *own, [True, True]
    )


def test_nearest_sampling_takes_coordinates_alone() -> None:
    x, grid = torch.rand(2, 3, 4, 4), torch.zeros(2, 5, 5, 2)
    coordinates = 2 * 5 * 5 * 2
    # ((x + 1)·size - 1) / 2 is four steps, the nearest index a rounding
    assert measured(aten.grid_sampler_2d.default, x, grid, 0, 0, False).arith > 4 * coordinates
    cost = measured(aten.grid_sampler_2d.default, x, grid, 1, 0, False)
    assert cost == Cost(arith=4 * coordinates, compare=coordinates)
    g = torch.rand(2, 3, 5, 5)
    both = [True, True]
    backward = measured(aten.grid_sampler_2d_backward.default, g, x, grid, 1, 0, False, both)
    assert backward == cost + Cost(arith=g.numel())


def test_affine_grid_is_a_product_of_places_and_theta() -> None:
    theta = torch.rand(2, 2, 3)
    macs, dots = 2 * 4 * 5 * 2 * 3, 2 * 4 * 5 * 2
    aligned = measured(F.affine_grid, theta, (2, 3, 4, 5), align_corners=True)
    assert aligned == Cost(macs=macs, dots=dots)
    halves = measured(F.affine_grid, theta, (2, 3, 4, 5), align_corners=False)
    assert halves == Cost(macs=macs, dots=dots, arith=2 * (4 + 5))


def test_the_fallback_takes_both_gradients() -> None:
    if is_composite(aten._grid_sampler_2d_cpu_fallback_backward.default):
        pytest.skip("this torch runs it without a dispatch")
    call = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 8, 8), torch.rand(2, 4, 4, 2)
    whole = measured(aten.grid_sampler_2d_backward, *call, 0, 0, True, [True, True])
    assert measured(aten._grid_sampler_2d_cpu_fallback_backward, *call, 0, 0, True) == whole


def test_an_affine_grid_of_cudnn() -> None:
    theta, grid = torch.rand(2, 2, 3), torch.rand(2, 4, 5, 2)
    forward = billed(aten.cudnn_affine_grid_generator.default, theta, 2, 3, 4, 5, out=grid)
    assert forward == Cost(macs=2 * 4 * 5 * 2 * 3, dots=2 * 4 * 5 * 2)
    backward = aten.cudnn_affine_grid_generator_backward.default
    cost = billed(backward, grid, 2, 3, 4, 5, out=theta)
    assert cost == Cost(macs=2 * 2 * 3 * (4 * 5), dots=2 * 2 * 3)
