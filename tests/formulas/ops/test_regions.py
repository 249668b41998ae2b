from __future__ import annotations

import itertools
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch

from flopcount import Cost
from flopcount.cli import torchvision_models
from flopcount.formulas.registry import Uncountable, formula_of
from tests.formulas.counting import Number, counting, floats, numbers, total
from tests.formulas.ops.taps import joint, linear_taps


def counted(op: str, *args: Any, out: Any) -> Any:
    """What a call costs, by the formula that is registered for it."""
    return formula_of(f"torchvision::{op}")(*args, out=out)


def test_non_maximum_suppression_is_bounded_by_all_pairs() -> None:
    n = 6
    boxes = torch.tensor([[10.0 * i, 0.0, 10.0 * i + 5, 5.0] for i in range(n)])  # all apart
    scores = torch.rand(n, generator=torch.Generator().manual_seed(0))
    with counting() as tally:
        corners = numbers(boxes)
        order = sorted(range(n), key=list(numbers(scores)).__getitem__)
        areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in corners]
        kept = []
        for i, j in itertools.combinations(order, 2):
            a, b = corners[i], corners[j]
            left, top = (a[k] if a[k] > b[k] else b[k] for k in (0, 1))
            right, bottom = (a[k] if a[k] < b[k] else b[k] for k in (2, 3))
            width, height = right - left, bottom - top
            width = width if width > 0 else Number(0.0)
            height = height if height > 0 else Number(0.0)
            overlap = width * height
            kept.append(not overlap / (areas[i] + areas[j] - overlap) > 0.5)
    assert all(kept)
    cost = counted("nms", boxes, scores, 0.5, out=torch.arange(n))
    pairs = n * (n - 1) // 2
    assert cost.arith == tally.arith
    assert 7 * pairs + n - 1 <= tally.compare <= cost.compare == 7 * pairs + n * 3


@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "not aligned"])
def test_roi_align_is_what_a_loop_counts(aligned: bool) -> None:
    channels, height, width, ratio = 3, 2, 3, 2
    rois = torch.tensor([[0.0, 1.0, 1.0, 6.0, 5.0], [0.0, 2.0, 0.0, 7.0, 6.0]])
    x = torch.rand(1, channels, 8, 8)
    values, regions = numbers(x), numbers(rois)
    result = np.empty((2, channels, height, width), dtype=object)
    with counting() as tally:
        for number, region in enumerate(regions):
            corners = [corner * 0.5 for corner in region[1:]]
            if aligned:
                corners = [corner - 0.5 for corner in corners]
            lengths = [corners[3] - corners[1], corners[2] - corners[0]]
            if not aligned:
                lengths = [length if length > 1 else Number(1.0) for length in lengths]
            axes = []
            for start, length, bins in zip(corners[1::-1], lengths, (height, width), strict=True):
                size = length / bins
                axes.append([])
                for i, sample in itertools.product(range(bins), range(ratio)):
                    position = start + Number(i) * size + (Number(sample) + 0.5) * size / ratio
                    position = position if position > 0 else Number(0.0)
                    axes[-1].append(linear_taps(position))
            samples = {
                spot: joint([axes[0][spot[0]], axes[1][spot[1]]])
                for spot in np.ndindex(height * ratio, width * ratio)
            }
            for c, i, j in np.ndindex(channels, height, width):
                sums = [
                    total(
                        weight * values[(0, c, *tap)]
                        for tap, weight in zip(*samples[i * ratio + a, j * ratio + b], strict=True)
                    )
                    for a, b in np.ndindex(ratio, ratio)
                ]
                result[number, c, i, j] = total(sums) / ratio**2
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
    sampled = out.numel() * ratio**2
    forward_only = Cost(arith=sampled * 7 + out.numel() * ratio**2)
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


def test_gradient_of_a_pooled_region_adds_each_result() -> None:
    grad = torch.rand(3, 2, 2, 2)
    cost = counted("_roi_pool_backward", grad, out=torch.empty(1, 2, 8, 8)).input
    assert cost == Cost(arith=3 * 2 * 2 * 2)


def test_as_many_samples_as_a_region_is_large_cannot_be_counted() -> None:
    with pytest.raises(Uncountable, match="sizes of the regions"):
        counted(
            "roi_align",
            torch.rand(1, 2, 8, 8),
            torch.rand(1, 5),
            1.0,
            2,
            2,
            0,
            True,
            out=torch.empty(1, 2, 2, 2),
        )
