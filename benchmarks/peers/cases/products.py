"""Products that a model does by itself, with a function of torch and a parameter."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.peers.cases.catalogue import Made, layer, matrix, x
from tests.programs.catalogue import Composed


@layer(N := 4 * 8 * 16, 2 * N)
def matmul_operator() -> Made:
    """4·16 sums of 8 products."""
    return Composed(lambda self, x: x @ self.w, w=matrix(8, 16)), (x(4, 8),)


@layer(N := 2 * 3 * 4 * 5 * 6, 2 * N)
def matmul_that_broadcasts() -> Made:
    """(2, 1, 4, 5) by (3, 5, 6): 2·3 products of matrices, 4·5·6 each."""
    return Composed(lambda self, x: torch.matmul(x, self.w), w=matrix(3, 5, 6)), (x(2, 1, 4, 5),)


@layer(N := 3 * 4 * 5 * 6, 2 * N)
def bmm() -> Made:
    """Three products of matrices, 4·5·6 each."""
    return Composed(lambda self, x: torch.bmm(x, self.w), w=matrix(3, 5, 6)), (x(3, 4, 5),)


@layer(N := 3 * 4 * 5 * 6, 2 * N)
def baddbmm() -> Made:
    """Three products of matrices, 4·5·6 each, added to something."""
    model = Composed(lambda self, x, y: torch.baddbmm(y, x, self.w), w=matrix(3, 5, 6))
    return model, (x(3, 4, 5), x(3, 4, 6))


@layer(N := 4 * 64 * 16, 2 * N)
def addmm() -> Made:
    """4·16 sums of 64 products, added to something."""
    model = Composed(lambda self, x, y: torch.addmm(y, x, self.w), w=matrix(64, 16))
    return model, (x(4, 64), x(4, 16))


@layer(N := 16 * 8, N)
def matrix_by_vector() -> Made:
    """16 sums of 8 products; backward another with the transpose, and an outer product, which
    adds nothing up."""
    return Composed(lambda self, x: torch.mv(self.w, x), w=matrix(16, 8)), (x(8),)


@layer(8, 0)
def dot_product() -> Made:
    """A sum of 8 products; the gradients are multiples of the vectors."""
    return Composed(lambda self, x: torch.dot(self.w, x), w=matrix(8)), (x(8),)


@layer(N := 2 * 4 * 5 * 6 * 8, 2 * N)
def einsum() -> Made:
    """2·4·5·6 sums of 8 products."""
    model = Composed(lambda self, x: torch.einsum("bhid,hjd->bhij", x, self.w), w=matrix(4, 6, 8))
    return model, (x(2, 4, 5, 8),)


@layer(N := 4 * 16 * (2 * 8), 2 * N)
def tensordot() -> Made:
    """4·16 sums of 2·8 products."""
    model = Composed(lambda self, x: torch.tensordot(x, self.w, 2), w=matrix(2, 8, 16))
    return model, (x(4, 2, 8),)


@layer(N := 2 * 8 * 8 * 8 * (3 * 3 * 3), 2 * N)
def functional_convolution() -> Made:
    """2·8·8·8 outputs, each a sum of 3·3·3 products."""
    return Composed(lambda self, x: F.conv2d(x, self.w), w=matrix(8, 3, 3, 3)), (x(2, 3, 10, 10),)


@layer(N := 4 * 8 * 16, 2 * N)
def functional_linear() -> Made:
    """4·16 sums of 8 products."""
    return Composed(lambda self, x: F.linear(x, self.w), w=matrix(16, 8)), (x(4, 8),)


@layer(N := 4 * 6 * 7 * (5 + 1), None)
def bilinear() -> Made:
    """For 4 samples and 7 outputs a matrix 5·6 by a vector, and the result by another vector.

    Its backward is not compared: in which order it multiplies is the kernel's choice.
    """
    model = Composed(lambda self, x, y: self.layer(x, y), layer=nn.Bilinear(5, 6, 7, bias=False))
    return model, (x(4, 5), x(4, 6))


ATTENTION = 2 * 4 * 16 * 16 * 8
"""2·4 heads, 16 queries by 16 keys of 8."""


def attention(self: Any, keys: Any, **options: Any) -> Any:
    """Learned queries look at ``keys``."""
    return F.scaled_dot_product_attention(self.queries, keys, keys, **options)


@layer(2 * ATTENTION, 4 * ATTENTION, recomputed=ATTENTION)
def fused_attention() -> Made:
    """Scores and values; backward four products, and the fused kernel computes scores again."""
    return Composed(attention, queries=matrix(2, 4, 16, 8)), (x(2, 4, 16, 8),)


@layer(2 * ATTENTION, 4 * ATTENTION, recomputed=ATTENTION)
def causal_fused_attention() -> Made:
    """The same: by convention masked pairs count."""

    def run(self: Any, keys: Any) -> Any:
        return attention(self, keys, is_causal=True)

    return Composed(run, queries=matrix(2, 4, 16, 8)), (x(2, 4, 16, 8),)


@layer(2 * ATTENTION, 4 * ATTENTION, recomputed=ATTENTION)
def grouped_query_attention() -> Made:
    """The same: two heads of keys are shared by four of queries."""

    def run(self: Any, keys: Any) -> Any:
        return attention(self, keys, enable_gqa=True)

    return Composed(run, queries=matrix(2, 4, 16, 8)), (x(2, 2, 16, 8),)


@layer(N := 4 * (3 * 5 * 7), 2 * N)
def complex_matmul() -> Made:
    """3·7 sums of 5 complex products, each of 4 real ones."""

    def run(self: Any, real: Any) -> Any:
        return real.to(torch.complex64) @ torch.complex(self.w, self.w)

    return Composed(run, w=matrix(5, 7)), (x(3, 5),)


@layer(32 * 16 * 24, None)
def int8_matmul() -> Made:
    """32·24 sums of 16 products of integers."""

    class Quantised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(16, 24, dtype=torch.int8), requires_grad=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch._int_mm(x, self.w)

    return Quantised(), (torch.ones(32, 16, dtype=torch.int8),)


@layer(N := 12 * 5, N)
def sparse_matmul() -> Made:
    """12 entries that are not zero, each multiplied with 5 columns; they are constants."""
    entries = torch.stack([torch.arange(12) % 8, torch.arange(12) // 2])
    adjacency = torch.sparse_coo_tensor(entries, torch.ones(12), (8, 8)).coalesce()

    def run(self: Any, x: torch.Tensor) -> Any:
        return torch.sparse.mm(adjacency, x * self.scale)

    return Composed(run, scale=matrix(5)), (x(8, 5),)


@layer(N := 6 * (8 * 16 + 16 * 8), 2 * N)
def experts_on_their_tokens() -> Made:
    """6 tokens, each through the two layers of one expert, whichever that is, and a gate."""

    def run(self: Any, x: torch.Tensor) -> Any:
        ends = torch.tensor([2, 6], dtype=torch.int32)
        y = F.silu(F.grouped_mm(x, self.up, offs=ends))
        return F.grouped_mm(y, self.down, offs=ends) * x

    return Composed(run, up=matrix(2, 8, 16), down=matrix(2, 16, 8)), (x(6, 8),)
