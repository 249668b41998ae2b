"""The steps that every formula is a sum of: dot products, element-wise steps, reductions."""

import torch
from torch import Tensor

from flopcount.cost import Cost
from flopcount.formulas.complex import PRODUCT, QUOTIENT, ROOT, SELECT, SUM
from flopcount.formulas.registry import Gradients, Uncountable
from flopcount.torch_private.modes import without_modes


def contraction(*, dots: int, length: int) -> Cost:
    """``dots`` dot products of ``length`` multiplications and ``length - 1`` additions each."""
    return dot_products(macs=dots * length, dots=dots)


def dot_products(*, macs: int, dots: int, void_macs: int = 0) -> Cost:
    """``macs`` in ``dots`` dot products of any lengths; without MACs there is no dot product."""
    return Cost(macs=macs, dots=dots if macs else 0, void_macs=void_macs)


def of_integers(cost: Cost) -> Gradients:
    """``cost``, whose MACs are of integers, while the rest of it is work on floats."""
    products = Cost(macs=cost.macs, dots=cost.dots, void_macs=cost.void_macs)
    return Gradients(unsplit=cost - products, integer=products)


def elementwise(
    out: Tensor,
    count: int | None = None,
    *,
    add: int = 0,
    mul: int = 0,
    div: int = 0,
    sqrt: int = 0,
    compare: int = 0,
    special: int = 0,
) -> Cost:
    """The steps for one element, times the elements of ``out``, or times ``count``.

    ``add`` stands for subtraction too, ``compare`` for minimum, maximum, select, negation,
    absolute value and rounding. Complex numbers have no order: for them ``compare`` counts only
    selects and negations. Each transcendental function of them has steps of its own.

    Raises:
        Uncountable: ``special`` steps on complex numbers.
    """
    n = out.numel() if count is None else count
    if out.is_complex():
        if special:
            raise Uncountable("this function of complex numbers")
        steps = add * SUM + mul * PRODUCT + div * QUOTIENT + sqrt * ROOT + compare * SELECT
        return n * steps
    return Cost(arith=n * (add + mul + div + sqrt), compare=n * compare, special=n * special)


def fold(values: int, results: int) -> int:
    """Operations that reduce ``values`` values to ``results``: n - 1 for a result of n values."""
    return max(values - results, 0)


def lengths(tensor: Tensor) -> list[int]:
    """The values of a tensor of lengths, for formulas that are registered with ``values=True``.

    Raises:
        Uncountable: as for :func:`on_host`.
    """
    values: list[int] = on_host(tensor, "lengths of sequences").tolist()
    return values


def on_host(tensor: Tensor, what: str) -> Tensor:
    """A copy of ``tensor`` on the CPU, for formulas that are registered with ``values=True``.

    Args:
        tensor: what to copy; this waits until an accelerator has computed it.
        what: its values in words, for the error.

    Raises:
        Uncountable: it has no values, as on the meta device; or a CUDA graph is being recorded,
            during which nothing may wait for the device.
    """
    if type(tensor) is not Tensor or tensor.is_meta:
        raise Uncountable(f"{what} are values, and here there are none")
    if tensor.is_cuda and torch.cuda.is_current_stream_capturing():
        raise Uncountable(f"{what} are values, which a CUDA graph does not tell")
    with without_modes():
        return tensor.detach().cpu()
