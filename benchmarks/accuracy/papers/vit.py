"""ViT: the GFLOPs of Zhai et al., and the training compute of Dosovitskiy et al.

Neither paper says how it counted. The first table (arXiv 2106.04560) turns out to have what XLA
says of the authors' program, which the model here repeats op by op: a MAC is two, other operations
are one, exp and tanh none. Of a class token, a mean of the tokens, and the attention of the paper's
head, it is the mean that has its figures. In the second (arXiv 2010.11929v2) most are those of
three forward passes without padding, and the others have no key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.accuracy.papers import printed, table
from benchmarks.accuracy.verdicts import ALONE, UNEXPLAINED, UNKNOWN, Row
from flopcount import Convention, FlopCounter, Report

__all__ = ["rows"]

XLA = Convention(special=0)
"""XLA counts exp, tanh and their like apart from FLOPs."""

CLASSES_OF_JFT_3B = 29_593
"""In the authors' configuration, ``train_vit_g.py`` of big_vision."""

CLASSES_OF_JFT_300M, IMAGES_OF_JFT_300M = 18_000, 303e6

TWICE = "it takes backward for twice the forward pass, and counts no products with padding"
UNSAID = "the paper does not say how it counted"
TWICE_THE_EPOCHS = "no reason is known; the same table has flopcount's figure for twice the epochs"


class Norm(nn.Module):
    """A layer norm as flax computes it: the mean of x² with that of x, 7 operations an element."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(-1, keepdim=True)
        variance = x.square().mean(-1, keepdim=True) - mean.square()
        return (x - mean) * ((variance + 1e-6).rsqrt() * self.scale) + self.bias


class Block(nn.Module):
    """Attention that keeps its scores, and two layers."""

    def __init__(self, width: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm1, self.norm2 = heads, Norm(width), Norm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        q, k, v = (part.transpose(1, 2) for part in parts)
        scores = (q / q.shape[-1] ** 0.5 @ k.mT).softmax(-1)
        x = x + self.out((scores @ v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class ViT(nn.Module):
    """A vision transformer, with a class token or with the mean of all tokens."""

    def __init__(
        self, shape: tuple[int, int, int, int], patch: int, size: int, classes: int, *, token: bool
    ) -> None:
        super().__init__()
        width, depth, hidden, heads = shape
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width)) if token else None
        self.positions = nn.Parameter(torch.zeros(1, (size // patch) ** 2 + token, width))
        self.blocks = nn.Sequential(*(Block(width, hidden, heads) for _ in range(depth)))
        self.norm, self.head = Norm(width), nn.Linear(width, classes)

    def forward(self, image: Tensor) -> Any:
        x = self.embed(image).flatten(2).mT
        if self.token is not None:
            x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        x = self.norm(self.blocks(x + self.positions))
        return self.head(x.mean(1) if self.token is None else x[:, 0])


def step(model: nn.Module, size: int) -> Report:
    """Forward and backward, of one image."""
    with FlopCounter() as counter:
        model(torch.empty(1, 3, size, size, device="meta")).sum().backward()
    return counter.report()


def shape_of(name: str) -> tuple[int, int, int, int]:
    """Width, layers, hidden width and heads of a ViT."""
    (row,) = (row for row in table("vit_shapes").rows if row["shape"] == name)
    return row["width"], row["layers"], row["hidden"], row["heads"]


def scaling(rows: list[Row]) -> Iterator[Row]:
    """Forward, with all that is not a product, and without a class token."""
    paper = table("vit_scaling")
    for row in rows:
        shape, patch, size = row["shape"], row["patch"], row["size"]
        with torch.device("meta"):
            model = ViT(shape_of(shape), patch, size, CLASSES_OF_JFT_3B, token=False)
        gflops = XLA.flops(step(model, size).phases["forward"]) / 1e9
        name = f"ViT-{shape}/{patch}, {size}²"
        yield printed(paper.source, name, paper.unit, row["printed"], gflops)


def vit(shape: str, patch: int) -> nn.Module:
    return ViT(shape_of(shape), patch, 224, CLASSES_OF_JFT_300M, token=True)


def bit(depth: int, wide: int) -> nn.Module:
    """A ResNet with group norms and standardised weights."""
    from timm.layers import GroupNormAct, StdConv2d
    from timm.models.resnetv2 import ResNetV2

    layers = {50: [3, 4, 6, 3], 101: [3, 4, 23, 3], 152: [3, 8, 36, 3], 200: [3, 24, 36, 3]}
    return ResNetV2(
        layers[depth],
        num_classes=CLASSES_OF_JFT_300M,
        width_factor=wide,
        stem_type="fixed",
        conv_layer=partial(StdConv2d, eps=1e-8),
        norm_layer=partial(GroupNormAct, num_groups=32),
    )


def hybrid(shape: str, patch: int) -> nn.Module:
    """A ViT on what a ResNet makes of the image; without its last stage where patches are small."""
    from timm.models.vision_transformer import VisionTransformer
    from timm.models.vision_transformer_hybrid import HybridEmbed, _resnetv2

    width, depth, _, heads = shape_of(shape)
    backbone = _resnetv2((3, 4, 9) if patch == 16 else (3, 4, 6, 3))
    return VisionTransformer(
        patch_size=1,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        num_classes=CLASSES_OF_JFT_300M,
        embed_layer=partial(HybridEmbed, backbone=backbone),
    )


BUILDERS: dict[str, Callable[[Any, int], nn.Module]] = {"vit": vit, "bit": bit, "hybrid": hybrid}


def compute(rows: list[Row]) -> Iterator[Row]:
    """Two operations for each MAC of a step, images times epochs."""
    for name, of_model in groupby(rows, key=itemgetter("model")):
        found = list(compute_of(name, list(of_model)))
        for row in found:
            if row["verdict"] == UNKNOWN and any(other["verdict"] != UNKNOWN for other in found):
                row |= {"reasons": [TWICE_THE_EPOCHS], "verdict": ALONE}
            yield row


def compute_of(name: str, rows: list[Row]) -> Iterator[Row]:
    """The figures of one model, which differ in their epochs."""
    paper = table("vit_compute")
    with torch.device("meta"):
        model = BUILDERS[rows[0]["kind"]](rows[0]["shape"], rows[0]["scale"])
    report = step(model, 224)
    for row in rows:
        images = row["epochs"] * IMAGES_OF_JFT_300M / 1e18
        whole = report.total.matmul_flops * images
        twice = 3 * 2 * report.phases["forward"].valid_macs * images
        label = f"{name}, {row['epochs']} epochs"
        found = printed(paper.source, label, paper.unit, row["printed"], whole, **{TWICE: twice})
        if found["verdict"] == UNEXPLAINED:
            why = f"{UNSAID}; {float(row['printed']) / twice - 1:+.1%} to three forward passes"
            found |= {"reasons": [why], "verdict": UNKNOWN}
        yield found


def rows(first: int | None) -> Iterator[Row]:
    """Of both tables, or of the ``first`` rows of each."""
    yield from scaling(table("vit_scaling", first).rows)
    yield from compute(table("vit_compute", first).rows)
