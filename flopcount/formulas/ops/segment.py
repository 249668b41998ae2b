"""Reductions of neighbouring rows: n values in m results, each of at least one value."""

from typing import Any

from torch import Tensor

from flopcount.cost import ZERO, Cost
from flopcount.formulas.registry import Gradients, formula
from flopcount.formulas.steps import elementwise, fold


@formula("aten::segment_reduce")
def segment_reduce(
    data: Tensor, reduce: str, *, initial: float | None = None, out: Tensor, **segments: Any
) -> Cost:
    """n - m sums, products or comparisons; an initial value is one more. A mean divides each."""
    steps = fold(data.numel(), out.numel() if initial is None else 0)
    if reduce in ("max", "min"):
        return elementwise(out, steps, compare=1)
    mean = elementwise(out, div=1) if reduce == "mean" else ZERO
    return elementwise(out, steps, add=1) + mean  # a real product is one operation as well


@formula("aten::_segment_reduce_backward")
def segment_reduce_backward(
    grad: Tensor, output: Tensor, data: Tensor, reduce: str, *, out: Tensor, **segments: Any
) -> Gradients:
    """Each value x of a segment gets a share of the gradient g of the result y.

    A sum's is g as it is, a mean's g / length, m divisions. A maximum's goes to the values that
    are it, n comparisons, and is shared by them, m divisions. A product's is g·y / x: m
    products, n divisions, and n comparisons of x with 0, where the product is taken anew.
    """
    if reduce == "sum":
        return Gradients()
    if reduce == "prod":
        return Gradients(input=elementwise(output, mul=1) + elementwise(data, compare=1, div=1))
    shared = elementwise(output, div=1)
    return Gradients(input=shared + (ZERO if reduce == "mean" else elementwise(data, compare=1)))
