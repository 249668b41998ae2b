"""What torchvision's detectors need where its compiled ops are missing: nms and roi_align."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

_libraries: list[torch.library.Library] = []


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression: each best box drops those that overlap it too much."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    left = scores.argsort(descending=True, stable=True)
    kept: list[Tensor] = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        if iou_threshold >= 1:  # an overlap is at most 1: nothing is dropped
            kept, left = [*kept, *left], left[:0]
        corner = torch.maximum(boxes[best, :2], boxes[left, :2])
        opposite = torch.minimum(boxes[best, 2:], boxes[left, 2:])
        shared = (opposite - corner).clamp(min=0).prod(dim=1)
        left = left[shared <= iou_threshold * (areas[best] + areas[left] - shared)]
    return torch.stack(kept) if kept else left


def no_pooling(
    features: Tensor, boxes: Tensor, _: float, height: int, width: int, *args: Any
) -> Tensor:
    """Zeros in the shape of roi_align's result: its Python form takes longer than the model."""
    return features.new_zeros(len(boxes), features.shape[1], height, width)


def stand_in(
    torchvision: ModuleType, monkeypatch: pytest.MonkeyPatch, *, pool: bool = True
) -> None:
    """Make detectors run on CPU; where torchvision's own ops are there, nothing changes.

    Without ``pool`` boxes get features that are zero.
    """
    if torchvision.extension._has_ops():
        return
    if not torch._C._dispatch_has_kernel_for_dispatch_key("torchvision::nms", "CPU"):
        library = torch.library.Library("torchvision", "IMPL")
        library.impl("nms", nms, "CPU")
        _libraries.append(library)
    # torchvision.ops.roi_align is the function; the module of that name holds its Python path,
    # which is compiled on first use
    roi_align = sys.modules["torchvision.ops.roi_align"]
    plain = getattr(roi_align._roi_align, "__wrapped__", roi_align._roi_align)
    monkeypatch.setattr(roi_align, "_roi_align", plain if pool else no_pooling)
    monkeypatch.setattr(torchvision.ops.boxes, "_assert_has_ops", lambda: None)
