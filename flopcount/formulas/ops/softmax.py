"""Softmax and its logarithm, forward and backward.

Letters: n values in m rows along the dimension that is normalised.
"""

from typing import Any

from torch import Tensor

from flopcount.cost import Cost
from flopcount.formulas.ops.reduction import rows
from flopcount.formulas.registry import Gradients, formula
from flopcount.formulas.steps import elementwise, fold


def softmax_steps(n: int, m: int) -> Cost:
    """e^(x - max) / Σe^(x - max) of n values in m rows.

    n - m comparisons, n differences, n exponentials, n - m additions, n divisions.
    """
    return Cost(compare=fold(n, m), arith=2 * n + fold(n, m), special=n)


def softmax_backward_steps(n: int, m: int) -> Cost:
    """y·g - y·Σ(y·g) of n values in m rows: two products, a sum and a difference."""
    return Cost(arith=3 * n + fold(n, m))


# "int_out" ops have a tensor for the result already; without one they open themselves


@formula("aten::_softmax", "aten::softmax.int_out")
def softmax(x: Tensor, dim: int, *args: Any, out: Tensor, **kwargs: Any) -> Cost:
    """e^(x - max) / Σe^(x - max) along each row."""
    return softmax_steps(x.numel(), rows(x, dim))


@formula("aten::_log_softmax", "aten::log_softmax.int_out")
def log_softmax(x: Tensor, dim: int, *args: Any, out: Tensor, **kwargs: Any) -> Cost:
    """(x - max) - log Σe^(x - max): a logarithm for each row, and no division."""
    n, m = x.numel(), rows(x, dim)
    return softmax_steps(n, m) + Cost(special=m)  # n differences stand for n divisions


@formula("aten::_safe_softmax")
def _safe_softmax(x: Tensor, dim: int, dtype: Any = None, *, out: Tensor) -> Cost:
    """A softmax that looks for -inf, n comparisons, and clears rows of nothing else, n selects."""
    return softmax_steps(x.numel(), rows(x, dim)) + elementwise(x, compare=2)


@formula("aten::_masked_softmax")
def _masked_softmax(
    x: Tensor, mask: Tensor, dim: int | None = None, mask_type: int | None = None, *, out: Tensor
) -> Cost:
    """A softmax of x or -inf, n selects, that clears rows of nothing else, n selects."""
    m = rows(x, -1 if dim is None else dim)
    return softmax_steps(x.numel(), m) + elementwise(x, compare=2)


@formula("aten::_softmax_backward_data")
def _softmax_backward_data(
    grad: Tensor, y: Tensor, dim: int, input_dtype: Any, *, out: Tensor
) -> Gradients:
    """y·g - y·Σ(y·g) along each row."""
    return Gradients(input=softmax_backward_steps(y.numel(), rows(y, dim)))


@formula("aten::_masked_softmax_backward")
def _masked_softmax_backward(
    grad: Tensor, y: Tensor, mask: Tensor, dim: int | None = None, *, out: Tensor
) -> Gradients:
    """A softmax's gradient, and a select for each element."""
    steps = softmax_backward_steps(y.numel(), rows(y, -1 if dim is None else dim))
    return Gradients(input=steps + elementwise(y, compare=1))


@formula("aten::_log_softmax_backward_data")
def _log_softmax_backward_data(
    grad: Tensor, y: Tensor, dim: int, input_dtype: Any, *, out: Tensor
) -> Gradients:
    """g - eʸ·Σg: an exponential, a product and a difference for each element, and the sum."""
    steps = elementwise(y, special=1, mul=1, add=1)
    return Gradients(input=steps + Cost(arith=fold(y.numel(), rows(y, dim))))
