"""ResNet, EfficientNet, DeiT, Swin and ConvNeXt: one image, forward, a MAC counted as one FLOP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.accuracy.papers import printed, same, table
from benchmarks.accuracy.verdicts import ALONE, UNEXPLAINED, Row
from flopcount import FlopCounter
from flopcount.cli import torchvision_models

__all__ = ["rows"]

TOKEN = "it counts no class token"
NORMS = "as fvcore counts: 5 more for each element that a LayerNorm writes"
AGAIN = "no reason is known; the same table has flopcount's figure in its other part"
STRIDE = "torchvision's blocks have their stride in the 3 × 3 convolution, the paper's in the first"
SHORTCUT = "torchvision's shortcuts have convolutions, the paper's are identities (option A)"
REGISTRY = "no reason is known; torchvision's registry has flopcount's figure for the same size"


class Identity(nn.Module):
    """He et al.'s option A: every other pixel, and zeros for the new channels."""

    def __init__(self, more: int) -> None:
        super().__init__()
        self.more = more

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.more))


def as_printed(model: nn.Module) -> nn.Module:
    """A ResNet of torchvision as in the paper: strides first, and shortcuts without parameters.

    The latter only in the two that have no bottlenecks.
    """
    block: Any
    for block in model.modules():
        if type(block).__name__ == "Bottleneck":
            first, second = block.get_submodule("conv1"), block.get_submodule("conv2")
            first.stride, second.stride = second.stride, first.stride
        elif type(block).__name__ == "BasicBlock" and block.downsample is not None:
            block.downsample = Identity(block.conv1.out_channels - block.conv1.in_channels)
    return model


def gmacs(model: nn.Module, size: int) -> float:
    """Forward, of one image."""
    image = torch.empty(1, 3, size, size, device="meta")
    with FlopCounter(model.eval()) as counter:
        model(image)
    return counter.report().total.macs / 1e9


def norms(model: nn.Module, size: int) -> float:
    """fvcore's addition, 5 for each element of a LayerNorm, in 10⁹."""
    elements: list[int] = []
    for module in model.modules():
        if "LayerNorm" in type(module).__name__:
            module.register_forward_hook(lambda _, __, out: elements.append(out.numel()))
    gmacs(model, size)
    return 5 * sum(elements) / 1e9


WITHOUT_BOTTLENECKS = {18, 34}


def resnet(first: int | None) -> Iterator[Row]:
    """The paper's variant, and torchvision's."""
    paper = table("resnet", first)
    for row in paper.rows:
        depth, figure = row["depth"], row["printed"]
        plain = gmacs(torchvision_models.build(f"resnet{depth}", meta=True), 224)
        variant = gmacs(as_printed(torchvision_models.build(f"resnet{depth}", meta=True)), 224)
        yield printed(paper.source, f"ResNet-{depth}", paper.unit, figure, variant)
        why = SHORTCUT if depth in WITHOUT_BOTTLENECKS else STRIDE
        name = f"ResNet-{depth}, torchvision's"
        yield printed(paper.source, name, paper.unit, figure, plain, **{why: variant})


def efficientnet(first: int | None) -> Iterator[Row]:
    """At the paper's sizes."""
    paper = table("efficientnet", first)
    for row in paper.rows:
        name, size = row["model"], row["size"]
        gmac = gmacs(torchvision_models.build(name, meta=True), size)
        found = printed(paper.source, f"{name}, {size}²", paper.unit, row["printed"], gmac)
        (image,) = torchvision_models.example_inputs(name, weights="IMAGENET1K_V1")
        registered = torchvision_models.weights_of(name, "IMAGENET1K_V1").meta["_ops"]
        attested = image.shape[-1] == size and round(gmac, 3) == registered
        if found["verdict"] == UNEXPLAINED and attested:
            found |= {"reasons": [REGISTRY], "verdict": ALONE}
        yield found


def of_timm(name: str, **config: Any) -> nn.Module:
    """A model of timm, of 1,000 classes."""
    import timm

    with torch.device("meta"):
        model: nn.Module = timm.create_model(name, num_classes=1000, **config)
    return model


def of_timms(paper_name: str, first: int | None) -> Iterator[Row]:
    """The models of a table, beside timm's."""
    paper = table(paper_name, first)
    for row in paper.rows:
        name, size = row["model"], row["size"]
        model = of_timm(name)
        gmac = gmacs(model, size)
        others = {}
        if paper_name == "deit3":
            others[NORMS] = gmac + norms(model, size)
        elif hasattr(model, "cls_token"):
            others[TOKEN] = gmacs(of_timm(name, class_token=False, global_pool="avg"), size)
        label = f"{name}, {size}²"
        found = printed(paper.source, label, paper.unit, row["printed"], gmac, **others)
        elsewhere = row.get("elsewhere")
        if found["verdict"] == UNEXPLAINED and elsewhere and same(elsewhere, gmac):
            found |= {"reasons": [AGAIN], "verdict": ALONE}
        yield found


def rows(first: int | None) -> Iterator[Row]:
    """Of every table, or of the ``first`` rows of each."""
    yield from resnet(first)
    yield from efficientnet(first)
    for name in ("deit3", "swin", "convnext"):
        yield from of_timms(name, first)
