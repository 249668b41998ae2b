"""Between floats and integers in exported programs: what torch's kernels in Python do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.ao.quantization.fx._decomposed  # registers the ops

from flopcount import Cost
from tests.formulas.decomposed import measured

ops: Any = torch.ops.quantized_decomposed
KERNEL = torch._C.DispatchKey.CompositeExplicitAutograd
N, ROWS = 8 * 64, 8
X = torch.randn(8, 64)
Q = torch.zeros(8, 64, dtype=torch.int8)
BOUNDS = -128, 127, torch.int8
SCALE, ZERO = torch.rand(8) + 0.1, torch.zeros(8, dtype=torch.int64)
SCALES, ZEROS = torch.rand(8, 4) + 0.1, torch.zeros(8, 4, dtype=torch.int32)
TOKENS = SCALE[:, None], ZERO[:, None]

QUANTISED = Cost(arith=2 * N, compare=3 * N)  # a product, a sum; rounding, two bounds

CASES = {
    # op, arguments, its cost, what the kernel does beyond: torch makes 1 / s in two steps
    "a tensor": (ops.quantize_per_tensor.default, (X, 0.1, 3, *BOUNDS), QUANTISED, 0, 0),
    "a tensor, its scale in one": (
        ops.quantize_per_tensor.tensor,
        (X, torch.tensor(0.1), torch.tensor(3), *BOUNDS),
        *(QUANTISED, 0, 0),
    ),
    "channels": (
        ops.quantize_per_channel.default,
        (X, SCALE, ZERO, 0, *BOUNDS),
        *(QUANTISED + Cost(arith=8), 8, 0),
    ),
    "rows": (
        ops.quantize_per_token.default,
        (X, *TOKENS, *BOUNDS),
        *(QUANTISED + Cost(arith=8), 8, 0),
    ),
    "groups": (  # the kernel looks for NaN, too
        ops.quantize_per_channel_group.default,
        (X, SCALES, ZEROS, *BOUNDS, 16),
        *(QUANTISED + Cost(arith=32), 32, N),
    ),
    "a tensor of floats again": (
        ops.dequantize_per_tensor.default,
        (Q, 0.1, 3, *BOUNDS),
        *(Cost(arith=2 * N), 0, 0),
    ),
    "channels of floats again": (
        ops.dequantize_per_channel.default,
        (Q, SCALE, ZERO, 0, *BOUNDS),
        *(Cost(arith=N), 0, 0),
    ),
    "without zero points": (
        ops.dequantize_per_channel.default,
        (Q, SCALE, None, 0, *BOUNDS),
        *(Cost(arith=N), 0, 0),
    ),
    "with zero points that are floats": (
        ops.dequantize_per_channel.default,
        (Q, SCALE, ZERO.float(), 0, *BOUNDS),
        *(Cost(arith=2 * N), 0, 0),
    ),
    "rows of floats again": (
        ops.dequantize_per_token.default,
        (Q, *TOKENS, *BOUNDS, torch.float32),
        *(Cost(arith=N), 0, 0),
    ),
    "groups of floats again": (
        ops.dequantize_per_channel_group.default,
        (Q, SCALES, ZEROS, *BOUNDS, 16, torch.float32),
        *(Cost(arith=N), 0, 0),
    ),
    "a scale and a zero point": (
        ops.choose_qparams.tensor,
        (X, -128, 127, 1e-5, torch.int8),
        *(Cost(arith=3, compare=2 * (N - 1) + 6), 0, 0),
    ),
    "a scale of each row": (
        ops.choose_qparams_per_token.default,
        (X, torch.int8),
        *(Cost(arith=8, compare=N + (N - 8) + 8), 0, 0),
    ),
    "a scale and a zero point of each row": (
        ops.choose_qparams_per_token_asymmetric.default,
        (X, torch.int8),
        *(Cost(arith=9 * 8, compare=2 * (N - 8) + 8 * 8), 0, 0),
    ),
    "another type": (ops.convert_element_type.no_fuse, (X, torch.half), Cost(), 0, 0),
}


@pytest.mark.parametrize(("op", "args", "cost", "arith", "compare"), CASES.values(), ids=[*CASES])
def test_the_steps_of_the_kernel(op: Any, args: Any, cost: Cost, arith: int, compare: int) -> None:
    assert measured(op, *args) == cost
    by_kernel = measured(lambda: op._op_dk(KERNEL, *args))
    assert by_kernel == cost + Cost(arith=arith, compare=compare)


def test_a_symmetric_scale() -> None:
    """The extremes and 0, -low, the larger, ε; a division."""
    op = ops.choose_qparams_symmetric.tensor
    cost = measured(op, X, -128, 127, 1e-5, torch.int8)
    assert cost == Cost(arith=1, compare=2 * (N - 1) + 2 + 2 + 1)
