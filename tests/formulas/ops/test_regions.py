from __future__ import annotations

import itertools
from importlib import import_module
from importlib.util import find_spec
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from flopcount import Cost, Gradients
from flopcount.cli import torchvision_models
from flopcount.formulas import Decision, plan_of
from flopcount.formulas.registry import Uncountable, formula_of
from tests.formulas.counting import Number, counting, floats, numbers, total
from tests.formulas.decomposed import measured
from tests.formulas.ops.taps import joint, linear_taps


def rounded_up(size: Number) -> int:
    """⌈size⌉, a comparison."""
    return int(size.floor().value) + (size.value % 1 > 0)


def counted(op: str, *args: Any, out: Any) -> Any:
    """What a call costs, by the formula that is registered for it."""
    return formula_of(f"torchvision::{op}")(*args, out=out)


def test_comparing_boxes_is_free_and_named() -> None:
    """How many pairs are compared, only their values tell: bytes alone, in a row of its own."""
    boxes, scores = torch.rand(6, 4), torch.rand(6)
    torchvision_models.load()  # or at least the schema of nms
    nms = torch.ops.torchvision.nms.default
    plan = plan_of(nms)
    assert plan.decision is Decision.FREE
    assert "only their values tell" in plan.rule.why
    bill = plan.bill((boxes, scores, 0.5), {}, torch.arange(4))
    assert bill.op == "torchvision.nms"
    assert bill.cost == Cost(read=6 * 16 + 6 * 4, written=4 * 8)


@pytest.mark.parametrize("ratio", [2, -1], ids=["two a side", "as many as a bin has pixels"])
@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "not aligned"])
def test_roi_align_is_what_a_loop_counts(aligned: bool, ratio: int) -> None:
    channels, height, width = 3, 2, 3
    rois = torch.tensor([[0.0, 1.0, 1.0, 6.0, 5.0], [0.0, 2.0, 0.0, 7.0, 6.0]])
    x = torch.rand(1, channels, 8, 8)
    values, regions = numbers(x), numbers(rois)
    result, taken = np.empty((2, channels, height, width), dtype=object), []
    with counting() as tally:
        for number, region in enumerate(regions):
            corners = [corner * 0.5 for corner in region[1:]]
            if aligned:
                corners = [corner - 0.5 for corner in corners]
            lengths = [corners[3] - corners[1], corners[2] - corners[0]]
            if not aligned:
                lengths = [length if length > 1 else Number(1.0) for length in lengths]
            axes: list[Any] = []
            grid = []
            for start, length, bins in zip(corners[1::-1], lengths, (height, width), strict=True):
                size = length / bins
                grid.append(ratio if ratio > 0 else rounded_up(size))
                axes.append([])
                for i, sample in itertools.product(range(bins), range(grid[-1])):
                    position = start + Number(i) * size + (Number(sample) + 0.5) * size / grid[-1]
                    position = position if position > 0 else Number(0.0)
                    axes[-1].append(linear_taps(position))
            samples = {
                spot: joint([axes[0][spot[0]], axes[1][spot[1]]])
                for spot in np.ndindex(height * grid[0], width * grid[1])
            }
            taken.append(prod(grid))
            for c, i, j in np.ndindex(channels, height, width):
                sums = [
                    total(
                        weight * values[(0, c, *tap)]
                        for tap, weight in zip(
                            *samples[i * grid[0] + a, j * grid[1] + b], strict=True
                        )
                    )
                    for a, b in np.ndindex(*grid)
                ]
                result[number, c, i, j] = total(sums) / prod(grid)
    if find_spec("torchvision") is None:
        pytest.skip("the loop's values are compared with torchvision's")
    torchvision_models.load()
    in_python = import_module("torchvision.ops.roi_align")._roi_align
    with torch.compiler.set_stance("force_eager"):
        expected = in_python(x, rois, 0.5, height, width, ratio, aligned)
    np.testing.assert_allclose(floats(result), expected, atol=1e-6)
    out = torch.empty(result.shape)
    assert counted("roi_align", x, rois, 0.5, height, width, ratio, aligned, out=out) == tally.cost
    # its gradient weighs and adds each tap, and divides once for each result
    sampled = channels * height * width * sum(taken)
    forward_only = Cost(arith=sampled * 7 + sampled)  # n - 1 additions and a division, of n each
    assert taken == ([4, 4] if ratio > 0 else [1, 2])
    shape = (1, channels, 8, 8)
    backward = counted(
        "_roi_align_backward", out, rois, 0.5, height, width, *shape, ratio, aligned, out=x
    )
    assert backward.input + forward_only == tally.cost + Cost(arith=sampled * 8 + out.numel())


def test_one_sample_a_bin_leaves_nothing_to_add() -> None:
    x, rois, out = torch.rand(1, 2, 8, 8), torch.rand(3, 5), torch.empty(3, 2, 2, 2)
    one = counted("roi_align", x, rois, 1.0, 2, 2, 1, True, out=out)
    # 4 corners scaled and shifted, 2 lengths, 2 sizes; 4 coordinates of 6 + 2 steps; 4 places
    weights = 3 * (4 + 4 + 2 + 2 + 4 * 8 + 4 * 4)
    assert one == Cost(arith=weights + out.numel() * (7 + 1), compare=3 * 4 * 2)


def test_bins_with_channels_of_their_own_cost_what_shared_channels_do() -> None:
    """2 · 2 bins of 3 channels, of 12 that there are: 3 · 4 results of 4 samples in each region."""
    rois, out = torch.rand(5, 5), torch.empty(5, 3, 2, 2)
    own = counted("ps_roi_align", torch.rand(1, 12, 8, 8), rois, 1.0, 2, 2, 2, out=(out, out))
    shared = torch.rand(1, 3, 8, 8)
    assert own == counted("roi_align", shared, rois, 1.0, 2, 2, 2, True, out=out)
    # 4 products and 3 sums for each sample, 3 sums and a division for each result
    per_result = 4 * (4 + 3) + 3 + 1
    # 4 corners scaled and shifted, 2 lengths, 2 sizes; 8 coordinates of 6 + 2 steps; 16 places
    weights = 5 * (4 + 4 + 2 + 2 + 8 * 8 + 16 * 4)
    assert own == Cost(arith=weights + out.numel() * per_result, compare=5 * 8 * 2)


def test_gradients_of_bins_with_channels_of_their_own() -> None:
    """As those of shared channels: of the 12 channels, 3 in each of the 4 bins."""
    grad, rois = torch.rand(5, 3, 2, 2), torch.rand(5, 5)
    sizes = (1, 12, 8, 8)
    for ratio in (2, -1):
        own = counted(
            "_ps_roi_align_backward", grad, rois, grad, 1.0, 2, 2, ratio, *sizes, out=grad
        )
        assert own == counted(
            "_roi_align_backward", grad, rois, 1.0, 2, 2, *sizes, ratio, True, out=grad
        )


@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "not aligned"])
def test_a_region_without_any_size(aligned: bool) -> None:
    """Aligned it has no sample and means of nothing, else it is made a pixel large: one a bin."""
    x, rois, out = (
        torch.rand(1, 2, 8, 8),
        torch.tensor([[0.0, 3, 3, 3, 3]]),
        torch.empty(1, 2, 2, 2),
    )
    cost = counted("roi_align", x, rois, 1.0, 2, 2, 0, aligned, out=out)
    if aligned:  # 4 corners scaled and shifted, 2 lengths, 2 sizes rounded up
        assert cost == Cost(arith=4 + 4 + 2 + 2 + out.numel(), compare=2)
    else:  # no shift, but 2 comparisons with 1; 4 coordinates, 4 places, 7 steps and a division
        weights = 4 + 2 + 2 + 4 * 8 + 4 * 4
        assert cost == Cost(arith=weights + out.numel() * (7 + 1), compare=2 + 2 + 4 * 2)


# -- bins of whole pixels: torch's adaptive pooling of what is cut out

# batch, x, y, x, y: on half the grid [1, 1, 4, 3] and, of the second image, [0, 2, 5, 5]
ROIS = torch.tensor([[0.0, 2, 2, 8, 6], [1, 0, 4, 10, 10]])
CUTS = [(0, slice(1, 4), slice(1, 5)), (1, slice(2, 6), slice(0, 6))]  # the last pixel included


def bounds(regions: int, rows: int, columns: int) -> Cost:
    """4 corners scaled and rounded, 2 divisions; each row and column begins and ends somewhere."""
    return regions * (Cost(arith=4 + 2, compare=4) + (rows + columns) * Cost(arith=2, compare=2))


def adaptive(start: int, stop: int, bins: int) -> list[int]:
    """How long each of ``bins`` parts of a side is, which may overlap."""
    length = stop - start
    ends = [(i * length // bins, -(-(i + 1) * length // bins)) for i in range(bins)]
    return [end - begin for begin, end in ends]


def held(cut: Any, height: int, width: int) -> list[int]:
    """The pixels of each bin."""
    _, rows, columns = cut
    sides = adaptive(rows.start, rows.stop, height), adaptive(columns.start, columns.stop, width)
    return [a * b for a, b in itertools.product(*sides)]


def test_largest_of_each_bin() -> None:
    x = torch.rand(2, 3, 8, 8)
    cost = counted("roi_pool", x, ROIS, 0.5, 2, 3, out=(x, x))
    bins = [n for cut in CUTS for n in held(cut, 2, 3)]
    assert len(bins) == 12
    assert min(bins) == 2 * 2
    assert cost == bounds(2, 2, 3) + Cost(compare=3 * sum(n - 1 for n in bins))
    # torch's own pooling of the parts compares as often
    pools = [nn.AdaptiveMaxPool2d((2, 3)).forward for _ in CUTS]
    parts = [x[image, :, rows, columns][None] for image, rows, columns in CUTS]
    whole = sum((measured(pool, part) for pool, part in zip(pools, parts, strict=True)), Cost())
    assert whole.compare == 3 * sum(n - 1 for n in bins)


def test_bins_outside_the_image_are_empty() -> None:
    """A region of 4 pixels a side, of which 2 lie in the image: 2·2 bins of one pixel, 12 of none.

    Without its last pixel it has 3 a side, in bins that overlap: [0, 1), [0, 2), [1, 3), [2, 3).
    """
    x, rois = torch.rand(1, 3, 8, 8), torch.tensor([[0.0, 6, 6, 9, 9]])
    assert counted("roi_pool", x, rois, 1.0, 4, 4, out=(x, x)) == bounds(1, 4, 4)
    larger, grad = torch.rand(1, 48, 9, 9), torch.rand(1, 3, 4, 4)
    mean = counted("ps_roi_pool", larger, rois, 1.0, 4, 4, out=(grad, grad))
    # the last row and column of the image are not pooled: 1 + 2 + 1 + 0 pixels remain of each side
    assert mean == bounds(1, 4, 4) + Cost(arith=3 * 4 * 4)
    backward = counted(
        "_ps_roi_pool_backward",
        *(grad, rois, grad, 1.0, 4, 4),
        *larger.shape,
        out=larger,
    )
    # here they are: 1 + 2 + 2 + 1
    assert backward == Gradients(input=bounds(1, 4, 4) + Cost(arith=3 * (4 * 4 + 6 * 6)))


def test_corners_are_rounded_away_from_zero() -> None:
    """½ becomes 1, 2½ becomes 3: three pixels, not the three from 0 on."""
    x = torch.rand(1, 1, 4, 4)
    corners = torch.tensor([[0.0, 0.5, 0.5, 2.5, 2.5]])
    cost = counted("roi_pool", x, corners, 1.0, 1, 1, out=(x, x))
    assert cost == bounds(1, 1, 1) + Cost(compare=3 * 3 - 1)
    wide = torch.tensor([[0.0, -0.5, 0.5, 2.5, 2.5]])  # from -1 on, of which 0 to 3 lie inside
    cost = counted("roi_pool", x, wide, 1.0, 1, 1, out=(x, x))
    assert cost == bounds(1, 1, 1) + Cost(compare=3 * 4 - 1)


def test_a_region_of_no_size_is_a_pixel() -> None:
    x, rois = torch.rand(1, 2, 8, 8), torch.tensor([[0.0, 5, 5, 2, 2]])  # ends before it begins
    assert counted("roi_pool", x, rois, 1.0, 1, 1, out=(x, x)) == bounds(1, 1, 1)
    mean = counted("ps_roi_pool", x, rois, 1.0, 1, 1, out=(torch.empty(1, 2, 1, 1), x))
    assert mean == bounds(1, 1, 1) + Cost(arith=2)


def test_mean_of_each_bin_with_channels_of_its_own() -> None:
    """Two regions of 2·3 bins with 2 channels each; the regions' last pixels are not included."""
    x, out = torch.rand(2, 12, 8, 8), torch.empty(2, 2, 2, 3)
    cost = counted("ps_roi_pool", x, ROIS, 0.5, 2, 3, out=(out, out))
    cuts = [(0, slice(1, 3), slice(1, 4)), (1, slice(2, 5), slice(0, 5))]
    bins = [n for cut in cuts for n in held(cut, 2, 3)]
    # n - 1 additions and a division
    assert cost == bounds(2, 2, 3) + Cost(arith=2 * sum(bins))
    backward = counted("_ps_roi_pool_backward", out, ROIS, out, 0.5, 2, 3, 2, 12, 8, 8, out=x)
    # a division, and n additions
    assert backward == Gradients(input=bounds(2, 2, 3) + Cost(arith=2 * sum(n + 1 for n in bins)))


def test_gradient_of_a_pooled_region_adds_each_result() -> None:
    grad = torch.rand(3, 2, 2, 2)
    cost = counted("_roi_pool_backward", grad, out=torch.empty(1, 2, 8, 8)).input
    assert cost == Cost(arith=3 * 2 * 2 * 2)


@pytest.mark.parametrize(
    ("op", "settings"),
    [("roi_align", (0, True)), ("ps_roi_align", (0,)), ("roi_pool", ()), ("ps_roi_pool", ())],
)
def test_regions_without_values_cannot_be_counted(op: str, settings: Any) -> None:
    x, rois = torch.rand(1, 4, 8, 8), torch.rand(1, 5, device="meta")
    with pytest.raises(Uncountable, match="sizes of regions are values, and here there are none"):
        counted(op, x, rois, 1.0, 2, 2, *settings, out=(x, x))


def test_a_given_number_of_samples_needs_no_values() -> None:
    x, rois = torch.rand(1, 2, 8, 8), torch.rand(3, 5)
    call = (1.0, 2, 2, 2, True)
    meta = counted("roi_align", x, rois.to("meta"), *call, out=x)
    assert meta == counted("roi_align", x, rois, *call, out=x)
