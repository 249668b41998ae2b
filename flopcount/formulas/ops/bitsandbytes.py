"""Ops of bitsandbytes: weights of 4 and 8 bits, and optimizers whose states have 8.

A block of values shares a scale, its largest absolute value, and each value is kept as the place of
the nearest number in a table (a code). Dettmers et al., arXiv 2110.02861 (blocks), 2208.07339
(LLM.int8), 2305.14314 (4 bits). Products with weights of 4 bits are products of floats, which the
weights become first. The steps are those of the library's own kernels in Python.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import Tensor

from flopcount.cost import ZERO, Cost
from flopcount.formulas import bytes as traffic
from flopcount.formulas.call import Call
from flopcount.formulas.ops.matmul import affine
from flopcount.formulas.registry import Gradients, Traffic, Uncountable, formula
from flopcount.formulas.steps import contraction, elementwise, fold, of_integers


def decoded(out: Tensor, count: int | None = None) -> Cost:
    """code[q]·scale: a look-up, and a product for each value."""
    return elementwise(out, count, mul=1)


def encoded(x: Tensor, count: int, blocks: int, codes: int) -> Cost:
    """The nearest of so many codes to x / scale, for ``count`` values in ``blocks``.

    A block's scale is max |x|, at least a tiny number, and one division gives its inverse. x·(1 /
    scale) is clamped to [-1, 1], and a search among the bounds between codes, which are known
    beforehand, takes ⌈log₂ codes⌉ comparisons.
    """
    scales = Cost(compare=count + fold(count, blocks) + blocks, arith=blocks)
    return scales + elementwise(x, count, mul=1, compare=2 + (codes - 1).bit_length())


@formula("bitsandbytes::dequantize_4bit", "bitsandbytes::dequantize_blockwise")
def dequantize(*args: Any, out: Tensor) -> Cost:
    """code[q]·scale: a product for each value."""
    return decoded(out)


@formula("bitsandbytes::quantize_4bit")
def quantize_4bit(x: Tensor, *args: Any, out: tuple[Tensor, Tensor]) -> Cost:
    """The nearest of 16 codes to each value of a block that is divided by max |x|."""
    return encoded(x, x.numel(), out[1].numel(), 16)


@formula("bitsandbytes::quantize_blockwise")
def quantize_blockwise(
    x: Tensor, code: Tensor, blocksize: int, *, out: tuple[Tensor, Tensor]
) -> Cost:
    """The nearest code to each value of a block that is divided by max |x|."""
    return encoded(x, x.numel(), out[1].numel(), code.numel())


@formula("bitsandbytes::gemm_4bit")
def gemm_4bit(
    x: Tensor,
    packed: Tensor,
    shape: Sequence[int],
    absmax: Tensor,
    blocksize: int,
    quant_type: str,
    bias: Tensor | None = None,
    absmax_8bit: Tensor | None = None,
    *args: Any,
    out: Tensor,
    **tables: Any,
) -> Cost:
    """x @ (code[q]·scale)ᵀ + bias; scales that are kept in 8 bits are decoded, and shifted."""
    weight = decoded(out, prod(shape))
    if absmax_8bit is not None:
        weight += decoded(absmax, absmax_8bit.numel())
        weight += elementwise(absmax, absmax_8bit.numel(), add=1)
    return affine(out, x.shape[-1], bias) + weight


@formula("bitsandbytes::gemv_4bit")
def gemv_4bit(x: Tensor, packed: Tensor, shape: Sequence[int], *args: Any, out: Tensor) -> Cost:
    """x @ (code[q]·scale)ᵀ, for one row or for several."""
    return affine(out, x.shape[-1], None) + decoded(out, prod(shape))


# -- 8-bit integers with a scale for each row: q = round(x·127 / max |x|)


def rounded_rows(x: Tensor, rows: int, threshold: float) -> Cost:
    """Rows of x as integers; values of at least ``threshold``, if it is not 0, are left out."""
    scales = Cost(compare=x.numel() + fold(x.numel(), rows), arith=rows)
    return scales + elementwise(x, mul=1, compare=1 + int(threshold > 0))


@formula("bitsandbytes::int8_vectorwise_quant")
def int8_vectorwise_quant(x: Tensor, threshold: float = 0, *, out: Any) -> Cost:
    """round(x·(127 / max |x|)) by rows."""
    return rounded_rows(x, out[1].numel(), threshold)


@formula("bitsandbytes::int8_double_quant")
def int8_double_quant(x: Tensor, threshold: float = 0, *, out: Any) -> Cost:
    """The same by rows and by columns."""
    _, _, rows, columns, _ = out
    return sum((rounded_rows(x, scales.numel(), threshold) for scales in (rows, columns)), ZERO)


@formula("bitsandbytes::int8_vectorwise_dequant")
def int8_vectorwise_dequant(q: Tensor, stats: Tensor, *, out: Tensor) -> Cost:
    """q·max |x|·(1 / 127)."""
    return elementwise(out, mul=2)


@formula("bitsandbytes::int8_linear_matmul")
def int8_linear_matmul(a: Tensor, b: Tensor, *, out: Tensor) -> Cost:
    """(…, k) @ (n, k)ᵀ of integers."""
    return contraction(dots=out.numel(), length=a.shape[-1])


def rescaled(out: Tensor, bias: Tensor | None) -> Cost:
    """sum·(row's scale)·(column's scale)·(1 / 127²) + bias."""
    return elementwise(out, mul=3, add=int(bias is not None))


@formula("bitsandbytes::int8_mm_dequant")
def int8_mm_dequant(
    sums: Tensor,
    row_stats: Tensor,
    col_stats: Tensor,
    dtype: Any = None,
    bias: Tensor | None = None,
    *,
    out: Tensor,
) -> Cost:
    """A sum of products times the scales of its row and column, and a constant; and a bias."""
    return rescaled(out, bias)


@formula("bitsandbytes::int8_scaled_mm")
def int8_scaled_mm(
    a: Tensor,
    b: Tensor,
    row_stats: Tensor,
    col_stats: Tensor,
    bias: Tensor | None = None,
    dtype: Any = None,
    *,
    out: Tensor,
) -> Gradients:
    """(…, k) @ (n, k)ᵀ of integers, with scales and a bias."""
    return of_integers(contraction(dots=out.numel(), length=a.shape[-1]) + rescaled(out, bias))


@formula("bitsandbytes::int8_mixed_scaled_mm")
def int8_mixed_scaled_mm(
    x: Tensor,
    a: Tensor,
    b: Tensor,
    row_stats: Tensor,
    col_stats: Tensor,
    outlier_cols: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    out: tuple[Tensor, Tensor | None],
) -> Gradients:
    """A product of integers, and one of floats over the columns with outliers, added to it.

    The weights of these columns are decoded first, 2 products each. The integers there are zeros,
    which are multiplied like others.
    """
    result, columns = out[0], 0 if outlier_cols is None else outlier_cols.numel()
    products = contraction(dots=result.numel(), length=a.shape[-1]) + rescaled(result, bias)
    if not columns:
        return of_integers(products)
    outliers = contraction(dots=result.numel(), length=columns) + elementwise(result, add=1)
    weights = elementwise(result, b.shape[0] * columns, mul=2)
    return of_integers(products) + Gradients(unsplit=outliers + weights)


# -- steps of optimizers; c stands for numbers

NUMBERS = (
    *("lr", "eps", "weight_decay", "beta1", "beta2", "beta3", "alpha"),
    *("step", "gnorm_scale", "max_unorm", "param_norm"),
)
"""Numbers of a step, which schedules change: only whether one is 0 or 1 matters."""

UPDATES = {
    # m = c·m + c·g, v = c·v + c·g·g, p += c·(m / (√v + c)): 3, 4 and 5 operations
    "adam": {"add": 4, "mul": 6, "div": 1, "sqrt": 1},
    # a second m, 3, and p -= c·((m / c + c·m') / (√v / c + c)): 9
    "ademamix": {"add": 6, "mul": 9, "div": 3, "sqrt": 1},
    # m = c·m + g, p -= c·m
    "momentum": {"add": 2, "mul": 2},
    # v = c·v + c·g·g, p -= c·(g / (√v + c)): 4 and 5
    "rmsprop": {"add": 3, "mul": 4, "div": 1, "sqrt": 1},
    # v += g·g, p -= c·(g / (√v + c)): 2 and 5
    "adagrad": {"add": 3, "mul": 2, "div": 1, "sqrt": 1},
    # p -= c·sign(c·m + c·g), m = c·m + c·g: 3, a sign, 2, and 3
    "lion": {"add": 3, "mul": 5, "compare": 1},
}
"""The steps for one element."""

NAMESAKES = {"lamb": "adam", "lars": "momentum"}
"""Optimizers that do the steps of another, and scale them by a norm."""

DECOUPLED = frozenset({"adam", "ademamix", "lion"})
"""Optimizers whose parameters decay by a product of their own; in others gradients change."""


def step_of(
    p: Tensor,
    optimizer_name: str,
    *,
    step: int,
    weight_decay: float,
    gnorm_scale: float,
    max_unorm: float = 0,
    **others: Any,
) -> Cost:
    """g = scale·g, the decay, the update, and its norm (n squares, their sum, a root) if asked."""
    name = NAMESAKES.get(optimizer_name, optimizer_name)
    if name not in UPDATES:
        raise Uncountable(f"the optimizer {name}")
    cost = elementwise(p, **UPDATES[name]) + elementwise(p, mul=int(gnorm_scale != 1))
    if name == "momentum" and step == 1:  # m is g
        cost -= elementwise(p, add=1, mul=1)
    if weight_decay:
        cost += elementwise(p, mul=1, add=int(name not in DECOUPLED))
    return cost + (elementwise(p, mul=1, add=1) if max_unorm else ZERO)


def changing(*unchanged: int) -> Traffic:
    """Bytes of a step. Its schema says that gradients and tables change, which are only read."""

    def step_traffic(call: Call) -> tuple[int, int]:
        changed = [value for place, value in enumerate(call.mutated) if place not in unchanged]
        return traffic.read_and_written(call.operands, changed)

    return step_traffic


@formula(
    "bitsandbytes::optimizer_update_32bit",
    traffic=changing(0),
    by_name=True,
    coefficients=NUMBERS,
)
def optimizer_update_32bit(*, optimizer_name: str, p: Tensor, out: Any, **settings: Any) -> Cost:
    """One step, by the optimizer's name: Adam 12 a parameter, momentum 4, Lion 9 …"""
    return step_of(p, optimizer_name, **settings)


@formula(
    "bitsandbytes::optimizer_update_8bit_blockwise",
    traffic=changing(0, 4, 5),
    by_name=True,
    coefficients=NUMBERS,
)
def optimizer_update_8bit_blockwise(
    *,
    optimizer_name: str,
    p: Tensor,
    state1: Tensor,
    state2: Tensor | None,
    qmap1: Tensor,
    qmap2: Tensor | None,
    absmax1: Tensor,
    absmax2: Tensor | None,
    out: Any,
    **settings: Any,
) -> Cost:
    """States become floats, a product each, take one step, and become 8 bits again.

    Adam divides √v by a number of its own here, which with 32 bits is a factor of ε.
    """
    cost = step_of(p, optimizer_name, **settings)
    if NAMESAKES.get(optimizer_name, optimizer_name) == "adam":
        cost += elementwise(p, div=1)
    for state, code, absmax in ((state1, qmap1, absmax1), (state2, qmap2, absmax2)):
        if state is not None and code is not None and absmax is not None:
            cost += decoded(p, state.numel())
            cost += encoded(p, state.numel(), absmax.numel(), code.numel())
    return cost
