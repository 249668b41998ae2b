"""Chinchilla, PaLM and Megatron: models of the papers' sizes, on meta, beside their formulas."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from benchmarks.accuracy.papers import formula, printed, table
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


def megatron(rows: list[Row]) -> Iterator[Row]:
    """F = 96·B·s·l·h²·(1 + s/(6·h) + V/(16·l·h)), every layer's activations computed again.

    Of its parameters the model here lacks the table of positions, s·h, and has no last norm.
    """
    paper, s, vocab = table("megatron"), 2048, 51200
    for row in rows:
        h, layers = row["width"], row["layers"]
        with torch.device("meta"):
            blocks = [Block(h, row["heads"], causal=True) for _ in range(layers)]
            model = Decoder(vocab, h, list(blocks))
        name = f"Megatron, {row['printed']} B"
        billions = (parameters(model) + s * h) / 1e9
        yield printed(paper.source, name, paper.unit, row["printed"], billions)
        flops = 96 * s * layers * h**2 + 16 * s**2 * layers * h + 6 * s * vocab * h
        report = step(model, s, recompute=True)
        yield formula(MEGATRON, name, "FLOP a sequence", flops, report.total.matmul_flops)


def palm(rows: list[Row]) -> Iterator[Row]:
    """6·N + 12·L·H·Q·T for each token, T = 2048 of them, heads of size Q = 256."""
    paper, t, size, vocab = table("palm"), 2048, 256, 256_000
    for row in rows:
        layers, heads, width = row["layers"], row["heads"], row["width"]
        with torch.device("meta"):
            blocks = [PalmBlock(width, heads, size) for _ in range(layers)]
            model = Decoder(vocab, width, list(blocks))
        name = f"PaLM, {row['printed']} B"
        yield printed(paper.source, name, paper.unit, row["printed"], parameters(model) / 1e9)
        flops = t * (6 * matrices(model) + 12 * layers * heads * size * t)
        yield formula(PALM, name, "FLOP a sequence", flops, step(model, t).total.matmul_flops)


def chinchilla(rows: list[Row]) -> Iterator[Row]:
    """The appendix's list of terms, three times for forward and backward, and table A4's ratio.

    N includes a projection of relative positions in each layer, width², which no term counts.
    """
    paper, s, vocab = table("chinchilla"), 2048, 32_000
    for row in rows:
        layers, width, hidden, heads = (row[c] for c in ("layers", "width", "hidden", "heads"))
        with torch.device("meta"):
            blocks = [ChinchillaBlock(width, hidden, heads, row["size"]) for _ in range(layers)]
            model = Decoder(vocab, width, list(blocks))
        wide = heads * row["size"]
        projections = 2 * 3 * s * width * wide + 2 * s * wide * width
        products = 2 * s * s * wide + 2 * s * s * wide
        softmax = 3 * heads * s * s
        dense = 2 * s * (width * hidden + hidden * width)
        embedding = logits = 2 * s * vocab * width
        layer = projections + products + softmax + dense
        flops = 3 * (embedding + layers * layer + logits)
        counted = step(model, s).total.matmul_flops
        more = {ONE_HOT: 3 * embedding, SOFTMAX: 3 * layers * softmax}
        name = f"Chinchilla, {row['model']}"
        yield formula(CHINCHILLA, name, "FLOP a sequence", flops, counted, more)
        n = parameters(model) + layers * width**2
        whole = (counted + sum(more.values())) / (6 * n * s)
        body = whole - 3 * (embedding + logits) / (6 * n * s)
        yield printed(paper.source, name, paper.unit, row["printed"], whole, **{BODY: body})


def rows(first: int | None) -> Iterator[Row]:
    """Of all three papers; with ``first``, of the three smallest of Megatron's models."""
    yield from megatron(table("megatron", 3 if first else None).rows)
    yield from palm(table("palm").rows)
    yield from chinchilla(table("chinchilla").rows)
