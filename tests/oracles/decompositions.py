"""An oracle that needs no data: torch's own decompositions, their steps counted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import ops

from flopcount import Cost
from tests.formulas.decomposed import decomposed_cost, measured
from tests.oracles.loops import X, m, n

aten = ops.aten


def by_decomposition() -> Iterator[tuple[str, str, str, Cost, Cost, list[tuple[str, Cost]]]]:
    """Decompositions, their steps counted by definition, and why some cost more than ours."""
    image = torch.rand(2, 6, 5)
    w, mean, var = torch.rand(3, 6) + 0.5
    own = "torch compares and then selects: one more for each select"
    guard = "torch guards an infinite maximum: three comparisons a row"
    again = "torch takes the mean a second time"
    reciprocal = "torch writes 1 / √ as a reciprocal times 1"
    places = "torch computes the place of a pixel in floats: two for each row and each column"
    rows: list[Any] = [
        ("pointwise", aten.rsub.Tensor, (X, X)),
        ("pointwise", aten.hypot.default, (X, X)),
        ("activations", aten.gelu.default, (X,)),
        ("activations", aten.gelu_backward.default, (X, X)),
        ("activations", aten.silu.default, (X,)),
        ("activations", aten.sigmoid.default, (X,)),
        ("activations", aten.sigmoid_backward.default, (X, X)),
        ("activations", aten.tanh_backward.default, (X, X)),
        ("activations", aten.hardswish.default, (X,)),
        ("activations", aten.hardsigmoid.default, (X,)),
        ("activations", aten.hardtanh.default, (X, -1, 1)),
        ("activations", aten.leaky_relu.default, (X, 0.1), (own, Cost(compare=n))),
        ("activations", aten.elu.default, (X,), (own, Cost(compare=n))),
        ("activations", aten.threshold_backward.default, (X, X, 0), (own, Cost(compare=n))),
        ("softmax", aten._softmax.default, (X, 1, False)),
        ("softmax", aten._log_softmax.default, (X, 1, False)),
        ("softmax", aten._softmax_backward_data.default, (X, X, 1, torch.float32)),
        ("softmax", aten._log_softmax_backward_data.default, (X, X, 1, torch.float32)),
        ("reductions", aten.sum.dim_IntList, (X, [1])),
        ("reductions", aten.mean.dim, (X, [1])),
        ("reductions", aten.var.correction, (X, [1])),
        ("reductions", aten.std.correction, (X, [1])),
        ("reductions", aten.linalg_vector_norm.default, (X, 2, [1])),
        ("reductions", aten.var_mean.correction, (X, [1]), (again, Cost(arith=n))),
        ("reductions", aten.logsumexp.default, (X, [1]), (guard, Cost(compare=3 * m))),
        ("reductions", aten.trace.default, (X,)),
        ("normalization", aten.native_layer_norm.default, (X, [10], X[0], X[0], 1e-5)),
        ("normalization", aten.native_group_norm.default, (image, w, w, 2, 6, 5, 3, 1e-5)),
        ("normalization", aten._fused_rms_norm.default, (X, [10], X[0], 1e-5)),
        (
            "normalization",
            aten.native_batch_norm.default,
            (image, w, w, mean.clone(), var.clone(), True, 0.1, 1e-5),
        ),
        (
            "normalization",
            aten.native_batch_norm.default,
            (image, w, w, mean, var, False, 0.1, 1e-5),
            (reciprocal, Cost(arith=6)),
        ),
        ("losses", aten.mse_loss.default, (X, X)),
        ("pooling", aten._adaptive_avg_pool2d.default, (X.view(1, 6, 10), [3, 4])),
        (
            "resampling",
            aten.upsample_nearest2d.vec,
            (X.view(1, 1, 6, 10), [12, 20], None),
            (places, Cost(arith=2 * (12 + 20))),
        ),
        ("losses", aten.huber_loss.default, (X, X), (own, Cost(compare=n))),
        ("losses", aten.smooth_l1_loss.default, (X, X), (own, Cost(compare=n))),
        ("losses", aten.binary_cross_entropy.default, (X, X)),
        (
            "normalization",
            aten.native_layer_norm_backward.default,
            (X, X, [10], X[:, :1], X[:, :1], X[0], X[0], [True, True, True]),
        ),
        ("linear algebra", aten.linalg_cross.default, (X[:, :3], X[:, 3:6])),
    ]
    for family, op, args, *why in rows:
        ours, theirs = measured(op, *args), decomposed_cost(op, *args)
        phase = "backward" if "backward" in str(op) else "forward"
        yield family, str(op).removesuffix(".default"), phase, ours, theirs, list(why)
