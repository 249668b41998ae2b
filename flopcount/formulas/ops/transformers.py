"""Ops of Hugging Face transformers: products of experts, where torch's grouped product is not."""

from typing import Any

from torch import Tensor

from flopcount.cost import Cost
from flopcount.formulas.ops.lowprecision import group_products
from flopcount.formulas.registry import Gradients, formula
from flopcount.formulas.steps import contraction, dot_products


@formula("transformers::grouped_mm_fallback")
def grouped_mm(x: Tensor, weight: Tensor, offs: Tensor, *, out: Tensor) -> Cost:
    """(s, k) @ (g, k, n), each row with the matrix of its expert: s·n dot products of length k."""
    return group_products(x, weight, out)


@formula("transformers::grouped_mm_fallback_backward")
def grouped_mm_backward(
    x: Tensor, weight: Tensor, offs: Tensor, grad: Tensor, *, out: Any
) -> Gradients:
    """dx: s·k dot products of length n; dW: xᵀ·g of each expert, g·k·n in all, s·k·n MACs."""
    rows, n = grad.shape
    return Gradients(
        input=contraction(dots=x.numel(), length=n),
        weight=dot_products(macs=rows * x.shape[1] * n, dots=weight.numel()),
    )
