"""torchvision's own ops, through the dispatcher, where its compiled ops fit the installed torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import flopcount
from flopcount import FlopCounter, Report
from flopcount.cli import torchvision_models
from tests.formulas.ops import test_deformable as deformable
from tests.formulas.ops import test_regions as regions

try:
    torchvision = torchvision_models.load()
except flopcount.FlopcountError as error:
    pytest.skip(str(error), allow_module_level=True)
if not torchvision.extension._has_ops():
    pytest.skip("torchvision's compiled ops do not fit this torch", allow_module_level=True)

ops = torchvision.ops


def step(call: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, Report]:
    """The result of a call, and what it and its gradients cost."""
    with FlopCounter(strict=True) as counter:
        out = call(*args, **kwargs)
        out.sum().backward()
    return out, counter.report()


@pytest.mark.parametrize("use_mask", [False, True], ids=["no mask", "mask"])
def test_deformable_convolution(use_mask: bool) -> None:
    x, weight = torch.rand(2, 4, 5, 5, requires_grad=True), torch.rand(6, 4, 3, 3)
    offset, mask = torch.rand(2, 18, 5, 5), torch.rand(2, 9, 5, 5) if use_mask else None
    _, report = step(ops.deform_conv2d, x, offset, weight, padding=1, mask=mask)
    phases = report.phases
    assert (phases["forward"].macs, phases["backward"].macs) == (10_800, 21_600)
    assert report.root.gradients["weight"].macs == 10_800
    forward, again = report.by_operator()["torchvision.deform_conv2d"], phases["recompute"]
    assert (again.macs, again.arith) == (0, forward.arith - 300)  # without the bias


def test_our_deformable_convolution_computes_torchvisions() -> None:
    """The loops that formulas are tested against are compared with this reference."""
    given = (deformable.X, deformable.WEIGHT, deformable.OFFSET, deformable.MASK, deformable.BIAS)
    x, weight, offset, mask, bias = given
    theirs = ops.deform_conv2d(x, offset, weight, bias, stride=2, padding=1, mask=mask)
    torch.testing.assert_close(deformable.reference(*given), theirs)


@pytest.mark.parametrize("op", ["roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool"])
def test_regions_and_their_gradients(op: str) -> None:
    x = torch.rand(2, 12, 8, 8, requires_grad=True)
    _, report = step(getattr(ops, op), x, regions.ROIS, (2, 3), 0.5)
    costs = report.by_operator()
    forward, backward = costs[f"torchvision.{op}"], costs[f"torchvision._{op}_backward"]
    assert forward.flops > 0
    assert report.root.gradients["input"].flops >= backward.flops > 0
    arguments = (0.5, 2, 3, *{"roi_align": (-1, False), "ps_roi_align": (-1,)}.get(op, ()))
    result = getattr(torch.ops.torchvision, op)(x.detach(), regions.ROIS, *arguments)
    expected = regions.counted(op, x, regions.ROIS, *arguments, out=result)
    assert (forward.arith, forward.compare) == (expected.arith, expected.compare)


def test_bins_are_those_of_adaptive_pooling() -> None:
    """The regions of our tests, and what we say of the last row and column."""
    x = torch.rand(2, 12, 8, 8)
    largest = ops.roi_pool(x, regions.ROIS, (2, 3), 0.5)
    for (image, rows, columns), pooled in zip(regions.CUTS, largest, strict=True):
        torch.testing.assert_close(
            pooled, F.adaptive_max_pool2d(x[image, :, rows, columns], (2, 3))
        )
    means = ops.ps_roi_pool(x, regions.ROIS, (2, 3), 0.5)
    for (image, rows, columns), pooled in zip(regions.CUTS, means, strict=True):
        part = x[image, :, rows.start : rows.stop - 1, columns.start : columns.stop - 1]
        own = F.adaptive_avg_pool2d(part, (2, 3)).view(2, 6, 6).diagonal(dim1=1, dim2=2)
        torch.testing.assert_close(pooled.flatten(1), own)
    # of the region below, only the pixel (6, 6) is pooled, and four get a gradient
    x = torch.rand(1, 1, 8, 8, requires_grad=True)
    y = ops.ps_roi_pool(x, torch.tensor([[0.0, 6, 6, 9, 9]]), (1, 1), 1.0)
    y.sum().backward()
    assert y.item() == x[0, 0, 6, 6].item()
    assert x.grad is not None
    assert int((x.grad != 0).sum()) == 4


def test_suppression_is_free_and_has_a_row() -> None:
    boxes = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3]])
    with FlopCounter(strict=True) as counter:
        kept = ops.nms(boxes, torch.tensor([0.3, 0.2, 0.1]), 0.5)
    report = counter.report()
    assert len(kept) == 2
    assert report.by_operator() == {"torchvision.nms": flopcount.Cost(read=3 * 20, written=2 * 8)}
