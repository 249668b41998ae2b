"""Regions of interest (torchvision): choosing boxes, and pooling what lies inside each.

How large a bin is, or how many samples it gets where no number is given, follows from the values of
the regions, which are then read. Letters: a bin of n pixels or samples; each channel has one.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from flopcount.cost import Cost
from flopcount.formulas.ops.resampling import (
    LINEAR_WEIGHTS,
    gather_taps,
    joint_weights,
    scatter_taps,
)
from flopcount.formulas.registry import Gradients, formula, free
from flopcount.formulas.steps import elementwise, on_host
from flopcount.torch_private.modes import without_modes

free(
    "torchvision::nms",
    "torchvision::qnms",
    why="compares boxes; how many pairs, only their values tell, so none is counted",
)


def corners(rois: Tensor, scale: float) -> Tensor:
    """The values x, y, x, y of each region on the grid of the image, in the dtype of the kernel."""
    return on_host(rois, "sizes of regions")[:, 1:] * scale


# -- bins of samples: each is a weighted sum of the four pixels around it


class Sampling(NamedTuple):
    """Where the samples of all regions lie.

    Attributes:
        grids: rows and columns of samples in a bin, for each region.
        height, width: bins of a region.
        aligned: regions are shifted by half a pixel, and may be smaller than one.
        adaptive: a region's samples follow from its size.
    """

    grids: list[tuple[int, int]]
    height: int
    width: int
    aligned: bool
    adaptive: bool

    @property
    def samples(self) -> int:
        """Samples of one channel."""
        return self.height * self.width * sum(rows * columns for rows, columns in self.grids)

    def weights(self) -> Cost:
        """From each region to the weights of its samples.

        - A region: 4 corners scaled (and shifted by ½, if aligned), 2 differences (else at least
          1), 2 divisions by the number of bins, which are rounded up if they say how many samples
          there are.
        - A coordinate, start + bin·size + (sample + ½)·size / ratio: 2 products, a division and 3
          additions, not below 0; then linear weights.
        - The 4 weights of a sample: a product each.
        """
        region = Cost(arith=4 + 4 + 2 + 2) if self.aligned else Cost(arith=4 + 2 + 2, compare=2)
        region += Cost(compare=2 if self.adaptive else 0)
        axes = sum(self.height * rows + self.width * columns for rows, columns in self.grids)
        coordinate = Cost(arith=2 + 1 + 3, compare=1) + LINEAR_WEIGHTS
        return len(self.grids) * region + axes * coordinate + joint_weights(self.samples, 4, 2)

    def means(self, channels: int) -> Cost:
        """Of the n samples of each bin: n - 1 additions and a division."""
        bins = self.height * self.width
        adds = bins * sum(max(rows * columns - 1, 0) for rows, columns in self.grids)
        return Cost(arith=channels * (adds + bins * len(self.grids)))

    def forward(self, channels: int) -> Cost:
        """The weights, a weighted sum of 4 pixels for each sample, and the means."""
        return self.weights() + gather_taps(channels * self.samples, 4) + self.means(channels)

    def backward(self, grad: Tensor) -> Gradients:
        """g / n, once for each result; then 4 products and 4 additions for each sample."""
        scattered = scatter_taps(grad.shape[1] * self.samples, 4)
        return Gradients(input=self.weights() + elementwise(grad, div=1) + scattered)


def sampling(
    rois: Tensor, scale: float, height: int, width: int, ratio: int, aligned: bool
) -> Sampling:
    """``ratio`` rows and columns in each bin; as many as it has pixels if that is not positive."""
    if ratio > 0:
        return Sampling([(ratio, ratio)] * len(rois), height, width, aligned, adaptive=False)
    with without_modes():
        scaled = corners(rois, scale) - (0.5 if aligned else 0.0)
        sizes = scaled[:, 2:] - scaled[:, :2]
        sizes = sizes.clamp(min=0.0 if aligned else 1.0)
        bins = torch.tensor([width, height], dtype=sizes.dtype, device="cpu")
        grids = [(rows, columns) for columns, rows in (sizes / bins).ceil().int().tolist()]
    return Sampling(grids, height, width, aligned, adaptive=True)


@formula("torchvision::roi_align", values=True)
def roi_align(
    x: Tensor,
    rois: Tensor,
    scale: float,
    height: int,
    width: int,
    ratio: int,
    aligned: bool,
    *,
    out: Tensor,
) -> Cost:
    """The mean of the samples of each bin, each a weighted sum of 4 pixels."""
    return sampling(rois, scale, height, width, ratio, aligned).forward(out.shape[1])


@formula("torchvision::ps_roi_align", values=True)
def ps_roi_align(
    x: Tensor, rois: Tensor, scale: float, height: int, width: int, ratio: int, *, out: Any
) -> Cost:
    """A ``roi_align`` whose bins each have channels of their own."""
    return sampling(rois, scale, height, width, ratio, aligned=True).forward(out[0].shape[1])


@formula("torchvision::_roi_align_backward", values=True)
def roi_align_backward(
    grad: Tensor, rois: Tensor, scale: float, height: int, width: int, *sizes: Any, out: Tensor
) -> Gradients:
    """g / n, once for each result; then 4 products and 4 additions for each sample."""
    *_, ratio, aligned = sizes
    return sampling(rois, scale, height, width, ratio, aligned).backward(grad)


@formula("torchvision::_ps_roi_align_backward", values=True)
def ps_roi_align_backward(
    grad: Tensor,
    rois: Tensor,
    channels: Tensor,
    scale: float,
    height: int,
    width: int,
    ratio: int,
    *sizes: int,
    out: Tensor,
) -> Gradients:
    """g / n, once for each result; then 4 products and 4 additions for each sample."""
    return sampling(rois, scale, height, width, ratio, aligned=True).backward(grad)


# -- bins of whole pixels


class Bins(NamedTuple):
    """What the bins of all regions hold, in one channel.

    Attributes:
        regions: how many there are.
        edges: rows and columns of bins, of all regions together.
        pixels: of all bins; one that lies in two bins counts twice.
        filled: bins that hold a pixel.
    """

    regions: int
    edges: int
    pixels: int
    filled: int

    def bounds(self) -> Cost:
        """From each region to the bounds of its bins.

        - A region: 4 corners scaled and rounded, 2 divisions by the number of bins.
        - A row or column: where it begins and ends, a product and a rounding each.
        """
        return self.regions * Cost(arith=4 + 2, compare=4) + self.edges * Cost(arith=2, compare=2)


def bins(
    rois: Tensor, scale: float, height: int, width: int, limits: tuple[int, int], last: int = 0
) -> Bins:
    """The bins of each region, cut off at ``limits``, the height and width of the image.

    A bin reaches from the pixel in which it begins to that in which it ends. Corners are rounded,
    ½ away from 0. A region is at least a pixel high and wide, where ``last`` is 1 its last pixel
    included.
    """
    sides = []
    with without_modes():
        scaled = corners(rois, scale)
        whole = (scaled.double().abs() + 0.5).floor() * scaled.sign()
        for axis, count, limit in ((1, height, limits[0]), (0, width, limits[1])):
            start, end = whole[:, axis, None], whole[:, axis + 2, None]
            size = (end - start + last).clamp(min=1).to(scaled.dtype) / count
            number = torch.arange(count, dtype=size.dtype, device="cpu")
            first, past = (number * size).floor(), ((number + 1) * size).ceil()
            reach = (past + start).clamp(0, limit) - (first + start).clamp(0, limit)
            sides.append(reach.clamp(min=0))
        rows, columns = sides
        pixels = int((rows.sum(1) * columns.sum(1)).sum())
        filled = int(((rows > 0).sum(1) * (columns > 0).sum(1)).sum())
    return Bins(len(rois), len(rois) * (height + width), pixels, filled)


@formula("torchvision::roi_pool", values=True)
def roi_pool(x: Tensor, rois: Tensor, scale: float, height: int, width: int, *, out: Any) -> Cost:
    """The largest of the n pixels of each bin: n - 1 comparisons."""
    held = bins(rois, scale, height, width, (x.shape[2], x.shape[3]), last=1)
    return held.bounds() + Cost(compare=x.shape[1] * (held.pixels - held.filled))


@formula("torchvision::_roi_pool_backward")
def roi_pool_backward(grad: Tensor, *args: Any, out: Tensor) -> Gradients:
    """g, added to the pixel that was largest in its bin. No bin counts as empty."""
    return Gradients(input=elementwise(grad, add=1))


@formula("torchvision::ps_roi_pool", values=True)
def ps_roi_pool(
    x: Tensor, rois: Tensor, scale: float, height: int, width: int, *, out: Any
) -> Cost:
    """The mean of the n pixels of each bin, which has channels of its own.

    torchvision's kernel leaves out the last row and column of the image, though its gradient does
    not.
    """
    held = bins(rois, scale, height, width, (x.shape[2] - 1, x.shape[3] - 1))
    return held.bounds() + Cost(arith=out[0].shape[1] * held.pixels)  # n - 1 sums, a division


@formula("torchvision::_ps_roi_pool_backward", values=True)
def ps_roi_pool_backward(
    grad: Tensor,
    rois: Tensor,
    channels: Tensor,
    scale: float,
    height: int,
    width: int,
    *sizes: int,
    out: Tensor,
) -> Gradients:
    """g / n, added to each of the n pixels of its bin."""
    held = bins(rois, scale, height, width, (out.shape[2], out.shape[3]))
    placed = grad.shape[1] * (held.filled + held.pixels)
    return Gradients(input=held.bounds() + Cost(arith=placed))
