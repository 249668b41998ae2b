from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flopcount import Cost
from flopcount.formulas.registry import formula_of
from tests.formulas.counting import Number, counting, dot, floats, numbers, opened, total
from tests.formulas.ops.taps import joint, linear_taps

STRIDE, PADDING, GROUPS, OFFSET_GROUPS = 2, 1, 2, 2
SETTINGS = (STRIDE, STRIDE, PADDING, PADDING, 1, 1, GROUPS, OFFSET_GROUPS)

generator = torch.Generator().manual_seed(0)


def rand(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=generator, dtype=torch.double)


X = rand(2, 4, 3, 3)
WEIGHT, BIAS = rand(4, 2, 2, 2), rand(4)  # 4 channels in 2 groups, to 4 filters
PLACES = (2, 2)
OFFSET = 3 * rand(2, OFFSET_GROUPS * 2 * 4, *PLACES) - 1.5  # some taps lie outside
MASK = rand(2, OFFSET_GROUPS * 4, *PLACES)
GRAD = rand(2, 4, *PLACES)


def reference(x: Tensor, weight: Tensor, offset: Tensor, mask: Tensor, bias: Tensor) -> Tensor:
    """The same by torch's own ops: pixels sampled from a grid, and a product in each group."""
    n, c, height, width = x.shape
    offsets = offset.view(n, OFFSET_GROUPS, 2, 2, 2, *PLACES)
    masks = mask.view(n, OFFSET_GROUPS, 2, 2, *PLACES)
    parts = x.view(n, OFFSET_GROUPS, c // OFFSET_GROUPS, height, width)
    rows, columns = (STRIDE * torch.arange(2) - PADDING for _ in range(2))
    values = []
    for group, i, j in np.ndindex(OFFSET_GROUPS, 2, 2):
        y = rows[:, None] + i + offsets[:, group, i, j, 0]
        z = columns[None, :] + j + offsets[:, group, i, j, 1]
        grid = torch.stack([2 * z / (width - 1) - 1, 2 * y / (height - 1) - 1], dim=-1)
        sampled = F.grid_sample(parts[:, group], grid, align_corners=True)
        values.append(sampled * masks[:, group, None, i, j])
    shape = (OFFSET_GROUPS, 2, 2, n, c // OFFSET_GROUPS, *PLACES)
    stacked = torch.stack(values).view(shape).permute(3, 0, 4, 1, 2, 5, 6)
    grouped = stacked.reshape(n, GROUPS, c // GROUPS, 2, 2, *PLACES)
    products = torch.einsum("ngcijyx,gfcij->ngfyx", grouped, weight.view(2, 2, 2, 2, 2))
    return products.reshape(n, 4, *PLACES) + bias.view(1, 4, 1, 1)


def weighed_taps(offset: Any) -> dict[Any, Any]:
    """Of each tap the places of its 4 pixels, their weights, and the weights along each axis."""
    taps = {}
    for spot in np.ndindex(2, OFFSET_GROUPS, 2, 2, *PLACES):
        n, group, i, j, oy, ox = spot
        channel = group * 8 + 2 * (2 * i + j)
        y = offset[n, channel, oy, ox] + (STRIDE * oy - PADDING + i)
        x = offset[n, channel + 1, oy, ox] + (STRIDE * ox - PADDING + j)
        axes = [linear_taps(y), linear_taps(x)]
        taps[spot] = (*joint(axes), axes)
    return taps


def pixels(image: Any, n: int, channel: int, places: Any) -> list[Number]:
    """Those around a tap; outside the image lie zeros."""
    _, _, height, width = image.shape
    return [
        image[n, channel, y, x] if 0 <= y < height and 0 <= x < width else Number(0.0)
        for y, x in places
    ]


def sampled(image: Any, taps: Any) -> dict[Any, Number]:
    """The value at each tap of each channel."""
    return {
        (n, 2 * group + channel, *spot): total(
            weight * pixel
            for weight, pixel in zip(
                weights, pixels(image, n, 2 * group + channel, at), strict=True
            )
        )
        for (n, group, *spot), (at, weights, _) in taps.items()
        for channel in range(2)
    }


def masked(values: dict[Any, Number], mask: Any) -> dict[Any, Number]:
    return {
        (n, c, i, j, *place): value * mask[(n, c // 2 * 4 + 2 * i + j, *place)]
        for (n, c, i, j, *place), value in values.items()
    }


INSIDE = list(itertools.product(range(2), range(2), range(2)))
"""Channels of a group, and places of a kernel."""


def counted(op: str, *tensors: Tensor, use_mask: bool, out: Any) -> Any:
    return formula_of(f"torchvision::{op}")(*tensors, *SETTINGS, use_mask, out=out)


@pytest.mark.parametrize("use_mask", [False, True], ids=["no mask", "mask"])
def test_forward_is_what_a_loop_counts(use_mask: bool) -> None:
    x, weight, offset, bias, mask = map(numbers, (X, WEIGHT, OFFSET, BIAS, MASK))
    out = np.empty((2, 4, *PLACES), dtype=object)
    with counting() as tally:
        values = sampled(x, weighed_taps(offset))
        values = masked(values, mask) if use_mask else values
        for n, f, oy, ox in np.ndindex(*out.shape):
            taps = [values[n, f // 2 * 2 + c, i, j, oy, ox] for c, i, j in INSIDE]
            out[n, f, oy, ox] = dot(taps, [weight[f, c, i, j] for c, i, j in INSIDE]) + bias[f]
    given = MASK if use_mask else torch.ones_like(MASK)
    np.testing.assert_allclose(floats(out), reference(X, WEIGHT, OFFSET, given, BIAS))
    cost = counted("deform_conv2d", X, WEIGHT, OFFSET, MASK, BIAS, use_mask=use_mask, out=GRAD)
    assert (cost.macs, cost.dots) == (GRAD.numel() * 2 * 4, GRAD.numel())
    assert opened(cost) == tally.cost


@pytest.mark.parametrize("use_mask", [False, True], ids=["no mask", "mask"])
def test_backward_is_what_a_loop_counts(use_mask: bool) -> None:
    x, weight, offset, mask, grad = map(numbers, (X, WEIGHT, OFFSET, MASK, GRAD))
    of_weight, of_bias = np.empty(WEIGHT.shape, dtype=object), np.empty(4, dtype=object)
    of_x = np.vectorize(lambda _: Number(0.0), otypes=[object])(np.empty(X.shape))
    of_offset, of_mask = np.empty(OFFSET.shape, dtype=object), np.empty(MASK.shape, dtype=object)
    with counting() as again:
        taps = weighed_taps(offset)
        values = sampled(x, taps)
        columns = masked(values, mask) if use_mask else values
    with counting() as to_weight:
        for f, c, i, j in np.ndindex(*WEIGHT.shape):
            spots = list(np.ndindex(2, *PLACES))
            there = [columns[n, f // 2 * 2 + c, i, j, oy, ox] for n, oy, ox in spots]
            of_weight[f, c, i, j] = dot(there, [grad[n, f, oy, ox] for n, oy, ox in spots])
    with counting() as to_bias:
        for f in range(4):
            of_bias[f] = total(grad[:, f].flatten())
    with counting() as to_input:
        to_columns = {
            (n, c, i, j, *place): dot(
                [grad[(n, f, *place)] for f in (c // 2 * 2, c // 2 * 2 + 1)],
                [weight[f, c % 2, i, j] for f in (c // 2 * 2, c // 2 * 2 + 1)],
            )
            for n, c, i, j, *place in columns
        }
        if use_mask:
            for n, group, i, j, *place in taps:
                both = [(n, 2 * group + c, i, j, *place) for c in range(2)]
                of_mask[(n, group * 4 + 2 * i + j, *place)] = dot(
                    [to_columns[key] for key in both], [values[key] for key in both]
                )
            to_columns = masked(to_columns, mask)
        for (n, group, i, j, *place), (at, weights, axes) in taps.items():
            both = [(n, 2 * group + c, i, j, *place) for c in range(2)]
            around = [pixels(x, n, 2 * group + c, at) for c in range(2)]
            for key in both:
                for (y, z), w in zip(at, weights, strict=True):
                    product = to_columns[key] * w
                    inside = 0 <= y < 3 and 0 <= z < 3
                    target = (n, key[1], y, z) if inside else None
                    moved = (of_x[target] if target else Number(0.0)) + product
                    if target:
                        of_x[target] = moved
            dw = [
                dot([to_columns[key] for key in both], [around[c][tap] for c in range(2)])
                for tap in range(4)
            ]
            (_, weights_y, _), (_, weights_x, _) = axes
            terms_y = [dw[tap] * weights_x[tap % 2] for tap in range(4)]
            terms_x = [dw[tap] * weights_y[tap // 2] for tap in range(4)]
            channel = group * 8 + 2 * (2 * i + j)
            of_offset[(n, channel, *place)] = terms_y[2] + terms_y[3] - terms_y[0] - terms_y[1]
            of_offset[(n, channel + 1, *place)] = terms_x[1] + terms_x[3] - terms_x[0] - terms_x[2]
    given = MASK if use_mask else torch.ones_like(MASK)
    leaves = [t.clone().requires_grad_() for t in (X, WEIGHT, OFFSET, given, BIAS)]
    expected = torch.autograd.grad(reference(*leaves), leaves, GRAD)
    found = [of_x, of_weight, of_offset, of_mask if use_mask else None, of_bias]
    for ours, theirs in zip(found, expected, strict=True):
        if ours is not None:
            np.testing.assert_allclose(floats(ours), theirs, atol=1e-12)
    call = GRAD, X, WEIGHT, OFFSET, MASK, BIAS
    cost = counted("_deform_conv2d_backward", *call, use_mask=use_mask, out=())
    assert opened(cost.input) == to_input.cost
    assert opened(cost.weight) == to_weight.cost
    assert cost.bias == to_bias.cost
    assert cost.recompute == again.cost
    assert cost.unsplit == Cost()
    macs = GRAD.numel() * 2 * 4
    assert (cost.input.macs, cost.weight.macs) == (macs, macs)


def test_products_are_those_of_a_plain_convolution() -> None:
    """(2, 4, 5, 5), 4 → 6 channels, 3×3 and padded: 300 results of 36 products."""
    x, weight, out = torch.rand(2, 4, 5, 5), torch.rand(6, 4, 3, 3), torch.rand(2, 6, 5, 5)
    offset, mask, bias = torch.rand(2, 18, 5, 5), torch.zeros(2, 1), torch.zeros(6)
    settings = (1, 1, 1, 1, 1, 1, 1, 1, False)
    forward = formula_of("torchvision::deform_conv2d")
    cost = forward(x, weight, offset, mask, bias, *settings, out=out)
    assert (cost.macs, cost.void_macs, cost.dots) == (10_800, 0, 300)
    # 1,800 values of 4 products and 3 sums; 450 taps of 4 weights and 2 coordinates of 3 steps
    assert cost.arith == 1800 * 7 + 450 * (4 + 2 * 3) + 300
    assert cost.compare == 450 * 2
    backward = formula_of("torchvision::_deform_conv2d_backward")
    gradients: Any = backward(out, x, weight, offset, mask, bias, *settings, out=())
    assert gradients.input.macs + gradients.weight.macs == 21_600
    assert gradients.recompute == Cost(arith=cost.arith - 300, compare=cost.compare)
