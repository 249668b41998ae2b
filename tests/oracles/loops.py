"""Two oracles that need no data: loops that count, and closed forms.

Each row is a family, an op, a phase, flopcount's count, and the oracle's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn, ops

import flopcount
from flopcount import Cost, FlopCounter
from flopcount.cli import torchvision_models
from tests.formulas import naive
from tests.formulas.counting import Number, Tally, counting, numbers, opened, total
from tests.formulas.decomposed import measured
from tests.formulas.ops import linalg_loops
from tests.formulas.ops.attention_loops import NaiveAttention
from tests.formulas.ops.test_fft import Complex, radix_2
from tests.formulas.ops.test_loss import BCE, MSE, BCEWithLogits, Huber, SmoothL1, SoftMargin
from tests.formulas.ops.test_reduction import row_variance
from tests.formulas.ops.test_resampling import cubic_taps, linear_taps, resized_places
from tests.formulas.ops.test_softmax import row_softmax
from tests.oracles.cases import Step

aten = ops.aten
Row = tuple[str, str, str, Cost, Cost]

X = torch.rand(6, 10, generator=torch.Generator().manual_seed(0)) / 2 + 0.25
n, m = X.numel(), len(X)


def passes(call: Callable[..., Tensor], *tensors: Tensor) -> dict[str, Cost]:
    """The cost of the forward pass, and of each kind of gradient."""
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    with FlopCounter() as counter:
        out = call(*leaves)
    forward = counter.report().total
    with FlopCounter() as counter:
        out.backward(torch.ones_like(out))
    return {"forward": forward, **counter.report().root.gradients}


def tallied(loop: Callable[..., Any], *arguments: Any) -> Cost:
    with counting() as tally:
        loop(*arguments)
    return tally.cost


def layers() -> Iterator[Row]:
    """All passes of a linear layer and of convolutions."""
    loops = naive.affine(6, 10, 4)
    linear = flopcount.count(nn.Linear(10, 4), X.clone().requires_grad_()).model
    together = loops["forward"].cost + loops["forward bias"].cost
    yield "matmul", "linear", "forward", opened(linear.phases["forward"]), together
    for kind in ("input", "weight", "bias"):
        yield "matmul", "linear", kind, opened(linear.gradients[kind]), loops[kind].cost
    for name, call, groups, kernel, out in (
        ("conv2d", F.conv2d, 1, (3, 2), (4, 4)),
        ("conv2d, two groups", lambda *a: F.conv2d(*a, groups=2), 2, (3, 2), (4, 4)),
        ("conv1d", F.conv1d, 1, (3,), (4,)),
        ("conv3d", F.conv3d, 1, (2, 2, 2), (3, 2, 3)),
    ):
        size = [o + k - 1 for o, k in zip(out, kernel, strict=True)]
        loops = naive.convolution(2, 4, 6, groups, kernel, out)
        costs = passes(
            call, torch.rand(2, 4, *size), torch.rand(6, 4 // groups, *kernel), torch.rand(6)
        )
        together = loops["forward"].cost + loops["forward bias"].cost
        yield "convolution", name, "forward", opened(costs["forward"]), together
        for kind in ("input", "weight", "bias"):
            # col2im's additions onto the image are those that the dot products have one less
            yield "convolution", name, kind, opened(costs[kind]), loops[kind].cost


def attention() -> Iterator[Row]:
    """Attention's forward and backward, and what backward computes again."""
    q, k, v = (torch.rand(1, 2, s, 4, requires_grad=True) for s in (3, 5, 5))
    loop, again = NaiveAttention(*(x.detach()[0] for x in (q, k, v)), 0.5, None), Tally()
    with FlopCounter() as counter:
        F.scaled_dot_product_attention(q, k, v).backward(torch.ones(1, 2, 3, 4))
    found = counter.report().phases
    loops = {
        "forward": tallied(loop.forward),
        "backward": tallied(loop.backward, torch.ones(2, 3, 4), again),
        "recompute": again.cost,
    }
    for phase, counted in loops.items():
        yield "attention", "scaled_dot_product_attention", phase, opened(found[phase]), counted


def sigmoid(x: Any) -> Any:
    return 1 / ((-x).exp() + 1)


def recurrent() -> Iterator[Row]:
    """Recurrent layers: two steps of three sequences, four inputs and five units."""
    one = Number(0.5)

    def gate() -> Any:
        """W·x + b, U·h + b', and the sum of the two."""
        below, before = (total(one * one for _ in range(length)) + one for length in (4, 5))
        return below + before

    def lstm() -> None:
        for _ in product(range(2), range(3), range(5)):
            i, f, o = (sigmoid(gate()) for _ in range(3))
            g, c = gate()._special(0.5), f * one + i * one
            _ = o * c._special(0.5), g

    def rnn() -> None:
        for _ in product(range(2), range(3), range(5)):
            gate()._special(0.5)

    def gru() -> None:
        for _ in product(range(2), range(3), range(5)):
            r, z = (sigmoid(gate()) for _ in range(2))
            below, before = (total(one * one for _ in range(k)) + one for k in (4, 5))
            new = (below + r * before)._special(0.5)
            _ = new + z * (one - new)

    kinds = {"lstm": (lstm, nn.LSTM), "gru": (gru, nn.GRU), "rnn_tanh": (rnn, nn.RNN)}
    for name, (loop, kind) in kinds.items():
        layer = kind(4, 5)
        ours = measured(lambda layer=layer: layer(torch.rand(2, 3, 4)))
        yield "recurrent", name, "forward", opened(ours), tallied(loop)


def rows_of_numbers() -> Iterator[Row]:
    """Normalisation, pooling, softmax, reductions, activations, losses, on 6 rows of 10."""
    values = numbers(X)

    def layer_norm(a: Any) -> None:
        for row in a:
            mean = total(row) / 10
            differences = [x - mean for x in row]
            root = (total(d * d for d in differences) / 10 + 1e-5).sqrt()
            rstd = 1 / root
            _ = [(x - mean) * rstd * 1.5 + 0.5 for x in row]

    def rms_norm(a: Any) -> None:
        for row in a:
            rstd = 1 / (total(x * x for x in row) / 10 + 1e-5).sqrt()
            _ = [x * rstd * 1.5 for x in row]

    def max_pool(a: Any) -> None:
        for row in a:
            for i in range(0, 10, 2):
                row[i].larger(row[i + 1])

    def avg_pool(a: Any) -> None:
        for row in a:
            for i in range(0, 10, 2):
                (row[i] + row[i + 1]) / 2

    def each(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda a: [function(x) for x in a.flat]

    def scatter(a: Any) -> None:
        for i in range(6):
            a[0] = a[0] + a[i]

    ones = torch.ones(10)
    table: list[tuple[str, str, Callable[..., Any], Callable[..., Any]]] = [
        ("normalization", "layer_norm", lambda: F.layer_norm(X, (10,), ones, ones), layer_norm),
        ("normalization", "rms_norm", lambda: F.rms_norm(X, (10,), ones, 1e-5), rms_norm),
        ("pooling", "max_pool1d", lambda: F.max_pool1d(X, 2), max_pool),
        ("pooling", "avg_pool1d", lambda: F.avg_pool1d(X, 2), avg_pool),
        ("softmax", "softmax", lambda: X.softmax(1), row_softmax),
        ("reductions", "sum", lambda: X.sum(1), lambda a: a.sum(axis=1)),
        ("reductions", "mean", lambda: X.mean(1), lambda a: [total(row) / 10 for row in a]),
        ("reductions", "var", lambda: X.var(1), row_variance),
        ("reductions", "amax", lambda: X.amax(1), lambda a: a.max(axis=1)),
        ("reductions", "cumsum", lambda: X.cumsum(1), lambda a: np.add.accumulate(a, axis=1)),
        ("activations", "relu", lambda: F.relu(X), each(lambda x: x.larger(0))),
        ("activations", "sigmoid", lambda: F.sigmoid(X), each(sigmoid)),
        ("activations", "silu", lambda: F.silu(X), each(lambda x: x * sigmoid(x))),
        (
            "activations",
            "leaky_relu",
            lambda: F.leaky_relu(X),
            each(lambda x: x.select(True, x * 0.01)),
        ),
        ("pointwise", "lerp", lambda: torch.lerp(X, X, 0.3), each(lambda x: x + (x - x) * 0.3)),
        ("pointwise", "addcmul", lambda: torch.addcmul(X, X, X), each(lambda x: x + x * x)),
        ("pointwise", "rsqrt", X.rsqrt, each(lambda x: 1 / x.sqrt())),
        ("pointwise", "clamp", lambda: X.clamp(0, 1), each(lambda x: x.larger(0).smaller(1))),
        (
            "indexing and movement",
            "index_add",
            lambda: X.index_add(0, torch.zeros(6, dtype=torch.int64), X),
            scatter,
        ),
    ]
    for family, name, call, loop in table:
        yield family, name, "forward", opened(measured(call)), tallied(loop, values.copy())
    losses: dict[str, tuple[Any, dict[str, float]]] = {
        "mse_loss": (MSE(), {}),
        "smooth_l1_loss": (SmoothL1(), {"beta": 0.4}),
        "huber_loss": (Huber(), {"delta": 0.4}),
        "binary_cross_entropy": (BCE(), {}),
        "soft_margin_loss": (SoftMargin(), {}),
        "binary_cross_entropy_with_logits": (BCEWithLogits(), {}),
    }
    for name, (loss, options) in losses.items():
        ours = measured(getattr(F, name), X, X, **options)
        counted = tallied(
            lambda a, loss=loss: total(loss.forward(x, x) for x in a.flat) / n, values
        )
        yield "losses", name, "forward", opened(ours), counted


def resampled() -> Iterator[Row]:
    x = torch.rand(1, 2, 3, 5)
    for mode, taps_of in (("bilinear", linear_taps), ("bicubic", cubic_taps)):
        values = numbers(x)

        def loop(taps_of: Any = taps_of, values: Any = values) -> None:
            places = resized_places((3, 5), (5, 4), taps_of, False)
            for taps, weights in places.values():
                for image in np.ndindex(1, 2):
                    total(w * values[image + t] for t, w in zip(taps, weights, strict=True))

        ours = measured(lambda mode=mode: F.interpolate(x, (5, 4), mode=mode))
        yield "resampling", mode, "forward", opened(ours), tallied(loop)


def optimizers() -> Iterator[Row]:
    one = Number(0.5)

    def momentum() -> None:
        for _ in range(n):
            g = one + one * 0.1
            one + (one * 0.9 + g) * -0.1

    def sgd() -> None:
        for _ in range(n):
            one + one * -0.1

    kind = torch.optim.SGD
    for name, loop, options in (
        ("SGD", sgd, {}),
        ("SGD with momentum and decay", momentum, {"momentum": 0.9, "weight_decay": 0.1}),
    ):
        yield "optimizers", name, "step", measured(Step(kind, options).prepared(X)), tallied(loop)


def algebra() -> Iterator[Row]:
    a = X[:, :6] @ X[:, :6].T + torch.eye(6)
    b = torch.rand(6, 3)
    linalg = torch.linalg
    table: list[Any] = [
        ("cholesky_ex", linalg.cholesky_ex, (a,), linalg_loops.cholesky),
        ("lu_factor_ex", linalg.lu_factor_ex, (a,), linalg_loops.lu),
        ("inv_ex", linalg.inv_ex, (a,), linalg_loops.inverse),
        ("_linalg_solve_ex", aten._linalg_solve_ex, (a, b), linalg_loops.solve),
        ("geqrf", torch.geqrf, (X.T,), linalg_loops.qr),
        ("det", torch.det, (a,), linalg_loops.determinant),
    ]
    for name, op, tensors, loop in table:
        arrays = [numbers(tensor) for tensor in tensors]
        yield "linear algebra", name, "forward", measured(op, *tensors), tallied(loop, *arrays)
    c = torch.randn(64, dtype=torch.complex128)
    points = [Complex(value) for value in c.tolist()]
    yield "FFT", "fft", "forward", measured(torch.fft.fft, c), tallied(radix_2, points)


def sparse() -> Iterator[Row]:
    a = torch.eye(6) + torch.eye(6).roll(1, 0)  # two values in each row
    stored = a.to_sparse()

    def loop() -> None:
        for row, _ in product(a.tolist(), range(10)):
            total(Number(value) * 0.5 for value in row if value)

    yield (
        "sparse",
        "sparse @ dense",
        "forward",
        opened(measured(torch.mm, stored, X)),
        tallied(loop),
    )


def by_loops() -> Iterator[Row]:
    """The naive loops of all families, on numbers that count what is done with them."""
    for rows in (layers, attention, recurrent, rows_of_numbers, resampled, optimizers):
        yield from rows()
    yield from algebra()
    yield from sparse()
    distances = measured(lambda: torch.pdist(X))
    counted = tallied(
        lambda a: [total(d * d for d in a[i] - a[j]).sqrt() for i in range(6) for j in range(i)],
        numbers(X),
    )
    yield "losses", "pdist", "forward", opened(distances), counted


def by_closed_form() -> Iterator[Row]:
    """The forms that papers and reports print, with the sizes put in."""
    n, third, half = 40, Fraction(1, 3), Fraction(1, 2)
    square = torch.rand(n, n)

    def forms(family: str, name: str, call: Callable[..., Any], flops: Any, *args: Any) -> Row:
        ours = measured(call, *args)
        return family, name, "forward", Cost(arith=ours.flops), Cost(arith=int(flops))

    linalg = torch.linalg
    flops = 2 * 30 * 50 * n
    yield forms("matmul", "GEMM: 2·m·n·k", torch.mm, flops, torch.rand(30, n), torch.rand(n, 50))
    yield forms(
        "linear algebra",
        "POTRF: n³/3 + n²/2 + n/6 (LAWN 41)",
        linalg.cholesky_ex,
        third * n**3 + half * n**2 + n * Fraction(1, 6),
        square,
    )
    lu = linalg.lu_factor_ex(square)
    yield forms(
        "linear algebra",
        "GETRS: 2·n²·r - n·r (LAWN 41)",
        linalg.lu_solve,
        2 * n**2 * 7 - n * 7,
        *(lu.LU, lu.pivots, torch.rand(n, 7)),
    )
    signal = torch.rand(1024, dtype=torch.complex64)
    yield forms("FFT", "5·N·log₂ N (FFTW)", torch.fft.fft, 5 * 1024 * 10, signal)
    yield forms("FFT", "5/2·N·log₂ N (FFTW), real", torch.fft.rfft, 2.5 * 1024 * 10, signal.real)
    q = torch.rand(1, 2, 64, 32)
    macs = measured(lambda: F.scaled_dot_product_attention(q, q, q)).matmul_flops
    form = "4·heads·queries·keys·d (FlashAttention)"
    yield "attention", form, "forward", Cost(arith=macs), Cost(arith=4 * 2 * 64 * 64 * 32)
    ours = measured(lambda: nn.LSTM(24, 32)(torch.rand(10, 4, 24))).matmul_flops
    form = "8·steps·batch·units·(inputs + units)"
    yield "recurrent", form, "forward", Cost(arith=ours), Cost(arith=8 * 10 * 4 * 32 * (24 + 32))
    a = torch.eye(n).to_sparse()
    yield forms("sparse", "2·nnz·columns", torch.mm, 2 * n * 7, a, torch.rand(n, 7))
    q8 = torch.ones(32, 64, dtype=torch.int8)
    macs = measured(torch._int_mm, q8, q8.T.contiguous()).macs
    yield (
        "quantised",
        "int8 GEMM: m·n·k MACs",
        "forward",
        Cost(arith=macs),
        Cost(arith=32 * 32 * 64),
    )
    yield from quantised_linear()
    for depth, published in ((18, 1.814), (50, 4.089)):
        model = torchvision_models.build(f"resnet{depth}").to("meta").eval()
        ours = measured(model, torch.rand(1, 3, 224, 224, device="meta")).macs
        name = f"ResNet-{depth}: {published} GMAC (torchvision), in millions of MACs"
        millions = Cost(arith=round(ours / 1e6))
        yield "convolution", name, "forward", millions, Cost(arith=round(published * 1e3))


def quantised_linear() -> Iterator[Row]:
    """A quantised linear layer, if this build of torch has a kernel for it."""
    quantized = torch.backends.quantized
    engines = {"fbgemm", "qnnpack"} & set(quantized.supported_engines)
    if not engines:
        return
    before, quantized.engine = quantized.engine, min(engines)
    try:
        import torch.ao.nn.quantized as nnq

        x = torch.quantize_per_tensor(torch.rand(5, 16), 0.1, 3, torch.quint8)
        macs = measured(nnq.Linear(16, 12), x).macs
    finally:
        quantized.engine = before
    form = "linear: rows·in·out MACs"
    yield "quantised", form, "forward", Cost(arith=macs), Cost(arith=5 * 16 * 12)
