"""Why an oracle's figure differs from flopcount's, and by how much.

A reason is a name and a size: the operations that the oracle counts more, as a smallest and a
largest number. Sizes add up; a figure that they do not reach is unexplained, and fails.

Where figures differ, the reasons come from XLA's rules and jax's definitions, or from the kinds of
instructions that a kernel's row lists. Bounds are close to what was seen. They hold a figure in
place; they do not prove it.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, log2
from typing import Any

from flopcount import Cost

# of XLA: (more flops, more transcendental evaluations) for n elements or MACs of the row

ROOT = "XLA counts a root as a transcendental function"
INVERSE_ROOT = "XLA counts 1 / √ as one transcendental function, not as a root and a division"
FROM_INFINITY = "XLA starts a maximum at -∞: a comparison more for each result"
GUARD = "jax.numpy guards an edge case (an empty or an infinite row), once for each row"
CONVERSION = "XLA counts the conversion of a number as an operation"
INTEGERS = "XLA counts integer arithmetic"
TWO_FORMS = "XLA is given other steps"
SELECT = "XLA counts a select and its comparison as two"
OPAQUE = "to XLA it is a call of a library, whose operations it does not know"

Pair = tuple[str, int, int]


def roots(count: int) -> Pair:
    return (ROOT, -count, count)


def inverse_roots(count: int) -> Pair:
    return (INVERSE_ROOT, -2 * count, count)


def form(what: str, flops: int, special: int = 0) -> Pair:
    return (f"{TWO_FORMS}: {what}", flops, special)


R, N = 64, 64_000  # rows and elements of 64 by 1000
SCORES, QUERIES = 2 * 4 * 64 * 64, 2 * 4 * 64

XLA: dict[str, list[Pair]] = {
    "sqrt": [roots(N)],
    "rsqrt": [inverse_roots(N)],
    "arcsin": [form("2·atan2(x, 1 + √(1 - x²)), the root a transcendental", 5 * N, N)],
    "sinh": [form("(eˣ - e⁻ˣ) / 2, near zero by expm1", 10 * N, 2 * N)],
    "leaky_relu": [(SELECT, N, 0)],
    "gelu_erf": [form("erfc as a polynomial of 62 operations and an exp", 62 * N)],
    "softplus": [form("log(eˣ + e⁰) with six steps around exp and log1p instead of three", 3 * N)],
    "convert_bf16": [(CONVERSION, N, 0)],
    "int_add": [(INTEGERS, N, 0)],
    "var_dim1": [(GUARD, R + 3, 0)],
    "std_dim1": [(GUARD, R + 3, 0), roots(R)],
    "argmax_dim1": [form("a comparison of pairs of value and place takes 9 steps", 8 * (N - R))],
    "logsumexp_dim1": [(FROM_INFINITY, R, 0), (GUARD, 3 * R, 0)],
    "norm_dim1": [roots(R)],
    "cumsum": [form("a window of the whole row for each element", 999 * N - (N - R))],
    "sort": [form("log₂ of all elements, not of a row's", (ceil(log2(N)) - 10) * N)],
    "softmax": [(FROM_INFINITY, R, 0)],
    "log_softmax": [(FROM_INFINITY, R, 0)],
    "layer_norm": [inverse_roots(R)],
    "layer_norm_noaff": [inverse_roots(R), form("the mean is taken a second time", N)],
    "rms_norm": [inverse_roots(R)],
    "bn_train": [inverse_roots(16)],
    "bn_eval": [inverse_roots(16)],
    "gather": [(INTEGERS, 7 * 12_800, 0)],
    "pad": [(CONVERSION, 1, 0)],
    "cross_entropy": [
        (FROM_INFINITY, 64, 0),
        (INTEGERS, 7 * 64, 0),
        form("one negation, of the mean, and no select for ignored samples", 1 - 2 * 64),
    ],
    "bce_logits": [form("max(x, 0) - x·t + log1p(e^-|x|) is one step shorter", -N)],
    "sdpa": [
        (FROM_INFINITY, QUERIES, 0),
        form("no log-sum-exp is kept for a backward pass", -QUERIES, -QUERIES),
    ],
    "adam": [roots(N), form("the number of the step is no tensor", -1)],
    "fft": [
        form("8·N·log₂ N of a complex transform, not 5/2·N·log₂ N of a real one", 90_112 * 10),
        (CONVERSION, 2 * 16_384, 0),
    ],
}

# of executed instructions: (fewest more, most more) for a row of n and flopcount's cost of it

FMA = "a fused multiply-add by one is executed for an addition, two operations for one"
BY_ONE = "the factor `value` is multiplied with, though it is one"
VECTOR_ROOT = "a vectorised root executes 12 operations: an estimate, refined"
POLYNOMIAL = "a transcendental function is a polynomial of 10 to 150 operations"
MASK = "signs and selects are done by masks of bits, which are no floating-point instructions"
NAN = "comparisons more: with itself, to pass NaN on, and of a window's first value with -∞"
PARTIAL = "partial sums in the lanes of a vector start at zero and are added up in the end"
FROM_ZERO = "a sum starts at zero, and a mean is added to a zero: an addition more for each"
NO_PADDING = "a window is clipped at the padding"
TILES = "tiles of a matrix library are filled up, and added to what is there"
ONE_PASS = "mean and variance are taken in one pass (Welford), which executes more"
FOLDED = "mean, root, weight and bias are folded into one factor and one summand for each channel"
DRAWN = "drawing a random number is an operation as well"
EXACT_REST = "an exact remainder is computed in steps"
ALGORITHM = "the algorithm is another one, or depends on the values"
TAPS = "places and weights of the taps are computed again"
SIGN = "sign(x) is (0 < x) - (x < 0)"
SIGNED = "the row makes its targets as well, as signs of numbers"
ROUNDING = "NaN is looked for before rounding"
RADIX = "kernels of radix 4 and more save operations (FFTW: 5·N·log₂ N is nominal)"
UNKNOWN = "the sizes are not recorded, or more was executed than the op (roots after a transform)"

Size = Callable[[int, Cost], tuple[float, float]]


def per_element(low: float, high: float | None = None) -> Size:
    return lambda n, cost: (low * n, (low if high is None else high) * n)


def share(low: float, high: float) -> Size:
    """A part of the arithmetic that flopcount counts."""
    return lambda n, cost: (low * arithmetic(cost), high * arithmetic(cost))


def compared(low: float, high: float) -> Size:
    return lambda n, cost: (low * cost.compare, high * cost.compare)


def arithmetic(cost: Cost) -> int:
    return 2 * cost.macs + cost.arith


def exactly(count: int) -> Size:
    return lambda n, cost: (count, count)


def polynomials(n: int, cost: Cost) -> tuple[float, float]:
    return 10 * cost.special, 150 * cost.special


def of(names: str, *reasons: tuple[str, Size]) -> dict[str, list[tuple[str, Size]]]:
    return {name: list(reasons) for name in names.split()}


CPU: dict[str, list[tuple[str, Size]]] = {
    **of("add sub add_scalar expand_bcast_add smooth_l1 huber", (FMA, per_element(1))),
    **of("l1", (FMA, per_element(1)), (PARTIAL, share(0, 0.05))),
    **of("hinge", (FMA, per_element(2)), (SIGNED, per_element(1)), (PARTIAL, share(0, 0.05))),
    **of("pairwise", (FMA, per_element(2))),
    **of("addcmul addcdiv", (BY_ONE, per_element(1))),
    **of("sqrt pow_half", (VECTOR_ROOT, per_element(11))),
    **of("neg abs where masked_fill", (MASK, per_element(-1))),
    **of("maximum amax_dim1", (NAN, per_element(1))),
    **of("argmax_dim1", (NAN, per_element(2))),
    **of("sign", (SIGN, per_element(2))),
    **of("to_bf16", (ROUNDING, per_element(1))),
    **of("maxpool2x2 maxpool3x3s2p1 adaptive_max_5", (NAN, compared(0.5, 1.7))),
    **of("sum_dim1 mean_dim1 sum_all mean_all sum_dim0 rms_norm", (PARTIAL, share(0.02, 0.17))),
    **of("adaptive_avg_1", (PARTIAL, share(0.02, 0.34))),
    **of("nll", (PARTIAL, share(0, 0.5))),
    **of("var_dim1 std_dim1", (ONE_PASS, per_element(2))),
    **of("layer_norm layer_norm_noaff group_norm", (ONE_PASS, per_element(0.5, 4))),
    **of("bn_train bn_eval", (FOLDED, per_element(-2))),
    **of("dropout", (DRAWN, per_element(2))),
    **of("fmod remainder", (EXACT_REST, per_element(10, 25))),
    **of("avgpool2x2 adaptive_avg_7", (FROM_ZERO, per_element(2))),
    "avgpool3x3s2p1": [
        (FROM_ZERO, per_element(2)),
        (NO_PADDING, exactly(64 * (29 * 29 - 30 * 30))),
    ],
    **of("embedding_bag", (FROM_ZERO, per_element(0.1))),
    **of("sort", (ALGORITHM, compared(0, 2))),
    **of("topk", (ALGORITHM, compared(-1, 0))),
    **of("up_bilinear2 up_bicubic2", (TAPS, share(0.03, 0.15))),
    **of("mv conv3d_k3/native", (TILES, share(0.02, 0.1))),
    **of("conv2d_k1/mkldnn conv2d_k1/native", (TILES, share(0.02, 0.04))),
    **of("conv2d_g4/mkldnn conv2d_g4/native conv2d_k3s2p1/native", (TILES, share(0.02, 0.05))),
    **of("conv1d_k5/native convT2d_k3s2/mkldnn", (TILES, share(0.05, 0.13))),
    **of("convT2d_k3s2/native convT2d_k2s2/native", (TILES, share(0.02, 0.05))),
    "cdist": [(VECTOR_ROOT, exactly(11 * 3000)), (TILES, share(0.1, 0.25))],
    **of("inv solve qr det lu tri_solve svd eigh", (ALGORITHM, share(-0.3, 0.45))),
    **of("matrix_exp", (ALGORITHM, share(0, 0.25))),
    **of("fft", (RADIX, share(-0.25, 0))),
}

OPAQUE_TO_XLA = {"topk", "cholesky", "tri_solve"}


def reasons_of_kernel(name: str, n: int, cost: Cost) -> list[tuple[str, float, float]]:
    """The reasons in the table, and the polynomials of transcendental functions."""
    found: list[Any] = [(why, *size(n, cost)) for why, size in CPU.get(name, [])]
    if cost.special:
        found.append((POLYNOMIAL, *polynomials(n, cost)))
    return found
