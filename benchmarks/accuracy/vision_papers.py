"""ResNet, EfficientNet, DeiT, Swin and ConvNeXt: the papers' tables of FLOPs.

All count a MAC as one FLOP, for one image, forward. The papers are arXiv 1512.03385, 1905.11946
(sizes of images: the authors' ``efficientnet_builder.py``), 2103.14030 and 2201.03545; DeiT III's
figures are those of its README. DeiT's own paper and README have none: Swin's has.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.accuracy.papers import printed, same
from benchmarks.accuracy.verdicts import ALONE, UNEXPLAINED, Row
from flopcount import FlopCounter
from flopcount.cli import torchvision_models

__all__ = ["rows"]

MACS = "GMAC, called FLOPs"

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
RESNETS = {18: "1.8", 34: "3.6", 50: "3.8", 101: "7.6", 152: "11.3"}


def resnet(depths: list[int]) -> Iterator[Row]:
    """The paper's variant, and torchvision's."""
    source = "He et al. 2015, table 1"
    for depth in depths:
        name, figure = f"resnet{depth}", RESNETS[depth]
        plain = gmacs(torchvision_models.build(name, meta=True), 224)
        paper = gmacs(as_printed(torchvision_models.build(name, meta=True)), 224)
        yield printed(source, f"ResNet-{depth}", MACS, figure, paper)
        why = SHORTCUT if depth in WITHOUT_BOTTLENECKS else STRIDE
        name = f"ResNet-{depth}, torchvision's"
        yield printed(source, name, MACS, figure, plain, **{why: paper})


# in billions, at the side of the image
EFFICIENTNETS = {
    "b0": (224, "0.39"),
    "b1": (240, "0.70"),
    "b2": (260, "1.0"),
    "b3": (300, "1.8"),
    "b4": (380, "4.2"),
    "b5": (456, "9.9"),
    "b6": (528, "19"),
    "b7": (600, "37"),
}


def efficientnet(names: list[str]) -> Iterator[Row]:
    """At the paper's sizes."""
    for short in names:
        (size, figure), name = EFFICIENTNETS[short], f"efficientnet_{short}"
        found = gmacs(torchvision_models.build(name, meta=True), size)
        row = printed("Tan & Le 2019, table 2", f"{name}, {size}²", MACS, figure, found)
        (image,) = torchvision_models.example_inputs(name, weights="IMAGENET1K_V1")
        registered = torchvision_models.weights_of(name, "IMAGENET1K_V1").meta["_ops"]
        attested = image.shape[-1] == size and round(found, 3) == registered
        if row["verdict"] == UNEXPLAINED and attested:
            row |= {"reasons": [REGISTRY], "verdict": ALONE}
        yield row


# of timm's models: what they print, at the side of the image
DEIT3 = {
    ("deit3_small_patch16_224", 224): "4.6",
    ("deit3_small_patch16_384", 384): "15.5",
    ("deit3_base_patch16_224", 224): "17.5",
    ("deit3_base_patch16_384", 384): "55.5",
    ("deit3_large_patch16_224", 224): "61.6",
    ("deit3_large_patch16_384", 384): "191.2",
    ("deit3_huge_patch14_224", 224): "167.4",
}
SWIN = {
    ("swin_tiny_patch4_window7_224", 224): "4.5",
    ("swin_small_patch4_window7_224", 224): "8.7",
    ("swin_base_patch4_window7_224", 224): "15.4",
    ("swin_base_patch4_window12_384", 384): "47.0",
    ("swin_large_patch4_window12_384", 384): "103.9",
    ("deit_small_patch16_224", 224): "4.6",
    ("deit_base_patch16_224", 224): "17.5",
    ("deit_base_patch16_384", 384): "55.4",
    ("vit_base_patch16_384", 384): "55.4",
    ("vit_large_patch16_384", 384): "190.7",
}
CONVNEXT = {
    ("convnext_tiny", 224): "4.5",
    ("convnext_tiny", 384): "13.1",
    ("convnext_small", 224): "8.7",
    ("convnext_small", 384): "25.5",
    ("convnext_base", 224): "15.4",
    ("convnext_base", 384): "45.0",
    ("convnext_large", 224): "34.4",
    ("convnext_large", 384): "101.0",
    ("convnext_xlarge", 224): "60.9",
    ("convnext_xlarge", 384): "179.0",
}
PRINTED_AGAIN = {("convnext_base", 384): "45.1"}
"""In the part of the table for models pre-trained on ImageNet-22K."""

TABLES = {
    "Touvron et al. 2022 (DeiT III), README": DEIT3,
    "Liu et al. 2021 (Swin), table 1": SWIN,
    "Liu et al. 2022 (ConvNeXt), table 1": CONVNEXT,
}


def of_timm(name: str, **config: Any) -> nn.Module:
    """A model of timm, of 1,000 classes."""
    import timm

    with torch.device("meta"):
        model: nn.Module = timm.create_model(name, num_classes=1000, **config)
    return model


def compared(source: str, models: list[tuple[str, int]]) -> Iterator[Row]:
    """A table's models beside timm's."""
    table = TABLES[source]
    for name, size in models:
        model = of_timm(name)
        found = gmacs(model, size)
        others = {}
        if table is DEIT3:
            others[NORMS] = found + norms(model, size)
        elif hasattr(model, "cls_token"):
            others[TOKEN] = gmacs(of_timm(name, class_token=False, global_pool="avg"), size)
        row = printed(source, f"{name}, {size}²", MACS, table[name, size], found, **others)
        again = PRINTED_AGAIN.get((name, size))
        if row["verdict"] == UNEXPLAINED and again and same(again, found):
            row |= {"reasons": [AGAIN], "verdict": ALONE}
        yield row


def rows(quick: bool) -> Iterator[Row]:
    """Of every table; quickly, the first rows."""
    most = 2 if quick else None
    yield from resnet([*RESNETS][:most])
    yield from efficientnet([*EFFICIENTNETS][:most])
    for source, table in TABLES.items():
        yield from compared(source, [*table][:most])
