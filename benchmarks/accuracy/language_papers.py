"""Chinchilla, PaLM and Megatron: models of the papers' sizes, on meta, beside their formulas.

The papers are arXiv 2203.15556, 2204.02311 and 2104.04473.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from benchmarks.accuracy.papers import formula, printed
from benchmarks.accuracy.verdicts import Row
from flopcount import FlopCounter, Report
from tests.models import Block

__all__ = ["rows"]

CHINCHILLA = "Hoffmann et al. 2022, appendix F"
PALM = "Chowdhery et al. 2022, appendix B"
MEGATRON = "Narayanan et al. 2021, equation 3"

ONE_HOT = "it counts the embedding as a product with one-hot vectors, which here is a look-up"
SOFTMAX = "it adds three operations of softmax for each score"
BODY = "the ratio leaves out embedding and logits, which the formula beside it counts"


class Decoder(nn.Module):
    """A decoder whose embedding is its classifier, too."""

    def __init__(self, vocab: int, width: int, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, width)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, tokens: Tensor, *, recompute: bool = False) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
        return F.linear(x, self.embedding.weight)


class PalmBlock(nn.Module):
    """Attention with one head of keys and values, beside a SwiGLU; no biases."""

    def __init__(self, width: int, heads: int, size: int) -> None:
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(width, bias=False)
        self.sizes = [heads * size, size, size]
        self.qkv = nn.Linear(width, sum(self.sizes), bias=False)
        self.out = nn.Linear(heads * size, width, bias=False)
        self.gate = nn.Linear(width, 4 * width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        q, k, v = self.qkv(y).split(self.sizes, -1)
        q = q.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = k.unsqueeze(1).expand_as(q), v.unsqueeze(1).expand_as(q)
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        mlp: Tensor = self.down(F.silu(self.gate(y)) * self.up(y))
        attended: Tensor = self.out(z.transpose(1, 2).flatten(2))
        return x + attended + mlp


class ChinchillaBlock(nn.Module):
    """Attention, its heads of any size together, and two layers; no biases."""

    def __init__(self, width: int, hidden: int, heads: int, size: int) -> None:
        super().__init__()
        self.heads, self.norm1, self.norm2 = heads, nn.RMSNorm(width), nn.RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * heads * size, bias=False)
        self.out = nn.Linear(heads * size, width, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(z.transpose(1, 2).flatten(2))
        mlp: Tensor = self.down(F.gelu(self.up(self.norm2(x))))
        return x + mlp


def step(model: Decoder, length: int, *, recompute: bool = False) -> Report:
    """Forward and backward of one sequence; ``recompute`` each block, to its end."""
    tokens = torch.zeros(1, length, dtype=torch.int64, device="meta")
    with FlopCounter(model) as counter, set_checkpoint_early_stop(False):
        model(tokens, recompute=recompute).sum().backward()
    return counter.report()


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def matrices(model: nn.Module) -> int:
    """Parameters that take part in products."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.dim() == 2)


# parameters in billions: heads, width, layers
MEGATRON_SIZES = {
    "1.7": (24, 2304, 24),
    "3.6": (32, 3072, 30),
    "7.5": (32, 4096, 36),
    "18.4": (48, 6144, 40),
    "39.1": (64, 8192, 48),
    "76.1": (80, 10240, 60),
    "145.6": (96, 12288, 80),
    "310.1": (128, 16384, 96),
    "529.6": (128, 20480, 105),
    "1008.0": (160, 25600, 128),
}


def megatron(sizes: list[str]) -> Iterator[Row]:
    """F = 96·B·s·l·h²·(1 + s/(6·h) + V/(16·l·h)), every layer's activations computed again.

    Of its parameters the model here lacks the table of positions, s·h, and has no last norm.
    """
    s, vocab = 2048, 51200
    for size in sizes:
        heads, h, layers = MEGATRON_SIZES[size]
        with torch.device("meta"):
            blocks = [Block(h, heads, causal=True) for _ in range(layers)]
            model = Decoder(vocab, h, list(blocks))
        name = f"Megatron, {size} B"
        found = (parameters(model) + s * h) / 1e9
        yield printed("Narayanan et al. 2021, table 1", name, "G parameters", size, found)
        flops = 96 * s * layers * h**2 + 16 * s**2 * layers * h + 6 * s * vocab * h
        report = step(model, s, recompute=True)
        yield formula(MEGATRON, name, "FLOP a sequence", flops, report.total.matmul_flops)


# parameters in billions: layers L, heads H, width
PALM_SIZES = {"8.63": (32, 16, 4096), "62.50": (64, 32, 8192), "540.35": (118, 48, 18432)}


def palm() -> Iterator[Row]:
    """6·N + 12·L·H·Q·T for each token, T = 2048 of them, heads of size Q = 256."""
    t, size, vocab = 2048, 256, 256_000
    for billions, (layers, heads, width) in PALM_SIZES.items():
        with torch.device("meta"):
            blocks = [PalmBlock(width, heads, size) for _ in range(layers)]
            model = Decoder(vocab, width, list(blocks))
        name = f"PaLM, {billions} B"
        found = parameters(model) / 1e9
        yield printed("Chowdhery et al. 2022, table 1", name, "G parameters", billions, found)
        flops = t * (6 * matrices(model) + 12 * layers * heads * size * t)
        yield formula(PALM, name, "FLOP a sequence", flops, step(model, t).total.matmul_flops)


# parameters: layers, width, hidden width, heads, size of a head; the printed ratio to 6·N·D
CHINCHILLA_SIZES = {
    "73 M": (10, 640, 2560, 10, 64, "1.03"),
    "305 M": (20, 1024, 4096, 16, 64, "1.10"),
    "552 M": (24, 1280, 5120, 10, 128, "1.08"),
    "1.1 B": (26, 1792, 7168, 14, 128, "1.04"),
    "1.6 B": (28, 2048, 8192, 16, 128, "1.03"),
    "6.8 B": (40, 3584, 14336, 28, 128, "0.99"),
}


def chinchilla() -> Iterator[Row]:
    """The appendix's list of terms, three times for forward and backward, and table A4's ratio.

    N includes a projection of relative positions in each layer, width², which no term counts.
    """
    s, vocab = 2048, 32_000
    for size, (layers, width, hidden, heads, key, ratio) in CHINCHILLA_SIZES.items():
        with torch.device("meta"):
            blocks = [ChinchillaBlock(width, hidden, heads, key) for _ in range(layers)]
            model = Decoder(vocab, width, list(blocks))
        wide = heads * key
        projections = 2 * 3 * s * width * wide + 2 * s * wide * width
        products = 2 * s * s * wide + 2 * s * s * wide
        softmax = 3 * heads * s * s
        dense = 2 * s * (width * hidden + hidden * width)
        embedding = logits = 2 * s * vocab * width
        layer = projections + products + softmax + dense
        flops = 3 * (embedding + layers * layer + logits)
        found = step(model, s).total.matmul_flops
        more = {ONE_HOT: 3 * embedding, SOFTMAX: 3 * layers * softmax}
        name = f"Chinchilla, {size}"
        yield formula(CHINCHILLA, name, "FLOP a sequence", flops, found, more)
        n = parameters(model) + layers * width**2
        whole = (found + sum(more.values())) / (6 * n * s)
        body = whole - 3 * (embedding + logits) / (6 * n * s)
        yield printed(
            "Hoffmann et al. 2022, table A4", name, "FLOP ÷ 6·N·D", ratio, whole, **{BODY: body}
        )


def rows(quick: bool) -> Iterator[Row]:
    """Of all three papers; quickly, of the three smallest of Megatron's models."""
    yield from megatron([*MEGATRON_SIZES][: 3 if quick else None])
    yield from palm()
    yield from chinchilla()
