"""Small, plain definitions of the models that the tests and benchmarks run.

Written with torch alone, as one would write them today: a GPT-2, a Llama (RMSNorm, rotary
embedding, SwiGLU or a mixture of experts, grouped-query attention), a BERT encoder, a ViT, an LSTM,
a tower of tiny layers, and a product with a backward of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """Multi-head attention with one projection for queries, keys and values."""

    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, s, w = x.shape
        q, k, v = self.qkv(x).view(b, s, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(y.transpose(1, 2).reshape(b, s, w))


class Mlp(nn.Module):
    """Two layers with GELU between them."""

    def __init__(self, width: int, approximate: str) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.act = nn.GELU(approximate)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.up(x)))


class Block(nn.Module):
    """A transformer block: normalisation before each part, or after it as in BERT."""

    def __init__(
        self, width: int, heads: int, *, causal: bool, post: bool = False, approximate: str = "none"
    ) -> None:
        super().__init__()
        self.post = post
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, causal=causal)
        self.mlp = Mlp(width, approximate)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        if self.post:
            x = self.norm1(x + self.dropout(self.attention(x)))
            return self.norm2(x + self.dropout(self.mlp(x)))
        x = x + self.dropout(self.attention(self.norm1(x)))
        return x + self.dropout(self.mlp(self.norm2(x)))


class GPT2(nn.Module):
    """Radford et al. 2019, with tied embeddings; returns the mean cross-entropy."""

    def __init__(
        self, layers: int = 12, width: int = 768, heads: int = 12, vocab: int = 50257
    ) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab, width), nn.Embedding(1024, width)
        self.blocks = nn.ModuleList(
            Block(width, heads, causal=True, approximate="tanh") for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab, bias=False)
        nn.init.normal_(self.wte.weight, std=0.02)
        self.head.weight = self.wte.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


class BERT(nn.Module):
    """Devlin et al. 2018: the encoder, with padding masked out."""

    def __init__(
        self, layers: int = 12, width: int = 768, heads: int = 12, vocab: int = 30522
    ) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(vocab, width), nn.Embedding(512, width)
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            Block(width, heads, causal=False, post=True) for _ in range(layers)
        )
        self.pooler = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.norm(self.words(tokens) + self.positions(positions))
        for block in self.blocks:
            x = block(x)
        return torch.tanh(self.pooler(x[:, 0]))


class ViT(nn.Module):
    """Dosovitskiy et al. 2020."""

    def __init__(
        self, layers: int = 12, width: int = 768, heads: int = 12, patch: int = 16, size: int = 224
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, 1 + (size // patch) ** 2, width))
        self.blocks = nn.Sequential(*(Block(width, heads, causal=False) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 1000)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


class SwiGLU(nn.Module):
    """A gated layer, Shazeer 2020."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Experts(nn.Module):
    """Many gated layers, of which each token is given to a few: Shazeer et al. 2017."""

    def __init__(self, width: int, hidden: int, experts: int, active: int) -> None:
        super().__init__()
        self.active = active
        self.router = nn.Linear(width, experts, bias=False)
        self.up = nn.Parameter(torch.randn(experts, width, 2 * hidden) / width**0.5)
        self.down = nn.Parameter(torch.randn(experts, hidden, width) / hidden**0.5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, -2)
        scores, chosen = self.router(tokens).softmax(-1).topk(self.active)
        experts, order = chosen.flatten().sort()
        every = torch.arange(len(self.up), device=x.device)
        ends = torch.searchsorted(experts, every, right=True).int()  # of each expert's tokens
        y = tokens[order // self.active]
        gate, up = F.grouped_mm(y, self.up, offs=ends).chunk(2, -1)
        y = F.grouped_mm(F.silu(gate) * up, self.down, offs=ends)
        y = y * scores.flatten()[order].unsqueeze(-1)
        return torch.zeros_like(tokens).index_add(0, order // self.active, y).view_as(x)


class LlamaBlock(nn.Module):
    """Grouped-query attention with rotary positions, and a gated layer."""

    def __init__(self, width: int, heads: int, kv_heads: int, mlp: nn.Module) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.size = heads, kv_heads, width // heads
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q = nn.Linear(width, heads * self.size, bias=False)
        self.k = nn.Linear(width, kv_heads * self.size, bias=False)
        self.v = nn.Linear(width, kv_heads * self.size, bias=False)
        self.o = nn.Linear(width, width, bias=False)
        self.mlp = mlp

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        b, s, w = x.shape
        y = self.norm1(x)
        q = rotate(self.q(y).view(b, s, self.heads, self.size).transpose(1, 2), cos, sin)
        k = rotate(self.k(y).view(b, s, self.kv_heads, self.size).transpose(1, 2), cos, sin)
        v = self.v(y).view(b, s, self.kv_heads, self.size).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.o(y.transpose(1, 2).reshape(b, s, w))
        return x + self.mlp(self.norm2(x))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding, Su et al. 2021."""
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat([-right, left], -1) * sin


class Llama(nn.Module):
    """Llama 3, Grattafiori et al. 2024; returns the mean cross-entropy.

    With ``experts`` each block is a mixture of so many, of which ``active`` see a token.
    """

    def __init__(
        self,
        layers: int = 32,
        width: int = 4096,
        heads: int = 32,
        kv_heads: int = 8,
        hidden: int = 14336,
        vocab: int = 128256,
        experts: int = 0,
        active: int = 0,
    ) -> None:
        super().__init__()
        self.size = width // heads
        self.embed = nn.Embedding(vocab, width)

        def mlp() -> nn.Module:
            if experts:
                return Experts(width, hidden, experts, active)
            return SwiGLU(width, hidden)

        self.layers = nn.ModuleList(
            LlamaBlock(width, heads, kv_heads, mlp()) for _ in range(layers)
        )
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, vocab, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        steps = torch.arange(0, self.size, 2, device=tokens.device) / self.size
        angles = torch.outer(
            torch.arange(tokens.shape[1], device=tokens.device), 500000.0**-steps
        ).repeat(1, 2)
        x = self.embed(tokens)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        for layer in self.layers:
            x = layer(x, cos, sin)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


class Lstm(nn.Module):
    """Hochreiter and Schmidhuber 1997, in layers, and a projection of the last step."""

    def __init__(self, inputs: int = 64, width: int = 128, layers: int = 2) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, width, layers, batch_first=True)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def tiny_layers(depth: int = 20, width: int = 8) -> nn.Module:
    """A tower in which every op is tiny: the worst case for a profiler."""
    pairs = (layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU()))
    return nn.Sequential(*pairs)


class Product(torch.autograd.Function):
    """x·w, with a backward of its own that computes the gradients which are wanted."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return x @ w

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,), (x, w) = gradients, ctx.saved_tensors
        by_x, by_w = ctx.needs_input_grad
        return gradient @ w.T if by_x else None, x.T @ gradient if by_w else None


def tokens() -> Tensor:
    return torch.arange(2 * 12).reshape(2, 12) % 50


SMALL: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "GPT-2": lambda: (GPT2(2, 32, 4, 50), tokens()),
    "BERT": lambda: (BERT(2, 32, 4, 50), tokens()),
    "Llama": lambda: (Llama(2, 32, 4, 2, 48, 50), tokens()),
    "ViT": lambda: (ViT(2, 32, 4, 4, 16), torch.randn(2, 3, 16, 16)),
    "tiny layers": lambda: (tiny_layers(3), torch.randn(2, 8)),
}
"""At a size that a test runs in a blink, each with its inputs."""
