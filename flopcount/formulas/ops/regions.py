"""Regions of interest (torchvision): choosing boxes, and pooling what lies inside each."""

from math import prod
from typing import Any

from torch import Tensor

from flopcount.cost import Cost
from flopcount.formulas.ops.resampling import (
    LINEAR_WEIGHTS,
    gather_taps,
    joint_weights,
    scatter_taps,
)
from flopcount.formulas.ops.sorting import sort_comparisons
from flopcount.formulas.registry import Gradients, Uncountable, formula
from flopcount.formulas.steps import elementwise


@formula("torchvision::nms")
def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, *, out: Tensor) -> Cost:
    """Sort, then compare each pair of boxes, at most: a suppressed box spares its pairs.

    An area is 2 subtractions and a product. A pair takes 4 maxima and minima, 2 subtractions
    and 2 maxima with 0, the product, two steps for the union, a division, and a comparison with
    the threshold.
    """
    n = boxes.shape[0]
    pairs = n * (n - 1) // 2
    order = Cost(compare=sort_comparisons(n, n))
    return Cost(arith=3 * n) + order + pairs * Cost(arith=2 + 1 + 2 + 1, compare=4 + 2 + 1)


def region_weights(
    rois: Tensor, height: int, width: int, sampling_ratio: int, aligned: bool
) -> Cost:
    """From each region to the weights of its samples.

    - A region: 4 corners scaled (and shifted by ½, if aligned), 2 differences (else at least
      1), 2 divisions by the number of bins.
    - A coordinate, start + bin·size + (sample + ½)·size / ratio: 2 products, a division and 3
      additions, not below 0; then linear weights.
    - The 4 weights of a sample: a product each.
    """
    if sampling_ratio <= 0:
        raise Uncountable("the number of samples depends on the sizes of the regions")
    region = Cost(arith=4 + 4 + 2 + 2) if aligned else Cost(arith=4 + 2 + 2, compare=2)
    coordinate = Cost(arith=2 + 1 + 3, compare=1) + LINEAR_WEIGHTS
    sizes = (height * sampling_ratio, width * sampling_ratio)
    weights = region + sum(sizes) * coordinate + joint_weights(prod(sizes), 4, 2)
    return rois.shape[0] * weights


def pooled(rois: Tensor, values: Tensor, sampling_ratio: int, aligned: bool) -> Cost:
    """The mean of ratio² samples in each bin, each a weighted sum of 4 taps."""
    samples, (height, width) = sampling_ratio**2, values.shape[-2:]
    weights = region_weights(rois, height, width, sampling_ratio, aligned)
    mean = elementwise(values, add=samples - 1, div=1)
    return weights + gather_taps(values.numel() * samples, 4) + mean


@formula("torchvision::roi_align")
def roi_align(x: Tensor, rois: Tensor, *settings: Any, out: Tensor) -> Cost:
    """The mean of ratio² samples in each bin, each a weighted sum of 4 taps."""
    *_, sampling_ratio, aligned = settings
    return pooled(rois, out, sampling_ratio, aligned)


@formula("torchvision::ps_roi_align")
def ps_roi_align(x: Tensor, rois: Tensor, *settings: Any, out: tuple[Tensor, Tensor]) -> Cost:
    """A ``roi_align`` whose bins each have channels of their own."""
    *_, sampling_ratio = settings
    return pooled(rois, out[0], sampling_ratio, aligned=True)


@formula("torchvision::_roi_align_backward")
def _roi_align_backward(grad: Tensor, rois: Tensor, *settings: Any, out: Tensor) -> Gradients:
    """g / ratio², once for each result; then 4 products and 4 additions for each sample."""
    _scale, pooled_height, pooled_width, *_, sampling_ratio, aligned = settings
    samples = sampling_ratio**2
    weights = region_weights(rois, pooled_height, pooled_width, sampling_ratio, aligned)
    mean = elementwise(grad, div=1)
    return Gradients(input=weights + mean + scatter_taps(grad.numel() * samples, 4))


@formula("torchvision::_roi_pool_backward")
def _roi_pool_backward(grad: Tensor, *args: Any, out: Tensor) -> Gradients:
    """g, added to the element that was largest in its bin. (Forward depends on the regions.)"""
    return Gradients(input=elementwise(grad, add=1))
